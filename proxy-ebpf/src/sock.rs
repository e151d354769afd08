//! Socket hooks: a context becomes a tuple, the verdict becomes a rewritten context.

use aya_ebpf::bindings::bpf_sock_addr;
use aya_ebpf::helpers::bpf_get_prandom_u32;
use aya_ebpf::helpers::generated::{bpf_get_netns_cookie, bpf_set_retval};
use aya_ebpf::programs::SockAddrContext;
use proxy_common::addr::{Addr, Port, Proto};
use proxy_common::lb::{Draw, Origin, Packet, Pick, Tuple, is_foreign, translate};
use proxy_common::socket::TcpRecord;

use crate::maps::{self, HOST_NETNS, Kernel};
use crate::verdict::{self, ALLOW};

/// The hook's family. An IPv6 hook may still carry an IPv4-mapped address, which goes the IPv4 way.
#[derive(Clone, Copy)]
pub enum Family {
    V4,
    V6,
}

const IPPROTO_TCP: u32 = 6;

/// `connect()`: a translated socket goes straight to its backend, so that packets carry the real addresses and
/// nothing has to be undone.
#[inline(always)]
pub fn connect(ctx: &SockAddrContext, family: Family) -> i32 {
    // SAFETY: the kernel hands every program a valid context.
    let protocol = unsafe { (&raw const (*ctx.sock_addr).protocol).read_volatile() };
    if protocol != IPPROTO_TCP || maps::is_device_bound(ctx) {
        return ALLOW;
    }
    let (addr, port) = read_destination(ctx, family);
    if is_foreign(&Kernel, addr) {
        return ALLOW;
    }
    let packet = Packet { tuple: Tuple { addr, port, proto: Proto::TCP }, origin: origin(ctx) };
    // SAFETY: the helper takes nothing and returns a number.
    let draw = Draw { entropy: unsafe { bpf_get_prandom_u32() } };
    verdict::apply(ctx, translate(&Kernel, &packet, &draw), |pick| forward(ctx, family, &packet.tuple, pick))
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
    if let Some(record) = maps::recall_tcp(ctx) {
        // A socket that was connected elsewhere since keeps its real peer.
        if read_destination(ctx, family) == (record.backend, record.backend_port) {
            write_destination(ctx, family, record.frontend, record.frontend_port);
        }
    }
    ALLOW
}

#[inline(always)]
fn forward(ctx: &SockAddrContext, family: Family, tuple: &Tuple, pick: &Pick) -> i32 {
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

#[inline(always)]
fn origin(ctx: &SockAddrContext) -> Origin {
    // SAFETY: the context is valid; the helper accepts it for every sock_addr program.
    let cookie = unsafe { bpf_get_netns_cookie(ctx.sock_addr.cast()) };
    if cookie == HOST_NETNS.load() { Origin::Host } else { Origin::Pod }
}

#[inline(always)]
fn read_destination(ctx: &SockAddrContext, family: Family) -> (Addr, Port) {
    let sa = ctx.sock_addr;
    // SAFETY: the context is valid. Each field is read by itself and volatile: the verifier refuses a read through
    // an address derived from the context.
    unsafe {
        let port = Port::from_be((&raw const (*sa).user_port).read_volatile() as u16);
        let addr = match family {
            Family::V4 => Addr::from_v4_word((&raw const (*sa).user_ip4).read_volatile()),
            Family::V6 => Addr::from_words([
                (&raw const (*sa).user_ip6[0]).read_volatile(),
                (&raw const (*sa).user_ip6[1]).read_volatile(),
                (&raw const (*sa).user_ip6[2]).read_volatile(),
                (&raw const (*sa).user_ip6[3]).read_volatile(),
            ]),
        };
        (addr, port)
    }
}

/// Returns whether the address fits the hook's family; an IPv4 socket cannot reach an IPv6 backend.
#[inline(always)]
fn write_destination(ctx: &SockAddrContext, family: Family, addr: Addr, port: Port) -> bool {
    let sa: *mut bpf_sock_addr = ctx.sock_addr;
    // SAFETY: as in `read_destination`.
    unsafe {
        match family {
            Family::V4 => {
                if !addr.is_v4() {
                    return false;
                }
                (&raw mut (*sa).user_ip4).write_volatile(addr.v4_word());
            }
            Family::V6 => {
                let [a, b, c, d] = addr.words();
                (&raw mut (*sa).user_ip6[0]).write_volatile(a);
                (&raw mut (*sa).user_ip6[1]).write_volatile(b);
                (&raw mut (*sa).user_ip6[2]).write_volatile(c);
                (&raw mut (*sa).user_ip6[3]).write_volatile(d);
            }
        }
        (&raw mut (*sa).user_port).write_volatile(u32::from(port.to_be()));
    }
    true
}
