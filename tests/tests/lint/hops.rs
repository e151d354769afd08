//! The six hops of ARCHITECTURE.md: one Service from the API object to the socket, each a function that exists.
//!
//! A hop is a numbered line that begins with a file and a function: ``2. `src/state.rs` `State::apply` ``. How it
//! follows from the hop before is in the same line, in one of three ways:
//!
//! - nothing more: the function before calls it;
//! - ``, called by `src/agent.rs` `Agent::turn` ``: that function calls the one before, and then this one;
//! - ``, reads `SERVICES` ``: the side before writes that map, and this side reads it.
//!
//! Calls are followed through the functions of the caller's own file. Names are compared, types are not known.

use std::collections::BTreeSet;

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
}

enum Link<'a> {
    Called,
    CalledBy(Place<'a>),
    Reads(&'a str),
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
            Some("reads") => Link::Reads(parts.get(4)?),
            _ => Link::Called,
        };
        Some(Self { number: number.parse().ok()?, place: place(0)?, follows })
    }
}

fn follows(before: &Hop<'_>, hop: &Hop<'_>, sources: &[Source]) -> bool {
    match hop.follows {
        Link::Called => calls(sources, before.place).iter().any(|name| name == hop.place.name()),
        Link::CalledBy(caller) => {
            let names = calls(sources, caller);
            let mut later = names.iter().skip_while(|name| *name != before.place.name()).skip(1);
            later.any(|name| name == hop.place.name())
        }
        Link::Reads(map) => {
            let crate_of =
                |place: Place<'_>| place.file.split_once('/').map_or("", |(name, _)| name).to_owned();
            [crate_of(before.place), crate_of(hop.place), "proxy-common".to_owned()]
                .iter()
                .all(|folder| mentions(sources, &format!("{folder}/src/"), map))
        }
    }
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

/// The names that a function calls, in order, with those that the functions of its file call in its place.
fn calls(sources: &[Source], place: Place<'_>) -> Vec<String> {
    let mut names = Vec::new();
    let functions =
        sources.iter().find(|source| source.path == place.file).map(functions).unwrap_or_default();
    let Some(body) = body(sources, place) else { return names };
    let mut entered = BTreeSet::from([place.name().to_owned()]);
    follow(&body, &functions, &mut entered, &mut names);
    names
}

fn follow(
    body: &[TokenTree],
    functions: &[Function],
    entered: &mut BTreeSet<String>,
    names: &mut Vec<String>,
) {
    for (at, token) in body.iter().enumerate() {
        match token {
            TokenTree::Ident(ident) => {
                let is_path = at > 0 && is_sign(&body[at - 1], ':');
                let is_call = matches!(body.get(at + 1), Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Parenthesis);
                let name = ident.to_string();
                if is_path || is_call {
                    names.push(name.clone());
                    if entered.insert(name.clone()) {
                        for function in functions.iter().filter(|function| function.name == name) {
                            follow(&function.body, functions, entered, names);
                        }
                    }
                }
            }
            TokenTree::Group(group) => {
                let inner: Vec<_> = group.stream().into_iter().collect();
                follow(&inner, functions, entered, names);
            }
            _ => {}
        }
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
5. `proxy-ebpf/src/sock.rs` `connect`, reads `SERVICES`
6. `proxy-ebpf/src/lb.rs` `translate`
";

    fn sources(turn: &str) -> Vec<Source> {
        [
            ("proxy-userspace/src/source.rs", "pub fn read() {}"),
            ("proxy-userspace/src/state.rs", "impl State { fn apply(&self) { mark() } } fn mark() {}"),
            ("proxy-userspace/src/agent.rs", turn),
            ("proxy-userspace/src/maps.rs", "fn write() { put(SERVICES) }"),
            ("proxy-common/src/names.rs", "pub const SERVICES: u8 = 0;"),
            ("proxy-ebpf/src/sock.rs", "fn connect() { inner() } fn inner() { lb::translate(SERVICES) }"),
            ("proxy-ebpf/src/lb.rs", "pub fn translate() {}"),
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
        let wrong_order = "impl Agent { fn turn(&self) { apply(); read(); mark(); write() } }";
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
    fn a_long_document_is_found() {
        assert_eq!(breaches(&format!("{TEXT}{}", "\n".repeat(150)), &sources(TURN)).len(), 1);
    }
}
