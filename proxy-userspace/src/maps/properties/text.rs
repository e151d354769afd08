//! The text that golden files and `shunt dump` are made of.

use proxy_common::frontend::{FrontendKey, FrontendKind, FrontendValue};
use proxy_common::node::{CidrKey, NodeAddrFlags};

use super::cases::{addr, cluster_ip_frontends, frontend, node_addr, port};
use super::sources::sources;
use super::world::{RULES, World};
use crate::maps::render::text;
use crate::plan::diff::Changes;
use crate::plan::tables::{DesiredFrontend, DesiredNode, DesiredPort, DesiredView};

const TEXT: &str = "\
service default/web1 affinity=60s
  internal random 10.1.0.1:8080 10.1.0.2:8080
  cluster pass
  external drop
  source 203.0.113.0/24
  source 203.0.113.7/32
  backend 10.1.0.1:8080 internal
  backend 10.1.0.2:8080 internal
  backend 10.1.0.3:8080
frontend 0.0.0.0:30000/tcp node-port -> default/web1
owned 10.96.1.1
frontend 10.96.1.1:80/tcp cluster-ip -> default/web1
frontend 198.51.100.1:80/tcp load-balancer check-source -> default/web1
node 192.0.2.1 node-port local
range 10.96.0.0/24
";

#[test]
fn the_text_of_the_maps_has_no_ids() {
    let number = |addr, port| {
        FrontendKey::new(addr, proxy_common::addr::Port::new(port), proxy_common::addr::Proto::TCP)
    };
    let node_port = frontend(number(node_addr().to_unspecified(), 30000), FrontendKind::NodePort);
    let load_balancer = DesiredFrontend {
        flags: FrontendValue::CHECK_SOURCE,
        ..frontend(number(addr("198.51.100.1"), 80), FrontendKind::LoadBalancer)
    };
    let frontends = [cluster_ip_frontends(1), vec![node_port, load_balancer]].concat();
    let web = port(1, frontends, &[Some(1), Some(1), Some(0)]);
    let views = [DesiredView::Random, DesiredView::Pass, DesiredView::Drop];
    let sources = sources(&["203.0.113.7/32", "203.0.113.0/24"]);
    let web = DesiredPort { affinity_seconds: 60, views, sources, ..web };
    let node = DesiredNode {
        addresses: vec![(node_addr(), NodeAddrFlags::NODE_PORT.union(NodeAddrFlags::LOCAL))],
        service_cidrs: vec![CidrKey { prefix_len: 96 + 24, addr: addr("10.96.0.0") }],
    };
    let mut world = World::new(RULES);
    let before = port(7, cluster_ip_frontends(7), &[Some(7)]);
    world.sync(Changes { upsert: vec![before.clone()], ..Changes::default() }).unwrap();
    let changes =
        Changes { upsert: vec![web], remove: vec![before.tag], node: Some(node), ..Changes::default() };
    world.sync(changes).unwrap();
    assert_eq!(text(world.planner.actual(), &|_| Some("default/web1".to_owned())), TEXT);
}
