//! The store of records: at their places, in the hash table, or apart, see [`place`](proxy_common::place).
//!
//! What is done to it are functions of their own, which the verifier goes through once, whoever calls them.

use core::mem::offset_of;

use aya_ebpf::btf_maps::{HashMap, LruHashMap};
use aya_ebpf::macros::btf_map;
use proxy_common::flow::{Flow, FlowKey};
use proxy_common::names;
use proxy_common::nat::may_renew;
use proxy_common::place::Owner;

use crate::flows::{NO_PREALLOC, apart, say, timeouts};
use crate::places::{self, Spot};

/// `BPF_NOEXIST`.
const NO_EXIST: u64 = 1;

#[btf_map]
static FLOWS: HashMap<FlowKey, Flow, { names::FLOWS_MAX as usize }, NO_PREALLOC> = HashMap::new();
/// Flows that lie apart: what is used least makes room.
#[btf_map]
static OPENING: LruHashMap<FlowKey, Flow, { names::OPENING_MAX as usize }> = LruHashMap::new();

/// Where a record is that lies at no place of its own.
const ELSEWHERE: u32 = u32::MAX;
/// Where one is that is not there.
const NOWHERE: u32 = u32::MAX - 1;

/// Reads the record of a key, and says where it is.
#[inline(always)]
pub fn find(key: &FlowKey, flow: &mut Flow) -> Option<u32> {
    if let Some((owner, at, words)) = spot(key)
        && places::lies(owner, words)
    {
        *flow = places::read(words);
        return Some(at);
    }
    match shunt_find(key, flow) {
        NOWHERE => None,
        at => Some(at),
    }
}

/// Writes when a record that was found was used last, and its flags: what they were, and what they are to be. Only those change that
/// differ.
///
/// It can only be another flow's by now if this one was over, or is begun anew, at this very moment: then that flow counts as used
/// just now, and by a flag that is not its own may idle for as long as one that is finished, or open.
#[inline(always)]
pub fn note(key: &FlowKey, at: u32, (old, new): (u16, u16), used: u64) {
    if at == ELSEWHERE {
        shunt_note(key, old as u32 | (new as u32) << 16, used);
    } else if let Some(words) = places::words(at) {
        places::note(words, used, ((new & !old) as u64, (old & !new) as u64));
    }
}

/// Reads the record of a key into `flow`, and says where it is: a place, [`ELSEWHERE`] or [`NOWHERE`].
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn shunt_find(key: *const FlowKey, flow: *mut Flow) -> u32 {
    // SAFETY: as `key_of` says.
    let Some((key, flow)) = key_of(key).zip(unsafe { flow.as_mut() }) else { return NOWHERE };
    let found = find_main(key, flow);
    if found.is_some() || !has_apart() {
        return found.unwrap_or(NOWHERE);
    }
    if let Some(there) = OPENING.get_ptr(key) {
        copy(there, flow);
        return ELSEWHERE;
    }
    // It may just have been moved.
    find_main(key, flow).unwrap_or(NOWHERE)
}

/// [`note`] for a record that lies at no place of its own; the lower half of `flags` is what they were.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn shunt_note(key: *const FlowKey, flags: u32, used: u64) -> u32 {
    let (old, new) = (flags as u16, (flags >> 16) as u16);
    if let Some(there) = key_of(key).and_then(elsewhere) {
        // SAFETY: both are words of a record.
        let words = unsafe { (there.cast::<u64>().add(FLAGS_WORD), &raw mut (*there).used) };
        places::write_notes(words, used, (whole(new & !old), whole(old & !new)));
    }
    0
}

/// Writes a record over the one that its key has in the main table, if [`may_renew`] says so; zero: it does not. What lives on for
/// a while is removed by nobody now.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn shunt_renew(key: *const FlowKey, flow: *const Flow) -> u32 {
    // SAFETY: as `key_of` says.
    let Some((key, flow)) = key_of(key).zip(unsafe { flow.as_ref() }) else { return 0 };
    let may = |old: &Flow| may_renew(old, flow, key.proto, &timeouts());
    if let Some((owner, _, words)) = spot(key) {
        match places::look(owner, words) {
            Spot::Its if may(&places::read(words)) => {
                places::write(words, flow);
                return 1;
            }
            Spot::Its | Spot::Nowhere => return 0,
            Spot::Elsewhere => {}
        }
    }
    let Some(there) = FLOWS.get_ptr_mut(key) else { return 0 };
    // SAFETY: the map returned a live element.
    let is_renewed = may(unsafe { &*there });
    if is_renewed {
        copy(flow, unsafe { &mut *there });
    }
    u32::from(is_renewed)
}

/// What [`shunt_claim`] says: the record is there; another has the key, and its record was read; there is no room.
pub const MADE: u32 = 0;
pub const TAKEN: u32 = 1;
pub const FULL: u32 = 2;

/// Inserts a record in the main table, or apart if it says so, unless another has the key.
///
/// Whoever claims in one table looks into the other before and after: of two at the same time one is late, or both are.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn shunt_claim(key: *const FlowKey, flow: *const Flow, other: *mut Flow) -> u32 {
    // SAFETY: as `key_of` says.
    let Some((flow, other)) = (unsafe { flow.as_ref().zip(other.as_mut()) }) else { return FULL };
    let Some(key) = key_of(key) else { return FULL };
    if claim(key, flow) {
        MADE
    } else if shunt_find(key, other) != NOWHERE {
        TAKEN
    } else {
        FULL
    }
}

#[inline(always)]
fn claim(key: &FlowKey, flow: &Flow) -> bool {
    if flow.has(Flow::APART) {
        !is_in_main(key) && put_apart(key, flow, NO_EXIST) && {
            let is_alone = !is_in_main(key);
            if !is_alone {
                let _ = OPENING.remove(key);
            }
            is_alone
        }
    } else {
        !(has_apart() && OPENING.get_ptr(key).is_some()) && insert_main(key, flow) && {
            let is_alone = !has_apart() || OPENING.get_ptr(key).is_none();
            if !is_alone {
                remove_main(key);
            }
            is_alone
        }
    }
}

/// Writes a record in the main table, or apart if it says so, whatever was there; zero: there is no room.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn shunt_put(key: *const FlowKey, flow: *const Flow) -> u32 {
    // SAFETY: as `key_of` says.
    let Some((key, flow)) = key_of(key).zip(unsafe { flow.as_ref() }) else { return 0 };
    if flow.has(Flow::APART) {
        // It would be found instead.
        remove_main(key);
        return u32::from(put_apart(key, flow, 0));
    }
    u32::from(put_main(key, flow))
}

/// Moves a record that lay apart into the main table; zero: there is no room, and it stays where it is.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn shunt_settle(key: *const FlowKey, flow: *const Flow) -> u32 {
    // SAFETY: as `key_of` says.
    let Some((key, flow)) = key_of(key).zip(unsafe { flow.as_ref() }) else { return 0 };
    let is_settled = put_main(key, flow);
    if is_settled {
        let _ = OPENING.remove(key);
    }
    u32::from(is_settled)
}

/// Removes a record from wherever it is.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn shunt_remove(key: *const FlowKey) -> u32 {
    if let Some(key) = key_of(key) {
        remove_main(key);
        let _ = OPENING.remove(key);
    }
    0
}

/// What a caller has given. The verifier goes through functions of this kind without a caller, and takes any pointer for one that
/// may be null, of memory that is as large as its type; callers it holds to that.
#[inline(always)]
fn key_of<'a>(key: *const FlowKey) -> Option<&'a FlowKey> {
    // SAFETY: see above.
    unsafe { key.as_ref() }
}

/// The place of a key, and its owner there; `None`: it is of IPv6.
#[inline(always)]
fn spot(key: &FlowKey) -> Option<(Owner, u32, *mut u64)> {
    let owner = Owner::new(key)?;
    let at = owner.place();
    Some((owner, at, places::words(at)?))
}

/// Reads the record of a key in the main table, and says where it is.
#[inline(always)]
fn find_main(key: &FlowKey, flow: &mut Flow) -> Option<u32> {
    if let Some((owner, at, words)) = spot(key) {
        match places::look(owner, words) {
            Spot::Its => {
                *flow = places::read(words);
                return Some(at);
            }
            Spot::Nowhere => return None,
            Spot::Elsewhere => {}
        }
    }
    copy(FLOWS.get_ptr(key)?, flow);
    Some(ELSEWHERE)
}

/// The record of a key that lies at no place of its own.
#[inline(always)]
fn elsewhere(key: &FlowKey) -> Option<*mut Flow> {
    let there = FLOWS.get_ptr_mut(key);
    if there.is_none() && has_apart() { OPENING.get_ptr_mut(key) } else { there }
}

/// Whether the main table has a record of a key, or is just getting one.
#[inline(always)]
fn is_in_main(key: &FlowKey) -> bool {
    if let Some((owner, _, words)) = spot(key) {
        if places::is_its(owner, words) {
            return true;
        }
        if places::look(owner, words) == Spot::Nowhere {
            return false;
        }
    }
    FLOWS.get_ptr(key).is_some()
}

/// Inserts a record into the main table; false: another has the key, or there is no room.
#[inline(always)]
fn insert_main(key: &FlowKey, flow: &Flow) -> bool {
    let Some((owner, _, words)) = spot(key) else { return FLOWS.insert(key, flow, NO_EXIST).is_ok() };
    if places::is_its(owner, words) {
        return false;
    }
    if places::take(owner, words) {
        if places::is_elsewhere(words) && FLOWS.get_ptr(key).is_some() {
            places::leave(owner, words);
            return false;
        }
        places::settle(owner, words, flow);
        return true;
    }
    // Said before it is so, and looked after once it is: of two at the same time one is late, or both are.
    places::say_elsewhere(words);
    FLOWS.insert(key, flow, NO_EXIST).is_ok() && {
        let is_alone = !places::is_its(owner, words);
        if !is_alone {
            let _ = FLOWS.remove(key);
        }
        is_alone
    }
}

/// Writes a record into the main table, whatever was there; false: there is no room.
#[inline(always)]
fn put_main(key: &FlowKey, flow: &Flow) -> bool {
    if let Some((owner, _, words)) = spot(key) {
        match places::look(owner, words) {
            Spot::Its => {
                places::write(words, flow);
                return true;
            }
            Spot::Elsewhere if FLOWS.get_ptr(key).is_some() => {}
            _ if places::take(owner, words) => {
                places::settle(owner, words, flow);
                return true;
            }
            _ => places::say_elsewhere(words),
        }
    }
    FLOWS.insert(key, flow, 0).is_ok()
}

/// Removes a record from the main table.
#[inline(always)]
fn remove_main(key: &FlowKey) {
    if let Some((owner, _, words)) = spot(key) {
        places::give_back(owner, words);
        if !places::is_elsewhere(words) {
            return;
        }
    }
    let _ = FLOWS.remove(key);
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

/// Renews the mark at the place of a record that lives elsewhere, by which it is found.
#[inline(always)]
pub fn keep_elsewhere(key: &FlowKey, is_apart: bool) {
    if !is_apart && let Some((_, _, words)) = spot(key) {
        places::say_elsewhere(words);
    }
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

/// The word of a record that has its flags in its last two bytes. Rust has no atomics for this target.
const FLAGS_WORD: usize = offset_of!(Flow, flags) / 8;
const _: () = assert!(offset_of!(Flow, flags) % 8 == 6);

/// Words of a record.
const WORDS: usize = size_of::<Flow>() / 8;

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
