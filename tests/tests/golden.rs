//! Golden tier: each scenario of `tests/golden` on the fake store, as it is and with one effect in ten failing.
//!
//! `UPDATE_GOLDEN=1 cargo xtask test golden` writes what was seen into the scenarios; read the difference before it is committed.

#![expect(clippy::unwrap_used, reason = "tests panic where something is wrong")]

use std::path::{Path, PathBuf};

use shunt::maps::memory::{Faults, Memory};
use tests::golden::{Scenario, play};

fn scenarios() -> Vec<(PathBuf, Scenario)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "no scenarios");
    paths
        .into_iter()
        .map(|path| {
            let text = std::fs::read_to_string(&path).unwrap();
            (path, Scenario::parse(&text))
        })
        .collect()
}

#[test]
fn every_scenario_ends_as_written() {
    for (path, scenario) in scenarios() {
        let seen = play(&scenario, Memory::new(16), Memory::advance).unwrap();
        assert!(!seen.is_empty(), "{}: expects nothing", path.display());
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&path, scenario.with_expected(&seen)).unwrap();
            continue;
        }
        for (seen, expected) in seen.iter().zip(scenario.expected()) {
            assert_eq!(*seen, expected, "{}", path.display());
        }
    }
}

#[test]
fn one_fault_in_ten_changes_no_ending() {
    for (path, scenario) in scenarios() {
        for seed in 1..=5 {
            let mut store = Memory::new(16);
            store.faults = Faults::share(10, seed);
            let seen = play(&scenario, store, Memory::advance).unwrap();
            assert_eq!(seen, scenario.expected(), "{} with seed {seed}", path.display());
        }
    }
}

#[test]
fn a_wrong_expectation_is_noticed() {
    let (_, scenario) = scenarios().remove(0);
    let wrong = Scenario::parse(&scenario.with_expected(&["nothing\n".to_owned()]));
    let seen = play(&wrong, Memory::new(16), Memory::advance).unwrap();
    assert_ne!(seen, wrong.expected());
}
