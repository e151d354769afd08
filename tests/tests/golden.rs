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

/// Services of the large scenario.
const LARGE: usize = 600;

/// Six hundred services of five endpoints in six files; a third of them changes, some go, and a writer restarts.
fn large() -> Scenario {
    let file = |number: usize, round: usize| {
        let range = (number * LARGE / 6)..((number + 1) * LARGE / 6);
        let objects: String = range.map(|index| large_service(index, round)).collect();
        format!("@write part-{number}.yaml\n{objects}")
    };
    let first: String = (0..6).map(|number| file(number, 0)).collect();
    let changed: String = (2..4).map(|number| file(number, 1)).collect();
    let steps = ["@sync\n@expect\n", &changed, "@remove part-5.yaml\n@sync\n@expect\n@restart\n@expect\n"];
    Scenario::parse(&format!("@addresses 192.0.2.1\n{first}{}", steps.concat()))
}

fn large_service(index: usize, round: usize) -> String {
    let ip = |net: &str, host: usize| format!("{net}.{}.{}", host / 250, host % 250);
    let (vip, name) = (ip("10.96", index), format!("s{index}"));
    let hosts = (0..5).map(|endpoint| ip("10.1", index * 6 + endpoint + round));
    let endpoints: Vec<String> = hosts.map(|host| format!("- {{addresses: [\"{host}\"]}}\n")).collect();
    let endpoints = endpoints.concat();
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: large}}\nspec:\n  clusterIP: {vip}\n  \
         clusterIPs: [\"{vip}\"]\n  ports: [{{port: {}, nodePort: {}}}]\n---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: {name}, namespace: large, \
         labels: {{kubernetes.io/service-name: {name}}}}}\naddressType: IPv4\nports: [{{port: 80}}]\n\
         endpoints:\n{endpoints}---\n",
        80 + round,
        30_000 + index
    )
}

#[test]
fn a_large_scenario_with_one_fault_in_ten_ends_as_without() {
    let scenario = large();
    let seen = play(&scenario, Memory::new(16), Memory::advance).unwrap();
    let count = |text: &str, word: &str| text.lines().filter(|line| line.starts_with(word)).count();
    let counts = |text: &str| ["service", "  backend", "frontend", "owned"].map(|word| count(text, word));
    assert_eq!(counts(&seen[0]), [LARGE, LARGE * 5, LARGE, LARGE]);
    assert_eq!(
        counts(&seen[1]),
        [LARGE - LARGE / 6, (LARGE - LARGE / 6) * 5, LARGE - LARGE / 6, LARGE - LARGE / 6]
    );
    assert!(seen[1].contains(&format!("10.96.0.{}:81/tcp", LARGE / 3)), "the change is there");
    assert_eq!(seen[1], seen[2]);
    let mut store = Memory::new(16);
    store.faults = Faults::share(10, 7);
    assert!(play(&scenario, store, Memory::advance).unwrap() == seen, "faults changed the ending");
}

#[test]
fn a_wrong_expectation_is_noticed() {
    let (_, scenario) = scenarios().remove(0);
    let wrong = Scenario::parse(&scenario.with_expected(&["nothing\n".to_owned()]));
    let seen = play(&wrong, Memory::new(16), Memory::advance).unwrap();
    assert_ne!(seen, wrong.expected());
}
