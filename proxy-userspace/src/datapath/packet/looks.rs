//! What keeps packets from going past the stack at each device, as programs have found last; for the commands that only look.

use std::io;
use std::time::Duration;

use proxy_common::names;
use proxy_common::nat::Device;
use proxy_common::shortcut::{Look, Reason, TICK, tick};
use zerocopy::FromBytes;

use crate::datapath::DatapathError;
use crate::datapath::pin::{PinDir, at};
use crate::sys::map::Map;

/// What is known of a device that packets enter by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Never: neither devices in a bridge nor pods without a pair of devices of their own have shortcuts.
    Never,
    /// No packet of a flow has entered by it since there are shortcuts.
    NotLooked,
    /// This was in the way so long ago; empty: nothing.
    Looked(Vec<Reason>, Duration),
}

/// The two tables that tell.
#[derive(Debug)]
pub struct Looks {
    devices: Map,
    looks: Map,
}

impl Looks {
    /// Opens them; `None`: the packet path that runs is of another version, or there is none.
    pub fn open(pin_dir: &PinDir) -> Result<Option<Self>, DatapathError> {
        let open = |name: &str| {
            let path = pin_dir.maps().join(name);
            match Map::open_pinned(&path) {
                Ok(map) => Ok(Some(map)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(at("open", &path)(error)),
            }
        };
        let (devices, looks) = (open(names::DEVICES)?, open(names::LOOKS)?);
        Ok(devices.zip(looks).map(|(devices, looks)| Self { devices, looks }))
    }

    /// What was found at a device; `now` reads the clock that the programs date by.
    pub fn of(&self, index: u32, now: impl FnOnce() -> u64) -> io::Result<Found> {
        let told = self.devices.lookup(&index.to_ne_bytes())?;
        let look = self.looks.lookup(&Look::place(index).to_ne_bytes())?;
        Ok(found(index, now(), (told.as_deref(), look.as_deref())))
    }
}

fn found(index: u32, now: u64, (told, look): (Option<&[u8]>, Option<&[u8]>)) -> Found {
    let told = told.and_then(|bytes| Device::read_from_bytes(bytes).ok());
    let Some(device) = told.filter(|device| device.shortens != 0) else { return Found::Never };
    let look = look.and_then(|bytes| u64::read_from_bytes(bytes).ok()).unwrap_or_default();
    let Some((bits, ticks)) = Look(look).last_found(index, tick(now)) else { return Found::NotLooked };
    // What packets meet where they leave is asked of pods' devices only.
    let counts = |reason: &Reason| device.leads_to_pods != 0 || reason.is_of_ingress();
    let ago = Duration::from_nanos(u64::from(ticks) * TICK);
    Found::Looked(Reason::of(bits).filter(counts).collect(), ago)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proxy_common::addr::Addr;
    use zerocopy::IntoBytes;

    #[test]
    fn a_device_says_what_was_found_there_and_when() {
        let of_kind = |leads_to_pods, shortens| {
            let (v4, v6) = (Addr::UNSPECIFIED, Addr::UNSPECIFIED);
            Device { v4, v6, leads_to_pods, shortens }.as_bytes().to_vec()
        };
        let device = |shortens| of_kind(1, shortens);
        let look = |device, bits| Look::new(device, bits, 1_000).0.to_ne_bytes();
        let now = 1_250 * TICK + 5;
        let of = |told: Option<&[u8]>, look: &[u8]| found(7, now, (told, Some(look)));
        assert_eq!(of(None, &look(7, 0)), Found::Never, "it has no programs any more");
        assert_eq!(of(Some(&device(0)), &look(7, 0)), Found::Never);
        assert_eq!(of(Some(&device(1)), &[0; 8]), Found::NotLooked);
        assert_eq!(of(Some(&device(1)), &look(7 + 1024, 0)), Found::NotLooked, "another device's");
        let ago = Duration::from_nanos(250 * TICK);
        assert_eq!(of(Some(&device(1)), &look(7, 0)), Found::Looked(vec![], ago));
        let reasons = vec![Reason::NetfilterV4, Reason::Queue];
        assert_eq!(of(Some(&device(1)), &look(7, 0x21)), Found::Looked(reasons, ago));
        let at_uplink = of(Some(&of_kind(0, 1)), &look(7, 0x31));
        assert_eq!(at_uplink, Found::Looked(vec![Reason::NetfilterV4], ago), "its queue is in nobody's way");
    }
}
