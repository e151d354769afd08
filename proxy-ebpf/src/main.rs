//! Shunt's eBPF programs. Hooks only: contexts become tuples here, and `proxy_common::lb::translate` decides.
#![cfg_attr(target_arch = "bpf", no_std)]
#![cfg_attr(target_arch = "bpf", no_main)]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

#[cfg(target_arch = "bpf")]
mod context;
#[cfg(target_arch = "bpf")]
mod egress;
#[cfg(target_arch = "bpf")]
mod guard;
#[cfg(target_arch = "bpf")]
mod list;
#[cfg(target_arch = "bpf")]
mod maps;
#[cfg(target_arch = "bpf")]
mod sock;
#[cfg(target_arch = "bpf")]
mod udp;
#[cfg(target_arch = "bpf")]
mod verdict;

#[cfg(target_arch = "bpf")]
mod entry {
    use aya_ebpf::macros::{cgroup_skb, cgroup_sock, cgroup_sock_addr};
    use aya_ebpf::programs::{SkBuffContext, SockAddrContext, SockContext};

    use crate::context::Family;
    use crate::list::StorageContext;
    use crate::{guard, list, sock, udp};

    #[cgroup_sock_addr(connect4)]
    #[inline(always)]
    pub fn shunt_connect4(ctx: SockAddrContext) -> i32 {
        sock::connect(&ctx, Family::V4)
    }

    #[cgroup_sock_addr(connect6)]
    #[inline(always)]
    pub fn shunt_connect6(ctx: SockAddrContext) -> i32 {
        sock::connect(&ctx, Family::V6)
    }

    #[cgroup_sock_addr(sendmsg4)]
    #[inline(always)]
    pub fn shunt_sendmsg4(ctx: SockAddrContext) -> i32 {
        udp::send(&ctx, Family::V4)
    }

    #[cgroup_sock_addr(sendmsg6)]
    #[inline(always)]
    pub fn shunt_sendmsg6(ctx: SockAddrContext) -> i32 {
        udp::send(&ctx, Family::V6)
    }

    #[cgroup_sock_addr(recvmsg4)]
    #[inline(always)]
    pub fn shunt_recvmsg4(ctx: SockAddrContext) -> i32 {
        udp::receive(&ctx, Family::V4)
    }

    #[cgroup_sock_addr(recvmsg6)]
    #[inline(always)]
    pub fn shunt_recvmsg6(ctx: SockAddrContext) -> i32 {
        udp::receive(&ctx, Family::V6)
    }

    #[cgroup_sock_addr(getpeername4)]
    #[inline(always)]
    pub fn shunt_getpeername4(ctx: SockAddrContext) -> i32 {
        sock::getpeername(&ctx, Family::V4)
    }

    #[cgroup_sock_addr(getpeername6)]
    #[inline(always)]
    pub fn shunt_getpeername6(ctx: SockAddrContext) -> i32 {
        sock::getpeername(&ctx, Family::V6)
    }

    #[cgroup_sock(sock_release)]
    pub fn shunt_sock_release(ctx: SockContext) -> i32 {
        sock::release(&ctx)
    }

    #[cgroup_skb(egress)]
    pub fn shunt_egress(ctx: SkBuffContext) -> i32 {
        guard::judge(&ctx)
    }

    #[unsafe(no_mangle)]
    #[unsafe(link_section = "iter/bpf_sk_storage_map")]
    extern "C" fn shunt_list_udp(ctx: *mut StorageContext) -> i32 {
        list::one(ctx);
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
