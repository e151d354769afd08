//! Services.

mod ports;

use std::net::IpAddr;

use ipnet::IpNet;

use super::address::{frontend_objection, parse_ip, parse_net};
use super::{Converted, Outcome, Report, Unserved, object_name, port_number};
use crate::model::{Family, ObjectName, Service, TrafficPolicy};
use crate::source::api;

/// The API's default for ClientIP affinity, three hours.
const AFFINITY_DEFAULT_SECONDS: u32 = 10_800;
/// The API's maximum, one day; the maps hold no more than 17 bits.
const AFFINITY_MAX_SECONDS: u32 = 86_400;

/// What a Service means to this node.
pub fn service(object: &api::Service) -> Converted<Service> {
    let (name, mut report) = object_name(&object.metadata, api::Kind::Service);
    let outcome = name.map_or(Outcome::Rejected, |name| convert(name, object, &mut report));
    (outcome, report.warnings)
}

fn convert(name: ObjectName, object: &api::Service, report: &mut Report) -> Outcome<Service> {
    let spec = &object.spec;
    let kind = match Kind::of(object) {
        Ok(kind) => kind,
        Err(Some(reason)) => return Outcome::Unserved(name, reason),
        Err(None) => {
            report.warn("spec.type", format_args!("{:?} is not a type of Service; it is skipped", spec.kind));
            return Outcome::Rejected;
        }
    };
    let cluster_ips = cluster_ips(spec, report);
    if cluster_ips.is_empty() {
        return Outcome::Rejected;
    }
    let source_ranges = source_ranges(spec, report);
    let external_policy = policy(&spec.external_traffic_policy, "spec.externalTrafficPolicy", report);
    Outcome::Served(Service {
        external_ips: external_ips(spec, &cluster_ips, report),
        load_balancer_ips: load_balancer_ips(object, &cluster_ips, &source_ranges, report),
        source_ranges: source_ranges.ranges,
        ports: ports::ports(&spec.ports, kind.has_node_ports(), report),
        affinity_seconds: affinity_seconds(spec, report),
        internal_policy: policy(&spec.internal_traffic_policy, "spec.internalTrafficPolicy", report),
        external_policy,
        health_check_node_port: health_check_node_port(spec, kind, external_policy, report),
        cluster_ips,
        name,
    })
}

/// Types that have a cluster IP.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    ClusterIp,
    NodePort,
    LoadBalancer,
}

impl Kind {
    /// Or why the Service is not for this node; or `None` if the type means nothing.
    fn of(object: &api::Service) -> Result<Self, Option<Unserved>> {
        let spec = &object.spec;
        if object.metadata.labels.has_proxy_name {
            return Err(Some(Unserved::OtherProxy));
        }
        let kind = match spec.kind.as_str() {
            "" | "ClusterIP" => Self::ClusterIp,
            "NodePort" => Self::NodePort,
            "LoadBalancer" => Self::LoadBalancer,
            "ExternalName" => return Err(Some(Unserved::ExternalName)),
            _ => return Err(None),
        };
        match spec.cluster_ips.first().unwrap_or(&spec.cluster_ip).as_str() {
            "None" => Err(Some(Unserved::Headless)),
            "" if spec.cluster_ip == "None" => Err(Some(Unserved::Headless)),
            "" if spec.cluster_ip.is_empty() => Err(Some(Unserved::NoClusterIp)),
            _ => Ok(kind),
        }
    }

    const fn has_node_ports(self) -> bool {
        matches!(self, Self::NodePort | Self::LoadBalancer)
    }
}

/// At most one per family. `clusterIP` repeats the first entry of `clusterIPs`, and is all there is in objects from
/// before dual stack.
fn cluster_ips(spec: &api::ServiceSpec, report: &mut Report) -> Vec<IpAddr> {
    let texts: Vec<(String, &String)> = if spec.cluster_ips.iter().all(String::is_empty) {
        vec![("spec.clusterIP".into(), &spec.cluster_ip)]
    } else {
        let field = |index| format!("spec.clusterIPs[{index}]");
        spec.cluster_ips.iter().enumerate().map(|(index, text)| (field(index), text)).collect()
    };
    let mut ips: Vec<IpAddr> = Vec::with_capacity(texts.len());
    for (field, text) in texts {
        match frontend_ip(text) {
            Err(problem) => report.warn(field, problem),
            Ok(ip) if ips.iter().any(|other| Family::of(*other) == Family::of(ip)) => {
                report.warn(field, format_args!("{text:?} is a second address of its family; it is skipped"));
            }
            Ok(ip) if !is_listed_family(&spec.ip_families, ip) => {
                report
                    .warn(field, format_args!("{text:?} is of no family in spec.ipFamilies; it is skipped"));
            }
            Ok(ip) => ips.push(ip),
        }
    }
    ips
}

/// Whether `ipFamilies` lets the Service have an address of this family; objects without the field may have any.
fn is_listed_family(families: &[String], ip: IpAddr) -> bool {
    let name = match Family::of(ip) {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    };
    families.is_empty() || families.iter().any(|family| family == name)
}

fn frontend_ip(text: &str) -> Result<IpAddr, String> {
    let ip = parse_ip(text).ok_or_else(|| format!("{text:?} is not an address; it is skipped"))?;
    match frontend_objection(ip) {
        Some(objection) => Err(format!("{text:?}: {objection}; it is skipped")),
        None => Ok(ip),
    }
}

/// A family without a cluster IP has no frontends at all.
fn has_family(cluster_ips: &[IpAddr], family: Family) -> bool {
    cluster_ips.iter().any(|ip| Family::of(*ip) == family)
}

fn served_ip(text: &str, cluster_ips: &[IpAddr]) -> Result<IpAddr, String> {
    let ip = frontend_ip(text)?;
    if has_family(cluster_ips, Family::of(ip)) {
        Ok(ip)
    } else {
        Err(format!("{text:?} is not served: the Service has no cluster IP of this family"))
    }
}

fn external_ips(spec: &api::ServiceSpec, cluster_ips: &[IpAddr], report: &mut Report) -> Vec<IpAddr> {
    let mut ips = Vec::with_capacity(spec.external_ips.len());
    for (index, text) in spec.external_ips.iter().enumerate() {
        match served_ip(text, cluster_ips) {
            Ok(ip) => ips.push(ip),
            Err(problem) => report.warn(format!("spec.externalIPs[{index}]"), problem),
        }
    }
    ips
}

/// Addresses that the balancer hands through. `ipMode: Proxy` means that clients must reach the balancer itself, and
/// a host name is for DNS: neither is a fault.
fn load_balancer_ips(
    object: &api::Service,
    cluster_ips: &[IpAddr],
    sources: &SourceRanges,
    report: &mut Report,
) -> Vec<IpAddr> {
    let mut ips = Vec::new();
    for (index, ingress) in object.status.load_balancer.ingress.iter().enumerate() {
        if ingress.ip.is_empty() || ingress.ip_mode == "Proxy" {
            continue;
        }
        let field = |name| format!("status.loadBalancer.ingress[{index}].{name}");
        if !matches!(ingress.ip_mode.as_str(), "" | "VIP") {
            let problem =
                format_args!("{:?} is neither VIP nor Proxy; the address is skipped", ingress.ip_mode);
            report.warn(field("ipMode"), problem);
            continue;
        }
        match served_ip(&ingress.ip, cluster_ips) {
            Ok(ip) if sources.is_spoilt(Family::of(ip)) => report.warn(
                field("ip"),
                "not served: no entry of spec.loadBalancerSourceRanges for its family can be read, and serving it \
                 would let everyone in",
            ),
            Ok(ip) => ips.push(ip),
            Err(problem) => report.warn(field("ip"), problem),
        }
    }
    ips
}

/// `spec.loadBalancerSourceRanges`, and whether a bad entry left a family without any. No range means no restriction,
/// so a typing error must not empty the list.
struct SourceRanges {
    ranges: Vec<IpNet>,
    spoilt: Vec<Family>,
}

impl SourceRanges {
    fn is_spoilt(&self, family: Family) -> bool {
        self.spoilt.contains(&family) && !self.ranges.iter().any(|net| Family::of_net(net) == family)
    }
}

fn source_ranges(spec: &api::ServiceSpec, report: &mut Report) -> SourceRanges {
    let texts = &spec.load_balancer_source_ranges;
    let mut sources = SourceRanges { ranges: Vec::with_capacity(texts.len()), spoilt: Vec::new() };
    for (index, text) in texts.iter().enumerate() {
        let text = text.trim();
        if let Some(net) = parse_net(text) {
            sources.ranges.push(net);
            continue;
        }
        // The family of what cannot be read is a guess; text with neither mark was meant for one of them.
        match (text.contains(':'), text.contains('.')) {
            (true, _) => sources.spoilt.push(Family::V6),
            (false, true) => sources.spoilt.push(Family::V4),
            (false, false) => sources.spoilt.extend(Family::ALL),
        }
        let problem = format_args!("{text:?} is not a range; it is skipped");
        report.warn(format!("spec.loadBalancerSourceRanges[{index}]"), problem);
    }
    sources
}

fn affinity_seconds(spec: &api::ServiceSpec, report: &mut Report) -> Option<u32> {
    match spec.session_affinity.as_str() {
        "" | "None" => return None,
        "ClientIP" => {}
        other => {
            report.warn("spec.sessionAffinity", format_args!("{other:?} is not known; there is no affinity"));
            return None;
        }
    }
    let Some(seconds) = spec.session_affinity_config.client_ip.timeout_seconds else {
        return Some(AFFINITY_DEFAULT_SECONDS);
    };
    let used = match u32::try_from(seconds) {
        Ok(seconds @ 1..=AFFINITY_MAX_SECONDS) => return Some(seconds),
        _ if seconds <= 0 => AFFINITY_DEFAULT_SECONDS,
        _ => AFFINITY_MAX_SECONDS,
    };
    let problem = format_args!("{seconds} is not within 1 and {AFFINITY_MAX_SECONDS}; {used} is used");
    report.warn("spec.sessionAffinityConfig.clientIP.timeoutSeconds", problem);
    Some(used)
}

fn policy(text: &str, field: &str, report: &mut Report) -> TrafficPolicy {
    match text {
        "" | "Cluster" => TrafficPolicy::Cluster,
        "Local" => TrafficPolicy::Local,
        other => {
            report.warn(field, format_args!("{other:?} is neither Cluster nor Local; Cluster is used"));
            TrafficPolicy::Cluster
        }
    }
}

/// Only load balancers ask for it, and only where nodes differ.
fn health_check_node_port(
    spec: &api::ServiceSpec,
    kind: Kind,
    policy: TrafficPolicy,
    report: &mut Report,
) -> Option<u16> {
    let number = spec.health_check_node_port;
    if kind != Kind::LoadBalancer || policy != TrafficPolicy::Local || number == 0 {
        return None;
    }
    let port = port_number(number);
    if port.is_none() {
        let problem = format_args!("{number} is not a port; there is no health check");
        report.warn("spec.healthCheckNodePort", problem);
    }
    port
}
