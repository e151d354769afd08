//! The packet path's programs at TC, as far as they are: an object of its own, which the tests run packets through and
//! nobody ships yet. Refusals are drops here.
#![cfg_attr(target_arch = "bpf", no_std)]
#![cfg_attr(target_arch = "bpf", no_main)]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

#[cfg(target_arch = "bpf")]
mod flows;
#[cfg(target_arch = "bpf")]
#[path = "../maps/mod.rs"]
#[expect(dead_code, reason = "half of the maps are of sockets")]
mod maps;
#[cfg(target_arch = "bpf")]
mod passage;
#[cfg(target_arch = "bpf")]
mod skb;

#[cfg(target_arch = "bpf")]
mod entry {
    use aya_ebpf::macros::classifier;
    use aya_ebpf::programs::TcContext;

    use crate::passage;

    /// What an empty program costs.
    #[classifier]
    pub fn shunt_nothing(_: TcContext) -> i32 {
        passage::NEXT
    }

    #[classifier]
    #[inline(always)]
    pub fn shunt_arrive(ctx: TcContext) -> i32 {
        passage::enter(&ctx)
    }

    #[classifier]
    #[inline(always)]
    pub fn shunt_begin(ctx: TcContext) -> i32 {
        passage::first(&ctx)
    }

    #[classifier]
    #[inline(always)]
    pub fn shunt_leave(ctx: TcContext) -> i32 {
        passage::exit(&ctx)
    }

    #[classifier]
    #[inline(always)]
    pub fn shunt_reserve(ctx: TcContext) -> i32 {
        passage::source(&ctx)
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
