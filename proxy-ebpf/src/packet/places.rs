//! Records at their places, see [`place`].

use aya_ebpf::btf_maps::Array;
use aya_ebpf::macros::btf_map;
use proxy_common::flow::Flow;
use proxy_common::mark;
use proxy_common::nat::Glance;
use proxy_common::place::{self, FLAGS, OWNER, Owner, Place, USED, VALUE};

use crate::flows::{jiffy, round};
use crate::maps::MMAPABLE;

/// Elements that can be mapped begin with a page, so that each of these is one cache line.
#[btf_map]
static PLACES: Array<Place, { place::PLACES as usize }, MMAPABLE> = Array::new();

/// What a place is to the owner of a record.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Spot {
    /// Its record lies there.
    Its,
    /// It does not, and may lie elsewhere.
    Elsewhere,
    /// There is none.
    Nowhere,
}

/// The words of a place.
#[inline(always)]
pub fn words(at: u32) -> Option<*mut u64> {
    PLACES.get_ptr_mut(at).map(|place| place.cast::<u64>())
}

#[inline(always)]
unsafe fn get(words: *mut u64, index: usize) -> u64 {
    // SAFETY: the caller has the words of a place, which are so many.
    unsafe { words.add(index).read_volatile() }
}

#[inline(always)]
unsafe fn set(words: *mut u64, index: usize, word: u64) {
    // SAFETY: as above.
    unsafe { words.add(index).write_volatile(word) }
}

/// Where the mark of those that lie elsewhere is.
#[inline(always)]
unsafe fn elsewhere(words: *mut u64) -> *mut u8 {
    let at = if cfg!(target_endian = "little") { 2 } else { 5 };
    // SAFETY: the caller has the words of a place.
    unsafe { words.add(FLAGS).cast::<u8>().add(at) }
}

#[inline(always)]
unsafe fn flags(words: *mut u64) -> *mut u16 {
    let at = if cfg!(target_endian = "little") { 0 } else { 3 };
    // SAFETY: the caller has the words of a place.
    unsafe { words.add(FLAGS).cast::<u16>().add(at) }
}

/// When the last use was written, see [`jiffy`].
#[inline(always)]
unsafe fn noted(words: *mut u64) -> *mut u32 {
    let at = if cfg!(target_endian = "little") { 1 } else { 0 };
    // SAFETY: the caller has the words of a place.
    unsafe { words.add(FLAGS).cast::<u32>().add(at) }
}

/// What the place of an owner is to it.
#[inline(always)]
pub fn look(owner: Owner, words: *mut u64) -> Spot {
    if lies(owner, words) {
        Spot::Its
    } else if is_elsewhere(words) {
        Spot::Elsewhere
    } else {
        Spot::Nowhere
    }
}

/// Whether the record of an owner lies there.
#[inline(always)]
pub fn lies(owner: Owner, words: *mut u64) -> bool {
    // SAFETY: the caller has the words of a place.
    unsafe { get(words, OWNER) == owner.lives() && get(words, 0) == owner.ends }
}

/// Whether a record of this place may lie elsewhere.
#[inline(always)]
pub fn is_elsewhere(words: *mut u64) -> bool {
    // SAFETY: the caller has the words of a place.
    unsafe { mark::is_fresh(elsewhere(words).read_volatile(), round()) }
}

/// Whether the record of an owner lies there, or is just being written.
#[inline(always)]
pub fn is_its(owner: Owner, words: *mut u64) -> bool {
    // SAFETY: the caller has the words of a place.
    lies(owner, words) || unsafe { get(words, OWNER) } == owner.busy()
}

/// What lies there.
#[inline(always)]
pub fn read(words: *mut u64) -> Flow {
    // SAFETY: the caller has the words of a place.
    unsafe {
        let value = [VALUE, VALUE + 1, VALUE + 2, VALUE + 3, USED].map(|index| get(words, index));
        place::flow(value, flags(words).read_volatile())
    }
}

/// Reads of a record what [`Glance`] has.
#[inline(always)]
pub fn glance(owner: Owner) -> Option<(u32, Glance)> {
    let at = owner.place();
    let words = words(at)?;
    if !lies(owner, words) {
        return None;
    }
    let Flow { becomes, port, flags, mac, .. } = read(words);
    // SAFETY: these are the words of a place.
    let idle = jiffy().wrapping_sub(unsafe { noted(words).read_volatile() });
    Some((at, Glance { becomes, port, flags, idle, mac }))
}

/// Writes a record over the owner's that lies there.
#[inline(always)]
pub fn write(words: *mut u64, flow: &Flow) {
    let value = place::words(flow);
    // SAFETY: the caller has the words of a place where the record lies.
    unsafe {
        let mut index = VALUE;
        while index <= USED {
            set(words, index, value[index - VALUE]);
            index += 1;
        }
        flags(words).write_volatile(flow.flags);
        noted(words).write_volatile(jiffy());
    }
}

/// Writes to a record that lies there when it was used last, and its flags: bits to set, and bits to clear.
#[inline(always)]
pub fn note(words: *mut u64, used: u64, (set, clear): (u64, u64)) {
    // SAFETY: the caller has the words of a place.
    unsafe {
        noted(words).write_volatile(jiffy());
        write_notes((words.add(FLAGS), words.add(USED)), used, (set, clear));
    }
}

/// Writes to a record, wherever it lies, when it was used last, and its flags: bits to set, and bits to clear.
#[inline(always)]
pub fn write_notes((flags, used): (*mut u64, *mut u64), now: u64, (set, clear): (u64, u64)) {
    // SAFETY: the caller has two words of a record.
    unsafe {
        used.write_volatile(now);
        if set != 0 {
            core::arch::asm!("lock *(u64 *)({flags} + 0) |= {set}", flags = in(reg) flags, set = in(reg) set);
        }
        if clear != 0 {
            core::arch::asm!("lock *(u64 *)({flags} + 0) &= {left}", flags = in(reg) flags, left = in(reg) !clear);
        }
    }
}

/// Takes a free place for an owner, whose record is not there until [`settle`]. False: it is another's.
#[inline(always)]
pub fn take(owner: Owner, words: *mut u64) -> bool {
    // SAFETY: the caller has the words of a place.
    unsafe {
        let there = get(words, OWNER);
        place::is_free(there, round()) && swap(words.add(OWNER), there, owner.busy())
    }
}

/// A record lies at the place that its owner has taken from here on.
#[inline(always)]
pub fn settle(owner: Owner, words: *mut u64, flow: &Flow) {
    write(words, flow);
    // SAFETY: the caller has the words of a place that is its own.
    unsafe {
        set(words, 0, owner.ends);
        swap(words.add(OWNER), owner.busy(), owner.lives());
    }
}

/// Gives a place back: one that was taken, or one where the record lies. Nobody uses it again in this round.
#[inline(always)]
pub fn give_back(owner: Owner, words: *mut u64) {
    let freed = place::freed(round());
    // SAFETY: the caller has the words of a place.
    unsafe {
        if get(words, 0) == owner.ends {
            swap(words.add(OWNER), owner.lives(), freed);
        }
    }
}

/// Gives back a place that was taken, and where no record lies yet.
#[inline(always)]
pub fn leave(owner: Owner, words: *mut u64) {
    // SAFETY: the caller has the words of a place.
    unsafe { swap(words.add(OWNER), owner.busy(), place::freed(round())) };
}

/// Says that a record of this place lies elsewhere.
#[inline(always)]
pub fn say_elsewhere(words: *mut u64) {
    // SAFETY: the caller has the words of a place.
    unsafe { elsewhere(words).write_volatile(mark::of_round(round())) };
}

/// Writes a word if it is as expected, whole; all that was written before is there for whoever reads it. Whether it was so.
#[inline(always)]
unsafe fn swap(word: *mut u64, from: u64, to: u64) -> bool {
    let old: u64;
    // SAFETY: the caller has a word of a place.
    unsafe {
        core::arch::asm!(
            "r0 = cmpxchg_64({word} + 0, r0, {to})",
            word = in(reg) word,
            to = in(reg) to,
            inlateout("r0") from => old,
        );
    }
    old == from
}
