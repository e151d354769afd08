//! The own Node, and ServiceCIDRs.

use std::net::IpAddr;

use ipnet::IpNet;

use super::address::{parse_ip, parse_net};
use super::{Converted, Interner, Outcome, Report, is_part_of_name};
use crate::model::{Node, ServiceCidr};
use crate::source::api::{self, Kind};

/// The cluster autoscaler's mark on a node that it is about to take away.
const TO_BE_DELETED: &str = "ToBeDeletedByClusterAutoscaler";

/// What a Node means. Whether it is the own one is for the caller to say.
pub fn node(object: &api::Node, names: &mut Interner) -> Converted<Node, ()> {
    let name = &object.metadata.name;
    let mut report = Report::new(Kind::Node, "", name);
    if !is_part_of_name(name, "metadata.name", &mut report) {
        return (Outcome::Rejected, report.warnings);
    }
    let mut addresses = Vec::new();
    for kind in ["InternalIP", "ExternalIP"] {
        addresses_of_kind(object, kind, &mut addresses, &mut report);
    }
    let zone = match object.metadata.labels.zone.as_str() {
        "" => None,
        zone => Some(names.intern(zone)),
    };
    let pod_cidrs = pod_cidrs(&object.spec, &mut report);
    let is_marked = object.spec.taints.iter().any(|taint| taint.key == TO_BE_DELETED);
    let is_leaving = object.metadata.is_deleting || is_marked;
    let node = Node { name: names.intern(name), zone, addresses, pod_cidrs, is_leaving };
    (Outcome::Served(node), report.warnings)
}

/// What a ServiceCIDR means. One without a range that parses is rejected: its ranges are a fence, and a fence is not
/// taken away by a typing error.
pub fn service_cidr(object: &api::ServiceCidr) -> Converted<ServiceCidr, Box<str>> {
    let name = &object.metadata.name;
    let mut report = Report::new(Kind::ServiceCidr, "", name);
    if !is_part_of_name(name, "metadata.name", &mut report) {
        return (Outcome::Rejected, report.warnings);
    }
    let cidrs = ranges(&object.spec.cidrs, "spec.cidrs", &mut report);
    if cidrs.is_empty() && !object.spec.cidrs.is_empty() {
        return (Outcome::Rejected, report.warnings);
    }
    let cidr = ServiceCidr { name: name.as_str().into(), cidrs };
    (Outcome::Served(cidr), report.warnings)
}

fn addresses_of_kind(object: &api::Node, kind: &str, into: &mut Vec<IpAddr>, report: &mut Report) {
    for (index, address) in object.status.addresses.iter().enumerate() {
        if address.kind != kind {
            continue;
        }
        match parse_ip(&address.address) {
            Some(ip) if into.contains(&ip) => {}
            Some(ip) => into.push(ip),
            None => {
                let problem = format_args!("{:?} is not an address; it is skipped", address.address);
                report.warn(format!("status.addresses[{index}].address"), problem);
            }
        }
    }
}

fn pod_cidrs(spec: &api::NodeSpec, report: &mut Report) -> Vec<IpNet> {
    if spec.pod_cidrs.is_empty() && !spec.pod_cidr.is_empty() {
        ranges(std::slice::from_ref(&spec.pod_cidr), "spec.podCIDR", report)
    } else {
        ranges(&spec.pod_cidrs, "spec.podCIDRs", report)
    }
}

fn ranges(texts: &[String], field: &str, report: &mut Report) -> Vec<IpNet> {
    let mut nets = Vec::with_capacity(texts.len());
    for (index, text) in texts.iter().enumerate() {
        if let Some(net) = parse_net(text) {
            nets.push(net);
        } else {
            let problem = format_args!("{text:?} is not a range; it is skipped");
            report.warn(format!("{field}[{index}]"), problem);
        }
    }
    nets
}
