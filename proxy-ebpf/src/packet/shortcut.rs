//! Packets go past the node's stack, see [`proxy_common::shortcut`].

use aya_ebpf::Global;
use aya_ebpf::bindings::{
    bpf_fib_lookup as Fib, bpf_redir_neigh as Hop, bpf_redir_neigh__bindgen_ty_1 as HopAddr,
};
use aya_ebpf::btf_maps::{Array, PerCpuArray};
use aya_ebpf::helpers::generated::{
    bpf_fib_lookup, bpf_probe_read_kernel, bpf_redirect, bpf_redirect_neigh, bpf_redirect_peer,
};
use aya_ebpf::macros::btf_map;
use proxy_common::addr::Addr;
use proxy_common::flow::{Mac, NO_MAC};
use proxy_common::packet::{Bytes, Headers};
use proxy_common::shortcut::{
    self, IN_THE_WAY, Look, Memory, Offsets, PEER, Route, class, is_plain, length, place, take_hop, tick,
};

use crate::flows::{self, Desk};
use crate::passage::{FROM, TO};
use crate::skb::Skb;

/// Not zero: there are shortcuts. Set before the load, as is [`OFFSETS`].
#[unsafe(no_mangle)]
static SHORTCUTS: Global<u32> = Global::new(0);
/// Where the kernel has what is looked at.
#[unsafe(no_mangle)]
static OFFSETS: Global<Offsets> = Global::new(Offsets::NONE);

#[btf_map]
static ROUTES: PerCpuArray<Route, { shortcut::ROUTES as usize }> = PerCpuArray::new();
#[btf_map]
static LOOKS: Array<u64, { shortcut::LOOKS as usize }> = Array::new();

/// A route is looked up without asking for the neighbour, who may not be known yet (`BPF_FIB_LOOKUP_SKIP_NEIGH`).
const SKIP_NEIGH: u32 = 4;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// What is known of a packet's way.
#[derive(Clone, Copy)]
pub enum Way {
    /// It takes the stack.
    Stack,
    /// It goes past it.
    Short(&'static Route),
    /// Nothing: [`find`] finds out.
    Unknown,
}

/// Who writes the frame of a packet that leaves by a device.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Neighbour {
    /// We do, where the route has it.
    Known,
    /// The kernel, who looks after its neighbour by the way.
    Asked,
}

/// Whether there are shortcuts at all.
#[inline(always)]
pub fn are_wanted() -> bool {
    SHORTCUTS.load() != 0
}

/// What is known of the way of a packet between two addresses, as the stack would see them.
#[inline(always)]
pub fn way(skb: &Skb<'_>, headers: &Headers, ends: (Addr, Addr)) -> Way {
    way_of((skb, skb), headers, ends)
}

/// The same, where the packet's bytes are read by another.
#[inline(always)]
pub fn way_of<B: Bytes>((skb, bytes): (&Skb<'_>, &B), headers: &Headers, (src, dst): (Addr, Addr)) -> Way {
    if !skb.is_plain() || !is_plain(bytes, headers) {
        return Way::Stack;
    }
    let Some(route) = ROUTES.get_ptr(place(src, dst)) else { return Way::Stack };
    // SAFETY: the element is this CPU's alone.
    let route = unsafe { &*route };
    if !route.is_of((src, dst), (skb.device(), class(bytes, headers)), flows::jiffy()) {
        return Way::Unknown;
    }
    let fits = length(bytes, headers, skb.sizes()).is_some_and(|length| length <= route.mtu);
    if route.device == 0 || !fits { Way::Stack } else { Way::Short(route) }
}

/// Sends a packet by a way that is known; `None`: it could not be changed as the stack would.
#[inline(always)]
pub fn take(skb: &mut Skb<'_>, headers: &Headers, (route, neighbour): (&Route, Neighbour)) -> Option<i32> {
    if !take_hop(skb, headers) {
        return None;
    }
    let [to, from] = &route.frame;
    let taken = if route.device & PEER != 0 {
        // SAFETY: the helper takes numbers only.
        unsafe { bpf_redirect_peer(route.device & !PEER, 0) }
    } else if neighbour == Neighbour::Known && *to != NO_MAC {
        if !skb.set_mac(TO, to) || !skb.set_mac(FROM, from) {
            return None;
        }
        // SAFETY: as above.
        unsafe { bpf_redirect(route.device, 0) }
    } else {
        let mut neighbour = next_hop(route.hop);
        // SAFETY: the helper reads as many bytes as it is told.
        unsafe { bpf_redirect_neigh(route.device, &raw mut neighbour, size_of::<Hop>() as i32, 0) }
    };
    Some(taken as i32)
}

/// The next hop as the helper takes it: of an IPv4 address it reads the first word.
#[inline(always)]
fn next_hop(hop: Addr) -> Hop {
    let [a, b, c, d] = hop.words();
    let (family, words) = if hop.is_v4() { (AF_INET, [d, b, c, d]) } else { (AF_INET6, [a, b, c, d]) };
    Hop { nh_family: family as u32, __bindgen_anon_1: HopAddr { ipv6_nh: words } }
}

/// Finds the way of a packet anew, and keeps it for others between the same addresses.
#[inline(always)]
pub fn find(
    skb: &Skb<'_>,
    headers: &Headers,
    (desk, now): (&mut Desk, u64),
    (ends, is_reply): ((Addr, Addr), bool),
) -> Way {
    let (src, dst) = ends;
    let Some(route) = ROUTES.get_ptr_mut(place(src, dst)) else { return Way::Stack };
    // SAFETY: the element is this CPU's alone.
    let route = unsafe { &mut *route };
    route.src = src;
    route.dst = dst;
    route.entered = skb.device();
    route.class = class(skb, headers);
    route.jiffy = flows::jiffy();
    route.device = 0;
    route.frame = [NO_MAC; 2];
    desk.tick = tick(now);
    skb.barrier();
    if let Some(device) = device(skb, headers, (desk, is_reply), route) {
        route.device = device;
    }
    skb.barrier();
    way(skb, headers, ends)
}

/// The device that packets of a route leave by; the route gets its next hop and MTU.
#[inline(always)]
fn device(
    skb: &Skb<'_>,
    headers: &Headers,
    (desk, is_reply): (&mut Desk, bool),
    route: &mut Route,
) -> Option<u32> {
    let is_v4 = headers.is_v4;
    let reasons = look_at_device(skb, desk.tick);
    if reasons & IN_THE_WAY[usize::from(!is_v4)] != 0 || !flows::shortens(route.entered, is_reply) {
        return None;
    }
    desk.fib_ends = (route.src, route.dst, route.entered, route.class);
    let out = look_up(skb, headers, (desk, SKIP_NEIGH))?;
    route.hop = hop(&desk.fib);
    // SAFETY: each member of this union is a number.
    route.mtu = unsafe { desk.fib.__bindgen_anon_1.mtu_result } as u32;
    if !flows::shortens(out, !is_reply) || !is_reply && !lets_pass(out, desk.tick) {
        return None;
    }
    desk.fib_ends = (route.dst, route.src, out, route.class);
    let back = look_up(skb, headers, (desk, SKIP_NEIGH))?;
    if back != route.entered {
        return None;
    }
    if !is_reply {
        return Some(out | PEER);
    }
    desk.fib_ends = (route.src, route.dst, route.entered, route.class);
    if look_up(skb, headers, (desk, 0)) == Some(out) {
        route.frame = [mac(desk.fib.dmac), mac(desk.fib.smac)];
    }
    Some(out)
}

/// The device that a route leads to; `None`: nowhere, or somewhere where the stack has more to do than forward.
#[inline(always)]
fn look_up(skb: &Skb<'_>, headers: &Headers, (desk, flags): (&mut Desk, u32)) -> Option<u32> {
    let (src, dst, entered, class) = desk.fib_ends;
    let fib = &mut desk.fib;
    fib.l4_protocol = headers.proto.0;
    fib.sport = 0;
    fib.dport = 0;
    // Any, so that the MTU is told.
    fib.__bindgen_anon_1.tot_len = 1;
    fib.ifindex = entered;
    if headers.is_v4 {
        fib.family = AF_INET;
        fib.__bindgen_anon_2.rt_metric = class;
        fib.__bindgen_anon_3.ipv4_src = src.v4_word();
        fib.__bindgen_anon_4.ipv4_dst = dst.v4_word();
    } else {
        fib.family = AF_INET6;
        fib.__bindgen_anon_2.flowinfo = (class << 20).to_be();
        fib.__bindgen_anon_3.ipv6_src = src.words();
        fib.__bindgen_anon_4.ipv6_dst = dst.words();
    }
    // SAFETY: the context is valid, and the helper reads and writes as many bytes as it is told, in memory of this CPU.
    let answer =
        unsafe { bpf_fib_lookup(skb.ctx.skb.skb.cast(), &raw mut *fib, size_of::<Fib>() as i32, flags) };
    skb.barrier();
    if answer == 0 { Some(fib.ifindex) } else { None }
}

/// A link-layer address as records and routes have it.
#[inline(always)]
fn mac([a, b, c, d, e, f]: [u8; 6]) -> Mac {
    [[a, b], [c, d], [e, f]].map(u16::from_ne_bytes)
}

/// The next hop that a look-up has found.
#[inline(always)]
fn hop(fib: &Fib) -> Addr {
    // SAFETY: each member of this union is made of numbers.
    unsafe {
        if fib.family == AF_INET {
            Addr::from_v4_word(fib.__bindgen_anon_4.ipv4_dst)
        } else {
            Addr::from_words(fib.__bindgen_anon_4.ipv6_dst)
        }
    }
}

/// Whether packets may be handed to the other end of a device's pair, as far as its own packets have told.
#[inline(always)]
fn lets_pass(device: u32, tick: u32) -> bool {
    // SAFETY: the map returned a live element of one word.
    LOOKS
        .get_ptr(Look::place(device))
        .is_some_and(|look| Look(unsafe { look.read_volatile() }).lets_pass(device, tick))
}

/// What is in the way at a packet's device.
#[inline(always)]
fn look_at_device(skb: &Skb<'_>, tick: u32) -> u8 {
    let device = skb.device();
    let Some(place) = LOOKS.get_ptr_mut(Look::place(device)) else { return u8::MAX };
    // SAFETY: the map returned a live element of one word, which CPUs read and write whole.
    if let Some(reasons) = Look(unsafe { place.read_volatile() }).just_found(device, tick) {
        return reasons;
    }
    let reasons = shortcut::look(&Kernel, &OFFSETS.load(), skb.ctx.skb.skb as u64);
    // SAFETY: as above.
    unsafe { place.write_volatile(Look::new(device, reasons, tick).0) };
    reasons
}

/// The kernel's memory.
struct Kernel;

impl Memory for Kernel {
    #[inline(always)]
    fn word(&self, at: u64) -> Option<u64> {
        let mut word = 0_u64;
        // SAFETY: the helper writes eight bytes to the word, and reads wherever it is told without a fault.
        let answer = unsafe { bpf_probe_read_kernel((&raw mut word).cast(), 8, at as *const _) };
        if answer == 0 { Some(word) } else { None }
    }
}
