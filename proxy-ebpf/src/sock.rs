//! Socket hooks: a context becomes a tuple, the verdict becomes a rewritten context.

use aya_ebpf::helpers::bpf_get_prandom_u32;
use aya_ebpf::helpers::generated::bpf_set_retval;
use aya_ebpf::programs::{SockAddrContext, SockContext};
use proxy_common::addr::{Addr, Proto};
use proxy_common::lb::{Draw, Origin, Packet, Pick, Tuple, Verdict, is_foreign, is_private, translate};
use proxy_common::socket::TcpRecord;

use crate::context::{self, ALLOW, Family, read_destination, write_destination};
use crate::maps::{self, HOST_NETNS, Kernel};
use crate::{udp, verdict};

const IPPROTO_TCP: u32 = 6;
const IPPROTO_UDP: u32 = 17;

/// `connect()`: a translated socket goes straight to its backend, so that packets carry the real addresses and
/// nothing has to be undone.
#[inline(always)]
pub fn connect(ctx: &SockAddrContext, family: Family) -> i32 {
    match context::protocol(ctx) {
        IPPROTO_TCP => {}
        IPPROTO_UDP => return udp::connect(ctx, family),
        _ => return ALLOW,
    }
    let (addr, port) = read_destination(ctx, family);
    let Some(origin) = concerned(ctx, addr) else { return ALLOW };
    let packet = Packet { tuple: Tuple { addr, port, proto: Proto::TCP }, origin };
    match translate(&Kernel, &packet, &draw()) {
        Verdict::Forward(pick) => forward(ctx, family, &packet.tuple, &pick),
        verdict => verdict::stop(ctx, verdict),
    }
}

/// The errno that the caller of a refused system call sees. Without one it would be EPERM, which no client expects.
#[inline(always)]
pub fn set_errno(errno: i32) {
    // SAFETY: the helper takes a number.
    unsafe { bpf_set_retval(-errno) };
}

/// `getpeername()`: the application sees the frontend that it dialled.
#[inline(always)]
pub fn getpeername(ctx: &SockAddrContext, family: Family) -> i32 {
    if context::protocol(ctx) == IPPROTO_UDP {
        return udp::getpeername(ctx, family);
    }
    if let Some(record) = maps::recall_tcp(ctx) {
        // A socket that was connected elsewhere since keeps its real peer.
        if read_destination(ctx, family) == (record.backend, record.backend_port) {
            write_destination(ctx, family, record.frontend, record.frontend_port);
        }
    }
    ALLOW
}

/// The last close of a socket: what was remembered of it is forgotten.
#[inline(always)]
pub fn release(ctx: &SockContext) -> i32 {
    // SAFETY: the kernel hands every program a valid context.
    if unsafe { (&raw const (*ctx.sock).protocol).read_volatile() } == IPPROTO_TCP {
        maps::forget_tcp(ctx);
    }
    ALLOW
}

#[inline(always)]
fn forward(ctx: &SockAddrContext, family: Family, tuple: &Tuple, pick: &Pick) -> i32 {
    verdict::note(ctx, pick);
    if !write_destination(ctx, family, pick.addr, pick.port) {
        return ALLOW;
    }
    maps::remember_tcp(
        ctx,
        &TcpRecord {
            frontend: tuple.addr,
            backend: pick.addr,
            frontend_port: tuple.port,
            backend_port: pick.port,
            service: pick.service,
        },
    );
    ALLOW
}

/// What the next decision may not make up by itself.
#[inline(always)]
pub fn draw() -> Draw {
    // SAFETY: the helper takes nothing and returns a number.
    Draw { entropy: unsafe { bpf_get_prandom_u32() } }
}

/// Who sends to `addr`, if that may be ours to serve.
#[inline(always)]
pub fn concerned(ctx: &SockAddrContext, addr: Addr) -> Option<Origin> {
    // In this order: most connections are to foreign addresses, and few sockets are bound to a device.
    if is_foreign(&Kernel, addr) || maps::is_device_bound(ctx) {
        return None;
    }
    let origin = origin(ctx);
    // What `translate` would say too, but pods connect to their own loopback a lot: a sidecar, a local cache.
    if is_private(addr, origin) { None } else { Some(origin) }
}

#[inline(always)]
fn origin(ctx: &SockAddrContext) -> Origin {
    if context::netns(ctx) == HOST_NETNS.load() { Origin::Host } else { Origin::Pod }
}
