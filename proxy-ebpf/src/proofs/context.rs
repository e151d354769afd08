//! Reads and writes the context of a socket hook. The shipped programs have their own in `sock.rs`, which knows
//! verdicts; this one knows only addresses.

use aya_ebpf::bindings::bpf_sock_addr;
use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use aya_ebpf::helpers::generated::bpf_get_netns_cookie;
use aya_ebpf::programs::SockAddrContext;
use proxy_common::addr::{Addr, Port};

use crate::layout::Vip;

/// Let the system call go on.
pub const ALLOW: i32 = 1;
/// Fail the system call.
pub const REFUSE: i32 = 0;

const IPPROTO_UDP: u32 = 17;

/// The hook's family.
#[derive(Clone, Copy)]
pub enum Family {
    /// `connect4`, `getpeername4`.
    V4,
    /// `connect6`, `getpeername6`; the address may be IPv4-mapped.
    V6,
}

/// Whether the socket is a UDP socket.
#[inline(always)]
pub fn is_udp(ctx: &SockAddrContext) -> bool {
    // SAFETY: the kernel hands every program a valid context.
    unsafe { (&raw const (*ctx.sock_addr).protocol).read_volatile() == IPPROTO_UDP }
}

/// The calling process.
#[inline(always)]
pub fn tgid() -> u32 {
    (bpf_get_current_pid_tgid() >> 32) as u32
}

/// Cookie of the socket's network namespace.
#[inline(always)]
pub fn netns(ctx: &SockAddrContext) -> u64 {
    // SAFETY: the context is valid; the helper accepts it for every sock_addr program.
    unsafe { bpf_get_netns_cookie(ctx.sock_addr.cast()) }
}

/// The address in the context.
#[inline(always)]
pub fn destination(ctx: &SockAddrContext, family: Family) -> Vip {
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
        Vip { addr, port, pad: 0 }
    }
}

/// Puts an address into the context. The caller's table never pairs an IPv4 VIP with an IPv6 address.
#[inline(always)]
pub fn set_destination(ctx: &SockAddrContext, family: Family, addr: Addr, port: Port) {
    let sa: *mut bpf_sock_addr = ctx.sock_addr;
    // SAFETY: as in `destination`.
    unsafe {
        match family {
            Family::V4 => (&raw mut (*sa).user_ip4).write_volatile(addr.v4_word()),
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
}
