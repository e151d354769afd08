//! EndpointSlices.

use std::net::IpAddr;
use std::sync::Arc;

use super::address::{endpoint_objection, parse_ip};
use super::{Converted, Interner, Outcome, Report, Unserved, object_name, port_number, protocol};
use crate::model::{Endpoint, EndpointSlice, Family, Hints, ObjectName, SlicePort};
use crate::source::api;

/// What the API server allows in one slice. Larger ones are served and reported: nothing here depends on the number.
const API_ENDPOINT_LIMIT: usize = 1000;

/// What a slice means to this node.
pub fn slice(object: &api::EndpointSlice, names: &mut Interner) -> Converted<EndpointSlice> {
    let (name, mut report) = object_name(&object.metadata, api::Kind::EndpointSlice);
    let outcome = name.map_or(Outcome::Rejected, |name| convert(name, object, names, &mut report));
    (outcome, report.warnings)
}

fn convert(
    name: ObjectName,
    object: &api::EndpointSlice,
    names: &mut Interner,
    report: &mut Report,
) -> Outcome<EndpointSlice> {
    if object.metadata.labels.is_headless {
        return Outcome::Unserved(name, Unserved::Headless);
    }
    let service = &object.metadata.labels.service_name;
    if service.is_empty() || service.contains('/') {
        report.warn("metadata.labels[kubernetes.io/service-name]", "names no Service; the slice is ignored");
        return Outcome::Unserved(name, Unserved::NoService);
    }
    let family = match object.address_type.as_str() {
        "IPv4" => Family::V4,
        "IPv6" => Family::V6,
        "FQDN" => {
            report.warn("addressType", "names are not served; the slice is ignored");
            return Outcome::Unserved(name, Unserved::Fqdn);
        }
        other => {
            report.warn(
                "addressType",
                format_args!("{other:?} is neither IPv4 nor IPv6; the slice is skipped"),
            );
            return Outcome::Rejected;
        }
    };
    let count = object.endpoints.len();
    if count > API_ENDPOINT_LIMIT {
        let problem =
            format_args!("{count} endpoints, of which the API allows {API_ENDPOINT_LIMIT}; all are served");
        report.warn("endpoints", problem);
    }
    // Collecting exactly as many as there are leaves no spare capacity in what lives as long as the slice.
    let mut endpoints = Vec::with_capacity(count);
    for (index, endpoint) in object.endpoints.iter().enumerate() {
        match endpoint_address(endpoint, family) {
            Ok(addr) => endpoints.push(pack(addr, endpoint, names)),
            Err(problem) => report.warn(format!("endpoints[{index}].addresses[0]"), problem),
        }
    }
    endpoints.shrink_to_fit();
    Outcome::Served(EndpointSlice {
        name,
        service: service.as_str().into(),
        family,
        endpoints,
        ports: ports(&object.ports, report),
        triggered_at: triggered_at(&object.metadata.annotations),
    })
}

/// It feeds a measurement only: one that does not parse is none.
fn triggered_at(annotations: &api::Annotations) -> Option<i64> {
    annotations.trigger_time.parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_millisecond)
}

fn endpoint_address(endpoint: &api::Endpoint, family: Family) -> Result<IpAddr, String> {
    let Some(text) = endpoint.addresses.first() else {
        return Err("missing; the endpoint is skipped".into());
    };
    let Some(addr) = parse_ip(text) else {
        return Err(format!("{text:?} is not an address; the endpoint is skipped"));
    };
    if Family::of(addr) != family {
        return Err(format!("{text:?} is not of the slice's addressType; the endpoint is skipped"));
    }
    match endpoint_objection(addr) {
        Some(objection) => Err(format!("{text:?}: {objection}; it is skipped")),
        None => Ok(addr),
    }
}

fn pack(addr: IpAddr, endpoint: &api::Endpoint, names: &mut Interner) -> Endpoint {
    let node = match endpoint.node_name.as_str() {
        "" => None,
        node => Some(names.intern(node)),
    };
    Endpoint {
        addr,
        node,
        ready: endpoint.conditions.ready.unwrap_or(true),
        serving: endpoint.conditions.serving.unwrap_or(true),
        terminating: endpoint.conditions.terminating.unwrap_or(false),
        hints: Hints {
            zones: hints(&endpoint.hints.for_zones, names),
            nodes: hints(&endpoint.hints.for_nodes, names),
        }
        .boxed(),
    }
}

fn hints(hints: &[api::Hint], names: &mut Interner) -> Box<[Arc<str>]> {
    hints.iter().filter(|hint| !hint.name.is_empty()).map(|hint| names.intern(&hint.name)).collect()
}

/// A port without a number stands for every port, which no Service port can use: it is ignored and not an error.
///
/// An absent name is the empty name. kube-proxy skips a nil name, but cannot meet one: the API server defaults it to
/// the empty string before anyone sees the object. A manifest has no API server in front of it, so the default is
/// applied here; a slice as a user would write it works from either source.
fn ports(ports: &[api::EndpointPort], report: &mut Report) -> Vec<SlicePort> {
    let mut served: Vec<SlicePort> = Vec::with_capacity(ports.len());
    for (index, port) in ports.iter().enumerate().filter(|(_, port)| port.port != 0) {
        let Some(protocol) = protocol(&port.protocol) else {
            let problem = format_args!("{:?} is not served; the port is skipped", port.protocol);
            report.warn(format!("ports[{index}].protocol"), problem);
            continue;
        };
        let Some(number) = port_number(port.port) else {
            let problem = format_args!("{} is not a port; it is skipped", port.port);
            report.warn(format!("ports[{index}].port"), problem);
            continue;
        };
        if served.iter().any(|other| *other.name == *port.name && other.protocol == protocol) {
            let problem = format_args!("a second {:?} of this protocol; it is skipped", port.name);
            report.warn(format!("ports[{index}].name"), problem);
            continue;
        }
        served.push(SlicePort { name: port.name.as_str().into(), protocol, port: number });
    }
    served.shrink_to_fit();
    served
}
