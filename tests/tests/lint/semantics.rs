//! The table of promises names tests that exist, and for each promise one that opens sockets.

use std::collections::BTreeSet;

use syn::visit::{self, Visit};

use crate::source::Source;

/// Tiers whose tests are clients, with real sockets.
const CLIENTS: [&str; 3] = ["netns", "cluster", "versus"];

/// What is wrong with `table`; `golden` are the names of the golden scenarios.
pub(crate) fn breaches(table: &str, sources: &[Source], golden: &BTreeSet<String>) -> Vec<String> {
    let mut found = Vec::new();
    let mut rows = 0;
    for (line, text) in (1..).zip(table.lines()) {
        let Some(row) =
            text.strip_prefix("| ").filter(|row| row.starts_with(|first: char| first.is_ascii_digit()))
        else {
            continue;
        };
        rows += 1;
        let cells: Vec<&str> = row.trim_end().trim_end_matches('|').split('|').map(str::trim).collect();
        let [_, promise, _, tests] = cells[..] else {
            found.push(format!("line {line}: {} columns, not 4", cells.len()));
            continue;
        };
        let named: Vec<&str> = tests.split('`').skip(1).step_by(2).collect();
        let absent = named.iter().filter(|name| !exists(name, sources, golden));
        found.extend(absent.map(|name| format!("line {line}: there is no test `{name}`")));
        let is_client = |name: &&str| CLIENTS.iter().any(|tier| name.split(' ').next() == Some(tier));
        if !named.iter().any(is_client) {
            found.push(format!("line {line}: no client shows {promise:?}"));
        }
    }
    if rows == 0 {
        found.push("there is no row".to_owned());
    }
    found
}

/// Whether there is such a test: `netns file::name` and so on, `unit path::name`, `golden file.txt`.
fn exists(reference: &str, sources: &[Source], golden: &BTreeSet<String>) -> bool {
    let Some((tier, place)) = reference.split_once(' ') else { return false };
    if tier == "golden" {
        return golden.contains(place);
    }
    let Some((module, name)) = place.rsplit_once("::") else { return false };
    let stem = match tier {
        "unit" => format!("proxy-userspace/src/{module}"),
        tier if CLIENTS.contains(&tier) => format!("tests/tests/{tier}/{module}"),
        _ => return false,
    };
    let paths = [format!("{stem}.rs"), format!("{stem}/mod.rs")];
    sources.iter().filter(|source| paths.contains(&source.path)).any(|source| {
        let mut tests = Tests { name, is_found: false };
        tests.visit_file(&source.file);
        tests.is_found
    })
}

/// Looks for one test by its name.
struct Tests<'a> {
    name: &'a str,
    is_found: bool,
}

impl<'ast> Visit<'ast> for Tests<'_> {
    fn visit_item_fn(&mut self, function: &'ast syn::ItemFn) {
        let is_test = function.attrs.iter().any(|attribute| attribute.path().is_ident("test"));
        self.is_found |= is_test && function.sig.ident == self.name;
        visit::visit_item_fn(self, function);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn breaches_of(row: &str) -> Vec<String> {
        let sources = [
            Source::parse("tests/tests/netns/reach.rs", "#[test] fn shown() {} fn helper() {}"),
            Source::parse("tests/tests/netns/model/mod.rs", "#[test] fn modelled() {}"),
            Source::parse("proxy-userspace/src/plan/rules_tests.rs", "mod deep { #[test] fn planned() {} }"),
        ];
        let table = format!("| section | promise | seen | tests |\n|---|---|---|---|\n{row}\n");
        breaches(&table, &sources, &["policies.txt".to_owned()].into())
    }

    #[test]
    fn tests_that_exist_are_found() {
        for tests in [
            "`netns reach::shown`",
            "`netns model::modelled`, `golden policies.txt`, `unit plan/rules_tests::planned`",
        ] {
            assert_eq!(breaches_of(&format!("| 3 | a promise | served | {tests} |")), [""; 0]);
        }
    }

    #[test]
    fn a_name_that_no_test_has_is_a_breach() {
        for tests in [
            "`netns reach::gone`",
            "`netns reach::helper`",
            "`netns gone::shown`",
            "`golden gone.txt`",
            "`reach::shown`",
            "`unit plan/rules_tests::shown`",
        ] {
            let breaches =
                breaches_of(&format!("| 3 | a promise | served | `netns reach::shown`, {tests} |"));
            assert_eq!(breaches, [format!("line 3: there is no test {tests}")]);
        }
    }

    #[test]
    fn a_promise_that_no_client_shows_is_a_breach() {
        for tests in ["", "`golden policies.txt`", "`unit plan/rules_tests::planned`"] {
            let breaches = breaches_of(&format!("| 3 | a promise | served | {tests} |"));
            assert_eq!(breaches, ["line 3: no client shows \"a promise\""]);
        }
        assert_eq!(breaches_of("| 3 | a promise | `netns reach::shown` |"), ["line 3: 3 columns, not 4"]);
        assert_eq!(breaches_of(""), ["there is no row"]);
    }
}
