//! The records of flows, and what the agent tells the packet path.

use core::mem::offset_of;

use aya_ebpf::bindings::bpf_fib_lookup;
use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::btf_maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, ProgramArray};
use aya_ebpf::helpers::bpf_get_prandom_u32;
use aya_ebpf::macros::btf_map;
use aya_ebpf::programs::TcContext;
use proxy_common::addr::Addr;
use proxy_common::affinity::{AffinityKey, Memory};
use proxy_common::flow::{End, Flow, FlowKey, Part};
use proxy_common::lb::{Origin, Pick};
use proxy_common::mark::{self, Marks};
use proxy_common::names;
use proxy_common::nat::fragment::{FragmentKey, FragmentValue};
use proxy_common::nat::{Claim, Device, Flows, Ports, Settings, Timeouts, Work};
use proxy_common::packet::Headers;
use proxy_common::packet::refusal::Answer;

use crate::maps::clients;

/// `BPF_F_NO_PREALLOC`: elements are allocated as they come.
const NO_PREALLOC: usize = 1;
/// `BPF_F_MMAPABLE`: the agent counts rounds through a mapping.
const MMAPABLE: usize = 1 << 10;
/// `BPF_NOEXIST`.
const NO_EXIST: u64 = 1;

#[btf_map]
static FLOWS: HashMap<FlowKey, Flow, { names::FLOWS_MAX as usize }, NO_PREALLOC> = HashMap::new();
/// Flows that lie apart: what is used least makes room.
#[btf_map]
static OPENING: LruHashMap<FlowKey, Flow, { names::OPENING_MAX as usize }> = LruHashMap::new();
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
    SendOn = 7,
    RequestPasses = 8,
    ReplyPasses = 9,
    Direct = 10,
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
    /// Not zero: the packet is a request that was just sent on, and may go past the stack.
    pub may_pass: u8,
    /// Where such a request goes.
    pub backend: Addr,
    /// What a route is looked up for: source, destination, device, class.
    pub fib_ends: (Addr, Addr, u32, u32),
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

/// Says that a record of a kind is about to be there.
#[inline(always)]
fn say(when: *mut u64) {
    let now = clients::now();
    // SAFETY: the caller has a word of the marks.
    unsafe {
        if when.read_volatile() != now {
            when.write_volatile(now);
        }
    }
}

/// When a record was last put apart; zero: there are none.
#[inline(always)]
fn apart() -> Option<*mut u64> {
    // SAFETY: the map returned a live element.
    MARKS.get_ptr_mut(0).map(|marks| unsafe { &raw mut (*marks).apart })
}

/// The same for records of [`Flow::DIRECT`].
#[inline(always)]
fn made_direct() -> Option<*mut u64> {
    // SAFETY: the map returned a live element.
    MARKS.get_ptr_mut(0).map(|marks| unsafe { &raw mut (*marks).direct })
}

/// Whether any record lies apart.
#[inline(always)]
fn has_apart() -> bool {
    // SAFETY: as in `apart`.
    apart().is_some_and(|apart| unsafe { apart.read_volatile() } != 0)
}

/// Puts a record apart. That there are such is said before.
#[inline(always)]
fn put_apart(key: &FlowKey, flow: &Flow, flags: u64) -> bool {
    let Some(apart) = apart() else { return false };
    say(apart);
    OPENING.insert(key, flow, flags).is_ok()
}

impl Tables<'_> {
    /// Who sends a packet that enters from an address, maybe by a device of pods.
    #[inline(always)]
    pub fn origin(addr: Addr, is_from_pods: bool) -> Origin {
        let is_inside = is_from_pods || INSIDE.get(&Key::new(128, addr)).is_some();
        if is_inside { Origin::Pod } else { Origin::External }
    }

    /// Whether one more refusal may be sent.
    #[inline(always)]
    pub fn may_refuse(&self) -> bool {
        self.settings().is_some_and(|settings| spend(REFUSED, settings.refusals_per_second))
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

/// Removes a record whose time is over.
#[inline(always)]
pub fn forget(key: &FlowKey, is_apart: bool) {
    if is_apart {
        let _ = OPENING.remove(key);
    } else {
        let _ = FLOWS.remove(key);
    }
}

/// How long records live.
#[inline(always)]
pub fn timeouts() -> Timeouts {
    // SAFETY: as in `Tables::settings`.
    SETTINGS.get_ptr(0).map_or(Timeouts::KERNEL, |settings| unsafe { (*settings).timeouts })
}

impl Flows for Tables<'_> {
    type Place = *mut Flow;

    #[inline(always)]
    fn may_know(&self, one: &End, other: &End) -> bool {
        // SAFETY: the place is one of the marks.
        marks(one, other)
            .is_some_and(|(place, round)| mark::is_fresh(unsafe { place.read_volatile() }, round))
    }

    #[inline(always)]
    fn find(&self, key: &FlowKey, flow: &mut Flow) -> Option<*mut Flow> {
        let mut place = FLOWS.get_ptr_mut(key);
        if place.is_none() && has_apart() {
            // It may just have been moved.
            place = OPENING.get_ptr_mut(key).or_else(|| FLOWS.get_ptr_mut(key));
        }
        let place = place?;
        copy(place, flow);
        Some(place)
    }

    #[inline(always)]
    fn note(&self, place: *mut Flow, old: u16, flow: &Flow) {
        let (set, clear) = (flow.flags & !old, old & !flow.flags);
        // SAFETY: the map returned the element to this program, until whose end its memory is that of some record. That of another
        // flow it can only be if this one was over, or is begun anew, at this very moment: then that flow counts as used just
        // now, and by a flag that is not its own may idle for as long as one that is finished, or open.
        unsafe {
            (&raw mut (*place).used).write_volatile(flow.used);
            let flags = place.cast::<u64>().add(FLAGS_WORD);
            if set != 0 {
                core::arch::asm!("lock *(u64 *)({flags} + 0) |= {set}", flags = in(reg) flags, set = in(reg) whole(set));
            }
            if clear != 0 {
                let left = !whole(clear);
                core::arch::asm!("lock *(u64 *)({flags} + 0) &= {left}", flags = in(reg) flags, left = in(reg) left);
            }
        }
    }

    #[inline(always)]
    fn renew(&self, place: *mut Flow, flow: &Flow) {
        let (from, to) = ((&raw const *flow).cast::<u64>(), place.cast::<u64>());
        let mut index = ENDS_WORDS;
        while index < WORDS {
            // SAFETY: as in `note`; a record that lives on for a while is removed by nobody now.
            unsafe { to.add(index).write_volatile(from.add(index).read_volatile()) };
            index += 1;
        }
    }

    #[inline(always)]
    fn claim(&self, key: &FlowKey, flow: &Flow, other: &mut Flow) -> Claim {
        mark(key);
        // Whoever claims in one table looks into the other before and after: of two at the same time one is late, or both are.
        let is_made = if flow.has(Flow::APART) {
            FLOWS.get_ptr(key).is_none() && put_apart(key, flow, NO_EXIST) && {
                let is_alone = FLOWS.get_ptr(key).is_none();
                if !is_alone {
                    let _ = OPENING.remove(key);
                }
                is_alone
            }
        } else {
            !(has_apart() && OPENING.get_ptr(key).is_some()) && FLOWS.insert(key, flow, NO_EXIST).is_ok() && {
                let is_alone = !has_apart() || OPENING.get_ptr(key).is_none();
                if !is_alone {
                    let _ = FLOWS.remove(key);
                }
                is_alone
            }
        };
        if is_made {
            Claim::Made
        } else if self.find(key, other).is_some() {
            Claim::Taken
        } else {
            Claim::Full
        }
    }

    #[inline(always)]
    fn put(&self, key: &FlowKey, flow: &Flow) -> bool {
        mark(key);
        if flow.has(Flow::APART) {
            // It would be found instead.
            let _ = FLOWS.remove(key);
            put_apart(key, flow, 0)
        } else {
            FLOWS.insert(key, flow, 0).is_ok()
        }
    }

    #[inline(always)]
    fn remove(&self, key: &FlowKey) {
        let _ = FLOWS.remove(key);
        let _ = OPENING.remove(key);
    }

    #[inline(always)]
    fn settle(&self, key: &FlowKey, flow: &Flow) -> bool {
        let is_settled = FLOWS.insert(key, flow, 0).is_ok();
        if is_settled {
            let _ = OPENING.remove(key);
        }
        is_settled
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
    fn admit(&self) -> bool {
        self.settings().is_some_and(|settings| spend(FLOWS_BEGUN, settings.flows_per_second))
    }
}

/// Whether one more of something may happen on this CPU in this second, which is 2^30 ns here.
#[inline(always)]
fn spend(what: u32, most: u32) -> bool {
    let Some(spent) = SPENT.get_ptr_mut(what) else { return false };
    let second = clients::now() >> 30;
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

/// The word of a record that has its flags in its last two bytes. Rust has no atomics for this target.
const FLAGS_WORD: usize = offset_of!(Flow, flags) / 8;
const _: () = assert!(offset_of!(Flow, flags) % 8 == 6);

/// Words of a record.
const WORDS: usize = size_of::<Flow>() / 8;
/// Those that hold its two ends.
const ENDS_WORDS: usize = offset_of!(Flow, service) / 8;
const _: () = assert!(offset_of!(Flow, service) % 8 == 0);

/// Flags as they lie in [`FLAGS_WORD`].
#[inline(always)]
const fn whole(flags: u16) -> u64 {
    if cfg!(target_endian = "little") { (flags as u64) << 48 } else { flags as u64 }
}

/// Copies a record by words: the compiler would call a function that copies bytes.
#[inline(always)]
fn copy(from: *const Flow, to: &mut Flow) {
    let (from, to) = (from.cast::<u64>(), (&raw mut *to).cast::<u64>());
    let mut index = 0;
    while index < WORDS {
        // SAFETY: a record is so many aligned words.
        unsafe { to.add(index).write_volatile(from.add(index).read_volatile()) };
        index += 1;
    }
}
