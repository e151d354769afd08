//! Verifier tier: every program loads, and what the verifier walked is printed and bounded.

use shunt::datapath::load::{LoadOptions, Loaded, OBJECT};

/// The kernel gives up at a million; a hook that nears a thousandth of it has grown beyond its purpose.
const INSTRUCTIONS_AT_MOST: u32 = 4_000;

#[test]
fn every_program_passes_the_verifier() {
    let options = LoadOptions { object: OBJECT, pin_dir: None, host_netns: 1, counter_shards: 2 };
    let loaded = Loaded::new(&options).expect("load");
    for program in loaded.program_facts().expect("facts") {
        println!("{:<20} {:>6} verified instructions", program.name, program.verified_instructions);
        assert!(program.verified_instructions > 0);
        assert!(program.verified_instructions < INSTRUCTIONS_AT_MOST, "{} grew too large", program.name);
    }
}
