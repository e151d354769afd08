//! The context of a socket hook, read and written field by field. Shared with the programs of `proofs`.

use aya_ebpf::bindings::bpf_sock_addr;
use aya_ebpf::helpers::generated::bpf_get_netns_cookie;
use aya_ebpf::programs::SockAddrContext;
use proxy_common::addr::{Addr, Port};

/// Let the system call go on.
pub const ALLOW: i32 = 1;
/// Fail the system call.
pub const REFUSE: i32 = 0;

/// The hook's family. An IPv6 hook may still carry an IPv4-mapped address, which goes the IPv4 way.
#[derive(Clone, Copy)]
pub enum Family {
    V4,
    V6,
}

/// The socket's IP protocol.
#[inline(always)]
pub fn protocol(ctx: &SockAddrContext) -> u32 {
    // SAFETY: the kernel hands every program a valid context.
    unsafe { (&raw const (*ctx.sock_addr).protocol).read_volatile() }
}

/// Cookie of the socket's network namespace.
#[inline(always)]
pub fn netns(ctx: &SockAddrContext) -> u64 {
    // SAFETY: the context is valid; the helper accepts it for every sock_addr program.
    unsafe { bpf_get_netns_cookie(ctx.sock_addr.cast()) }
}

/// The address in the context.
#[inline(always)]
pub fn read_destination(ctx: &SockAddrContext, family: Family) -> (Addr, Port) {
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

/// Puts an address into the context. Returns whether it fits the hook's family; an IPv4 socket cannot reach an IPv6
/// backend.
#[inline(always)]
pub fn write_destination(ctx: &SockAddrContext, family: Family, addr: Addr, port: Port) -> bool {
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
