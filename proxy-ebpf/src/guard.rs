//! The egress guard: what a hook has let begin although it must not get through is dropped here, as a packet.
//!
//! A hook cannot make a system call time out; it can only refuse it. And it knows no source address, which source ranges
//! are about. So it leaves a mark in what is remembered of the socket, and the guard judges by that alone: packets of
//! sockets that no hook has marked are never touched, whatever their destination.

use aya_ebpf::bindings::bpf_sock;
use aya_ebpf::programs::SkBuffContext;
use proxy_common::addr::Addr;
use proxy_common::lb::Lookup;
use proxy_common::reason::DropReason;

use crate::egress::{self, Sender};
use crate::maps::sockets::{LockedPairs, recall_tcp_of};
use crate::maps::{self, Kernel};
use crate::sock::{IPPROTO_TCP, IPPROTO_UDP};

/// Let the packet go.
const PASS: i32 = 1;
/// Drop the packet. A sender of UDP sees EPERM, as with a netfilter rule; TCP tries again, and times out.
const DROP: i32 = 0;

/// Judges a packet that a socket sends.
#[inline(always)]
pub fn judge(ctx: &SkBuffContext) -> i32 {
    let Some(socket) = egress::sending_socket(ctx) else { return PASS };
    match egress::sender(socket) {
        // Only the first packets of a connection are judged: one that is established stays.
        Sender { protocol: IPPROTO_TCP, is_opening: true } => tcp(ctx, socket),
        Sender { protocol: IPPROTO_UDP, .. } => udp(ctx, socket),
        _ => PASS,
    }
}

#[inline(always)]
fn tcp(ctx: &SkBuffContext, socket: *mut bpf_sock) -> i32 {
    let Some(record) = recall_tcp_of(ctx, socket) else { return PASS };
    if record.must_drop() {
        return DROP;
    }
    if record.must_check_source() { check(ctx, record.service()) } else { PASS }
}

#[inline(always)]
fn udp(ctx: &SkBuffContext, socket: *mut bpf_sock) -> i32 {
    let Some(mut pairs) = LockedPairs::of_socket(socket) else { return PASS };
    let is_guarded = pairs.get().is_guarded();
    pairs.unlock();
    if !is_guarded {
        return PASS;
    }
    let Some(to) = egress::packet_destination(ctx) else { return PASS };
    let Some(mut pairs) = LockedPairs::of_socket(socket) else { return PASS };
    let pair = pairs.get().guarded(to);
    pairs.unlock();
    let Some(pair) = pair else { return PASS };
    if pair.is_waiting() {
        maps::count_reason(DropReason::NoEndpoints);
        return DROP;
    }
    let answer = check(ctx, pair.service);
    if answer == PASS
        && let Some(mut pairs) = LockedPairs::of_socket(socket)
    {
        pairs.get().admit((pair.frontend, pair.frontend_port));
        pairs.unlock();
    }
    answer
}

/// The address is judged that the packet really comes from.
#[inline(always)]
fn check(ctx: &SkBuffContext, service: u32) -> i32 {
    let from = egress::packet_source(ctx);
    if from.is_some_and(|from: Addr| Kernel.is_allowed_source(service, from)) {
        return PASS;
    }
    maps::count_reason(DropReason::SourceNotAllowed);
    DROP
}
