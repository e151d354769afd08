//! Golden tier: each scenario of `tests/golden` on the fake store, as it is and with one effect in ten failing.
//!
//! `UPDATE_GOLDEN=1 cargo xtask test golden` writes what was seen into the scenarios; read the difference before it is committed.

#![expect(clippy::unwrap_used, reason = "tests panic where something is wrong")]

use std::path::{Path, PathBuf};

use shunt::maps::memory::{Faults, Memory};
use tests::golden::{LARGE, Played, Scenario, large, play};

/// Plays a scenario on a fresh fake; what was seen.
fn seen(scenario: &Scenario) -> Vec<String> {
    play(scenario, Memory::new(16), Memory::advance).unwrap().seen
}

/// The same with one effect in ten failing, and how many did.
fn seen_under_faults(scenario: &Scenario, seed: u64) -> (Vec<String>, u64) {
    let mut store = Memory::new(16);
    store.faults = Faults::share(10, seed);
    let Played { seen, store } = play(scenario, store, Memory::advance).unwrap();
    (seen, store.faults.injected())
}

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
        let seen = seen(&scenario);
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
            let (seen, faults) = seen_under_faults(&scenario, seed);
            assert_eq!(seen, scenario.expected(), "{} with seed {seed}", path.display());
            assert!(faults > 0, "{} with seed {seed}: nothing failed", path.display());
        }
    }
}

#[test]
fn a_large_scenario_with_one_fault_in_ten_ends_as_without() {
    let scenario = large();
    let seen = seen(&scenario);
    let count = |text: &str, word: &str| text.lines().filter(|line| line.starts_with(word)).count();
    let counts = |text: &str| ["service", "  backend", "frontend", "owned"].map(|word| count(text, word));
    assert_eq!(counts(&seen[0]), [LARGE, LARGE * 5, LARGE, LARGE]);
    let left = LARGE - LARGE / 6;
    assert_eq!(counts(&seen[1]), [left, left * 5, left, left]);
    assert!(seen[1].contains(&format!("10.96.0.{}:81/tcp", LARGE / 3)), "the change is there");
    assert_eq!(counts(&seen[2]), counts(&seen[1]));
    assert!(seen[2].contains("10.96.0.0:80/tcp cluster-ip -> large/t0:80/tcp"), "the new names are there");
    assert_eq!(seen[2], seen[3]);
    let (under_faults, faults) = seen_under_faults(&scenario, 7);
    assert!(under_faults == seen, "faults changed the ending");
    assert!(faults > 1_000, "{faults} faults in all");
}

#[test]
fn a_wrong_expectation_is_noticed() {
    for (path, scenario) in scenarios() {
        for at in 0..scenario.expected().len() {
            let mut expected = scenario.expected();
            expected[at] = "nothing\n".to_owned();
            let wrong = Scenario::parse(&scenario.with_expected(&expected));
            assert_ne!(seen(&wrong), wrong.expected(), "{}", path.display());
        }
    }
}

const ONE: &str = "@addresses 192.0.2.1
@write web.yaml
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec: {clusterIP: 10.96.0.1, clusterIPs: [\"10.96.0.1\"], ports: [{port: 80}]}
";

/// How many effects the first sync of [`ONE`] has.
fn effects() -> u64 {
    let scenario = Scenario::parse(&format!("{ONE}@sync\n"));
    play(&scenario, Memory::new(16), Memory::advance).unwrap().store.steps()
}

#[test]
fn a_writer_that_dies_after_any_effect_is_survived() {
    let end = seen(&Scenario::parse(&format!("{ONE}@sync\n@expect\n")));
    for after in 0..effects() {
        let scenario = Scenario::parse(&format!("{ONE}@kill {after}\n@expect\n"));
        assert_eq!(seen(&scenario), end, "killed after {after} effects");
    }
}

#[test]
fn a_writer_that_is_done_before_it_dies_is_noticed() {
    let scenario = Scenario::parse(&format!("{ONE}@kill {}\n", effects()));
    let error = play(&scenario, Memory::new(16), Memory::advance).unwrap_err();
    assert!(error.to_string().starts_with("the writer was done"), "{error}");
}
