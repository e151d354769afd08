//! Whoever looks at the maps from outside meets what the fake store itself says, whatever the tables.

use proptest::prelude::*;
use proxy_common::addr::{Addr, Port, Proto};
use proxy_common::affinity::Memory as Remembered;
use proxy_common::lb::{Held, Lookup, Origin, Packet, Sender, Tuple, Verdict, translate};

use super::cases::{PORTS, addr, any_steps, cluster_ip, config, node_addr};
use super::world::{RULES, World};
use crate::maps::live::Live;
use crate::maps::memory::Memory;

/// A client of which every service port remembers one row.
struct Known(u32);

impl Sender for Known {
    fn held(&self, _: &Tuple) -> Option<Held> {
        None
    }

    fn remembered(&self, _: u32, _: bool, _: u32) -> Option<Remembered> {
        Some(Remembered::new(self.0, 1, 0))
    }

    fn draw(&self) -> u32 {
        self.0 * (u32::MAX / 5)
    }
}

fn destinations() -> Vec<Addr> {
    let vips = (1..=PORTS + 1).chain([100]).map(|vip| cluster_ip(vip).addr);
    let others =
        ["198.51.100.0", "198.51.100.1", "192.0.2.2", "127.0.0.1", "::1", "203.0.113.1", "fd00:10:96::7"];
    vips.chain([node_addr()]).chain(others.map(addr)).collect()
}

fn verdicts(lookup: &impl Lookup) -> Vec<Verdict> {
    let mut verdicts = Vec::new();
    for addr in destinations() {
        for port in [80, 81, 30000, 30001] {
            for origin in [Origin::Host, Origin::Pod, Origin::External] {
                let tuple = Tuple { addr, port: Port::new(port), proto: Proto::TCP };
                for step in 0..5_u32 {
                    verdicts.push(translate(lookup, &Packet { tuple, origin }, &Known(step)));
                }
            }
        }
    }
    verdicts
}

fn owners_agree(memory: &Memory, world: &World) {
    let (live, actual) = (Live::new(memory), world.planner.actual());
    for (tag, service) in actual.cells() {
        assert_eq!(live.owner(service), tag);
        let mut rows: Vec<u32> = actual.rows_of(service).collect();
        rows.sort_unstable();
        assert_eq!(live.rows_of(service), rows);
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_look_from_outside_agrees_with_the_store(steps in any_steps(6)) {
        let mut world = World::new(RULES);
        world.store.is_looking = false;
        for (changes, pause) in steps {
            world.sync(changes).unwrap();
            let memory = &world.store.memory;
            let live = Live::new(memory);
            prop_assert_eq!(verdicts(&live), verdicts(memory));
            live.check().unwrap();
            owners_agree(memory, &world);
            world.store.memory.advance(pause);
        }
    }
}
