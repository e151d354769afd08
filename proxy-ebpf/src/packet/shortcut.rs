//! Packets go past the node's stack, see [`proxy_common::shortcut`].

use aya_ebpf::Global;
use aya_ebpf::bindings::{bpf_fib_lookup as Fib, bpf_redir_neigh as Neighbour};
use aya_ebpf::btf_maps::{Array, PerCpuArray};
use aya_ebpf::helpers::generated::{
    bpf_fib_lookup, bpf_probe_read_kernel, bpf_redirect_neigh, bpf_redirect_peer,
};
use aya_ebpf::macros::btf_map;
use proxy_common::addr::Addr;
use proxy_common::packet::{Bytes, Headers};
use proxy_common::shortcut::{
    self, IN_THE_WAY, Look, Memory, Offsets, PEER, Route, class, is_plain, length, place, take_hop, tick,
};

use crate::flows::{self, Room};
use crate::maps::clients;
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

/// Routes are looked up without asking for the neighbour, which `bpf_redirect_neigh` does (`BPF_FIB_LOOKUP_SKIP_NEIGH`).
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

/// Whether there are shortcuts at all.
#[inline(always)]
pub fn are_wanted() -> bool {
    SHORTCUTS.load() != 0
}

/// What is known of the way of a packet between two addresses, as the stack would see them.
#[inline(always)]
pub fn way(skb: &Skb<'_>, headers: &Headers, (src, dst): (Addr, Addr)) -> Way {
    let (device, tick) = (skb.device(), tick(clients::now()));
    // SAFETY: the map returned a live element of one word.
    let look = LOOKS.get_ptr(Look::place(device)).map(|look| Look(unsafe { look.read_volatile() }));
    let Some(reasons) = look.and_then(|look| look.reasons(device, tick)) else { return Way::Unknown };
    let is_free = reasons & IN_THE_WAY[usize::from(!headers.is_v4)] == 0;
    if !is_free || !skb.is_plain() || !is_plain(skb, headers) {
        return Way::Stack;
    }
    let Some(route) = ROUTES.get_ptr(place(src, dst)) else { return Way::Stack };
    // SAFETY: the element is this CPU's alone.
    let route = unsafe { &*route };
    if !route.is_of((src, dst), (device, class(skb, headers)), tick) {
        return Way::Unknown;
    }
    let fits = length(skb, headers, skb.sizes()).is_some_and(|length| length <= route.mtu);
    if route.device == 0 || !fits { Way::Stack } else { Way::Short(route) }
}

/// Sends a packet by a way that is known; `None`: it could not be changed as the stack would.
#[inline(always)]
pub fn take(skb: &mut Skb<'_>, headers: &Headers, route: &Route) -> Option<i32> {
    if !take_hop(skb, headers) {
        return None;
    }
    let taken = if route.device & PEER != 0 {
        // SAFETY: the helper takes numbers only.
        unsafe { bpf_redirect_peer(route.device & !PEER, 0) }
    } else {
        let mut neighbour = Neighbour { nh_family: 0, __bindgen_anon_1: NO_NEIGHBOUR };
        if route.hop.is_v4() {
            neighbour.nh_family = AF_INET as u32;
            neighbour.__bindgen_anon_1.ipv4_nh = route.hop.v4_word();
        } else {
            neighbour.nh_family = AF_INET6 as u32;
            neighbour.__bindgen_anon_1.ipv6_nh = route.hop.words();
        }
        // SAFETY: the helper reads as many bytes as it is told.
        unsafe { bpf_redirect_neigh(route.device, &raw mut neighbour, size_of::<Neighbour>() as i32, 0) }
    };
    Some(taken as i32)
}

const NO_NEIGHBOUR: aya_ebpf::bindings::bpf_redir_neigh__bindgen_ty_1 =
    aya_ebpf::bindings::bpf_redir_neigh__bindgen_ty_1 { ipv6_nh: [0; 4] };

/// Finds the way of a packet anew, and keeps it for others between the same addresses.
#[inline(always)]
pub fn find(skb: &Skb<'_>, room: &mut Room, ends: (Addr, Addr), is_reply: bool) -> Way {
    let (src, dst) = ends;
    let Some(route) = ROUTES.get_ptr_mut(place(src, dst)) else { return Way::Stack };
    // SAFETY: the element is this CPU's alone.
    let route = unsafe { &mut *route };
    route.src = src;
    route.dst = dst;
    route.entered = skb.device();
    route.class = class(skb, &room.headers);
    route.tick = tick(clients::now());
    route.device = 0;
    skb.barrier();
    if let Some(device) = device(skb, room, route, is_reply) {
        route.device = device;
    }
    skb.barrier();
    way(skb, &room.headers, ends)
}

/// The device that packets of a route leave by; the route gets its next hop and MTU.
#[inline(always)]
fn device(skb: &Skb<'_>, room: &mut Room, route: &mut Route, is_reply: bool) -> Option<u32> {
    let is_v4 = room.headers.is_v4;
    let reasons = look_at_device(skb, route.tick);
    if reasons & IN_THE_WAY[usize::from(!is_v4)] != 0 || !flows::shortens(route.entered, is_reply) {
        return None;
    }
    room.fib_ends = (route.src, route.dst, route.entered, route.class);
    let out = look_up(skb, room)?;
    route.hop = hop(&room.fib);
    // SAFETY: each member of this union is a number.
    route.mtu = unsafe { room.fib.__bindgen_anon_1.mtu_result } as u32;
    if !flows::shortens(out, !is_reply) || !is_reply && !lets_pass(out, route.tick) {
        return None;
    }
    room.fib_ends = (route.dst, route.src, out, route.class);
    let back = look_up(skb, room)?;
    if back != route.entered {
        return None;
    }
    Some(if is_reply { out } else { out | PEER })
}

/// The device that a route leads to; `None`: nowhere, or somewhere where the stack has more to do than forward.
#[inline(always)]
fn look_up(skb: &Skb<'_>, room: &mut Room) -> Option<u32> {
    let (src, dst, entered, class) = room.fib_ends;
    let fib = &mut room.fib;
    fib.l4_protocol = room.headers.proto.0;
    fib.sport = 0;
    fib.dport = 0;
    // Any, so that the MTU is told.
    fib.__bindgen_anon_1.tot_len = 1;
    fib.ifindex = entered;
    if room.headers.is_v4 {
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
        unsafe { bpf_fib_lookup(skb.ctx.skb.skb.cast(), &raw mut *fib, size_of::<Fib>() as i32, SKIP_NEIGH) };
    skb.barrier();
    if answer == 0 { Some(fib.ifindex) } else { None }
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
