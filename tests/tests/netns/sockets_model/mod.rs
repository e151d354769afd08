//! Random socket operations under random changes of Services, against a naive model of what each must lead to.
//!
//! The changes go the whole way (state, plan, ops, kernel maps) and are in force when the next operation begins, so that
//! every operation has one right outcome, or one of a few. `SHUNT_MODEL_STEPS` makes it longer, `SHUNT_MODEL_SEED` another.

mod clients;
mod world;

use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};

use fastrand::Rng;
use proxy_common::reason::DropReason;
use shunt::agent::sync::{Sync, SyncOptions};
use shunt::maps::apply::StoreOrder;
use shunt::maps::store::KernelStore;
use shunt::model::{Event, Listing};
use shunt::plan::node::NodePortAddresses;
use shunt::plan::rules::Rules;
use tests::hand::Rig;

use clients::{Client, Tcp, Udp};
use world::{Servers, World};

/// Operations of an ordinary run.
const STEPS: u64 = 12_000;
/// Sockets that are open at a time.
const OPEN: usize = 24;

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().unwrap())
}

/// The kernel side: maps that follow the world.
struct Kernel {
    sync: Sync<KernelStore>,
    clock: u64,
}

impl Kernel {
    fn new(rig: &Rig) -> Self {
        let options = SyncOptions {
            node_name: world::HERE.to_owned(),
            node_ports: NodePortAddresses::All,
            serve_local_vips: false,
            expected: Listing::ALL.to_vec(),
            rules: Rules::for_shards(2),
            order: StoreOrder::Planned,
        };
        let store = KernelStore::open(rig.loaded.kernel_maps().unwrap()).unwrap();
        let mut kernel = Self { sync: Sync::adopt(store, options).unwrap(), clock: 0 };
        kernel.take(Listing::ALL.map(Event::ListEnded).into());
        kernel
    }

    fn take(&mut self, events: Vec<Event>) {
        self.sync.take(events);
        for _ in 0..20 {
            // Ids rest for a second of this clock before they are used again.
            self.clock += 2_000;
            let clock = self.clock;
            let outcome = self.sync.sync(|| clock);
            assert!(outcome.error.is_none() && outcome.refused.is_empty(), "{outcome:?}");
            if outcome.is_settled {
                return;
            }
        }
        panic!("the maps do not settle");
    }
}

#[test]
fn random_sockets_meet_what_the_model_says() {
    let seed = number("SHUNT_MODEL_SEED", 7);
    let steps = number("SHUNT_MODEL_STEPS", STEPS);
    let rig = Rig::new("model").unwrap();
    rig.remember_clients().unwrap();
    let mut random = Rng::with_seed(seed);
    let mut world = World::new();
    rig.netns.ip_batch(&World::address_lines()).unwrap();
    rig.netns
        .inside(|| {
            let servers = Servers::new();
            let mut kernel = Kernel::new(&rig);
            kernel.take(world.everything());
            let mut counts = std::collections::BTreeMap::<&str, u64>::new();
            let mut open: Vec<Client> = Vec::new();
            for step in 0..steps {
                let what = if random.u32(..12) == 0 {
                    kernel.take(world.change(&mut random));
                    "change"
                } else if open.is_empty() || (open.len() < OPEN && random.u32(..4) == 0) {
                    open.push(if random.bool() {
                        Client::Tcp(Tcp::new())
                    } else {
                        Client::Udp(Udp::new(&mut random))
                    });
                    "open"
                } else if random.u32(..13) == 0 {
                    open.swap_remove(random.usize(..open.len()));
                    "close"
                } else {
                    let index = random.usize(..open.len());
                    open[index].act(&mut world, &servers, &mut random)
                };
                *counts.entry(what).or_default() += 1;
                servers.nothing_left(&format!("seed {seed}, step {step}: {what}"));
            }
            println!("{counts:?}");
            for what in
                ["connect", "send", "peer", "change", "talk", "disconnect", "close", "refused", "timed-out"]
            {
                assert!(counts.get(what).is_some_and(|count| *count > 10), "{what}: {counts:?}");
            }
        })
        .unwrap();
    assert_eq!(DropReason::ALL.len(), 15, "a new reason wants a place in the model");
}

/// The control: a model that is wrong in one thing does not pass.
#[test]
fn a_model_that_forgets_an_endpoint_is_found_out() {
    let rig = Rig::new("model-control").unwrap();
    let mut random = Rng::with_seed(1);
    let mut world = World::new();
    rig.netns.ip_batch(&World::address_lines()).unwrap();
    let outcome = rig.netns.inside(|| {
        let servers = Servers::new();
        let mut kernel = Kernel::new(&rig);
        kernel.take(world.everything());
        world.forget_an_endpoint();
        catch_unwind(AssertUnwindSafe(|| {
            for _ in 0..2_000 {
                Client::Tcp(Tcp::new()).act(&mut world, &servers, &mut random);
            }
        }))
    });
    let panic = outcome.unwrap().unwrap_err();
    let said = panic.downcast_ref::<String>().unwrap();
    assert!(said.contains("the model says"), "{said}");
}

/// What is the same in both families.
fn is_v4(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_ipv4()
}
