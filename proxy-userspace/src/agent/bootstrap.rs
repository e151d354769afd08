//! Whether the agent reaches the API server through what it is itself here to serve. It runs well, for as long as some
//! proxy serves that address; on a node that starts without one it would wait for itself.

use std::net::IpAddr;

use crate::model::ObjectName;
use crate::state::State;

/// The Service that every cluster has in front of its API servers.
const API_SERVICE: (&str, &str) = ("default", "kubernetes");

/// What is to be said of the addresses that answers came from; nothing if they are no cluster IPs as far as is known.
pub(super) fn dependence(peers: &[IpAddr], state: &State) -> Option<String> {
    peers.iter().map(IpAddr::to_canonical).find_map(|ip| {
        let whose = owner(ip, state)?;
        Some(format!(
            "the API server is reached at {ip}, a cluster IP ({whose}): on a node where no other proxy serves it, an \
             agent cannot start; name the server's own address with --api-server"
        ))
    })
}

/// Who says that it is a cluster IP. Servers without ServiceCIDRs have the Service all the same.
fn owner(ip: IpAddr, state: &State) -> Option<String> {
    let ranges = state.cidrs().flat_map(|cidr| cidr.cidrs.iter().map(move |range| (&cidr.name, range)));
    let mut holders = ranges.filter(|(_, range)| range.contains(&ip));
    if let Some((name, range)) = holders.next() {
        return Some(format!("{range} of ServiceCIDR {name}"));
    }
    let (namespace, name) = API_SERVICE;
    let service = state.service(&ObjectName::new(namespace, name))?;
    service.cluster_ips.contains(&ip).then(|| format!("Service {namespace}/{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Event, Service, ServiceCidr, TrafficPolicy};

    fn service(namespace: &str, name: &str, ip: &str) -> Event {
        let service = Service {
            name: ObjectName::new(namespace, name),
            cluster_ips: vec![ip.parse().unwrap()],
            external_ips: Vec::new(),
            load_balancer_ips: Vec::new(),
            source_ranges: Vec::new(),
            ports: Vec::new(),
            affinity_seconds: None,
            internal_policy: TrafficPolicy::Cluster,
            external_policy: TrafficPolicy::Cluster,
            health_check_node_port: None,
        };
        Event::ServiceApplied(service.into())
    }

    fn said(events: Vec<Event>, peers: &[&str]) -> Option<String> {
        let mut state = State::new("node-1", []);
        for event in events {
            state.apply(event);
        }
        let peers: Vec<IpAddr> = peers.iter().map(|ip| ip.parse().unwrap()).collect();
        dependence(&peers, &state)
    }

    fn range(text: &str) -> Event {
        let cidrs = vec![text.parse().unwrap()];
        Event::ServiceCidrApplied(ServiceCidr { name: "kubernetes".into(), cidrs })
    }

    #[test]
    fn an_address_in_a_service_cidr_is_named_with_the_flag() {
        let text = said(vec![range("10.96.0.0/16")], &["192.0.2.1", "::ffff:10.96.0.1"]).unwrap();
        let start =
            "the API server is reached at 10.96.0.1, a cluster IP (10.96.0.0/16 of ServiceCIDR kubernetes): ";
        assert!(text.starts_with(start) && text.contains("--api-server"), "{text}");
    }

    #[test]
    fn without_service_cidrs_the_service_of_the_api_counts() {
        let events =
            || vec![service("default", "kubernetes", "10.96.0.1"), service("shop", "web", "10.96.0.2")];
        assert!(said(events(), &["10.96.0.1"]).unwrap().contains("(Service default/kubernetes)"));
        assert_eq!(said(events(), &["10.96.0.2"]), None);
    }

    #[test]
    fn an_address_of_its_own_is_fine() {
        assert_eq!(said(vec![range("10.96.0.0/16")], &["192.0.2.1", "10.97.0.1", "fd00::1"]), None);
        assert_eq!(said(vec![range("10.96.0.0/16")], &[]), None);
    }
}
