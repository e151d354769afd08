//! What has to be done so that the programs are at the devices that are wanted and at no others; pure.

use std::collections::{BTreeMap, BTreeSet};

use proxy_common::addr::Addr;
use proxy_common::nat::Device;

use crate::devices::Hooked;
use crate::sys::link::Side;

/// Who is at a side of a device for this pin directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// The program that is to be there.
    Current,
    /// Another one.
    Other,
    /// A link whose device has gone.
    Dead,
}

/// What is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// What the programs are told of devices, by index.
    pub entries: BTreeMap<u32, Device>,
    /// Sides of devices.
    pub sides: BTreeMap<(u32, Side), Held>,
}

/// One step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Tell the programs of a device.
    Tell(u32, Device),
    /// Attach the program.
    Attach(u32, Side),
    /// Put the program in the place of the one that is there.
    Replace(u32, Side),
    /// Take the program away.
    Detach(u32, Side),
    /// Take away what is left of one whose device has gone.
    Unpin(u32, Side),
    /// Tell the programs of the device no more.
    Forget(u32),
}

impl Effect {
    /// The device that it is about.
    pub const fn device(&self) -> u32 {
        match *self {
            Self::Tell(index, _)
            | Self::Attach(index, _)
            | Self::Replace(index, _)
            | Self::Detach(index, _)
            | Self::Unpin(index, _)
            | Self::Forget(index) => index,
        }
    }
}

/// The steps, in order. The programs know a device before they see its packets and for as long as they do; a program where
/// packets leave is there before any flow begins, since only it undoes what the other has done, and goes after it.
pub fn effects(wanted: &[Hooked], found: &Found) -> Vec<Effect> {
    let mut steps = Vec::new();
    for device in wanted {
        let (index, entry) = (device.index, entry(device));
        if found.entries.get(&index) != Some(&entry) {
            steps.push(Effect::Tell(index, entry));
        }
        for side in [Side::Egress, Side::Ingress] {
            match found.sides.get(&(index, side)) {
                Some(Held::Current) => {}
                Some(Held::Other) => steps.push(Effect::Replace(index, side)),
                Some(Held::Dead) => steps.extend([Effect::Unpin(index, side), Effect::Attach(index, side)]),
                None => steps.push(Effect::Attach(index, side)),
            }
        }
    }
    let is_wanted: BTreeSet<u32> = wanted.iter().map(|device| device.index).collect();
    // In the order of their keys, a device's ingress comes before its egress.
    for ((index, side), held) in found.sides.iter().filter(|((index, _), _)| !is_wanted.contains(index)) {
        steps.push(match held {
            Held::Dead => Effect::Unpin(*index, *side),
            Held::Current | Held::Other => Effect::Detach(*index, *side),
        });
    }
    let unknown = found.entries.keys().filter(|index| !is_wanted.contains(index));
    steps.extend(unknown.map(|index| Effect::Forget(*index)));
    steps
}

/// What the programs are told of a device.
pub fn entry(device: &Hooked) -> Device {
    Device {
        v4: device.v4.map_or(Addr::UNSPECIFIED, Addr::from),
        v6: device.v6.map_or(Addr::UNSPECIFIED, Addr::from),
        leads_to_pods: u32::from(device.leads_to_pods),
        shortens: u32::from(device.shortens),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(index: u32) -> Hooked {
        let v4 = Some([192, 0, 2, 1].into());
        let name = format!("eth{index}");
        Hooked { index, name, leads_to_pods: false, is_bare: false, shortens: true, v4, v6: None }
    }

    /// What is there once the steps have been done; a step that makes no sense is a failure.
    fn done(mut found: Found, steps: &[Effect]) -> Found {
        for step in steps {
            match *step {
                Effect::Tell(index, entry) => {
                    assert_ne!(found.entries.insert(index, entry), Some(entry), "told twice");
                }
                Effect::Attach(index, side) => {
                    assert!(found.entries.contains_key(&index), "attached before it is known");
                    assert_eq!(found.sides.insert((index, side), Held::Current), None);
                    let is_undone = found.sides.get(&(index, Side::Egress)) == Some(&Held::Current);
                    assert!(is_undone, "what is done is not undone");
                }
                Effect::Replace(index, side) => {
                    assert_eq!(found.sides.insert((index, side), Held::Current), Some(Held::Other));
                }
                Effect::Detach(index, side) => {
                    assert!(found.sides.remove(&(index, side)).is_some_and(|held| held != Held::Dead));
                    assert!(!found.sides.contains_key(&(index, Side::Ingress)), "what is done is not undone");
                }
                Effect::Unpin(index, side) => {
                    assert_eq!(found.sides.remove(&(index, side)), Some(Held::Dead));
                }
                Effect::Forget(index) => {
                    assert!(found.entries.remove(&index).is_some());
                    let is_seen = Side::ALL.iter().any(|side| found.sides.contains_key(&(index, *side)));
                    assert!(!is_seen, "forgotten while its packets are seen");
                }
            }
        }
        found
    }

    #[test]
    fn from_whatever_is_there_the_steps_lead_to_what_is_wanted() {
        let held = [None, Some(Held::Current), Some(Held::Other), Some(Held::Dead)];
        let entries = [None, Some(entry(&device(7))), Some(entry(&Hooked { v4: None, ..device(7) }))];
        for ingress in held {
            for egress in held {
                for entry in entries {
                    let mut found = Found::default();
                    found.entries.extend(entry.map(|entry| (7, entry)));
                    found.sides.extend(ingress.map(|held| ((7, Side::Ingress), held)));
                    found.sides.extend(egress.map(|held| ((7, Side::Egress), held)));
                    // One that was attached without being known is not left like that.
                    for wanted in [vec![device(7)], vec![], vec![device(3), device(7)]] {
                        let after = done(found.clone(), &effects(&wanted, &found));
                        let told = wanted.iter().map(|device| (device.index, super::entry(device)));
                        assert_eq!(after.entries, told.collect(), "{found:?}");
                        let both =
                            |device: &Hooked| Side::ALL.map(|side| ((device.index, side), Held::Current));
                        assert_eq!(after.sides, wanted.iter().flat_map(both).collect(), "{found:?}");
                        assert_eq!(effects(&wanted, &after), []);
                    }
                }
            }
        }
    }

    #[test]
    fn an_address_that_changes_is_told_and_nothing_is_attached_anew() {
        let mut found = Found::default();
        found = done(found.clone(), &effects(&[device(7)], &found));
        let moved = Hooked { v6: Some("2001:db8::1".parse().unwrap()), ..device(7) };
        assert_eq!(effects(std::slice::from_ref(&moved), &found), [Effect::Tell(7, entry(&moved))]);
    }
}
