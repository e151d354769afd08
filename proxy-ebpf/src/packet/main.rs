//! The packet path's programs at TC: an object of its own, which is loaded only where that path is wanted. Its maps of
//! Services are those of the programs at sockets.
#![cfg_attr(target_arch = "bpf", no_std)]
#![cfg_attr(target_arch = "bpf", no_main)]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

#[cfg(target_arch = "bpf")]
mod aside;
#[cfg(target_arch = "bpf")]
mod flows;
#[cfg(target_arch = "bpf")]
#[path = "../maps/mod.rs"]
#[expect(dead_code, reason = "half of the maps are of sockets")]
mod maps;
#[cfg(target_arch = "bpf")]
mod middle;
#[cfg(target_arch = "bpf")]
mod passage;
#[cfg(target_arch = "bpf")]
mod places;
#[cfg(target_arch = "bpf")]
mod shortcut;
#[cfg(target_arch = "bpf")]
mod skb;
#[cfg(target_arch = "bpf")]
mod store;
#[cfg(target_arch = "bpf")]
mod sweep;

#[cfg(target_arch = "bpf")]
mod entry {
    use aya_ebpf::macros::classifier;
    use aya_ebpf::programs::TcContext;

    use crate::passage::{self, ETHERNET};
    use crate::{aside, sweep};

    /// What an empty program costs.
    #[classifier]
    pub fn shunt_nothing(_: TcContext) -> i32 {
        passage::NEXT
    }

    /// At the ingress of a device with Ethernet frames.
    #[classifier]
    #[inline(always)]
    pub fn shunt_arrive(ctx: TcContext) -> i32 {
        passage::enter(&ctx, ETHERNET)
    }

    /// At its egress.
    #[classifier]
    #[inline(always)]
    pub fn shunt_leave(ctx: TcContext) -> i32 {
        passage::exit(&ctx, ETHERNET)
    }

    /// At the ingress of a device of pods, whose replies may go past the stack.
    #[classifier]
    #[inline(always)]
    pub fn shunt_arrive_pod(ctx: TcContext) -> i32 {
        passage::enter_from_pod(&ctx)
    }

    /// At the ingress of a device whose packets begin with their IP header, as WireGuard's.
    #[classifier]
    #[inline(always)]
    pub fn shunt_arrive_bare(ctx: TcContext) -> i32 {
        passage::enter(&ctx, 0)
    }

    /// At its egress.
    #[classifier]
    #[inline(always)]
    pub fn shunt_leave_bare(ctx: TcContext) -> i32 {
        passage::exit(&ctx, 0)
    }

    /// Tail-called, as all that follow: the first packet of a flow.
    #[classifier]
    #[inline(always)]
    pub fn shunt_begin(ctx: TcContext) -> i32 {
        passage::first(&ctx)
    }

    /// A packet that needs another source.
    #[classifier]
    #[inline(always)]
    pub fn shunt_reserve(ctx: TcContext) -> i32 {
        passage::source(&ctx)
    }

    /// A packet that nobody serves.
    #[classifier]
    #[inline(always)]
    pub fn shunt_refuse(ctx: TcContext) -> i32 {
        aside::refusal(&ctx)
    }

    /// An ICMP error enters.
    #[classifier]
    #[inline(always)]
    pub fn shunt_error_arrives(ctx: TcContext) -> i32 {
        aside::error_enters(&ctx)
    }

    /// An ICMP error leaves.
    #[classifier]
    #[inline(always)]
    pub fn shunt_error_leaves(ctx: TcContext) -> i32 {
        aside::error_exits(&ctx)
    }

    /// A part of a datagram without ports enters.
    #[classifier]
    #[inline(always)]
    pub fn shunt_part_arrives(ctx: TcContext) -> i32 {
        aside::part(&ctx)
    }

    /// A part of a datagram without ports leaves.
    #[classifier]
    #[inline(always)]
    pub fn shunt_part_leaves(ctx: TcContext) -> i32 {
        aside::part(&ctx)
    }

    /// A request may go past the stack.
    #[classifier]
    #[inline(always)]
    pub fn shunt_request_passes(ctx: TcContext) -> i32 {
        passage::request_passes(&ctx)
    }

    /// A reply may go past the stack.
    #[classifier]
    #[inline(always)]
    pub fn shunt_reply_passes(ctx: TcContext) -> i32 {
        passage::reply_passes(&ctx)
    }

    /// A client asks a backend itself.
    #[classifier]
    #[inline(always)]
    pub fn shunt_direct(ctx: TcContext) -> i32 {
        passage::ask(&ctx)
    }

    /// Run, not attached: one record of a table of flows.
    #[unsafe(no_mangle)]
    #[unsafe(link_section = "iter/bpf_map_elem")]
    pub extern "C" fn shunt_sweep(ctx: *mut sweep::ElementContext) -> i32 {
        sweep::one(ctx);
        0
    }

    /// Never reached: the build fails if a panic path stays, since the verifier would refuse it.
    #[panic_handler]
    fn panic(_: &core::panic::PanicInfo) -> ! {
        loop {}
    }

    #[unsafe(link_section = "license")]
    #[unsafe(no_mangle)]
    static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
}

#[cfg(not(target_arch = "bpf"))]
fn main() {}
