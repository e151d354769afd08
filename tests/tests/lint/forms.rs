//! Rules on how code is written: where unsafe stands, what things are called, what a file may not contain.

use proc_macro2::{Delimiter, TokenTree};

use crate::source::{Source, is_sign, is_word, walk};

/// The files and folders that may hold unsafe code.
const UNSAFE: [&str; 10] = [
    "proxy-common/src/pod.rs",
    "proxy-ebpf/src/egress.rs",
    "proxy-ebpf/src/list.rs",
    "proxy-ebpf/src/maps/",
    "proxy-ebpf/src/packet/",
    "proxy-ebpf/src/proofs/",
    "proxy-ebpf/src/context.rs",
    "proxy-ebpf/src/sock.rs",
    "proxy-userspace/src/maps/store.rs",
    "proxy-userspace/src/sys/",
];

/// Names of modules that say nothing of what is in them.
const VAGUE_MODULES: [&str; 10] =
    ["common", "data", "handler", "helper", "helpers", "info", "manager", "misc", "util", "utils"];

/// Ends of type names that say nothing of what the type is.
const VAGUE_ENDS: [&str; 6] = ["Data", "Handler", "Helper", "Info", "Manager", "Utils"];

/// Unsafe code outside the files that are named for it.
pub(crate) fn unsafe_code(source: &Source) -> Vec<String> {
    if UNSAFE.iter().any(|allowed| source.path.starts_with(allowed)) {
        return Vec::new();
    }
    find(&source.tokens(true), &|tokens| {
        let is_code = is_word(&tokens[0], "unsafe") && !opens(tokens.get(1), Delimiter::Parenthesis);
        is_code.then(|| format!("{}: unsafe code is only in {}", source.path, UNSAFE.join(", ")))
    })
}

/// Modules and types with names that would fit anything.
pub(crate) fn vague_names(source: &Source) -> Vec<String> {
    let segments = source.path.trim_end_matches(".rs").split('/').skip(1);
    let mut breaches: Vec<String> = segments
        .filter(|segment| VAGUE_MODULES.contains(segment))
        .map(|segment| format!("{}: `{segment}` does not say what is in it", source.path))
        .collect();
    breaches.extend(find(&source.tokens(true), &|tokens| {
        let TokenTree::Ident(name) = tokens.get(1)? else { return None };
        let name = name.to_string();
        let is_type =
            ["struct", "enum", "trait", "type", "union"].iter().any(|word| is_word(&tokens[0], word));
        let is_vague = is_word(&tokens[0], "mod") && VAGUE_MODULES.contains(&name.as_str())
            || is_type && VAGUE_ENDS.iter().any(|end| name.ends_with(end));
        is_vague.then(|| format!("{}: `{name}` does not say what it is", source.path))
    }));
    breaches
}

/// Paths that climb more than one module: they break when a file moves, and hide where a name comes from.
pub(crate) fn climbing_paths(source: &Source) -> Vec<String> {
    let climbs = |path: &Vec<String>| path.iter().take_while(|segment| *segment == "super").count() > 1;
    let paths = source.paths(true).into_iter().filter(climbs);
    paths.map(|path| format!("{}: `{}` climbs; start at `crate`", source.path, path.join("::"))).collect()
}

/// Re-exports beside the files that present a folder: they give one thing two names.
pub(crate) fn re_exports(source: &Source) -> Vec<String> {
    if ["lib.rs", "mod.rs", "main.rs"].iter().any(|file| source.path.ends_with(file)) {
        return Vec::new();
    }
    find(&source.tokens(true), &|tokens| {
        if !is_word(&tokens[0], "pub") {
            return None;
        }
        let next = if opens(tokens.get(1), Delimiter::Parenthesis) { tokens.get(2) } else { tokens.get(1) };
        is_word(next?, "use").then(|| format!("{}: only lib.rs and mod.rs re-export", source.path))
    })
}

/// Modules that do not begin with what they are for.
pub(crate) fn module_docs(source: &Source) -> Vec<String> {
    if source.text.starts_with("//!") || source.path.ends_with("tests.rs") {
        return Vec::new();
    }
    vec![format!("{}: begins without `//!` and what the module is for", source.path)]
}

/// Notes of work that was not done.
pub(crate) fn left_overs(source: &Source) -> Vec<String> {
    // Split, so that this rule does not find itself.
    let words = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];
    let is_left_over = |line: &&str| {
        line.split(|sign: char| !sign.is_alphanumeric()).any(|word| words.contains(&word))
            || line.contains(concat!("to", "do!("))
            || line.contains(concat!("unimpl", "emented!("))
    };
    let lines = source.text.lines().filter(is_left_over);
    lines.map(|line| format!("{}: `{}`: do it, or open an issue", source.path, line.trim())).collect()
}

/// Lints silenced for good, or without a reason: `expect` complains when it is no longer needed.
pub(crate) fn silenced_lints(source: &Source) -> Vec<String> {
    find(&source.tokens(true), &|tokens| {
        let body = if tokens.get(1).is_some_and(|token| is_sign(token, '!')) { 2 } else { 1 };
        let TokenTree::Group(attribute) = tokens.get(body).filter(|_| is_sign(&tokens[0], '#'))? else {
            return None;
        };
        let text = attribute.stream().to_string();
        let is_breach = text.starts_with("allow") || text.starts_with("expect") && !text.contains("reason");
        is_breach.then(|| format!("{}: `{text}`: use `expect` with a reason", source.path))
    })
}

/// What `look` says at each token, the tokens after it included.
fn find(tokens: &[TokenTree], look: &dyn Fn(&[TokenTree]) -> Option<String>) -> Vec<String> {
    let mut breaches = Vec::new();
    walk(tokens, &mut |sequence| breaches.extend((0..sequence.len()).filter_map(|at| look(&sequence[at..]))));
    breaches
}

fn opens(token: Option<&TokenTree>, delimiter: Delimiter) -> bool {
    matches!(token, Some(TokenTree::Group(group)) if group.delimiter() == delimiter)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(rule: fn(&Source) -> Vec<String>, path: &str, text: &str) -> usize {
        rule(&Source::parse(path, text)).len()
    }

    #[test]
    fn unsafe_code_is_found_and_attributes_are_not() {
        let block = "fn f() { unsafe { g() } }";
        assert_eq!(count(unsafe_code, "proxy-userspace/src/agent.rs", block), 1);
        assert_eq!(count(unsafe_code, "proxy-userspace/src/agent.rs", "unsafe impl A for B {}"), 1);
        assert_eq!(count(unsafe_code, "proxy-userspace/src/sys/bpf.rs", block), 0);
        assert_eq!(count(unsafe_code, "proxy-ebpf/src/main.rs", "#[unsafe(no_mangle)] static A: u8 = 0;"), 0);
    }

    #[test]
    fn vague_names_are_found() {
        assert_eq!(count(vague_names, "proxy-userspace/src/utils.rs", ""), 1);
        assert_eq!(count(vague_names, "xtask/src/main.rs", "mod helpers;"), 1);
        assert_eq!(count(vague_names, "xtask/src/main.rs", "struct MapManager; use aya::MapInfo;"), 1);
    }

    #[test]
    fn climbing_is_found() {
        let path = "proxy-userspace/src/plan/diff.rs";
        assert_eq!(count(climbing_paths, path, concat!("use super", "::super::maps;")), 1);
        assert_eq!(count(climbing_paths, path, "use super::maps;"), 0);
    }

    #[test]
    fn re_exports_are_found() {
        assert_eq!(count(re_exports, "a/src/b.rs", "pub use c::d;"), 1);
        assert_eq!(count(re_exports, "a/src/b.rs", "pub(crate) use c::d;"), 1);
        assert_eq!(count(re_exports, "a/src/mod.rs", "pub use c::d;"), 0);
    }

    #[test]
    fn silence_needs_a_reason() {
        assert_eq!(count(silenced_lints, "a.rs", "#[allow(dead_code)] fn f() {}"), 1);
        assert_eq!(count(silenced_lints, "a.rs", "#![expect(dead_code)]"), 1);
        assert_eq!(count(silenced_lints, "a.rs", "#[expect(dead_code, reason = \"x\")] fn f() {}"), 0);
    }

    #[test]
    fn missing_docs_and_left_overs_are_found() {
        assert_eq!(count(module_docs, "a/src/b.rs", "fn f() {}"), 1);
        assert_eq!(count(left_overs, "a.rs", concat!("// TO", "DO: later\nfn f() { to", "do!() }")), 2);
        assert_eq!(count(left_overs, "a.rs", "// Nothing.\n"), 0);
    }
}
