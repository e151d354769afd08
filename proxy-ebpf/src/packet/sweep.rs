//! The sweep: removes the records whose time is over, and leaves the mark of its round for each that lives. The kernel walks the
//! table; nothing is copied to anybody, and no packet waits.

use aya_ebpf::bindings::seq_file;
use aya_ebpf::helpers::generated::{bpf_ktime_get_ns, bpf_seq_write};
use proxy_common::flow::{Flow, FlowKey, swept};
use proxy_common::nat::is_alive;

use crate::{flows, store};

/// The kernel's `bpf_iter_meta`, whose first member is all that is read.
#[repr(C)]
pub struct Meta {
    seq: *mut seq_file,
}

/// The kernel's `bpf_iter__bpf_map_elem`: each member is a pointer in eight bytes.
#[repr(C)]
pub struct ElementContext {
    meta: *mut Meta,
    map: *mut core::ffi::c_void,
    key: *const FlowKey,
    value: *const Flow,
}

/// One record. A packet that comes just now may lose what it has just kept alive; the other records of its flow make it anew,
/// within [`proxy_common::nat::REFRESH`].
#[inline(always)]
pub fn one(ctx: *mut ElementContext) {
    // SAFETY: the context is valid, and both pointers that may be null (they are, at the end of the table) are checked before
    // they are read, at places that the kernel bounds by the sizes of the table.
    let (key, flow) = unsafe {
        let (key, value) = ((*ctx).key, (*ctx).value);
        if key.is_null() || value.is_null() {
            return;
        }
        let flags = (&raw const (*value).flags).read_volatile();
        let used = (&raw const (*value).used).read_volatile();
        (words(key), Flow { flags, used, ..Flow::EMPTY })
    };
    // SAFETY: the helper takes nothing and returns a number. It is the clock of records, read finer: programs of this type have
    // no other.
    let now = unsafe { bpf_ktime_get_ns() };
    let lives = is_alive(&flow, key.proto, &flows::timeouts(), now);
    if lives {
        flows::mark(&key);
        store::keep_elsewhere(&key, flow.has(Flow::APART));
    } else {
        store::forget(&key, flow.has(Flow::APART));
    }
    let seen = swept(key.part, lives, &flow);
    // SAFETY: the context is valid. A full buffer makes the kernel hand out what it has and show this record again.
    unsafe { bpf_seq_write((*(*ctx).meta).seq, (&raw const seen).cast(), 1) };
}

/// Copies a key by words: the compiler would call a function that copies bytes.
#[inline(always)]
unsafe fn words(from: *const FlowKey) -> FlowKey {
    const WORDS: usize = size_of::<FlowKey>() / 4;
    let mut key = FlowKey::EMPTY;
    let to = (&raw mut key).cast::<u32>();
    let mut index = 0;
    while index < WORDS {
        // SAFETY: a key is so many aligned words.
        unsafe { to.add(index).write_volatile(from.cast::<u32>().add(index).read_volatile()) };
        index += 1;
    }
    key
}
