//! Lists the connected UDP sockets of all network namespaces that cannot stay as they are.

use aya_ebpf::bindings::seq_file;
use aya_ebpf::helpers::generated::{bpf_get_socket_cookie, bpf_seq_write};
use proxy_common::addr::Proto;
use proxy_common::lb::{Fate, Origin, Packet, Tuple, fate};
use proxy_common::udp::{Pair, Stale, UdpRecord};

use crate::maps::{HOST_NETNS, Kernel};

/// The kernel's `bpf_iter_meta`, whose first member is all that is read.
#[repr(C)]
pub struct Meta {
    seq: *mut seq_file,
}

/// The kernel's `bpf_iter__bpf_sk_storage_map`: each member is a pointer in eight bytes.
#[repr(C)]
pub struct StorageContext {
    meta: *mut Meta,
    map: *mut core::ffi::c_void,
    sk: *mut core::ffi::c_void,
    value: *mut UdpRecord,
}

/// One socket. No lock of it is held, and none can be taken: a record that is just being written may be read half old and
/// half new. Whoever gets the list looks at the socket itself before anything is done to it.
#[inline(always)]
pub fn one(ctx: *mut StorageContext) {
    // SAFETY: the context is valid, and both pointers that may be null (they are, at the end of the list) are checked
    // before they are used.
    unsafe {
        let (sk, value) = ((*ctx).sk, (*ctx).value);
        if sk.is_null() || value.is_null() || (&raw const (*value).pairs.connected).read_volatile() == 0 {
            return;
        }
        let peer: Pair = (&raw const (*value).pairs.peer).read_volatile();
        let netns = (&raw const (*value).netns).read_volatile();
        let fate = fate_of(&peer, netns);
        // Those that wait are listed in any case: as long as there are any, the guard stays in force.
        if matches!(fate, Fate::Stays) && !peer.is_waiting() {
            return;
        }
        let stale = Stale {
            cookie: bpf_get_socket_cookie(sk),
            netns,
            tgid: (&raw const (*value).tgid).read_volatile(),
            service: peer.service,
            frontend: peer.frontend,
            frontend_port: peer.frontend_port,
            pad: 0,
            fate: fate as u32,
        };
        // A full buffer makes the kernel hand out what it has and show this record again.
        bpf_seq_write((*(*ctx).meta).seq, (&raw const stale).cast(), size_of::<Stale>() as u32);
    }
}

#[inline(always)]
fn fate_of(peer: &Pair, netns: u64) -> Fate {
    let tuple = Tuple { addr: peer.frontend, port: peer.frontend_port, proto: Proto::UDP };
    let origin = if netns == HOST_NETNS.load() { Origin::Host } else { Origin::Pod };
    let held = peer.held();
    let held = if peer.is_waiting() { None } else { Some(&held) };
    fate(&Kernel, &Packet { tuple, origin }, held)
}
