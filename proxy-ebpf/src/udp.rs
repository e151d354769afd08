//! Socket hooks for UDP: every datagram may be the first of a flow, and a reply must seem to come from the frontend.

use aya_ebpf::programs::SockAddrContext;
use proxy_common::addr::{Addr, Port, Proto};
use proxy_common::affinity::Memory;
use proxy_common::counter::SocketCounter;
use proxy_common::lb::{Flow, Held, Origin, Packet, Sender, Tuple, Verdict, follow, pick_again};
use proxy_common::reason::DropReason;
use proxy_common::registry::Event;
use proxy_common::udp::{Pair, Placed};

use crate::context::{self, ALLOW, Family, REFUSE, read_destination, write_destination};
use crate::maps::sockets::{self, LockedPairs};
use crate::maps::{self, Kernel, clients};
use crate::{sock, verdict};

/// How often another backend is drawn for one that serves another frontend to this socket already.
const DRAWS: u32 = 3;

const EPERM: i32 = 1;
const ECONNREFUSED: i32 = 111;

/// `connect()`: the socket's peer is the backend.
#[inline(always)]
pub fn connect(ctx: &SockAddrContext, family: Family) -> i32 {
    let to = read_destination(ctx, family);
    let is_mover = clients::is_mover();
    let Some(origin) = sock::concerned(ctx, to.0) else {
        if is_mover {
            return suspend(ctx, to);
        }
        // It may have been connected through a frontend before.
        if let Some(mut pairs) = LockedPairs::of(ctx) {
            pairs.get().disconnect(to);
            pairs.unlock();
        }
        return ALLOW;
    };
    let dial = Dial { ctx, family, to, connects: true };
    let answer = dial.direct(origin, is_mover);
    if answer == ALLOW && !is_mover {
        sockets::own_udp(ctx, clients::tgid(), context::netns(ctx));
    }
    answer
}

/// Answers the agent, which finds that a socket has no backend to move to: the socket stays connected to the one that is
/// gone, and waits. No other address would do: there may be no route to the frontend.
#[inline(always)]
fn suspend(ctx: &SockAddrContext, frontend: (Addr, Port)) -> i32 {
    if let Some(mut pairs) = LockedPairs::of(ctx) {
        pairs.get().suspend(frontend);
        pairs.unlock();
    }
    sock::set_errno(ECONNREFUSED);
    REFUSE
}

/// `sendto()` and its like with an address: this datagram goes to the backend.
#[inline(always)]
pub fn send(ctx: &SockAddrContext, family: Family) -> i32 {
    let to = read_destination(ctx, family);
    let Some(origin) = sock::concerned(ctx, to.0) else { return ALLOW };
    Dial { ctx, family, to, connects: false }.direct(origin, false)
}

/// `recvfrom()` and its like: a datagram of a backend comes from the frontend that was sent to.
#[inline(always)]
pub fn receive(ctx: &SockAddrContext, family: Family) -> i32 {
    let from = read_destination(ctx, family);
    let is_connected = sockets::is_connected(ctx);
    let Some(mut pairs) = LockedPairs::of(ctx) else { return ALLOW };
    // One that is connected to a backend itself may have reached it through a frontend before.
    let pair = if is_connected { pairs.get().from_peer(from) } else { pairs.get().from(from) };
    pairs.unlock();
    if let Some(pair) = pair {
        write_destination(ctx, family, pair.frontend, pair.frontend_port);
    }
    ALLOW
}

/// `getpeername()`: the application sees the frontend that it dialled.
#[inline(always)]
pub fn getpeername(ctx: &SockAddrContext, family: Family) -> i32 {
    let Some(mut pairs) = LockedPairs::of(ctx) else { return ALLOW };
    let pair = pairs.get().connected();
    pairs.unlock();
    if let Some(pair) = pair
        && read_destination(ctx, family) == (pair.backend, pair.backend_port)
    {
        write_destination(ctx, family, pair.frontend, pair.frontend_port);
    }
    ALLOW
}

/// What a socket holds, see [`follow`].
struct SocketOf<'a>(&'a SockAddrContext);

impl Sender for SocketOf<'_> {
    #[inline(always)]
    fn held(&self, tuple: &Tuple) -> Option<Held> {
        let mut pairs = LockedPairs::of(self.0)?;
        let pair = pairs.get().to((tuple.addr, tuple.port));
        pairs.unlock();
        pair.map(|pair| pair.held())
    }

    #[inline(always)]
    fn remembered(&self, service: u32, is_v4: bool, seconds: u32) -> Option<Memory> {
        clients::remembered(context::netns(self.0), (service, is_v4), seconds)
    }

    #[inline(always)]
    fn draw(&self) -> u32 {
        sock::draw()
    }
}

/// Whether the socket knows that backend as another frontend.
#[inline(always)]
fn is_taken(ctx: &SockAddrContext, backend: (Addr, Port), to: (Addr, Port)) -> bool {
    let Some(mut pairs) = LockedPairs::of(ctx) else { return false };
    let is_taken = pairs.get().is_taken(backend, to);
    pairs.unlock();
    is_taken
}

/// A datagram or a connect that wants to go to an address that may be ours.
struct Dial<'a> {
    ctx: &'a SockAddrContext,
    family: Family,
    to: (Addr, Port),
    connects: bool,
}

impl Dial<'_> {
    #[inline(always)]
    fn direct(&self, origin: Origin, is_mover: bool) -> i32 {
        let tuple = Tuple { addr: self.to.0, port: self.to.1, proto: Proto::UDP };
        let packet = Packet { tuple, origin };
        let mut pick = match follow(&Kernel, &packet, &SocketOf(self.ctx)) {
            Flow::Held(addr, port) => return self.go_on(addr, port),
            Flow::New(Verdict::Forward(pick)) => pick,
            Flow::New(verdict) => return self.stop(verdict, is_mover),
        };
        for _ in 0..DRAWS {
            // Affinity is a promise; which frontend an answer is from, where two share a backend, is not.
            if pick.is_sticky() || !is_taken(self.ctx, (pick.addr, pick.port), self.to) {
                break;
            }
            let Some(other) = pick_again(&Kernel, &pick, sock::draw()) else { break };
            pick = other;
        }
        if pick.must_check_source() && !maps::is_guarded() {
            clients::report(context::netns(self.ctx), Event::GUARD_WANTED);
            return verdict::stop(self.ctx, Verdict::Drop(pick.service, DropReason::SourceNotAllowed));
        }
        let answer = self.begin(&Pair::new(self.to, &pick));
        // Last: what comes after them is verified once for every way through them.
        if answer == ALLOW {
            verdict::note(self.ctx, &pick);
            sock::stick(self.ctx, &pick, self.to.0);
            clients::meet(context::netns(self.ctx));
        }
        answer
    }

    /// A connected socket waits at the frontend for a backend, as long as the egress guard keeps what it sends from
    /// leaving; all else is refused.
    #[inline(always)]
    fn stop(&self, verdict: Verdict, is_mover: bool) -> i32 {
        if is_mover {
            return suspend(self.ctx, self.to);
        }
        let service = match verdict {
            Verdict::Drop(service, reason) if self.connects => {
                verdict::note_drop(self.ctx, service, reason);
                service
            }
            verdict => return verdict::stop(self.ctx, verdict),
        };
        if !maps::is_guarded() {
            clients::report(context::netns(self.ctx), Event::GUARD_WANTED);
            sock::set_errno(EPERM);
            return REFUSE;
        }
        self.begin(&Pair::waiting(self.to, service))
    }

    /// Sends on a flow that goes on.
    #[inline(always)]
    fn go_on(&self, addr: Addr, port: Port) -> i32 {
        if self.connects
            && let Some(mut pairs) = LockedPairs::of(self.ctx)
        {
            pairs.get().connect(self.to);
            pairs.unlock();
        }
        write_destination(self.ctx, self.family, addr, port);
        ALLOW
    }

    /// Sends on a flow that begins. Without a record its replies would come from a stranger.
    #[inline(always)]
    fn begin(&self, pair: &Pair) -> i32 {
        if matches!(self.family, Family::V4) && !pair.backend.is_v4() {
            return ALLOW;
        }
        let is_connected = sockets::is_connected(self.ctx);
        let Some(mut pairs) = LockedPairs::of_any(self.ctx) else {
            return verdict::no_record();
        };
        if !is_connected {
            pairs.get().is_not_connected();
        }
        let placed = pairs.get().put(pair, self.connects);
        pairs.unlock();
        if placed == Placed::InPlaceOfAnother {
            maps::count_socket(SocketCounter::PairReplaced);
        }
        write_destination(self.ctx, self.family, pair.backend, pair.backend_port);
        ALLOW
    }
}
