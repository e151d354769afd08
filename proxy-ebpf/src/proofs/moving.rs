//! Connected UDP sockets that can be moved: a record on each socket, and an iterator that lists the records of all
//! network namespaces.
//!
//! A record is replaced by delete and create, never written in place: the iterator takes no socket lock, and a
//! record written word by word could be listed half old and half new.

use aya_ebpf::Global;
use aya_ebpf::bindings::bpf_sock;
use aya_ebpf::btf_maps::{Array, HashMap, SkStorage};
use aya_ebpf::helpers::generated::{bpf_get_socket_cookie, bpf_seq_write, bpf_set_retval};
use aya_ebpf::macros::{btf_map, cgroup_sock_addr};
use aya_ebpf::programs::SockAddrContext;

use crate::context::{self, ALLOW, Family, REFUSE, read_destination, write_destination};
use crate::layout::{Backend, Listed, Record, Vip};
use crate::registry::tgid;

const ENOBUFS: i32 = 105;
const IPPROTO_UDP: u32 = 17;

#[btf_map]
static PROOF_VIPS: HashMap<Vip, u32, 64> = HashMap::new();
#[btf_map]
static PROOF_BACKENDS: Array<Backend, 16> = Array::new();
#[btf_map]
static PROOF_UDP_SOCKETS: SkStorage<Record> = SkStorage::new();

/// The process that moves sockets, set before the load: its connects leave the record's process as it was.
#[unsafe(no_mangle)]
static PROOF_MOVER: Global<u32> = Global::new(0);

#[cgroup_sock_addr(connect4)]
pub fn proof_move_connect4(ctx: SockAddrContext) -> i32 {
    connect(&ctx, Family::V4)
}

#[cgroup_sock_addr(connect6)]
pub fn proof_move_connect6(ctx: SockAddrContext) -> i32 {
    connect(&ctx, Family::V6)
}

#[cgroup_sock_addr(getpeername4)]
pub fn proof_move_getpeername4(ctx: SockAddrContext) -> i32 {
    getpeername(&ctx, Family::V4)
}

#[cgroup_sock_addr(getpeername6)]
pub fn proof_move_getpeername6(ctx: SockAddrContext) -> i32 {
    getpeername(&ctx, Family::V6)
}

#[inline(always)]
fn connect(ctx: &SockAddrContext, family: Family) -> i32 {
    if context::protocol(ctx) != IPPROTO_UDP {
        return ALLOW;
    }
    let (addr, port) = read_destination(ctx, family);
    let frontend = Vip { addr, port, pad: 0 };
    let owner = take_owner(ctx);
    // SAFETY: the value is copied at once; the test never deletes a VIP under a connect.
    let Some(id) = (unsafe { PROOF_VIPS.get(frontend).copied() }) else {
        return ALLOW;
    };
    let Some(backend) = PROOF_BACKENDS.get(id) else {
        return ALLOW;
    };
    let mut record = Record {
        netns: context::netns(ctx),
        frontend,
        backend: id,
        generation: backend.generation,
        tgid: owner,
    };
    // SAFETY: the storage belongs to the socket of this context, which is locked for the time of the hook.
    if unsafe { PROOF_UDP_SOCKETS.get_or_insert_ptr_mut(ctx, Some(&mut record)) }.is_null() {
        // A socket without a record could never be moved; the caller hears of it now.
        // SAFETY: the helper takes a number.
        unsafe { bpf_set_retval(-ENOBUFS) };
        return REFUSE;
    }
    if id != 0 && !write_destination(ctx, family, backend.addr, backend.port) {
        return REFUSE;
    }
    ALLOW
}

/// Removes the socket's record and returns whose socket it is: the mover's connects keep the owner.
#[inline(always)]
fn take_owner(ctx: &SockAddrContext) -> u32 {
    let caller = tgid();
    // SAFETY: as in `connect`; the field is read before the record is deleted, and the socket is null-checked.
    unsafe {
        let stored = PROOF_UDP_SOCKETS.get_ptr_mut(ctx);
        let Some(record) = stored.as_ref() else {
            return caller;
        };
        let owner = record.tgid;
        let sk: *mut bpf_sock = (*ctx.sock_addr).__bindgen_anon_1.sk;
        if !sk.is_null() {
            // Fails only where there is no record, which is what is wanted.
            let _ = PROOF_UDP_SOCKETS.delete(sk);
        }
        if caller == PROOF_MOVER.load() { owner } else { caller }
    }
}

#[inline(always)]
fn getpeername(ctx: &SockAddrContext, family: Family) -> i32 {
    // SAFETY: as in `connect`; the record is copied at once.
    let Some(record) = (unsafe { PROOF_UDP_SOCKETS.get_ptr_mut(ctx).as_ref().copied() }) else {
        return ALLOW;
    };
    let (addr, port) = read_destination(ctx, family);
    // A socket that was disconnected and connected to something else keeps its real peer.
    if PROOF_BACKENDS.get(record.backend).is_some_and(|it| it.addr == addr && it.port == port) {
        write_destination(ctx, family, record.frontend.addr, record.frontend.port);
    }
    ALLOW
}

/// The kernel's `bpf_iter_meta`, whose first member is all that is read.
#[repr(C)]
struct IterMeta {
    seq: *mut aya_ebpf::bindings::seq_file,
}

/// The kernel's `bpf_iter__bpf_sk_storage_map`: each member is a pointer in eight bytes.
#[repr(C)]
struct StorageContext {
    meta: *mut IterMeta,
    map: *mut core::ffi::c_void,
    sk: *mut core::ffi::c_void,
    value: *mut Record,
}

/// Lists every record of the map that the link names, of all network namespaces.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/bpf_sk_storage_map")]
extern "C" fn proof_move_list(ctx: *mut StorageContext) -> i32 {
    // SAFETY: the context is valid, and both pointers that may be null (they are, at the end of the list) are checked
    // before they are used.
    unsafe {
        let (sk, value) = ((*ctx).sk, (*ctx).value);
        if sk.is_null() || value.is_null() {
            return 0;
        }
        let listed = Listed { cookie: bpf_get_socket_cookie(sk), record: *value };
        // A full buffer makes the kernel hand out what it has and show this record again.
        bpf_seq_write((*(*ctx).meta).seq, (&raw const listed).cast(), size_of::<Listed>() as u32);
    }
    0
}
