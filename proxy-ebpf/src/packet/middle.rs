//! Packets in the middle of a connection, see [`middle`]: most of them go past the stack by a way that is known, and take nothing
//! of the program but what is here.

use proxy_common::flow::{FlowKey, NO_MAC, Part};
use proxy_common::nat::{Glance, Middle, middle};
use proxy_common::packet::Headers;
use proxy_common::packet::usual::V4_BYTES;

use crate::flows::Tables;
use crate::maps::clients;
use crate::passage::{go_short, tcp};
use crate::shortcut::{self, Neighbour, Way};
use crate::skb::{Beginning, Skb};

/// What became of a packet.
pub enum Taken {
    /// It is gone, with this verdict.
    Gone(i32),
    /// It is of no flow.
    Stranger,
    /// Others decide.
    Not,
}

/// Looks at a packet that may be of a connection whose record has the key of this part of it.
#[inline(always)]
pub fn take(skb: &mut Skb<'_>, headers: &Headers, part: Part) -> Taken {
    // IPv6 has no places.
    let Some(near) = skb.near(V4_BYTES).filter(|_| headers.is_v4) else { return Taken::Not };
    let Some(tcp) = tcp(&near, headers) else { return Taken::Not };
    match middle(&Tables(skb.ctx), (headers, tcp), part) {
        Middle::Stranger => Taken::Stranger,
        Middle::Known(key, place, glance) if shortcut::are_wanted() => {
            go((skb, near), headers, (&key, place, glance), (part, tcp)).map_or(Taken::Not, Taken::Gone)
        }
        Middle::Known(..) | Middle::Other => Taken::Not,
    }
}

#[inline(always)]
fn go(
    (skb, near): (&mut Skb<'_>, Beginning),
    headers: &Headers,
    (key, place, glance): (&FlowKey, u32, Glance),
    (part, tcp): (Part, u8),
) -> Option<i32> {
    let (change, flags) = glance.steady(part, (tcp, NO_MAC))?;
    let dst = if change.is_request { change.to.addr } else { headers.dst };
    if change.far_port != change.side.far().of(headers).1 {
        return None;
    }
    let Way::Short(route) = shortcut::way_of((skb, &near), headers, (headers.src, dst)) else {
        return None;
    };
    glance.keep(&Tables(skb.ctx), (key, place), (flags, clients::now));
    Some(go_short(skb, headers, &change, (route, Neighbour::Known)))
}
