//! What the packet path is told, from what the host says.

use std::fs;
use std::io;

use proxy_common::nat::{Ports, Settings, Timeouts};

use super::ports::{Plan, Ranges, ends, plan};

/// Flows that may begin on one CPU in a second.
const FLOWS_PER_SECOND: u32 = 125_000;
/// Flows with an eighth of all records may be opening: a flow has two or three, and those that a flood has begun stay for a while.
const RECORDS_PER_OPENING: u32 = 16;
/// Refusals that one CPU sends in a second.
const REFUSALS_PER_SECOND: u32 = 1_000;

const EPHEMERAL: &str = "/proc/sys/net/ipv4/ip_local_port_range";
const RESERVED: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";
/// Directory of the timeouts of connection tracking; absent unless that is loaded.
const TIMEOUTS: &str = "/proc/sys/net/netfilter";

/// What whoever runs the node wishes of flows.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wishes {
    /// See [`Timeouts::tcp_open`]; `None`, here and for the others: what connection tracking does.
    pub tcp_open: Option<u32>,
    /// See [`Timeouts::udp`].
    pub udp: Option<u32>,
    /// See [`Timeouts::udp_stream`].
    pub udp_stream: Option<u32>,
    /// See [`Settings::MASQUERADES`].
    pub masquerades: bool,
}

/// Seconds that records live: those that are wished for, else those of connection tracking, as far as `read` has them, else the
/// kernel's defaults.
pub fn timeouts(wishes: Wishes, read: impl Fn(&str) -> Option<u32>) -> Timeouts {
    let or = |name: &str, default: u32| read(name).unwrap_or(default);
    let kernel = Timeouts::KERNEL;
    Timeouts {
        tcp_opening: or("tcp_timeout_syn_sent", kernel.tcp_opening),
        tcp_open: wishes.tcp_open.unwrap_or_else(|| or("tcp_timeout_established", kernel.tcp_open)),
        tcp_finished: or("tcp_timeout_time_wait", kernel.tcp_finished),
        tcp_reset: or("tcp_timeout_close", kernel.tcp_reset),
        udp: wishes.udp.unwrap_or_else(|| or("udp_timeout", kernel.udp)),
        udp_stream: wishes.udp_stream.unwrap_or_else(|| or("udp_timeout_stream", kernel.udp_stream)),
        sctp: or("sctp_timeout_established", kernel.sctp),
    }
}

/// What the programs are to be told, given the ports, how many records there may be, and what is wished for; `before`: what they
/// were told last.
pub fn settings(ports: Option<Ports>, records: u32, wishes: Wishes, before: Option<&Settings>) -> Settings {
    let read = |name: &str| {
        let text = fs::read_to_string(format!("{TIMEOUTS}/nf_conntrack_{name}")).ok()?;
        text.trim().parse().ok()
    };
    Settings {
        timeouts: timeouts(wishes, read),
        ports: ports.unwrap_or(Ports { first: 0, count: 0 }),
        flows_per_second: FLOWS_PER_SECOND,
        refusals_per_second: REFUSALS_PER_SECOND,
        open_at_once: records / RECORDS_PER_OPENING,
        masquerades: Settings::masquerading(wishes.masquerades, before.map_or(0, |told| told.masquerades)),
    }
}

/// What became of the ports that are set aside.
#[derive(Debug)]
pub struct SetAside {
    /// The range; `None`: no port is left for it.
    pub ports: Option<Ports>,
    /// Whether the kernel keeps sockets away from them, or why not.
    pub outcome: io::Result<()>,
}

/// Chooses the ports of this network namespace, and has the kernel keep its own sockets away from them; `before` is what an
/// agent before this one used.
pub fn set_ports_aside(before: Option<Ports>) -> io::Result<SetAside> {
    let ephemeral = pair(&fs::read_to_string(EPHEMERAL)?).ok_or_else(|| odd(EPHEMERAL))?;
    let now = reserved()?;
    let Plan { ports, reserved } = plan(ephemeral, &now, before);
    let outcome = if reserved == now { Ok(()) } else { write(&reserved) };
    Ok(SetAside { ports, outcome })
}

/// Gives ports back that were set aside; whether they were.
pub fn give_ports_back(ports: Ports) -> io::Result<bool> {
    let (Some(range), now) = (ends(ports), reserved()?) else { return Ok(false) };
    if !now.hold(range) {
        return Ok(false);
    }
    write(&now.without(range)).map(|()| true)
}

/// An empty list has to be written as a line.
fn write(reserved: &Ranges) -> io::Result<()> {
    fs::write(RESERVED, format!("{reserved}\n"))
}

fn reserved() -> io::Result<Ranges> {
    Ranges::parse(&fs::read_to_string(RESERVED)?).ok_or_else(|| odd(RESERVED))
}

fn pair(text: &str) -> Option<(u16, u16)> {
    let mut words = text.split_whitespace().map(str::parse);
    Some((words.next()?.ok()?, words.next()?.ok()?))
}

fn odd(path: &str) -> io::Error {
    io::Error::other(format!("{path} is not what this version understands"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_connection_tracking_where_it_has_any() {
        assert_eq!(timeouts(Wishes::default(), |_| None), Timeouts::KERNEL);
        let read = |name: &str| match name {
            "tcp_timeout_established" => Some(86_400),
            "udp_timeout" => Some(7),
            _ => None,
        };
        let read_alone = Timeouts { tcp_open: 86_400, udp: 7, ..Timeouts::KERNEL };
        assert_eq!(timeouts(Wishes::default(), read), read_alone);
        assert_eq!(
            timeouts(Wishes { tcp_open: Some(60), udp_stream: Some(90), ..Wishes::default() }, read),
            Timeouts { tcp_open: 60, udp_stream: 90, ..read_alone }
        );
        // Each has a sysctl of its own.
        let mut asked = std::collections::BTreeSet::new();
        let seen = std::cell::RefCell::new(&mut asked);
        let _ = timeouts(Wishes::default(), |name| {
            seen.borrow_mut().insert(name.to_owned());
            None
        });
        assert_eq!(asked.len(), 7);
    }

    #[test]
    fn a_pair_of_ports_is_read() {
        assert_eq!(pair("32768\t60999\n"), Some((32_768, 60_999)));
        assert_eq!(pair("32768"), None);
    }
}
