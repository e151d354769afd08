//! `shunt trace`: where a connection would go, and why. It opens the pinned maps to look, lets [`crate::trace`] run the
//! decision over them, and prints; no agent is needed but for names.

mod render;

use std::collections::BTreeSet;

use anyhow::Context;
use proxy_common::addr::{Addr, Port, Proto};
use proxy_common::lb::{Packet, Tuple};
use proxy_common::names::{self, SCHEMA};
use proxy_common::nat::Settings;
use proxy_common::node::CidrKey;
use zerocopy::FromBytes;

use super::names::Names as Labels;
use super::{Exit, is_denied, open_clients, open_store, print};
use crate::cli::{TraceArgs, TraceProto};
use crate::datapath::attach::pinned_links;
use crate::datapath::packet::observed::observe;
use crate::datapath::packet::pinned_settings as settings;
use crate::datapath::pin::PinDir;
use crate::maps::Hashes;
use crate::maps::known::Known;
use crate::maps::live::Live;
use crate::maps::store::KernelStore;
use crate::plan::tables::OwnerTag;
use crate::sys::clock::monotonic_now;
use crate::sys::map::Map;
use crate::sys::socket::netns_cookie;
use crate::trace::{Client, Destination, Facts, Question, Trace, ports_of, trace};

/// Decides and prints. Whatever the verdict, that there is one is success.
pub fn run(args: &TraceArgs) -> anyhow::Result<Exit> {
    let (names, is_host_only) = Labels::ask_with_scope(args.metrics.metrics_address)?;
    let root = &args.pin.pin_dir;
    let pin_dir = PinDir::new(root, SCHEMA);
    let packets = PacketFacts {
        is_attached: !observe(&pin_dir).context("look at the devices")?.is_empty(),
        masquerades: settings(&pin_dir)?.is_some_and(|told| told.masquerades & Settings::MASQUERADES != 0),
        inside: inside(&pin_dir)?,
    };
    let maps = Maps { store: open_store(root)?, known: open_clients(root)?, is_host_only, packets };
    let links = pinned_links(root).map_err(anyhow::Error::new).context("read the pinned links");
    let links = links.map_err(|error| if is_denied(&error) { error.context(Exit::Unfit) } else { error })?;
    // A link whose cgroup has been removed is attached to nothing.
    let hooks = links.iter().filter(|(_, link)| link.cgroup_id != 0).map(|(hook, _)| hook.name).collect();
    let traces = maps.trace(args, (&names, &hooks))?;
    print(args.output.output, &traces, |traces| render::text(traces, args.destination))?;
    Ok(Exit::Done)
}

/// What is known of the packet path.
struct PacketFacts {
    is_attached: bool,
    masquerades: bool,
    inside: Vec<CidrKey>,
}

/// Ranges whose packets count as a pod's; none where there is no packet path.
fn inside(pin_dir: &PinDir) -> anyhow::Result<Vec<CidrKey>> {
    let path = pin_dir.maps().join(names::INSIDE);
    let map = match Map::open_pinned(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        outcome => outcome.with_context(|| format!("open {}", path.display()))?,
    };
    let (keys, _) = map.entries().with_context(|| format!("list {}", path.display()))?;
    Ok(keys.chunks_exact(size_of::<CidrKey>()).filter_map(|key| CidrKey::read_from_bytes(key).ok()).collect())
}

struct Maps {
    store: KernelStore,
    known: Known,
    packets: PacketFacts,
    /// Whether sockets of pods are left to others, if an agent said so.
    is_host_only: Option<bool>,
}

impl Maps {
    /// One answer for each port that is meant.
    fn trace(
        &self,
        args: &TraceArgs,
        (names, hooks): (&Labels, &BTreeSet<&'static str>),
    ) -> anyhow::Result<Vec<Trace>> {
        let (namespaces, node_addrs) = (self.known.namespaces()?, self.store.node_addrs()?);
        let own = netns_cookie().context("ask for the cookie of the network namespace")?;
        let inside = &self.packets.inside;
        let facts = Facts { namespaces: &namespaces, node_addrs: &node_addrs, own, inside };
        let client = Client::judge(args.source, &facts);
        let live = Live::new(&self.store);
        let label = |tag: OwnerTag| if tag.0 == 0 { "nobody".to_owned() } else { names.label(tag) };
        let memories = |key| self.known.memory(key);
        let (now, is_guarded) = (monotonic_now(), self.known.is_guarded()?);
        let traces = self.tuples(&live, args, client.origin)?.into_iter().map(|tuple| {
            let packet = Packet { tuple, origin: client.origin };
            let (client, label, memories) = (&client, &label, &memories);
            let question = Question {
                packet,
                client,
                memories,
                label,
                now,
                is_guarded,
                is_host_only: self.is_host_only,
                has_packet_path: self.packets.is_attached,
                masquerades: self.packets.masquerades,
                hooks,
            };
            trace(&live, &question)
        });
        let traces = traces.collect();
        live.check()?;
        self.known.check()?;
        Ok(traces)
    }

    /// What is asked for: one port, or all that an address serves; none of that, and the address itself is asked for.
    fn tuples(
        &self,
        live: &Live<'_, KernelStore>,
        args: &TraceArgs,
        origin: proxy_common::lb::Origin,
    ) -> anyhow::Result<Vec<Tuple>> {
        let Destination { addr, port } = args.destination;
        let (addr, proto) = (Addr::from(addr), args.proto.map(number));
        if let Some(port) = port {
            return Ok(vec![Tuple { addr, port: Port::new(port), proto: proto.unwrap_or(Proto::TCP) }]);
        }
        let frontends = self.store.frontends()?.into_iter().map(|(key, _)| key);
        let mut tuples = ports_of(live, frontends, (addr, origin));
        tuples.retain(|tuple| proto.is_none_or(|proto| proto == tuple.proto));
        if tuples.is_empty() {
            tuples.push(Tuple { addr, port: Port::ANY, proto: proto.unwrap_or(Proto::TCP) });
        }
        Ok(tuples)
    }
}

const fn number(proto: TraceProto) -> Proto {
    match proto {
        TraceProto::Tcp => Proto::TCP,
        TraceProto::Udp => Proto::UDP,
        TraceProto::Sctp => Proto::SCTP,
    }
}
