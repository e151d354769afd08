//! Verifier tier: every program loads, what the verifier walked is printed and bounded, and logging that is off is
//! gone from the programs.

use proxy_common::names::SLOW_PROGRAMS;
use shunt::datapath::hooks::HOOKS;
use shunt::datapath::load::{LoadOptions, Loaded};
use shunt::datapath::packet::{Packet, shortcuts};
use shunt::sys::bpf::ProgramFacts;
use tests::hand::{self, object_under_test, packet_object_under_test};

/// The kernel gives up at a million; a program that nears a fifth of it has grown beyond its purpose.
const INSTRUCTIONS_AT_MOST: u32 = 200_000;
/// Bytes that the log calls of a connect hook take at least.
const LOG_CALLS: u32 = 4_096;

fn facts(log_level: u8) -> Vec<ProgramFacts> {
    let object = object_under_test().expect("object");
    let options = LoadOptions {
        object: &object,
        pin_dir: None,
        host_netns: 1,
        counter_shards: 2,
        mover: 0,
        host_only: false,
        log_level,
    };
    Loaded::new(&options).expect("load").program_facts().expect("facts")
}

/// Those at devices, which share the tables of the others.
fn packet_facts() -> Vec<ProgramFacts> {
    let rig = hand::Rig::new("verifier").expect("rig");
    let object = packet_object_under_test().expect("object");
    let options = LoadOptions {
        object: &object,
        pin_dir: Some(rig.pin_dir()),
        host_netns: 1,
        counter_shards: 2,
        mover: 0,
        host_only: false,
        log_level: 0,
    };
    let packet = Packet::load(&options, None, Some(&shortcuts::offsets().expect("offsets"))).expect("load");
    assert!(packet.made_room.is_empty(), "{:?}", packet.made_room);
    packet.program_facts().expect("facts")
}

#[test]
fn every_program_passes_the_verifier() {
    let of_sockets = facts(0);
    let of_devices = packet_facts();
    assert_eq!(of_devices.len(), 5 + SLOW_PROGRAMS.len());
    let all: Vec<_> = of_sockets.into_iter().chain(of_devices).collect();
    for program in &all {
        let (walked, bytes) = (program.verified_instructions, program.translated_bytes);
        println!("{:<16} {walked:>6} instructions verified, {bytes:>6} bytes left", program.name);
    }
    for program in &all {
        let walked = program.verified_instructions;
        assert!((1..INSTRUCTIONS_AT_MOST).contains(&walked), "{} has {walked} instructions", program.name);
    }
}

#[test]
fn logging_that_is_off_is_gone_from_the_programs() {
    let (off, debug) = (facts(0), facts(4));
    for (off, debug) in
        off.iter().zip(&debug).filter(|(program, _)| program.name.starts_with("shunt_connect"))
    {
        assert!(
            off.translated_bytes + LOG_CALLS < debug.translated_bytes,
            "{}: {} bytes with logging off, {} with it on",
            off.name,
            off.translated_bytes,
            debug.translated_bytes
        );
    }
    assert_eq!(off.len(), HOOKS.len() + 1, "and the guard");
}
