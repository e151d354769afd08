//! Ports that no socket of the node gets by itself: those that change a client's port are of these.

use crate::addr::Port;

/// How many ports are tried for a flow.
pub const TRIES: u32 = 16;

/// A range of ports. It is disjoint from `ip_local_port_range` and NodePorts, and in `ip_local_reserved_ports`.
#[repr(C)]
#[cfg_attr(feature = "user", derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// The first, in host order.
    pub first: u16,
    /// How many there are.
    pub count: u16,
}

impl Ports {
    /// Whether the range has a port.
    #[inline(always)]
    pub const fn has(&self, port: Port) -> bool {
        port.get().wrapping_sub(self.first) < self.count
    }

    /// The port of a draw of 32 bits; `None`: there is none.
    #[inline(always)]
    pub const fn pick(&self, draw: u32) -> Option<Port> {
        let index = ((draw as u64 * self.count as u64) >> 32) as u16;
        if self.count == 0 { None } else { Some(Port::new(self.first.wrapping_add(index))) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_port_of_the_range_is_picked_and_no_other() {
        let ports = Ports { first: 61_000, count: 4_536 };
        let picked: std::collections::BTreeSet<u16> =
            (0..=u32::MAX).step_by(400_000).map(|draw| ports.pick(draw).unwrap().get()).collect();
        assert_eq!((picked.first(), picked.last()), (Some(&61_000), Some(&65_535)));
        assert_eq!(picked.len(), 4_536);
        assert!(picked.iter().all(|port| ports.has(Port::new(*port))));
        let none = Ports { first: 0, count: 0 };
        assert!(none.pick(u32::MAX).is_none() && !none.has(Port::ANY));
        assert!(!ports.has(Port::new(60_999)) && ports.has(Port::new(65_535)) && !ports.has(Port::new(0)));
    }
}
