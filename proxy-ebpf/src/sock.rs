//! Socket hooks: a context becomes a tuple, the verdict becomes a rewritten context.

use aya_ebpf::helpers::bpf_get_prandom_u32;
use aya_ebpf::helpers::generated::{bpf_jiffies64, bpf_set_retval};
use aya_ebpf::programs::{SockAddrContext, SockContext};
use proxy_common::addr::{Addr, Proto};
use proxy_common::affinity::Memory;
use proxy_common::draw::mix;
use proxy_common::lb::{
    Held, Origin, Packet, Pick, Sender, Tuple, Verdict, is_foreign, is_own_loopback, translate,
};
use proxy_common::registry::Event;
use proxy_common::socket::TcpRecord;

use crate::context::{self, ALLOW, Family, REFUSE, read_destination, write_destination};
use crate::maps::{self, HOST_NETNS, HOST_ONLY, Kernel, SEED, clients, sockets};
use crate::{udp, verdict};

/// IP protocol of TCP.
pub const IPPROTO_TCP: u32 = 6;
/// IP protocol of UDP.
pub const IPPROTO_UDP: u32 = 17;

const ETIMEDOUT: i32 = 110;

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
    let dialler = Dialler { ctx, cookie: sockets::cookie(ctx) };
    match translate(&Kernel, &packet, &dialler) {
        Verdict::Forward(pick) => forward(&dialler, family, &packet.tuple, &pick),
        Verdict::Drop(service, reason) => {
            verdict::note_drop(ctx, service, reason);
            let (frontend, frontend_port) = (addr, port);
            time_out(
                &dialler,
                &TcpRecord {
                    frontend,
                    backend: frontend,
                    frontend_port,
                    backend_port: frontend_port,
                    tagged: TcpRecord::tagged(service, TcpRecord::DROP),
                },
            )
        }
        verdict => verdict::stop(ctx, verdict),
    }
}

/// Lets a connection begin whose packets the egress guard drops. Where there is no guard yet, the caller is told at once
/// what it would have been told later, and the agent puts the guard in force.
#[inline(always)]
fn time_out(dialler: &Dialler<'_>, record: &TcpRecord) -> i32 {
    if maps::is_guarded() && dialler.remember(record) {
        return ALLOW;
    }
    clients::report(context::netns(dialler.ctx), Event::GUARD_WANTED);
    set_errno(ETIMEDOUT);
    REFUSE
}

/// The owner of a TCP socket, with the socket's cookie.
struct Dialler<'a> {
    ctx: &'a SockAddrContext,
    cookie: u64,
}

impl Dialler<'_> {
    #[inline(always)]
    fn remember(&self, record: &TcpRecord) -> bool {
        sockets::remember_tcp(self.ctx, self.cookie, record)
    }
}

impl Sender for Dialler<'_> {
    #[inline(always)]
    fn held(&self, _: &Tuple) -> Option<Held> {
        None
    }

    #[inline(always)]
    fn remembered(&self, service: u32, is_v4: bool, seconds: u32) -> Option<Memory> {
        clients::remembered(context::netns(self.ctx), (service, is_v4), seconds)
    }

    #[inline(always)]
    fn draw(&self) -> u32 {
        // SAFETY: the helper takes nothing and returns a number.
        let instant = unsafe { bpf_jiffies64() };
        // A socket that connects again draws again, as soon as the clock has ticked.
        mix(SEED.load() ^ instant << 32, self.cookie)
    }
}

/// Remembers a pick for the client's next connection, if the service port has affinity.
#[inline(always)]
pub fn stick(ctx: &SockAddrContext, pick: &Pick, frontend: Addr) {
    if pick.is_sticky() {
        let row = (pick.backend, pick.generation);
        clients::remember(context::netns(ctx), (pick.service, frontend.is_v4()), row);
        clients::meet(context::netns(ctx));
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
    if let Some(record) = sockets::recall_tcp(ctx) {
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
        sockets::forget_tcp(ctx);
    }
    ALLOW
}

#[inline(always)]
fn forward(dialler: &Dialler<'_>, family: Family, tuple: &Tuple, pick: &Pick) -> i32 {
    let ctx = dialler.ctx;
    if matches!(family, Family::V4) && !pick.addr.is_v4() {
        return ALLOW;
    }
    let must_check = pick.must_check_source();
    let record = TcpRecord {
        frontend: tuple.addr,
        backend: pick.addr,
        frontend_port: tuple.port,
        backend_port: pick.port,
        tagged: TcpRecord::tagged(pick.service, if must_check { TcpRecord::CHECK_SOURCE } else { 0 }),
    };
    if must_check && !maps::is_guarded() {
        // Nobody would look at the address that the connection comes from.
        return time_out(dialler, &record);
    }
    // Without a record `getpeername` shows the backend; where the guard needs one, there is no connection without.
    if !dialler.remember(&record) && must_check {
        return verdict::no_record();
    }
    write_destination(ctx, family, pick.addr, pick.port);
    verdict::note(ctx, pick);
    stick(ctx, pick, tuple.addr);
    ALLOW
}

/// 32 uniformly random bits.
#[inline(always)]
pub fn draw() -> u32 {
    // SAFETY: the helper takes nothing and returns a number.
    unsafe { bpf_get_prandom_u32() }
}

/// Who sends to `addr`, if that may be ours to serve.
#[inline(always)]
pub fn concerned(ctx: &SockAddrContext, addr: Addr) -> Option<Origin> {
    // In this order: most connections are to foreign addresses, and few sockets are bound to a device.
    if is_foreign(&Kernel, addr) || maps::is_device_bound(ctx) {
        return None;
    }
    if !is_own_loopback(addr) && HOST_ONLY.load() == 0 {
        // Only the loopback of the host is another than that of a pod: who it is would be asked for nothing.
        return Some(Origin::Pod);
    }
    // What `translate` would say too, but pods connect to their own loopback a lot: a sidecar, a local cache.
    if context::netns(ctx) == HOST_NETNS.load() { Some(Origin::Host) } else { None }
}
