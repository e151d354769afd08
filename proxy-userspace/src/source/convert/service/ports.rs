//! `spec.ports` of a Service.

use crate::model::{Protocol, ServicePort};
use crate::source::api;
use crate::source::convert::{Report, port_number, protocol};

/// The ports that can be served. The API server refuses two ports of one name or of one number, protocol for
/// protocol; of such a pair the first is kept.
pub(super) fn ports(
    ports: &[api::ServicePort],
    has_node_ports: bool,
    report: &mut Report,
) -> Vec<ServicePort> {
    let mut served: Vec<ServicePort> = Vec::with_capacity(ports.len());
    for (index, port) in ports.iter().enumerate() {
        let mut entry = Entry { index, port, report };
        let Some((protocol, number)) = entry.checked(&served) else { continue };
        let node_port = entry.node_port(protocol, has_node_ports, &served);
        served.push(ServicePort { name: port.name.as_str().into(), protocol, port: number, node_port });
    }
    served.shrink_to_fit();
    served
}

/// One entry of the list, with a place to complain.
struct Entry<'a> {
    index: usize,
    port: &'a api::ServicePort,
    report: &'a mut Report,
}

impl Entry<'_> {
    fn warn(&mut self, field: &str, problem: impl std::fmt::Display) {
        self.report.warn(format!("spec.ports[{}].{field}", self.index), problem);
    }

    fn checked(&mut self, before: &[ServicePort]) -> Option<(Protocol, u16)> {
        let port = self.port;
        let Some(protocol) = protocol(&port.protocol) else {
            self.warn("protocol", format_args!("{:?} is not served; the port is skipped", port.protocol));
            return None;
        };
        let Some(number) = port_number(port.port) else {
            self.warn("port", format_args!("{} is not a port; it is skipped", port.port));
            return None;
        };
        let mut same_protocol = before.iter().filter(|other| other.protocol == protocol);
        if same_protocol.clone().any(|other| *other.name == *port.name) {
            self.warn("name", format_args!("a second {:?} of this protocol; it is skipped", port.name));
            return None;
        }
        if same_protocol.any(|other| other.port == number) {
            self.warn("port", format_args!("a second {number} of this protocol; it is skipped"));
            return None;
        }
        Some((protocol, number))
    }

    /// A nodePort is served if the API holds one, `allocateLoadBalancerNodePorts` or not. The API server clears it
    /// where the type has none.
    fn node_port(&mut self, protocol: Protocol, has_node_ports: bool, before: &[ServicePort]) -> Option<u16> {
        let number = self.port.node_port;
        if number == 0 {
            return None;
        }
        if !has_node_ports {
            self.warn("nodePort", format_args!("{number} is not served: the type has no node ports"));
            return None;
        }
        let node_port = port_number(number);
        if node_port.is_none() {
            self.warn("nodePort", format_args!("{number} is not a port; it is skipped"));
        } else if before.iter().any(|other| other.protocol == protocol && other.node_port == node_port) {
            self.warn("nodePort", format_args!("a second {number} of this protocol; it is skipped"));
            return None;
        }
        node_port
    }
}
