//! Ranges of ports: which of them change a client's, and what the kernel is told to keep free; pure.

use std::fmt;

use proxy_common::nat::Ports;

/// Ports below need a right to be listened at.
const FIRST: u16 = 1024;
/// What kube-apiserver hands out for NodePorts unless it is told otherwise.
const NODE_PORTS: (u16, u16) = (30_000, 32_767);
/// A range of fewer is taken only where there is no larger one.
const ENOUGH: u16 = 4_096;

/// Ranges, first to last, in order and apart, as `ip_local_reserved_ports` has them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges(Vec<(u16, u16)>);

impl Ranges {
    /// Reads `8080,9148-9200`; `None`: it is no such list.
    pub fn parse(text: &str) -> Option<Self> {
        let mut ranges = Self::default();
        for part in text.trim().split(',').filter(|part| !part.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
            ranges = if first <= last { ranges.with((first, last)) } else { return None };
        }
        Some(ranges)
    }

    /// Those and one more.
    #[must_use]
    pub fn with(&self, (first, last): (u16, u16)) -> Self {
        let mut all = self.0.clone();
        all.push((first, last));
        all.sort_unstable();
        let mut merged: Vec<(u16, u16)> = Vec::new();
        for (first, last) in all {
            match merged.last_mut() {
                Some((_, end)) if first <= end.saturating_add(1) => *end = last.max(*end),
                _ => merged.push((first, last)),
            }
        }
        Self(merged)
    }

    /// Those without the ports of one.
    #[must_use]
    pub fn without(&self, (first, last): (u16, u16)) -> Self {
        let mut rest = Vec::new();
        for &(from, to) in &self.0 {
            if from < first {
                rest.push((from, to.min(first - 1)));
            }
            if to > last {
                rest.push((from.max(last + 1), to));
            }
        }
        Self(rest)
    }

    /// Whether all ports of a range are among them.
    pub fn hold(&self, (first, last): (u16, u16)) -> bool {
        self.0.iter().any(|&(from, to)| from <= first && last <= to)
    }

    /// Whether a range is one of them as it is.
    fn list(&self, range: (u16, u16)) -> bool {
        self.0.contains(&range)
    }
}

impl fmt::Display for Ranges {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, (first, last)) in self.0.iter().enumerate() {
            let comma = if place == 0 { "" } else { "," };
            if first == last {
                write!(out, "{comma}{first}")?;
            } else {
                write!(out, "{comma}{first}-{last}")?;
            }
        }
        Ok(())
    }
}

/// First and last port of a range that has any.
pub fn ends(ports: Ports) -> Option<(u16, u16)> {
    (ports.count > 0).then(|| (ports.first, ports.first.saturating_add(ports.count - 1)))
}

/// The range that changes ports of clients: no socket of the node may get one of it by itself (`ephemeral`), no NodePort may
/// be one, and nobody else may have reserved it. The highest that is large enough, which is 61000 to 65535 where nothing was
/// changed, else the largest; `None`: there is no such port.
pub fn choose(ephemeral: (u16, u16), reserved: &Ranges) -> Option<Ports> {
    let mut free = Ranges::default().with((FIRST, u16::MAX)).without(ephemeral).without(NODE_PORTS);
    for range in &reserved.0 {
        free = free.without(*range);
    }
    let size = |&&(first, last): &&(u16, u16)| last - first;
    let large = free.0.iter().rev().find(|range| size(range) >= ENOUGH - 1);
    let (first, last) = *large.or_else(|| free.0.iter().max_by_key(size))?;
    Some(Ports { first, count: last - first + 1 })
}

/// What is used, and what the kernel is to be told to keep free.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The range that changes ports of clients; `None`: there is no port for it.
    pub ports: Option<Ports>,
    /// What `ip_local_reserved_ports` is to say.
    pub reserved: Ranges,
}

/// Decides, given what is reserved and the range that an agent before this one used. What others have reserved stays: ours is
/// kept apart from it, so that it can be told which is which when it is given back.
pub fn plan(ephemeral: (u16, u16), reserved: &Ranges, before: Option<Ports>) -> Plan {
    let before = before.and_then(ends);
    // Without anything that says so: the very range that we would choose is ours, left by an agent whose pins have gone.
    let unasked = choose(ephemeral, &Ranges::default()).and_then(ends).filter(|range| reserved.list(*range));
    let ours = before.filter(|range| reserved.hold(*range)).or(unasked);
    let others = ours.map_or_else(|| reserved.clone(), |range| reserved.without(range));
    let ports = choose(ephemeral, &others);
    let reserved = ports.and_then(ends).map_or_else(|| others.clone(), |range| others.with(range));
    Plan { ports, reserved }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DEFAULT: (u16, u16) = (32_768, 60_999);

    fn ranges(text: &str) -> Ranges {
        Ranges::parse(text).unwrap()
    }

    fn chosen(ephemeral: (u16, u16), reserved: &str) -> Option<(u16, u16)> {
        choose(ephemeral, &ranges(reserved)).and_then(ends)
    }

    #[test]
    fn the_range_is_the_highest_that_nobody_else_uses() {
        for (ephemeral, reserved, expected) in [
            (DEFAULT, "", Some((61_000, 65_535))),
            (DEFAULT, "61000-61009", Some((61_010, 65_535))),
            // Fewer than enough are left above.
            (DEFAULT, "62000", Some((1024, 29_999))),
            ((10_000, 65_535), "", Some((1024, 9_999))),
            ((15_000, 62_000), "", Some((1024, 14_999))),
            // Narrowed: the gap is wider than what was there before.
            ((40_000, 50_000), "", Some((50_001, 65_535))),
            ((1024, 65_535), "", None),
            ((1024, 65_534), "", Some((65_535, 65_535))),
            // As a test system may have it.
            ((1, 65_535), "", None),
            ((2_000, 65_000), "", Some((1024, 1_999))),
        ] {
            assert_eq!(chosen(ephemeral, reserved), expected, "{ephemeral:?} {reserved}");
        }
    }

    #[test]
    fn what_others_have_reserved_stays_and_ours_is_given_back() {
        for others in ["", "8080", "60000-60999", "8080,61000-61009"] {
            let first = plan(DEFAULT, &ranges(others), None);
            let ports = first.ports.unwrap();
            assert!(first.reserved.hold(ends(ports).unwrap()));
            // Another start finds what it has done, whether it knows of it or not.
            assert_eq!(plan(DEFAULT, &first.reserved, Some(ports)), first, "{others}");
            assert_eq!(first.reserved.without(ends(ports).unwrap()), ranges(others));
        }
        let first = plan(DEFAULT, &Ranges::default(), None);
        assert_eq!(plan(DEFAULT, &first.reserved, None), first);
        // The user widens the ephemeral range: what was ours goes back.
        let moved = plan((10_000, 65_535), &first.reserved, first.ports);
        assert_eq!((moved.reserved.to_string(), moved.ports.unwrap().first), ("1024-9999".to_owned(), 1024));
    }

    #[test]
    fn lists_are_read_as_the_kernel_writes_them() {
        assert_eq!(ranges("\n"), Ranges::default());
        assert_eq!(ranges("9148-9200,8080\n").to_string(), "8080,9148-9200");
        assert_eq!(ranges("1-5,6,8").to_string(), "1-6,8");
        for bad in ["x", "5-1", "70000", "1-", "1-2-3"] {
            assert_eq!(Ranges::parse(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_range_that_is_taken_out_and_put_back_changes_nothing_else(
            parts in proptest::collection::vec((0..100_u16, 0..20_u16), 0..6),
            (first, length) in (0..100_u16, 0..40_u16),
        ) {
            let mut all = Ranges::default();
            for (first, length) in parts {
                all = all.with((first, first + length));
            }
            let range = (first, first + length);
            let without = all.without(range);
            for port in 0..200 {
                let held = all.hold((port, port));
                let is_inside = range.0 <= port && port <= range.1;
                prop_assert_eq!(without.hold((port, port)), held && !is_inside);
                prop_assert_eq!(without.with(range).hold((port, port)), held || is_inside);
            }
            prop_assert_eq!(Ranges::parse(&all.to_string()).unwrap(), all);
        }
    }
}
