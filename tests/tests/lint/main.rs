//! The rules of this repository, as tests. Each rule has a test beside it that shows that it can fail.

#![expect(clippy::unwrap_used, reason = "helpers of tests panic as the tests do")]

mod caps;
mod deployment;
mod edges;
mod forms;
mod hops;
mod manifest;
mod semantics;
mod source;

use std::path::{Path, PathBuf};

use source::Source;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Runs a rule over all Rust sources.
#[track_caller]
fn check(rule: fn(&Source) -> Vec<String>) {
    let sources = Source::read_all(&root());
    assert!(sources.len() > 20, "the sources were not found");
    report(&sources.iter().flat_map(rule).collect::<Vec<_>>());
}

#[track_caller]
fn report(breaches: &[String]) {
    assert!(breaches.is_empty(), "{} breaches:\n{}", breaches.len(), breaches.join("\n"));
}

#[test]
fn modules_import_only_what_lies_before_them() {
    check(|source| edges::breaches(source, &edges::TABLE));
}

#[test]
fn unsafe_code_is_in_the_named_files() {
    check(forms::unsafe_code);
}

#[test]
fn names_say_what_things_are() {
    check(forms::vague_names);
}

#[test]
fn paths_climb_one_module_at_most() {
    check(forms::climbing_paths);
}

#[test]
fn only_a_folder_or_a_library_re_exports() {
    check(forms::re_exports);
}

#[test]
fn each_module_says_what_it_is_for() {
    check(forms::module_docs);
}

#[test]
fn nothing_is_left_for_later() {
    check(forms::left_overs);
}

#[test]
fn lints_are_silenced_with_a_reason() {
    check(forms::silenced_lints);
}

#[test]
fn files_and_functions_are_small() {
    check(caps::breaches);
}

#[test]
fn each_dependency_has_its_reason() {
    for file in ["Cargo.toml", "proxy-ebpf/Cargo.toml"] {
        let text = std::fs::read_to_string(root().join(file)).unwrap();
        report(&manifest::dependencies_without_reason(file, &text));
    }
}

#[test]
fn architecture_names_six_hops_that_exist_and_follow_each_other() {
    let Ok(text) = std::fs::read_to_string(root().join("ARCHITECTURE.md")) else {
        tests::skip("ARCHITECTURE.md is not written yet");
        return;
    };
    report(&hops::breaches(&text, &Source::read_all(&root())));
}

#[test]
fn the_readme_names_every_reason_for_a_drop() {
    let text = std::fs::read_to_string(root().join("README.md")).unwrap();
    let reasons = proxy_common::reason::DropReason::ALL.map(|reason| format!("\n| `{}` |", reason.name()));
    report(&reasons.into_iter().filter(|row| !text.contains(row)).collect::<Vec<_>>());
}

#[test]
fn the_table_of_promises_names_tests_that_exist() {
    let tests = root().join("tests");
    let table = std::fs::read_to_string(tests.join("SEMANTICS.md")).unwrap();
    let names = std::fs::read_dir(tests.join("golden")).unwrap();
    let golden = names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    report(&semantics::breaches(&table, &Source::read_all(&root()), &golden));
}
