//! What is known of the way between two addresses, for packets that enter by some device.

use super::{JIFFIES, ROUTES, counts};
use crate::addr::Addr;
use crate::flow::Mac;

/// Bit of [`Route::device`]: to the other end of that device's pair, past the device itself.
pub const PEER: u32 = 1 << 31;

/// Value of `ROUTES`, of which each CPU has its own: found at [`place`], and the way of packets of no other addresses.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where packets come from, as the stack would see it.
    pub src: Addr,
    /// Where they go, likewise.
    pub dst: Addr,
    /// The next hop's address; the packet's own destination, where that is a neighbour.
    pub hop: Addr,
    /// Index of the device that they enter by.
    pub entered: u32,
    /// Their class, see [`super::class`].
    pub class: u32,
    /// When this was found, in ticks of the kernel's timer.
    pub jiffy: u32,
    /// Index of the device that they leave by, perhaps with [`PEER`]; zero: they take the stack.
    pub device: u32,
    /// Bytes of a packet at most, from its IP header on.
    pub mtu: u32,
    /// The frame's receiver and sender, of packets that leave by a device; zero where the neighbour is not known.
    pub frame: [Mac; 2],
}

impl Route {
    /// Whether this is what is looked for, and counts still.
    #[inline(always)]
    pub const fn is_of(&self, (src, dst): (Addr, Addr), (entered, class): (u32, u32), jiffy: u32) -> bool {
        // Most differ in the destination, if in anything.
        same(self.dst, dst)
            && same(self.src, src)
            && self.entered == entered
            && self.class == class
            && counts(self.jiffy, jiffy, JIFFIES)
    }
}

#[inline(always)]
const fn same(one: Addr, other: Addr) -> bool {
    let (one, other) = (one.halves(), other.halves());
    (one.0 ^ other.0) | (one.1 ^ other.1) == 0
}

/// The place of two addresses in `ROUTES`.
#[inline(always)]
pub const fn place(src: Addr, dst: Addr) -> u32 {
    let (src, dst) = (src.halves(), dst.halves());
    let mixed = (src.0 ^ src.1).wrapping_mul(0xbf58_476d_1ce4_e5b9) ^ (dst.0 ^ dst.1);
    let mixed = mixed.wrapping_mul(0x94d0_49bb_1331_11eb);
    (mixed ^ (mixed >> 32)) as u32 & (ROUTES - 1)
}

const _: () = assert!(size_of::<Route>() == 80);
