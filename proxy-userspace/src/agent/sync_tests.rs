//! The writer's loop body on the fake store.

use std::sync::Arc;

use super::*;
use crate::maps::memory::Memory;
use crate::maps::{Hashes, Words};
use crate::model::{
    Endpoint, EndpointSlice, Family, Listing, Protocol, ServicePort, SlicePort, TrafficPolicy,
};
use crate::plan::node::NodePortAddresses;
use crate::plan::ops::WordTable;

fn name(text: &str) -> ObjectName {
    ObjectName::new("default", text)
}

fn service() -> Event {
    Event::ServiceApplied(Arc::new(Service {
        name: name("web"),
        cluster_ips: vec![[10, 96, 0, 1].into()],
        external_ips: vec![],
        load_balancer_ips: vec![],
        source_ranges: vec![],
        ports: vec![ServicePort { name: "".into(), protocol: Protocol::Tcp, port: 80, node_port: None }],
        affinity_seconds: None,
        internal_policy: TrafficPolicy::Cluster,
        external_policy: TrafficPolicy::Cluster,
        health_check_node_port: None,
    }))
}

fn slice() -> Event {
    let endpoint = Endpoint {
        addr: [10, 0, 0, 1].into(),
        node: None,
        ready: true,
        serving: true,
        terminating: false,
        hints: None,
    };
    Event::SliceApplied(Arc::new(EndpointSlice {
        name: name("web-1"),
        service: "web".into(),
        family: Family::V4,
        endpoints: vec![endpoint],
        ports: vec![SlicePort { name: "".into(), protocol: Protocol::Tcp, port: 8080 }],
        triggered_at: None,
    }))
}

fn options() -> SyncOptions {
    SyncOptions {
        node_name: "a".to_owned(),
        node_ports: NodePortAddresses::All,
        expected: Listing::ALL.to_vec(),
        rules: Rules::for_shards(2),
        order: StoreOrder::Planned,
    }
}

/// A writer that holds one service.
fn settled() -> Sync<Memory> {
    let mut sync = Sync::adopt(Memory::new(16), options()).unwrap();
    let listed = |listing| [Event::ListStarted(listing), Event::ListEnded(listing)];
    sync.take([Event::ListStarted(Listing::Services), service(), Event::ListEnded(Listing::Services)]);
    sync.take([
        Event::ListStarted(Listing::EndpointSlices),
        slice(),
        Event::ListEnded(Listing::EndpointSlices),
    ]);
    sync.take([Listing::Node, Listing::ServiceCidrs, Listing::NodeAddresses].into_iter().flat_map(listed));
    assert!(sync.sync(0).is_settled);
    sync
}

#[test]
fn a_recheck_undoes_what_somebody_else_wrote() {
    let mut sync = settled();
    let frontends = sync.store().frontends().unwrap();
    let row = sync.store().load(WordTable::Backends, 6).unwrap();
    assert!(!frontends.is_empty() && row != 0);
    let keys: Vec<_> = frontends.iter().map(|(key, _)| *key).collect();
    sync.store_mut().delete_frontends(&keys).unwrap();

    // The mirror does not know: nothing is due, and to be told of the same again changes nothing.
    sync.take([service()]);
    assert!(!sync.is_due());
    assert_eq!(sync.sync(1).executed, Executed::default());
    assert_eq!(sync.store().frontends().unwrap(), []);

    sync.recheck();
    assert!(sync.is_due());
    sync.store_mut().advance(2_000);
    let outcome = sync.sync(2_000);
    assert_eq!((outcome.error, outcome.is_settled, sync.is_ready()), (None, true, true));
    let mut restored: Vec<_> = sync.store().frontends().unwrap().iter().map(|(key, _)| *key).collect();
    restored.sort_unstable();
    let mut before = keys;
    before.sort_unstable();
    assert_eq!(restored, before);

    sync.recheck();
    assert_eq!(sync.sync(4_000).executed, Executed::default(), "where all is right a recheck writes nothing");
}
