//! The one table from verdict to return code, errno and counter.

use aya_ebpf::programs::SockAddrContext;
use aya_log_ebpf::{debug, info};
use proxy_common::counter::ServiceCounter;
use proxy_common::lb::{Pick, Verdict};
use proxy_common::reason::DropReason;

use crate::context::{ALLOW, REFUSE};
use crate::{maps, sock};

const EPERM: i32 = 1;
const ENOBUFS: i32 = 105;
const ECONNREFUSED: i32 = 111;

/// Counts a pick that is about to be carried out.
#[inline(always)]
pub fn note(ctx: &SockAddrContext, pick: &Pick) {
    debug!(ctx, "service {} backend {}", pick.service, pick.backend);
    maps::count_service(pick.service, ServiceCounter::Picked);
}

/// Carries out a verdict that picks nobody, and says what the program returns.
#[inline(always)]
pub fn stop(ctx: &SockAddrContext, verdict: Verdict) -> i32 {
    match verdict {
        Verdict::Pass | Verdict::Forward(_) => ALLOW,
        Verdict::Reject(service, reason) => {
            info!(ctx, "service {} rejected, reason {}", service, reason as u8);
            count_refusal(service, reason);
            sock::set_errno(ECONNREFUSED);
            REFUSE
        }
        // Of UDP: as with kube-proxy, whose drop in the output chain says the same. TCP never comes here with one.
        Verdict::Drop(service, reason) => {
            note_drop(ctx, service, reason);
            sock::set_errno(EPERM);
            REFUSE
        }
    }
}

/// Counts a connection or datagram that is to be dropped.
#[inline(always)]
pub fn note_drop(ctx: &SockAddrContext, service: u32, reason: DropReason) {
    info!(ctx, "service {} dropped, reason {}", service, reason as u8);
    count_refusal(service, reason);
}

/// Refuses what cannot be remembered.
#[inline(always)]
pub fn no_record() -> i32 {
    maps::count_reason(DropReason::NoRecord);
    sock::set_errno(ENOBUFS);
    REFUSE
}

#[inline(always)]
fn count_refusal(service: u32, reason: DropReason) {
    maps::count_reason(reason);
    if service != 0 {
        maps::count_service(service, ServiceCounter::Refused);
    }
}
