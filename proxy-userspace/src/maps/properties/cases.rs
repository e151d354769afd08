//! Random service tables and changes, over a small pool of everything so that service ports collide.

use proptest::prelude::*;
use proxy_common::addr::{Addr, Port, Proto};
use proxy_common::backend::BackendState;
use proxy_common::frontend::{FrontendKey, FrontendKind, FrontendValue};
use proxy_common::node::{CidrKey, NodeAddrFlags};
use proxy_common::service::View;

use super::sources::{any_sources, checks_source};
use crate::plan::diff::Changes;
use crate::plan::tables::{DesiredBackend, DesiredFrontend, DesiredNode, DesiredPort, DesiredView, OwnerTag};

/// Service ports that exist in the random world.
pub(super) const PORTS: u64 = 5;
/// Endpoints that exist.
const ENDPOINTS: u8 = 6;

/// As many cases as `PROPTEST_CASES` asks for, and 64 without it: a number set in code would win over the environment.
pub(super) fn config() -> ProptestConfig {
    match std::env::var_os("PROPTEST_CASES") {
        Some(_) => ProptestConfig::default(),
        None => ProptestConfig::with_cases(64),
    }
}

pub(super) fn addr(text: &str) -> Addr {
    text.parse::<std::net::IpAddr>().unwrap().into()
}

/// The address that serves NodePorts while the node's table has it.
pub(super) fn node_addr() -> Addr {
    addr("192.0.2.1")
}

/// An endpoint of the pool.
pub(super) fn endpoint(index: u8) -> (Addr, Port) {
    (addr(&format!("10.1.0.{index}")), Port::new(8080))
}

pub(super) fn cluster_ip(vip: u64) -> FrontendKey {
    FrontendKey::new(addr(&format!("10.96.{}.{vip}", vip % 2)), Port::new(80), Proto::TCP)
}

/// A service port with the given frontends and, for each endpoint of the pool from the first on, its view bits;
/// `None`: not an endpoint of it.
pub(super) fn port(tag: u64, frontends: Vec<DesiredFrontend>, endpoints: &[Option<u8>]) -> DesiredPort {
    let mut backends: Vec<DesiredBackend> = (1..)
        .zip(endpoints)
        .filter_map(|(index, bits)| {
            let (addr, port) = endpoint(index);
            let state = BackendState(BackendState::SERVING.0 | u32::from((*bits)?) << 1);
            Some(DesiredBackend { addr, port, state })
        })
        .collect();
    backends.sort_unstable_by_key(|backend| (backend.addr, backend.port));
    let views = View::ALL.map(|view| {
        let is_served = backends.iter().any(|backend| backend.state.in_view(view));
        if is_served { DesiredView::Random } else { DesiredView::Reject }
    });
    let mut frontends = frontends;
    frontends.sort_unstable_by_key(|frontend| frontend.key);
    frontends.dedup_by_key(|frontend| frontend.key);
    let label = format!("default/web{tag}:http/tcp").into();
    DesiredPort {
        tag: OwnerTag(tag),
        label,
        affinity_seconds: 0,
        frontends,
        sources: Box::default(),
        backends,
        views,
        keeps_source: false,
    }
}

pub(super) fn frontend(key: FrontendKey, kind: FrontendKind) -> DesiredFrontend {
    DesiredFrontend { key, kind, flags: 0 }
}

/// A cluster IP with its mark of ownership.
pub(super) fn cluster_ip_frontends(vip: u64) -> Vec<DesiredFrontend> {
    let key = cluster_ip(vip);
    let owned = FrontendKey::owned_vip(key.addr);
    vec![frontend(key, FrontendKind::ClusterIp), frontend(owned, FrontendKind::OwnedVip)]
}

fn any_frontends(tag: u64) -> impl Strategy<Value = Vec<DesiredFrontend>> {
    let external = prop::option::of((0..2_u64, any::<bool>(), any::<bool>()));
    let node_port = prop::option::of(0..2_u16);
    (prop::bool::weighted(0.2), external, node_port).prop_map(move |(moved, external, node_port)| {
        let mut frontends = cluster_ip_frontends(if moved { 100 } else { tag });
        if let Some((ip, load_balancer, check)) = external {
            let key = FrontendKey::new(addr(&format!("198.51.100.{ip}")), Port::new(80), Proto::TCP);
            let kind = if load_balancer { FrontendKind::LoadBalancer } else { FrontendKind::ExternalIp };
            let flags = if check { FrontendValue::CHECK_SOURCE } else { 0 };
            frontends.push(DesiredFrontend { key, kind, flags });
        }
        if let Some(number) = node_port {
            let key = FrontendKey::node_port(node_addr(), Port::new(30000 + number), Proto::TCP);
            frontends.push(frontend(key, FrontendKind::NodePort));
        }
        frontends
    })
}

/// One service port in any shape.
pub(super) fn any_port() -> impl Strategy<Value = DesiredPort> {
    let idle = prop::sample::select(vec![DesiredView::Pass, DesiredView::Reject, DesiredView::Drop]);
    (1..=PORTS).prop_flat_map(move |tag| {
        let endpoints = prop::collection::vec(prop::option::of(0..8_u8), ENDPOINTS as usize);
        let idle = [idle.clone(), idle.clone(), idle.clone()];
        let head = (prop::sample::select(vec![0, 10_800]), any::<bool>());
        (any_frontends(tag), endpoints, idle, head, any_sources()).prop_map(
            move |(frontends, endpoints, idle, (affinity_seconds, keeps_source), sources)| {
                let mut port = port(tag, frontends, &endpoints);
                let is_checked = port.frontends.iter().any(|frontend| checks_source(frontend.flags));
                port.sources = if is_checked { sources } else { Box::default() };
                for (view, idle) in port.views.iter_mut().zip(idle) {
                    if *view != DesiredView::Random {
                        *view = idle;
                    }
                }
                DesiredPort { affinity_seconds, keeps_source, ..port }
            },
        )
    })
}

fn any_node() -> impl Strategy<Value = DesiredNode> {
    let cidrs = [("10.96.0.0", 96 + 16), ("fd00:10:96::", 108)];
    let cidrs = cidrs.map(|(text, prefix_len)| CidrKey { prefix_len, addr: addr(text) });
    let addresses = [
        (node_addr(), NodeAddrFlags::NODE_PORT.union(NodeAddrFlags::LOCAL)),
        (addr("192.0.2.2"), NodeAddrFlags::LOCAL),
    ];
    (prop::sample::subsequence(cidrs.to_vec(), 0..=2), prop::sample::subsequence(addresses.to_vec(), 0..=2))
        .prop_map(|(mut service_cidrs, mut addresses)| {
            service_cidrs.sort_unstable();
            addresses.sort_unstable_by_key(|(addr, _)| *addr);
            DesiredNode { addresses, service_cidrs }
        })
}

/// One step: changes, and how long after the step before they come.
fn any_step() -> impl Strategy<Value = (Changes, u64)> {
    let upsert = prop::collection::vec(any_port(), 0..4);
    let remove = prop::collection::vec((1..=PORTS).prop_map(OwnerTag), 0..3);
    let node = prop::option::weighted(0.3, any_node());
    let pause = prop::sample::select(vec![0, 1, 400, 1000, 1500]);
    (upsert, remove, node, pause).prop_map(|(upsert, remove, node, pause)| {
        (Changes { upsert, remove, node, ..Changes::default() }, pause)
    })
}

/// Some steps.
pub(super) fn any_steps(most: usize) -> impl Strategy<Value = Vec<(Changes, u64)>> {
    prop::collection::vec(any_step(), 1..most)
}
