//! The kernel store agrees with the fake on every golden scenario.

use shunt::datapath::load::{LoadOptions, Loaded};
use shunt::maps::store::KernelStore;
use tests::golden::{Scenario, play};
use tests::hand::object_under_test;

#[test]
fn the_kernel_store_agrees_with_every_golden_scenario() {
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    let mut played = 0;
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let scenario = Scenario::parse(&std::fs::read_to_string(&path).unwrap());
        let object = object_under_test().unwrap();
        let options =
            LoadOptions { object: &object, pin_dir: None, host_netns: 1, counter_shards: 2, log_level: 0 };
        let loaded = Loaded::new(&options).unwrap();
        let store = KernelStore::open(loaded.kernel_maps().unwrap()).unwrap();
        let seen = play(&scenario, store, |_, _| ()).unwrap();
        assert_eq!(seen, scenario.expected(), "{}", path.display());
        played += 1;
    }
    assert!(played > 1);
}
