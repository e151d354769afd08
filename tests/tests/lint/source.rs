//! Rust sources as the rules see them: text, tokens and syntax tree.

use std::fs;
use std::path::Path;

use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};

/// The folders whose Rust sources are ours.
const FOLDERS: [&str; 5] = ["proxy-common", "proxy-ebpf", "proxy-userspace", "tests", "xtask"];

/// One Rust file.
pub(crate) struct Source {
    /// The path from the root of the repository.
    pub(crate) path: String,
    pub(crate) text: String,
    pub(crate) file: syn::File,
    /// Whether the file holds tests only.
    pub(crate) is_test: bool,
}

impl Source {
    /// Reads one file's text.
    pub(crate) fn parse(path: &str, text: &str) -> Self {
        let file = syn::parse_file(text).unwrap_or_else(|error| panic!("{path}: {error}"));
        let is_test = path.starts_with("tests/") || path.ends_with("tests.rs");
        Self { path: path.to_owned(), text: text.to_owned(), file, is_test }
    }

    /// Reads all Rust files under `root`.
    pub(crate) fn read_all(root: &Path) -> Vec<Self> {
        let mut sources = Vec::new();
        for folder in FOLDERS {
            read_folder(root, folder, &mut sources);
        }
        mark_tests(&mut sources);
        sources
    }

    /// The folder of the modules that this file declares.
    fn folder(&self) -> &str {
        let stem = self.path.trim_end_matches(".rs");
        ["/mod", "/lib", "/main"].iter().find_map(|root| stem.strip_suffix(root)).unwrap_or(stem)
    }

    /// The paths, without extension, of the modules of this file that are compiled for tests only.
    fn test_modules(&self) -> Vec<String> {
        let is_test = |module: &&syn::ItemMod| {
            let mut conditions = module.attrs.iter().filter(|attribute| attribute.path().is_ident("cfg"));
            conditions.any(|attribute| attribute.parse_args::<syn::Ident>().is_ok_and(|word| word == "test"))
        };
        let modules = self.file.items.iter().filter_map(|item| match item {
            syn::Item::Mod(module) => Some(module),
            _ => None,
        });
        modules.filter(is_test).map(|module| format!("{}/{}", self.folder(), module.ident)).collect()
    }

    /// The tokens of the file; those of its tests too if `with_tests` is set.
    pub(crate) fn tokens(&self, with_tests: bool) -> Vec<TokenTree> {
        let tokens: TokenStream = self.text.parse().unwrap_or_else(|error| panic!("{}: {error}", self.path));
        if with_tests { tokens.into_iter().collect() } else { without_tests(tokens) }
    }

    /// All paths of the file, as segments; one for each leaf of a `use`.
    pub(crate) fn paths(&self, with_tests: bool) -> Vec<Vec<String>> {
        let mut found = Vec::new();
        collect_paths(&[], &self.tokens(with_tests), &mut found);
        found
    }
}

/// Whether `token` is the word `word`.
pub(crate) fn is_word(token: &TokenTree, word: &str) -> bool {
    matches!(token, TokenTree::Ident(ident) if ident == word)
}

/// Whether `token` is the sign `sign`.
pub(crate) fn is_sign(token: &TokenTree, sign: char) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == sign)
}

/// Calls `look` with each sequence of tokens, from outside to inside.
pub(crate) fn walk(tokens: &[TokenTree], look: &mut dyn FnMut(&[TokenTree])) {
    look(tokens);
    for token in tokens {
        if let TokenTree::Group(group) = token {
            walk(&group.stream().into_iter().collect::<Vec<_>>(), look);
        }
    }
}

/// Marks the files of modules that are declared under `#[cfg(test)]`, and what lies below them.
fn mark_tests(sources: &mut [Source]) {
    let modules: Vec<String> = sources.iter().flat_map(Source::test_modules).collect();
    for source in sources {
        source.is_test |= modules.iter().any(|module| {
            let rest = source.path.strip_prefix(module.as_str());
            rest.is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
        });
    }
}

fn read_folder(root: &Path, folder: &str, sources: &mut Vec<Source>) {
    let mut entries: Vec<_> = fs::read_dir(root.join(folder)).unwrap().map(Result::unwrap).collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let name = entry.file_name().into_string().unwrap();
        let path = format!("{folder}/{name}");
        if entry.file_type().unwrap().is_dir() {
            if name != "target" {
                read_folder(root, &path, sources);
            }
        } else if Path::new(&name).extension().is_some_and(|extension| extension == "rs") {
            sources.push(Source::parse(&path, &fs::read_to_string(entry.path()).unwrap()));
        }
    }
}

/// Drops what stands behind `#[cfg(test)]`: up to its braces, or to its semicolon.
fn without_tests(tokens: TokenStream) -> Vec<TokenTree> {
    let mut kept = Vec::new();
    let mut tokens = tokens.into_iter().peekable();
    while let Some(token) = tokens.next() {
        let attribute = match tokens.peek() {
            Some(TokenTree::Group(group)) if is_sign(&token, '#') => {
                group.stream().to_string().replace(' ', "")
            }
            _ => String::new(),
        };
        if attribute == "cfg(test)" {
            for token in tokens.by_ref() {
                let ends = matches!(&token, TokenTree::Group(group) if group.delimiter() == Delimiter::Brace);
                if ends || is_sign(&token, ';') {
                    break;
                }
            }
        } else if let TokenTree::Group(group) = token {
            let inner = without_tests(group.stream()).into_iter().collect();
            kept.push(Group::new(group.delimiter(), inner).into());
        } else {
            kept.push(token);
        }
    }
    kept
}

fn collect_paths(prefix: &[String], tokens: &[TokenTree], found: &mut Vec<Vec<String>>) {
    let mut path = prefix.to_vec();
    let mut at = 0;
    // Whether the last tokens were `::`, so that the next segment goes on with the path.
    let mut continues = !prefix.is_empty();
    while at < tokens.len() {
        match &tokens[at] {
            TokenTree::Ident(ident) => {
                if !continues {
                    finish(prefix, &mut path, found);
                }
                path.push(ident.to_string());
                continues = false;
            }
            TokenTree::Punct(punct) if punct.as_char() == ':' && is_double_colon(&tokens[at..]) => {
                at += 1;
                continues = true;
            }
            TokenTree::Group(group) => {
                let inner: Vec<_> = group.stream().into_iter().collect();
                if continues && group.delimiter() == Delimiter::Brace {
                    collect_paths(&path, &inner, found);
                    path = prefix.to_vec();
                } else {
                    finish(prefix, &mut path, found);
                    collect_paths(&[], &inner, found);
                }
                continues = false;
            }
            _ => {
                finish(prefix, &mut path, found);
                // In the braces of a `use`, each leaf goes on with the path outside.
                continues = !prefix.is_empty();
            }
        }
        at += 1;
    }
    finish(prefix, &mut path, found);
}

fn is_double_colon(tokens: &[TokenTree]) -> bool {
    tokens.len() > 1 && is_sign(&tokens[0], ':') && is_sign(&tokens[1], ':')
}

fn finish(prefix: &[String], path: &mut Vec<String>, found: &mut Vec<Vec<String>>) {
    if path.len() > 1 && path.len() > prefix.len() {
        found.push(path.clone());
    }
    *path = prefix.to_vec();
}

#[cfg(test)]
mod tests {
    use super::Source;

    fn paths(text: &str) -> Vec<String> {
        Source::parse("a.rs", text).paths(false).iter().map(|path| path.join("::")).collect()
    }

    #[test]
    fn paths_are_found_in_uses_bodies_and_macros() {
        assert_eq!(paths("use a::{b, c::{d, e}};"), ["a::b", "a::c::d", "a::c::e"]);
        assert_eq!(paths("fn f(x: m::T) { n::g(x); p!(q::r); }"), ["m::T", "n::g", "q::r"]);
        assert_eq!(paths("fn f() { let x: u8 = s::C; }"), ["s::C"]);
    }

    #[test]
    fn modules_for_tests_are_marked_with_what_lies_below() {
        let declaring = "#[cfg(test)] mod cases; mod rows;";
        let mut sources =
            ["a/src/maps/mod.rs", "a/src/maps/cases/faults.rs", "a/src/maps/rows.rs", "a/src/cases.rs"]
                .map(|path| Source::parse(path, if path.ends_with("mod.rs") { declaring } else { "" }));
        super::mark_tests(&mut sources);
        assert_eq!(sources.map(|source| source.is_test), [false, true, false, false]);
    }

    #[test]
    fn tests_are_left_out() {
        assert_eq!(paths("#[cfg(test)] mod tests { use a::b; } use c::d;"), ["c::d"]);
        assert_eq!(paths("mod m { #[cfg(test)] use a::b; use c::d; }"), ["c::d"]);
    }
}
