//! The decision: given where a packet or a connect wants to go, where does it go instead?
//!
//! [`translate`] is generic over [`Lookup`], so the kernel maps, the agent's fake store and a dump of live maps
//! are judged by the very same code. It reads, decides and returns; it writes nothing.

use crate::addr::{Addr, Port, Proto};
use crate::affinity::Memory;
use crate::backend::Backend;
use crate::filter::{Bits, may_own};
use crate::frontend::{FrontendKey, FrontendKind, FrontendValue};
use crate::node::NodeAddrFlags;
use crate::owned;
use crate::reason::DropReason;
use crate::service::{Half, Head, View, ViewKind, ViewWord};

/// Read access to the tables. Every method returns a small copy; a missing element is `None`, never a panic.
pub trait Lookup {
    /// Whether `addr` may be owned; `false` is certain (see [`crate::filter`]).
    fn may_own(&self, addr: Addr) -> bool;
    /// Whether some frontend may have this port and protocol; `false` is certain. Whoever does not know says yes.
    fn may_serve(&self, _: Port, _: Proto) -> bool {
        true
    }
    /// The frontend under exactly this key.
    fn frontend(&self, key: &FrontendKey) -> Option<FrontendValue>;
    /// The flags of one of the node's own addresses.
    fn node_addr(&self, addr: Addr) -> Option<NodeAddrFlags>;
    /// Whether a ServiceCIDR covers `addr`.
    fn in_service_cidr(&self, addr: Addr) -> bool;
    /// Whether a range of the service covers the client `addr`; asked only for frontends that check it.
    fn is_allowed_source(&self, service: u32, addr: Addr) -> bool;
    /// One word of a block of owned VIPs, see [`crate::owned`].
    fn owned_word(&self, block: u32, word: usize) -> Option<u64>;
    /// The head of a service's cell, loaded once per decision.
    fn head(&self, service: u32) -> Option<Head>;
    /// One view word of a service's cell.
    fn view(&self, service: u32, half: Half, view: View) -> Option<ViewWord>;
    /// The head, and the view word that is in force by it: a switch in between shows the reader the old whole or the new
    /// whole.
    #[inline(always)]
    fn in_force(&self, service: u32, view: View) -> Option<(Head, ViewWord)> {
        let head = self.head(service)?;
        Some((head, self.view(service, head.half(), view)?))
    }
    /// The backend id in a slot.
    fn slot(&self, slot: u32) -> Option<u32>;
    /// A backend's row.
    fn backend(&self, id: u32) -> Option<Backend>;
}

/// Who sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A process in the network namespace of the agent.
    Host,
    /// A process of this node in any other network namespace.
    Pod,
    /// Something outside the cluster.
    External,
}

/// Where a packet or a connect wants to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuple {
    /// Destination address.
    pub addr: Addr,
    /// Destination port.
    pub port: Port,
    /// Protocol.
    pub proto: Proto,
}

/// The input of one decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Where it wants to go.
    pub tuple: Tuple,
    /// Who sends it.
    pub origin: Origin,
}

/// The backend that was picked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pick {
    /// The service's cell.
    pub service: u32,
    /// [`FrontendKind`] of the frontend that matched, as stored.
    pub kind: u8,
    /// [`Pick::STICKY`], [`Pick::CHECK_SOURCE`] and [`Pick::KEEPS_SOURCE`].
    pub flags: u8,
    /// The view that was in use.
    pub view: View,
    /// Id of the backend's row.
    pub backend: u32,
    /// Generation of the row.
    pub generation: u32,
    /// Where it listens.
    pub addr: Addr,
    /// Where it listens.
    pub port: Port,
}

impl Pick {
    /// Flag: the service port has session affinity, so the client's next connection is to come here too.
    pub const STICKY: u8 = 1;
    /// Flag: `loadBalancerSourceRanges` bind the frontend. Whoever knows the client's address asks [`admits`].
    pub const CHECK_SOURCE: u8 = 2;
    /// Flag: the backend is to see who its client is, whatever else is replaced, see [`ViewWord::KEEPS_SOURCE`].
    pub const KEEPS_SOURCE: u8 = 4;

    #[inline(always)]
    const fn new(place: &Place, (backend, row): (u32, &Backend)) -> Self {
        let Place { service, kind, flags, view } = *place;
        Self {
            service,
            kind,
            flags,
            view,
            backend,
            generation: row.generation,
            addr: row.addr,
            port: row.port,
        }
    }

    /// See [`Pick::STICKY`].
    #[inline(always)]
    pub const fn is_sticky(&self) -> bool {
        self.flags & Self::STICKY != 0
    }

    /// See [`Pick::KEEPS_SOURCE`].
    #[inline(always)]
    pub const fn keeps_source(&self) -> bool {
        self.flags & Self::KEEPS_SOURCE != 0
    }

    /// See [`Pick::CHECK_SOURCE`].
    #[inline(always)]
    pub const fn must_check_source(&self) -> bool {
        self.flags & Self::CHECK_SOURCE != 0
    }
}

/// Where a backend is picked from.
struct Place {
    service: u32,
    kind: u8,
    flags: u8,
    view: View,
}

/// A backend that a sender was given before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// The service's cell at that time.
    pub service: u32,
    /// Id of the backend's row.
    pub backend: u32,
    /// Generation of the row at that time.
    pub generation: u32,
}

/// Who asks, and what the decision may not make up by itself. Each costs something, so it is asked for only where it
/// matters.
pub trait Sender {
    /// The backend that it holds for a destination; asked only if that is a frontend.
    fn held(&self, tuple: &Tuple) -> Option<Held>;
    /// What is remembered of this client, and not older than `seconds`, by a service port with session affinity, see
    /// [`crate::affinity`].
    fn remembered(&self, service: u32, is_v4: bool, seconds: u32) -> Option<Memory>;
    /// 32 uniformly random bits.
    fn draw(&self) -> u32;
    /// Whether somebody on another node, whose packet says [`Origin::External`], is a pod; asked only of a service port that serves
    /// the two differently.
    fn is_inside(&self) -> bool {
        false
    }
}

/// A sender that was given nothing before, with what it draws.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stranger(pub u32);

impl Sender for Stranger {
    fn held(&self, _: &Tuple) -> Option<Held> {
        None
    }

    fn remembered(&self, _: u32, _: bool, _: u32) -> Option<Memory> {
        None
    }

    fn draw(&self) -> u32 {
        self.0
    }
}

/// The outcome for a sender that may hold a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// To the backend that it holds.
    Held(Addr, Port),
    /// As for one that holds none.
    New(Verdict),
}

/// The outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not ours: leave it as it is.
    Pass,
    /// Send it to this backend.
    Forward(Pick),
    /// Refuse at once; the service is zero where none is involved.
    Reject(u32, DropReason),
    /// Let the sender time out; the service is zero where none is involved.
    Drop(u32, DropReason),
}

/// Whether `addr` is certainly not ours, whoever sends: the one cheap test that a hook makes before anything else.
#[inline(always)]
pub fn is_foreign<B: Bits>(filter: &B, addr: Addr) -> bool {
    !is_own_loopback(addr) && !may_own(filter, addr)
}

/// Whether `addr` is the loopback of a sender at `origin` that nobody serves: a pod's own loopback is nobody else's
/// business, and no packet from outside carries one.
#[inline(always)]
pub const fn is_private(addr: Addr, origin: Origin) -> bool {
    is_own_loopback(addr) && !matches!(origin, Origin::Host)
}

/// The kernel sends what is addressed to the unspecified address to the sender's own loopback.
#[inline(always)]
pub const fn is_own_loopback(addr: Addr) -> bool {
    addr.is_loopback() || addr.is_unspecified()
}

/// Decides where `packet` goes.
///
/// Order of lookup: the exact address; NodePort if the address is the node's own (or the host's loopback); the
/// owned VIP, whose unknown ports are rejected unless the address is also the node's own; ServiceCIDR ranges,
/// whose unassigned addresses time out (nftables mode of kube-proxy, KEP-3866).
#[inline(always)]
pub fn translate<L: Lookup, S: Sender>(lookup: &L, packet: &Packet, sender: &S) -> Verdict {
    match resolve(lookup, packet) {
        Ok(frontend) => serve(lookup, frontend, packet, sender),
        Err(verdict) => verdict,
    }
}

/// Decides where a datagram goes: to the backend that its sender holds, as long as the frontend is still that service's
/// and the endpoint is still listed and serving, whatever policies and hints say by now; else as [`translate`] does.
/// (kube-proxy keeps the conntrack entry of a UDP flow under the same condition.)
#[inline(always)]
pub fn follow<L: Lookup, S: Sender>(lookup: &L, packet: &Packet, sender: &S) -> Flow {
    let frontend = match resolve(lookup, packet) {
        Ok(frontend) => frontend,
        Err(verdict) => return Flow::New(verdict),
    };
    if let Some(held) = sender.held(&packet.tuple)
        && held.service == frontend.service
        && let Some(row) = row_of(lookup, &held)
        && row.state().is_serving()
    {
        return Flow::Held(row.addr, row.port);
    }
    Flow::New(serve(lookup, frontend, packet, sender))
}

/// What becomes of a socket that is connected through a frontend, after the tables have changed.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fate {
    /// It goes on as it is.
    Stays = 0,
    /// It is to have another backend, and there is one.
    Moves = 1,
    /// It is to have another backend, and there is none: it has to wait for one.
    Waits = 2,
}

/// Decides that, under the condition of [`follow`]; `None`: the socket waits already.
#[inline(always)]
pub fn fate<L: Lookup>(lookup: &L, packet: &Packet, held: Option<&Held>) -> Fate {
    let frontend = resolve(lookup, packet).ok();
    // An address that has become the node's own, as with a DNS cache on the node, is served by its sockets from the next
    // connect on; who is connected through it is left where it is well.
    let is_its = match (&frontend, held) {
        (Some(frontend), Some(held)) => frontend.service == held.service,
        (None, Some(_)) => lookup.node_addr(packet.tuple.addr).is_some(),
        (_, None) => false,
    };
    if let Some(held) = held
        && is_its
        && row_of(lookup, held).is_some_and(|row| row.state().is_serving())
    {
        return Fate::Stays;
    }
    let is_served = frontend.is_some_and(|frontend| {
        let view = view_for(frontend.kind, packet.origin);
        lookup
            .in_force(frontend.service, view)
            .is_some_and(|(_, word)| matches!(word.kind(), ViewKind::Random))
    });
    match (is_served, held) {
        (true, _) => Fate::Moves,
        (false, Some(_)) => Fate::Waits,
        (false, None) => Fate::Stays,
    }
}

/// The row of a backend that somebody was given, as long as it is still the same endpoint's.
#[inline(always)]
pub fn row_of<L: Lookup>(lookup: &L, held: &Held) -> Option<Backend> {
    let row = lookup.backend(held.backend)?;
    if row.generation == held.generation && row.service == held.service { Some(row) } else { None }
}

/// The frontend that a destination names, or what becomes of it without one.
#[inline(always)]
fn resolve<L: Lookup>(lookup: &L, packet: &Packet) -> Result<FrontendValue, Verdict> {
    let Tuple { addr, port, proto } = packet.tuple;
    let loopback = is_own_loopback(addr);
    if !loopback && !lookup.may_own(addr) || is_private(addr, packet.origin) {
        return Err(Verdict::Pass);
    }
    let mut node = None;
    let mut frontend = lookup.frontend(&FrontendKey::new(addr, port, proto));
    if frontend.is_none() {
        node = lookup.node_addr(addr);
        if loopback || node.is_some_and(NodeAddrFlags::serves_node_ports) {
            frontend = lookup.frontend(&FrontendKey::node_port(addr, port, proto));
        }
    }
    if let Some(frontend) = frontend {
        return Ok(frontend);
    }
    if loopback || node.is_some() {
        return Err(Verdict::Pass);
    }
    if owns_vip(lookup, addr) {
        return Err(Verdict::Reject(0, DropReason::UnknownPort));
    }
    if lookup.in_service_cidr(addr) {
        return Err(Verdict::Drop(0, DropReason::UnassignedAddress));
    }
    Err(Verdict::Pass)
}

/// Whether some Service holds `addr` as its cluster IP.
#[inline(always)]
pub fn owns_vip<L: Lookup>(lookup: &L, addr: Addr) -> bool {
    let Some(block) = lookup.frontend(&FrontendKey::owned_block(addr)) else {
        return false;
    };
    let (word, mask) = owned::position(addr);
    lookup.owned_word(block.service, word).is_some_and(|bits| bits & mask != 0)
}

/// The view through which a frontend of `kind` (a [`FrontendKind`] as stored) serves a sender at `origin`.
#[inline(always)]
pub const fn view_for(kind: u8, origin: Origin) -> View {
    if kind == FrontendKind::ClusterIp as u8 {
        View::Internal
    } else if matches!(origin, Origin::External) {
        View::External
    } else {
        View::Cluster
    }
}

#[inline(always)]
fn serve<L: Lookup, S: Sender>(lookup: &L, frontend: FrontendValue, packet: &Packet, sender: &S) -> Verdict {
    let service = frontend.service;
    let inconsistent = Verdict::Reject(service, DropReason::Inconsistent);
    let mut view = view_for(frontend.kind, packet.origin);
    let Some((head, mut word)) = lookup.in_force(service, view) else {
        return inconsistent;
    };
    if matches!(view, View::External)
        && let Some(inside) = lookup.view(service, head.half(), View::Cluster)
        && inside.plain() != word.plain()
        && sender.is_inside()
    {
        (view, word) = (View::Cluster, inside);
    }
    match word.kind() {
        ViewKind::Pass => return Verdict::Pass,
        ViewKind::Reject => return Verdict::Reject(service, DropReason::NoEndpoints),
        ViewKind::Drop => return Verdict::Drop(service, DropReason::NoLocalEndpoints),
        ViewKind::Random => {}
    }
    let mut flags = 0;
    if frontend.flags & FrontendValue::CHECK_SOURCE != 0 {
        flags |= Pick::CHECK_SOURCE;
    }
    if word.keeps_source() {
        flags |= Pick::KEEPS_SOURCE;
    }
    let seconds = head.affinity_seconds();
    let mut id = 0;
    if seconds != 0 {
        flags |= Pick::STICKY;
        if let Some(memory) = sender.remembered(service, packet.tuple.addr.is_v4(), seconds)
            && row_of(lookup, &Held { service, backend: memory.backend(), generation: memory.generation() })
                .is_some_and(|row| row.state().in_view(view))
        {
            id = memory.backend();
        }
    }
    if id == 0 {
        id = slot(lookup, word, sender.draw()).unwrap_or(0);
    }
    // Read here, whichever way the id came: two rows to go on with would be two programs to the verifier.
    match lookup.backend(id) {
        Some(row) if id != 0 && row.service == service => {
            Verdict::Forward(Pick::new(&Place { service, kind: frontend.kind, flags, view }, (id, &row)))
        }
        _ => inconsistent,
    }
}

/// Whether a client of this address may have what it was picked: always, unless `loadBalancerSourceRanges` bind the
/// frontend. The address is the one before any SNAT.
#[inline(always)]
pub fn admits<L: Lookup>(lookup: &L, pick: &Pick, client: Addr) -> bool {
    !pick.must_check_source() || lookup.is_allowed_source(pick.service, client)
}

/// Another draw from the view that a pick came from, for a sender that cannot use the first; `None` if that view picks
/// nobody any more.
#[inline(always)]
pub fn pick_again<L: Lookup>(lookup: &L, first: &Pick, draw: u32) -> Option<Pick> {
    let (_, word) = lookup.in_force(first.service, first.view)?;
    if !matches!(word.kind(), ViewKind::Random) {
        return None;
    }
    let id = slot(lookup, word, draw)?;
    let row = lookup.backend(id)?;
    if id == 0 || row.service != first.service {
        return None;
    }
    let Pick { service, kind, flags, view, .. } = *first;
    Some(Pick::new(&Place { service, kind, flags, view }, (id, &row)))
}

/// The backend id in a slot of the view, uniformly.
#[inline(always)]
fn slot<L: Lookup>(lookup: &L, word: ViewWord, draw: u32) -> Option<u32> {
    // Multiply and shift instead of a remainder: no division by a maybe-zero value for the verifier to refuse.
    let index = ((draw as u64 * word.count() as u64) >> 32) as u32;
    lookup.slot(word.base().wrapping_add(index))
}

#[cfg(test)]
#[path = "lb_tests.rs"]
mod tests;
