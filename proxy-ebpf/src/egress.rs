//! The context of the egress guard: a packet on its way out, and the socket that it comes from.

use aya_ebpf::bindings::bpf_sock;
use aya_ebpf::helpers::generated::{bpf_sk_fullsock, bpf_skb_load_bytes};
use aya_ebpf::programs::SkBuffContext;
use proxy_common::addr::Addr;

/// What the socket of an outgoing packet is.
pub struct Sender {
    /// IP protocol.
    pub protocol: u32,
    /// Whether a TCP socket has sent its SYN and nobody has answered.
    pub is_opening: bool,
}

/// `TCP_SYN_SENT`.
const SYN_SENT: u32 = 2;
/// `ETH_P_IP` and `ETH_P_IPV6`, in network byte order as in the context.
const ETH_P_IP: u32 = 0x0800_u16.to_be() as u32;
const ETH_P_IPV6: u32 = 0x86dd_u16.to_be() as u32;

/// The socket that an outgoing packet comes from, if it is a whole one, not bound to a device.
#[inline(always)]
pub fn sending_socket(ctx: &SkBuffContext) -> Option<*mut bpf_sock> {
    // SAFETY: the kernel hands every program a valid context; each pointer is checked before it is used.
    unsafe {
        let socket = (&raw const (*ctx.skb.skb).__bindgen_anon_2.sk).read_volatile();
        if socket.is_null() {
            return None;
        }
        let socket = bpf_sk_fullsock(socket);
        if socket.is_null() || (&raw const (*socket).bound_dev_if).read_volatile() != 0 {
            None
        } else {
            Some(socket)
        }
    }
}

/// What that socket is.
#[inline(always)]
pub fn sender(socket: *mut bpf_sock) -> Sender {
    // SAFETY: the socket comes from [`sending_socket`].
    unsafe {
        Sender {
            protocol: (&raw const (*socket).protocol).read_volatile(),
            is_opening: (&raw const (*socket).state).read_volatile() == SYN_SENT,
        }
    }
}

/// Source address of an outgoing packet, which begins with its IP header.
#[inline(always)]
pub fn packet_source(ctx: &SkBuffContext) -> Option<Addr> {
    packet_address(ctx, 12, 8)
}

/// Destination address of an outgoing packet.
#[inline(always)]
pub fn packet_destination(ctx: &SkBuffContext) -> Option<Addr> {
    packet_address(ctx, 16, 24)
}

#[inline(always)]
fn packet_address(ctx: &SkBuffContext, v4_offset: u32, v6_offset: u32) -> Option<Addr> {
    // SAFETY: the kernel hands every program a valid context, and writes as many bytes as the buffers have.
    unsafe {
        let skb = ctx.skb.skb;
        match (&raw const (*skb).protocol).read_volatile() {
            ETH_P_IP => {
                let mut word = 0_u32;
                let failed = bpf_skb_load_bytes(skb.cast(), v4_offset, (&raw mut word).cast(), 4) != 0;
                if failed { None } else { Some(Addr::from_v4_word(word)) }
            }
            ETH_P_IPV6 => {
                let mut words = [0_u32; 4];
                let failed = bpf_skb_load_bytes(skb.cast(), v6_offset, (&raw mut words).cast(), 16) != 0;
                if failed { None } else { Some(Addr::from_words(words)) }
            }
            _ => None,
        }
    }
}
