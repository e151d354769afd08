//! The six hops of ARCHITECTURE.md: one Service from the API object to the socket, each a function that exists.
//!
//! A hop is a numbered line that begins with a file and a function: ``2. `src/state.rs` `State::apply` ``. How it
//! follows from the hop before is in the same line, in one of three ways:
//!
//! - nothing more: the function before calls it;
//! - ``, called by `src/agent.rs` `Agent::turn` ``: that function calls the one before, and then this one;
//! - ``, reads `SERVICES` through `proxy_common::lb::translate` ``: the side before writes that map, this side reads it,
//!   and this function calls the one that it is read through.
//!
//! Calls are followed through the functions of the caller's own file, and into other files of its crate where the path of
//! a call names a type: `Source::follow(..)`. A path's last type or module is compared; of a method call only the name is
//! known.

use std::collections::BTreeSet;
use std::path::Path;

use proc_macro2::{Delimiter, TokenTree};

use crate::source::{Source, is_sign, is_word, walk};

const HOPS: usize = 6;
const LINES: usize = 150;

/// What is wrong with the text of ARCHITECTURE.md.
pub(crate) fn breaches(architecture: &str, sources: &[Source]) -> Vec<String> {
    let lines = architecture.lines().count();
    let mut breaches = Vec::new();
    if lines > LINES {
        breaches.push(format!("ARCHITECTURE.md: {lines} lines; the cap is {LINES}"));
    }
    let hops: Vec<Hop<'_>> = architecture.lines().filter_map(Hop::read).collect();
    if hops.iter().map(|hop| hop.number).ne(1..=HOPS) {
        breaches
            .push(format!("ARCHITECTURE.md: {} hops; {HOPS}, numbered from 1, were expected", hops.len()));
    }
    for hop in &hops {
        if body(sources, hop.place).is_none() {
            breaches.push(format!("hop {}: {} is not in {}", hop.number, hop.place.function, hop.place.file));
        }
    }
    for pair in hops.windows(2) {
        if !follows(&pair[0], &pair[1], sources) {
            breaches.push(format!(
                "hop {}: {} does not follow from {}",
                pair[1].number, pair[1].place.function, pair[0].place.function
            ));
        }
    }
    breaches
}

/// A function, as the document names it.
#[derive(Clone, Copy)]
struct Place<'a> {
    file: &'a str,
    function: &'a str,
}

impl<'a> Place<'a> {
    fn name(self) -> &'a str {
        self.function.rsplit("::").next().unwrap_or(self.function)
    }

    /// The type whose method it is.
    fn owner(self) -> Option<&'a str> {
        self.function.rsplit_once("::").map(|(owner, _)| owner)
    }

    /// The last word of the path of its module.
    fn module(self) -> &'a str {
        module(self.file)
    }
}

/// The last word of the path of a file's module.
fn module(file: &str) -> &str {
    let path = Path::new(file.trim_end_matches("/mod.rs"));
    path.file_stem().and_then(|stem| stem.to_str()).unwrap_or(file)
}

enum Link<'a> {
    Called,
    CalledBy(Place<'a>),
    Reads { map: &'a str, through: &'a str },
}

struct Hop<'a> {
    number: usize,
    place: Place<'a>,
    follows: Link<'a>,
}

impl<'a> Hop<'a> {
    fn read(line: &'a str) -> Option<Self> {
        let (number, rest) = line.split_once(". `")?;
        let parts: Vec<&str> = rest.split('`').collect();
        let place = |at: usize| Some(Place { file: parts.get(at)?, function: parts.get(at + 2)? });
        let follows = match parts.get(3).map(|words| words.trim_matches([' ', ','])) {
            Some("called by") => Link::CalledBy(place(4)?),
            Some("reads") => {
                let is_through = parts.get(5).is_some_and(|words| words.trim() == "through");
                let through = parts.get(6).filter(|_| is_through)?;
                Link::Reads { map: parts.get(4)?, through }
            }
            _ => Link::Called,
        };
        Some(Self { number: number.parse().ok()?, place: place(0)?, follows })
    }
}

fn follows(before: &Hop<'_>, hop: &Hop<'_>, sources: &[Source]) -> bool {
    match hop.follows {
        Link::Called => calls(sources, before.place).iter().any(|call| call.may_be(hop.place)),
        Link::CalledBy(caller) => {
            let calls = calls(sources, caller);
            let mut later = calls.iter().skip_while(|call| !call.may_be(before.place)).skip(1);
            later.any(|call| call.may_be(hop.place))
        }
        Link::Reads { map, through } => {
            let crate_of =
                |place: Place<'_>| place.file.split_once('/').map_or("", |(name, _)| name).to_owned();
            let folders = [crate_of(before.place), crate_of(hop.place), "proxy-common".to_owned()];
            folders.iter().all(|folder| mentions(sources, &format!("{folder}/src/"), map))
                && calls_path(sources, hop.place, through)
        }
    }
}

/// Whether a function calls the one at `path`, `proxy_common::lb::translate`, and there is such a one.
fn calls_path(sources: &[Source], caller: Place<'_>, path: &str) -> bool {
    let words: Vec<&str> = path.split("::").collect();
    let [library, in_module, function] = words[..] else { return false };
    let folder = format!("{}/src/", library.replace('_', "-"));
    let files = sources.iter().map(|source| source.path.as_str());
    files.filter(|file| file.starts_with(&folder) && module(file) == in_module).any(|file| {
        let place = Place { file, function };
        body(sources, place).is_some() && calls(sources, caller).iter().any(|call| call.may_be(place))
    })
}

fn mentions(sources: &[Source], folder: &str, word: &str) -> bool {
    sources.iter().filter(|source| source.path.starts_with(folder)).any(|source| {
        let mut is_found = false;
        walk(&source.tokens(false), &mut |tokens| {
            is_found |= tokens.iter().any(|token| is_word(token, word));
        });
        is_found
    })
}

/// What a function calls, or names by a path as if to call it.
struct Call {
    name: String,
    by: By,
}

enum By {
    Name,
    Method,
    /// The last type or module before the name; none if it is generic or the own type.
    Path(Option<String>),
}

impl Call {
    /// Whether it may mean the function at `place`.
    fn may_be(&self, place: Place<'_>) -> bool {
        let is_kin = match (&self.by, place.owner()) {
            (By::Name, owner) => owner.is_none(),
            (By::Method, owner) => owner.is_some(),
            (By::Path(None), _) => true,
            (By::Path(Some(word)), Some(owner)) => word == owner,
            (By::Path(Some(word)), None) => {
                word == place.module() || matches!(&**word, "self" | "super" | "crate")
            }
        };
        is_kin && self.name == place.name()
    }

    /// The call whose name stands at `at`, if one does.
    fn read(body: &[TokenTree], at: usize) -> Option<Self> {
        let TokenTree::Ident(ident) = &body[at] else { return None };
        let is_before = |signs: usize, sign: char| {
            at >= signs && body[at - signs..at].iter().all(|token| is_sign(token, sign))
        };
        let is_call = matches!(body.get(at + 1), Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Parenthesis);
        let by = if is_before(2, ':') {
            let word = at.checked_sub(3).map(|place| body[place].to_string());
            By::Path(word.filter(|word| word != "Self" && word != ">"))
        } else if !is_call {
            return None;
        } else if is_before(1, '.') {
            By::Method
        } else {
            By::Name
        };
        Some(Self { name: ident.to_string(), by })
    }

    /// Whether it may mean `function`; `is_own`: it is in the caller's file.
    fn may_enter(&self, function: &Function, is_own: bool) -> bool {
        let is_kin = match &self.by {
            By::Path(Some(word)) => function.owner.contains(word) || is_own && word == "self",
            By::Path(None) | By::Name | By::Method => is_own,
        };
        is_kin && function.name == self.name
    }
}

/// What a function calls, in order, with what the functions that it enters call in their place.
fn calls(sources: &[Source], place: Place<'_>) -> Vec<Call> {
    let Some(body) = body(sources, place) else { return Vec::new() };
    let library = place.file.split_once("/src/").map_or(place.file, |(library, _)| library);
    let is_near = |source: &&Source| source.path.starts_with(&format!("{library}/src/")) && !source.is_test;
    let mut walk = Walk { functions: Vec::new(), entered: BTreeSet::new(), calls: Vec::new() };
    for source in sources.iter().filter(is_near) {
        walk.functions.extend(functions(source).into_iter().map(|function| (&*source.path, function)));
    }
    walk.follow(&body, place.file);
    walk.calls
}

struct Walk<'a> {
    functions: Vec<(&'a str, Function)>,
    /// Those that were entered: once is enough.
    entered: BTreeSet<usize>,
    calls: Vec<Call>,
}

impl<'a> Walk<'a> {
    fn follow(&mut self, body: &[TokenTree], file: &str) {
        for at in 0..body.len() {
            if let TokenTree::Group(group) = &body[at] {
                let inner: Vec<_> = group.stream().into_iter().collect();
                self.follow(&inner, file);
            } else if let Some(call) = Call::read(body, at) {
                let entered = self.enter(&call, file);
                self.calls.push(call);
                for (file, body) in entered {
                    self.follow(&body, file);
                }
            }
        }
    }

    /// The files and bodies of functions that a call in `file` may mean, unless they have been entered.
    fn enter(&mut self, call: &Call, file: &str) -> Vec<(&'a str, Vec<TokenTree>)> {
        let Self { functions, entered, .. } = self;
        let may_mean = functions
            .iter()
            .enumerate()
            .filter(|(_, (in_file, function))| call.may_enter(function, *in_file == file));
        may_mean
            .filter(|(index, _)| entered.insert(*index))
            .map(|(_, (in_file, function))| (*in_file, function.body.clone()))
            .collect()
    }
}

struct Function {
    /// The words between `impl` and the braces around the function.
    owner: Vec<String>,
    name: String,
    body: Vec<TokenTree>,
}

fn body(sources: &[Source], place: Place<'_>) -> Option<Vec<TokenTree>> {
    let source = sources.iter().find(|source| source.path == place.file)?;
    let is_owner = |function: &Function| match place.owner() {
        Some(owner) => function.owner.iter().any(|word| word == owner),
        None => function.owner.is_empty(),
    };
    functions(source)
        .into_iter()
        .find(|function| function.name == place.name() && is_owner(function))
        .map(|function| function.body)
}

fn functions(source: &Source) -> Vec<Function> {
    let mut found = Vec::new();
    collect(&source.tokens(false), &[], &mut found);
    found
}

fn collect(tokens: &[TokenTree], owner: &[String], found: &mut Vec<Function>) {
    let mut header: Vec<String> = Vec::new();
    let mut function = None;
    for (at, token) in tokens.iter().enumerate() {
        match token {
            TokenTree::Group(group) if group.delimiter() == Delimiter::Brace => {
                let inner: Vec<_> = group.stream().into_iter().collect();
                if let Some(name) = function.take() {
                    found.push(Function { owner: owner.to_vec(), name, body: inner });
                } else {
                    let is_impl = header.iter().any(|word| word == "impl");
                    collect(&inner, if is_impl { &header } else { owner }, found);
                }
                header.clear();
            }
            // A function of a trait has no body.
            TokenTree::Punct(punct) if punct.as_char() == ';' => {
                function = None;
                header.clear();
            }
            TokenTree::Ident(ident) => {
                header.push(ident.to_string());
                if at > 0 && is_word(&tokens[at - 1], "fn") {
                    function = Some(ident.to_string());
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Source, breaches};

    const TEXT: &str = "
1. `proxy-userspace/src/source.rs` `read` reads a file.
2. `proxy-userspace/src/state.rs` `State::apply`, called by `proxy-userspace/src/agent.rs` `Agent::turn`.
3. `proxy-userspace/src/state.rs` `mark`
4. `proxy-userspace/src/maps.rs` `write`, called by `proxy-userspace/src/agent.rs` `Agent::turn`
5. `proxy-ebpf/src/sock.rs` `connect`, reads `SERVICES` through `proxy_common::lb::translate`.
6. `proxy-ebpf/src/verdict.rs` `apply`
";

    const SOCK: &str = "fn connect() { inner() } fn inner() { verdict::apply(translate(SERVICES)) }";

    fn sources(turn: &str) -> Vec<Source> {
        sources_with(turn, SOCK)
    }

    fn sources_with(turn: &str, sock: &str) -> Vec<Source> {
        [
            ("proxy-userspace/src/source.rs", "pub fn read() {} impl Files { fn open() {} }"),
            ("proxy-userspace/src/state.rs", "impl State { fn apply(&self) { mark() } } fn mark() {}"),
            ("proxy-userspace/src/agent.rs", turn),
            ("proxy-userspace/src/agent/open.rs", "impl Source { fn open() { Files::open() } }"),
            ("proxy-userspace/src/maps.rs", "fn write() { put(SERVICES) }"),
            ("proxy-common/src/names.rs", "pub const SERVICES: u8 = 0;"),
            ("proxy-common/src/lb.rs", "pub fn translate() {}"),
            ("proxy-ebpf/src/sock.rs", sock),
            ("proxy-ebpf/src/verdict.rs", "pub fn apply() {}"),
        ]
        .map(|(path, text)| Source::parse(path, text))
        .into()
    }

    const TURN: &str = "impl Agent { fn turn(&self) { select! { e = read() => self.sync(e) } } \
                        fn sync(&self) { self.state.apply(e); mark(); write() } }";

    #[test]
    fn hops_that_follow_each_other_pass() {
        assert_eq!(breaches(TEXT, &sources(TURN)), Vec::<String>::new());
    }

    #[test]
    fn a_call_out_of_order_or_left_out_is_found() {
        let wrong_order = "impl Agent { fn turn(&self) { self.apply(); read(); mark(); write() } }";
        assert_eq!(breaches(TEXT, &sources(wrong_order)).len(), 1);
        assert_eq!(breaches(&TEXT.replace("`mark`", "`write`"), &sources(TURN)).len(), 3);
    }

    #[test]
    fn a_missing_hop_function_or_map_is_found() {
        assert_eq!(breaches(&TEXT.replace("6. ", ""), &sources(TURN)).len(), 1);
        assert_eq!(breaches(&TEXT.replace("`read`", "`reread`"), &sources(TURN)).len(), 2);
        assert_eq!(breaches(&TEXT.replace("`SERVICES`", "`SLOTS`"), &sources(TURN)).len(), 1);
        assert_eq!(breaches(&TEXT.replace("State::apply", "Other::apply"), &sources(TURN)).len(), 2);
    }

    #[test]
    fn a_function_of_another_type_is_not_taken_for_the_one_that_is_named() {
        let text = TEXT.replace("`read`", "`Files::open`");
        let turn = |open: &str| TURN.replace("read()", open);
        for (open, found) in
            [("Files::open()", 0), ("Source::open()", 0), ("Other::open()", 1), ("open()", 1)]
        {
            assert_eq!(breaches(&text, &sources(&turn(open))).len(), found, "{open}");
        }
        let by_module = |path: &str| SOCK.replace("verdict::apply", path);
        assert_eq!(breaches(TEXT, &sources_with(TURN, &by_module("reason::apply"))).len(), 1);
    }

    #[test]
    fn a_map_that_is_read_past_the_named_function_is_found() {
        let sock = SOCK.replace("translate(SERVICES)", "SERVICES");
        assert_eq!(breaches(TEXT, &sources_with(TURN, &sock)).len(), 1);
        // A hop that does not say how it reads is none, and the one after it follows from nothing.
        let silent = TEXT.replace(" through `proxy_common::lb::translate`", "");
        assert_eq!(breaches(&silent, &sources(TURN)).len(), 2);
    }

    #[test]
    fn a_long_document_is_found() {
        assert_eq!(breaches(&format!("{TEXT}{}", "\n".repeat(150)), &sources(TURN)).len(), 1);
    }
}
