//! What a look at the maps tells.

use std::sync::Arc;

use super::family::{Family, Kind, Labels, Value};
use super::services::Shown;
use crate::maps::fill::MapFill;
use crate::maps::reading::Reading;
use crate::status::Reporter;

/// Whether the maps could be read; where not, their families are missing.
pub(super) fn readable(is_readable: bool) -> Family {
    let about = ("shunt_maps_readable", "1 if this scrape could read the maps, else 0.");
    Family::single(Kind::Gauge, about, Value::Whole(u64::from(is_readable)))
}

/// How full the maps are, and what was not served.
pub(super) fn families(reading: &Reading) -> Vec<Family> {
    let by_map = |name, help, read: fn(&MapFill) -> Option<u64>| {
        let mut family = Family::new(Kind::Gauge, name, help);
        for fill in &reading.fills {
            if let Some(value) = read(fill) {
                family.push(vec![("map", fill.map.to_owned())], Value::Whole(value));
            }
        }
        family
    };
    let mut drops = Family::new(
        Kind::Counter,
        "shunt_drops_total",
        "Connections and datagrams that the programs refused or dropped, by reason; since the maps were made. Of \
         source-not-allowed every packet counts, also one that is sent again.",
    );
    for (reason, count) in &reading.refused {
        drops.push(vec![("reason", (*reason).to_owned())], Value::Whole(*count));
    }
    let mut sockets = Family::new(
        Kind::Counter,
        "shunt_socket_events_total",
        "What happened to sockets: udp-pair-replaced, one talks to more than eight frontends at once and lost the oldest, whose \
         replies it does not recognise any more; since the maps were made.",
    );
    for (event, count) in &reading.sockets {
        sockets.push(vec![("event", (*event).to_owned())], Value::Whole(*count));
    }
    vec![
        by_map("shunt_map_used_elements", "Elements in use.", |fill| fill.used),
        by_map("shunt_map_allocated_elements", "Elements that have memory or are promised it.", |fill| {
            Some(fill.allocated)
        }),
        by_map("shunt_map_limit_elements", "Elements that the layout allows.", |fill| fill.limit),
        by_map("shunt_map_bytes", "Memory of a chunked array.", |fill| fill.bytes),
        drops,
        sockets,
    ]
}

/// Counters of service ports.
pub(super) fn services(shown: &Shown, reporter: &Reporter) -> [Family; 2] {
    let mut picked = Family::new(
        Kind::Counter,
        "shunt_service_picked_total",
        "Connections, and choices for UDP sockets, that were given a backend, by service port; since the service port was put into the maps. All beyond the \
         limit of --metrics-services are service=\"(other)\".",
    );
    let mut refused = Family::new(
        Kind::Counter,
        "shunt_service_refused_total",
        "Connections, and datagrams of UDP sockets, that were given none, by service port; as shunt_service_picked_total.",
    );
    for cell in &shown.single {
        // One that was just put into the maps is named in a moment.
        let Some(labels) = reporter.label(cell.tag).as_ref().and_then(labels) else { continue };
        picked.push(labels.clone(), Value::Whole(cell.picked));
        refused.push(labels, Value::Whole(cell.refused));
    }
    if let Some([rest_picked, rest_refused]) = shown.rest {
        // No name of a Service has brackets.
        let other = vec![("service", "(other)".to_owned())];
        picked.push(other.clone(), Value::Whole(rest_picked));
        refused.push(other, Value::Whole(rest_refused));
    }
    [picked, refused]
}

/// From `namespace/name:port/protocol`, where a protocol of IPv6 ends in 6.
fn labels(label: &Arc<str>) -> Option<Labels> {
    let (name, port) = label.split_once(':')?;
    let (namespace, service) = name.split_once('/')?;
    let (port, protocol) = port.rsplit_once('/')?;
    let (protocol, family) = protocol.strip_suffix('6').map_or((protocol, "IPv4"), |short| (short, "IPv6"));
    let labels = [
        ("namespace", namespace),
        ("service", service),
        ("port", port),
        ("protocol", protocol),
        ("ip_family", family),
    ];
    Some(labels.map(|(name, value)| (name, value.to_owned())).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_come_from_the_name_of_the_service_port() {
        let values =
            |label: &str| labels(&label.into()).unwrap().into_iter().map(|(_, value)| value).collect();
        let read: [Vec<String>; 2] = ["default/web:http/tcp", "a/b:53/udp6"].map(values);
        assert_eq!(read[0], ["default", "web", "http", "tcp", "IPv4"]);
        assert_eq!(read[1], ["a", "b", "53", "udp", "IPv6"]);
        assert_eq!(labels(&"nonsense".into()), None);
    }
}
