//! The records of flows, and what the agent tells the packet path.

use aya_ebpf::bindings::bpf_fib_lookup;
use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::btf_maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, ProgramArray};
use aya_ebpf::helpers::bpf_get_prandom_u32;
use aya_ebpf::helpers::generated::bpf_jiffies64;
use aya_ebpf::macros::btf_map;
use aya_ebpf::programs::TcContext;
use proxy_common::addr::Addr;
use proxy_common::affinity::{AffinityKey, Memory};
use proxy_common::flow::{End, Flow, FlowKey, Part};
use proxy_common::lb::Pick;
use proxy_common::mark::{self, Marks};
use proxy_common::names;
use proxy_common::nat::fragment::{FragmentKey, FragmentValue};
use proxy_common::nat::{Claim, Device, Flows, Glance, Ports, Settings, Timeouts, Work};
use proxy_common::packet::Headers;
use proxy_common::packet::refusal::Answer;
use proxy_common::place::Owner;

use crate::maps::{MMAPABLE, clients};
use crate::places;
use crate::store;

/// `BPF_F_NO_PREALLOC`: elements are allocated as they come.
pub const NO_PREALLOC: usize = 1;
/// The agent counts rounds through a mapping.
#[btf_map]
static MARKS: Array<Marks, 1, MMAPABLE> = Array::new();
#[btf_map]
static DEVICES: HashMap<u32, Device, { names::DEVICES_MAX as usize }, NO_PREALLOC> = HashMap::new();
#[btf_map]
static SETTINGS: Array<Settings, 1> = Array::new();
#[btf_map]
static INSIDE: LpmTrie<Addr, u32, { names::INSIDE_MAX as usize }> = LpmTrie::new();
#[btf_map]
static FRAGMENTS: LruHashMap<FragmentKey, FragmentValue, { names::FRAGMENTS_MAX as usize }> =
    LruHashMap::new();
#[btf_map]
static ROOM: PerCpuArray<Room, 1> = PerCpuArray::new();
/// How many flows began in which second, and how many refusals were sent.
#[btf_map]
static SPENT: PerCpuArray<[u64; 2], 2> = PerCpuArray::new();
#[btf_map]
static SLOW: ProgramArray<{ names::SLOW_PROGRAMS.len() }> = ProgramArray::new();

const FLOWS_BEGUN: u32 = 0;
const REFUSED: u32 = 1;

/// Programs that are tail-called, in the order of [`names::SLOW_PROGRAMS`].
#[repr(u32)]
#[derive(Clone, Copy)]
pub enum Slow {
    Begin = 0,
    Reserve = 1,
    Refuse = 2,
    ErrorArrives = 3,
    ErrorLeaves = 4,
    PartArrives = 5,
    PartLeaves = 6,
    RequestPasses = 7,
    ReplyPasses = 8,
    Direct = 9,
}

/// Room for a decision: too much for a stack, and in memory of which the verifier knows nothing, so that ways through the
/// program join again.
///
/// A program that is tail-called finds what the one before it has left there.
pub struct Room {
    pub headers: Headers,
    pub desk: Desk,
}

/// All of it but the packet's headers.
pub struct Desk {
    /// Bytes ahead of the IP header.
    pub link: u32,
    /// Where the packet is: [`fragment::ENTERS`] or [`fragment::LEAVES`].
    pub place: u8,
    /// Those of the packet that an ICMP error quotes.
    pub quoted: Headers,
    pub work: Work,
    pub answer: Answer,
    /// Not zero: a program at another device has sent the packet on.
    pub sent_on: u8,
    /// Not zero: it has come by a device of this node's pods.
    pub from_pods: u8,
    /// Not zero: the packet is a request that was just sent on, and may go past the stack.
    pub may_pass: u8,
    /// Where such a request goes.
    pub backend: Addr,
    /// What a route is looked up for: source, destination, device, class.
    pub fib_ends: (Addr, Addr, u32, u32),
    /// When, see [`tick`](proxy_common::shortcut::tick).
    pub tick: u32,
    /// The question, and the answer.
    pub fib: bpf_fib_lookup,
}

/// The room of this CPU. Nothing else runs on it in the middle of a program at TC.
#[inline(always)]
pub fn room() -> Option<&'static mut Room> {
    // SAFETY: the element is this CPU's alone.
    ROOM.get_ptr_mut(0).map(|room| unsafe { &mut *room })
}

/// Goes on in another program, and comes back only if there is none.
#[inline(always)]
pub fn go_on(ctx: &TcContext, to: Slow) {
    // SAFETY: the map holds programs of this type.
    let _ = unsafe { SLOW.tail_call(ctx, to as u32) };
}

/// The records, for packets of a device.
pub struct Tables<'a>(pub &'a TcContext);

impl Tables<'_> {
    #[inline(always)]
    fn settings(&self) -> Option<&'static Settings> {
        // SAFETY: the map returned a live element, of which single words are read.
        SETTINGS.get_ptr(0).map(|settings| unsafe { &*settings })
    }

    #[inline(always)]
    fn device(&self) -> Option<&'static Device> {
        // SAFETY: the context is valid; the agent replaces entries whole.
        unsafe { DEVICES.get((&raw const (*self.0.skb.skb).ifindex).read_volatile()) }
    }
}

/// Whether a device, of pods or another, is one between which packets may go past the stack.
#[inline(always)]
pub fn shortens(device: u32, leads_to_pods: bool) -> bool {
    // SAFETY: the agent replaces entries whole.
    let device: Option<&Device> = unsafe { DEVICES.get(device) };
    device.is_some_and(|device| device.shortens != 0 && (device.leads_to_pods != 0) == leads_to_pods)
}

/// The place of a mark, and the round.
#[inline(always)]
fn marks(one: &End, other: &End) -> Option<(*mut u8, u32)> {
    let marks = MARKS.get_ptr_mut(0)?;
    let place = mark::place(one, other) as usize;
    // SAFETY: the map returned a live element, and a place is below the number of marks.
    unsafe {
        Some(((&raw mut (*marks).marks).cast::<u8>().add(place), (&raw const (*marks).round).read_volatile()))
    }
}

/// The number of the sweep's round.
#[inline(always)]
pub fn round() -> u32 {
    // SAFETY: the map returned a live element.
    MARKS.get_ptr(0).map_or(0, |marks| unsafe { (&raw const (*marks).round).read_volatile() })
}

/// The kernel's count of its timer's ticks, modulo 2^32: the kernel reads it where programs call for it, without a call.
#[inline(always)]
pub fn jiffy() -> u32 {
    // SAFETY: the helper takes nothing and returns a number.
    unsafe { bpf_jiffies64() as u32 }
}

/// Leaves the mark of this round for a record, but for those of [`Part::Return`], which no packet of a stranger has the port of.
#[inline(always)]
pub fn mark(key: &FlowKey) {
    if key.part != Part::Return as u8
        && let Some((place, round)) = marks(&key.src, &key.dst)
    {
        // SAFETY: the place is one of the marks.
        unsafe { place.write_volatile(mark::of_round(round)) };
    }
}

/// When a record was last put apart; zero: there are none.
#[inline(always)]
pub fn apart() -> Option<*mut u64> {
    // SAFETY: the map returned a live element.
    MARKS.get_ptr_mut(0).map(|marks| unsafe { &raw mut (*marks).apart })
}

/// Says that a record of a kind is about to be there.
#[inline(always)]
pub fn say(when: *mut u64) {
    let now = clients::now();
    // SAFETY: the caller has a word of the marks.
    unsafe {
        if when.read_volatile() != now {
            when.write_volatile(now);
        }
    }
}

/// The same for records of [`Flow::DIRECT`].
#[inline(always)]
fn made_direct() -> Option<*mut u64> {
    // SAFETY: the map returned a live element.
    MARKS.get_ptr_mut(0).map(|marks| unsafe { &raw mut (*marks).direct })
}

impl Tables<'_> {
    /// Whether one more refusal may be sent.
    #[inline(always)]
    pub fn may_refuse(&self) -> bool {
        self.settings().is_some_and(|settings| spend((REFUSED, clients::now()), settings.refusals_per_second))
    }
}

/// Keeps what became of the first part of a datagram for the others.
#[inline(always)]
pub fn keep_part(key: &FragmentKey, value: &FragmentValue) {
    let _ = FRAGMENTS.insert(key, value, 0);
}

/// What became of the first part.
#[inline(always)]
pub fn part(key: &FragmentKey) -> Option<FragmentValue> {
    // SAFETY: the value is copied at once.
    unsafe { FRAGMENTS.get(key).copied() }
}

/// How long records live.
#[inline(always)]
pub fn timeouts() -> Timeouts {
    // SAFETY: as in `Tables::settings`.
    SETTINGS.get_ptr(0).map_or(Timeouts::KERNEL, |settings| unsafe { (*settings).timeouts })
}

impl Flows for Tables<'_> {
    type Place = u32;

    #[inline(always)]
    fn may_know(&self, one: &End, other: &End) -> bool {
        // SAFETY: the place is one of the marks.
        marks(one, other)
            .is_some_and(|(place, round)| mark::is_fresh(unsafe { place.read_volatile() }, round))
    }

    #[inline(always)]
    fn find(&self, key: &FlowKey, flow: &mut Flow) -> Option<u32> {
        store::find(key, flow)
    }

    #[inline(always)]
    fn glance(&self, key: &FlowKey) -> Option<(u32, Glance)> {
        places::glance(Owner::new(key)?)
    }

    #[inline(always)]
    fn note(&self, key: &FlowKey, place: u32, old: u16, flow: &Flow) {
        store::note(key, place, (old, flow.flags), flow.used);
    }

    #[inline(always)]
    fn renew(&self, key: &FlowKey, flow: &Flow) -> bool {
        store::shunt_renew(key, flow) != 0
    }

    #[inline(always)]
    fn claim(&self, key: &FlowKey, flow: &Flow, other: &mut Flow) -> Claim {
        mark(key);
        match store::shunt_claim(key, flow, other) {
            store::MADE => Claim::Made,
            store::TAKEN => Claim::Taken,
            _ => Claim::Full,
        }
    }

    #[inline(always)]
    fn put(&self, key: &FlowKey, flow: &Flow) -> bool {
        mark(key);
        store::shunt_put(key, flow) != 0
    }

    #[inline(always)]
    fn remove(&self, key: &FlowKey) {
        store::shunt_remove(key);
    }

    #[inline(always)]
    fn settle(&self, key: &FlowKey, flow: &Flow) -> bool {
        store::shunt_settle(key, flow) != 0
    }

    #[inline(always)]
    fn is_crowded(&self) -> bool {
        let (Some(marks), Some(settings)) = (MARKS.get_ptr(0), self.settings()) else { return true };
        // SAFETY: the map returned a live element.
        let opening = unsafe { (&raw const (*marks).opening).read_volatile() };
        // Counts that were not exact may go below zero.
        opening.cast_signed() >= i64::from(settings.open_at_once)
    }

    #[inline(always)]
    fn count_opening(&self, is_more: bool) {
        if let Some(marks) = MARKS.get_ptr_mut(0) {
            let more: i64 = if is_more { 1 } else { -1 };
            // SAFETY: the map returned a live element, which all CPUs count in.
            unsafe {
                let opening = &raw mut (*marks).opening;
                core::arch::asm!("lock *(u64 *)({opening} + 0) += {more}", opening = in(reg) opening, more = in(reg) more);
            }
        }
    }

    #[inline(always)]
    fn remembered(&self, service: u32, client: Addr, seconds: u32) -> Option<Memory> {
        clients::memory(AffinityKey { service, client })
            .filter(|memory| memory.is_fresh(clients::now(), seconds))
    }

    #[inline(always)]
    fn remember(&self, pick: &Pick, client: Addr) {
        let key = AffinityKey { service: pick.service, client };
        clients::keep(key, Memory::new(pick.backend, pick.generation, clients::now()));
    }

    #[inline(always)]
    fn draw(&self) -> u32 {
        // SAFETY: the helper takes nothing and returns a number.
        unsafe { bpf_get_prandom_u32() }
    }

    #[inline(always)]
    fn snat_address(&self, is_v4: bool) -> Option<Addr> {
        let device = self.device()?;
        let addr = if is_v4 { device.v4 } else { device.v6 };
        if addr.is_unspecified() { None } else { Some(addr) }
    }

    #[inline(always)]
    fn leads_to_pods(&self) -> bool {
        self.device().is_some_and(|device| device.leads_to_pods != 0)
    }

    #[inline(always)]
    fn masquerades(&self) -> bool {
        self.settings().is_some_and(|settings| settings.masquerades & Settings::MASQUERADES != 0)
    }

    #[inline(always)]
    fn has_masqueraded(&self) -> bool {
        self.settings().is_some_and(|settings| settings.masquerades & Settings::HAS_MASQUERADED != 0)
    }

    #[inline(always)]
    fn timeouts(&self) -> Timeouts {
        timeouts()
    }

    #[inline(always)]
    fn ports(&self) -> Ports {
        self.settings().map_or(Ports { first: 0, count: 0 }, |settings| settings.ports)
    }

    #[inline(always)]
    fn has_direct(&self) -> bool {
        // SAFETY: as in `made_direct`.
        made_direct().is_some_and(|made| unsafe { made.read_volatile() } != 0)
    }

    #[inline(always)]
    fn say_direct(&self) {
        if let Some(made) = made_direct() {
            say(made);
        }
    }

    #[inline(always)]
    fn is_inside(&self, addr: Addr) -> bool {
        INSIDE.get(&Key::new(128, addr)).is_some()
    }

    #[inline(always)]
    fn admit(&self, now: u64) -> bool {
        self.settings().is_some_and(|settings| spend((FLOWS_BEGUN, now), settings.flows_per_second))
    }
}

/// Whether one more of something may happen on this CPU in this second, which is 2^30 ns here.
#[inline(always)]
fn spend((what, now): (u32, u64), most: u32) -> bool {
    let Some(spent) = SPENT.get_ptr_mut(what) else { return false };
    let second = now >> 30;
    // SAFETY: the element is this CPU's alone.
    unsafe {
        let [since, count] = *spent;
        if since != second {
            *spent = [second, 1];
            return most != 0;
        }
        *spent = [since, count + 1];
        count < most as u64
    }
}
