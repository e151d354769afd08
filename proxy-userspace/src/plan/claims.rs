//! Claims: which service ports want which frontends, and who gets a frontend that several want.
//!
//! The present holder keeps a frontend while it claims it; else the smallest label wins. When the winner lets go, the
//! next takes over. An owned VIP belongs to all who claim it and goes with the last.

use std::sync::Arc;

use foldhash::{HashMap, HashMapExt, HashSet};
use proxy_common::addr::Addr;
use proxy_common::frontend::{FrontendKey, FrontendKind};

use super::actual::Actual;
use super::tables::{DesiredFrontend, OwnerTag};

/// A frontend that a service port claims and does not get.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Conflict {
    /// The frontend.
    pub key: FrontendKey,
    /// Label of the service port that has it.
    pub winner: Arc<str>,
    /// Label of the service port that does without.
    pub loser: Arc<str>,
}

/// Frontends whose claims changed and must be settled anew, in no order and maybe repeated.
pub type Touched = Vec<FrontendKey>;

#[derive(Clone, Debug)]
struct PortClaims {
    label: Arc<str>,
    /// Sorted by key.
    frontends: Box<[DesiredFrontend]>,
    /// Found in the maps at start, and claimed by nobody since.
    adopted: bool,
}

/// The claims of all service ports.
#[derive(Clone, Debug)]
pub struct Claims {
    ports: HashMap<OwnerTag, PortClaims>,
    /// One claimant of each key; nearly all keys have no other.
    first: HashMap<FrontendKey, OwnerTag>,
    /// The other claimants, where there are any.
    more: HashMap<FrontendKey, Vec<OwnerTag>>,
    /// Claimants of each owned VIP.
    vips: HashMap<Addr, u32>,
    /// Owned VIPs found in the maps at start; nobody is known to claim them until everything has listed.
    adopted_vips: HashSet<Addr>,
    /// Frontends found in the maps at start that name no cell in use.
    strays: Touched,
}

impl Claims {
    /// The claims that follow from what the maps hold: each cell claims what it has.
    pub fn adopt(actual: &Actual) -> Self {
        let mut held: HashMap<u32, Vec<DesiredFrontend>> = HashMap::new();
        let adopted_vips = actual.owned_vips().collect();
        let mut strays = Touched::new();
        for (key, value) in actual.frontends() {
            match FrontendKind::from_raw(value.kind) {
                Some(FrontendKind::OwnedVip) => {}
                None => strays.push(key),
                Some(kind) => {
                    held.entry(value.service).or_default().push(DesiredFrontend {
                        key,
                        kind,
                        flags: value.flags,
                    });
                }
            }
        }
        let mut claims = Self {
            ports: HashMap::new(),
            first: HashMap::new(),
            more: HashMap::new(),
            vips: HashMap::new(),
            adopted_vips,
            strays,
        };
        for (tag, service) in actual.cells() {
            let mut frontends = held.remove(&service).unwrap_or_default();
            frontends.sort_unstable_by_key(|frontend| frontend.key);
            let label = format!("adopted-{:016x}", tag.0).into();
            let port = PortClaims { label, frontends: frontends.into(), adopted: true };
            claims.insert(tag, port, &mut Touched::new());
        }
        claims.strays.extend(held.into_values().flatten().map(|frontend| frontend.key));
        claims
    }

    /// Puts the claims of a service port in the place of those it had; `touched` gets what differs.
    pub fn replace(
        &mut self,
        tag: OwnerTag,
        (label, frontends): (&Arc<str>, &[DesiredFrontend]),
        touched: &mut Touched,
    ) {
        if let Some(port) = self.ports.get_mut(&tag)
            && *port.frontends == *frontends
        {
            port.label = Arc::clone(label);
            port.adopted = false;
            return;
        }
        let mut before = Touched::new();
        let old = self.take(tag, &mut before);
        let port = PortClaims { label: Arc::clone(label), frontends: frontends.into(), adopted: false };
        self.insert(tag, port, &mut before);
        let unchanged =
            |key: &FrontendKey| old.as_ref().is_some_and(|old| find(old, key) == find(frontends, key));
        touched.extend(before.into_iter().filter(|key| !unchanged(key)));
    }

    /// Drops the claims of a service port.
    pub fn remove(&mut self, tag: OwnerTag, touched: &mut Touched) {
        self.take(tag, touched);
    }

    /// Notes that somebody wants this service port, whether it can be served or not. If that was not known, `touched` gets
    /// what others claim too: only now is it lost to them.
    pub fn note_wanted(&mut self, tag: OwnerTag, touched: &mut Touched) {
        if let Some(port) = self.ports.get_mut(&tag).filter(|port| port.adopted) {
            port.adopted = false;
            let keys = port.frontends.iter().map(|frontend| frontend.key);
            touched.extend(keys.filter(|key| self.more.contains_key(key)));
        }
    }

    /// What was found at start and nobody has wanted since; owned VIPs and strays are let go at once.
    pub fn unknown(&mut self, touched: &mut Touched) -> Vec<OwnerTag> {
        touched.extend(self.adopted_vips.drain().map(FrontendKey::owned_vip));
        touched.append(&mut self.strays);
        self.ports.iter().filter(|(_, port)| port.adopted).map(|(tag, _)| *tag).collect()
    }

    /// Whether the VIP is owned by anybody.
    pub fn owns_vip(&self, addr: Addr) -> bool {
        self.vips.contains_key(&addr) || self.adopted_vips.contains(&addr)
    }

    /// Who gets a frontend that `holder` has at present, and as what.
    pub fn winner(&self, key: &FrontendKey, holder: Option<OwnerTag>) -> Option<(OwnerTag, DesiredFrontend)> {
        let tag = match holder.filter(|holder| self.claimants(key).any(|tag| tag == *holder)) {
            Some(holder) => holder,
            None => self.claimants(key).min_by_key(|tag| (self.label(*tag), *tag))?,
        };
        let claim = find(&self.ports.get(&tag)?.frontends, key)?;
        Some((tag, claim))
    }

    /// Adds a conflict for everyone but `winner` who claims `key`: none while nobody is known to want the winner, which
    /// may be about to go.
    pub fn report_losers(&self, key: &FrontendKey, winner: OwnerTag, conflicts: &mut Vec<Conflict>) {
        let Some(holder) = self.ports.get(&winner).filter(|port| !port.adopted) else { return };
        for loser in self.claimants(key).filter(|tag| *tag != winner) {
            if let Some(loser) = self.label(loser) {
                let winner = Arc::clone(&holder.label);
                conflicts.push(Conflict { key: *key, winner, loser: Arc::clone(loser) });
            }
        }
    }

    /// Frontends that more than one service port claims, in no order.
    pub fn contested(&self) -> impl Iterator<Item = &FrontendKey> {
        self.more.keys()
    }

    /// What a service port claims.
    pub fn frontends(&self, tag: OwnerTag) -> &[DesiredFrontend] {
        self.ports.get(&tag).map_or(&[], |port| &port.frontends)
    }

    /// The label of a service port that has claims.
    pub fn label(&self, tag: OwnerTag) -> Option<&Arc<str>> {
        self.ports.get(&tag).map(|port| &port.label)
    }

    fn claimants(&self, key: &FrontendKey) -> impl Iterator<Item = OwnerTag> + '_ {
        let more = self.more.get(key).map_or(&[][..], Vec::as_slice);
        self.first.get(key).into_iter().chain(more).copied()
    }

    fn insert(&mut self, tag: OwnerTag, port: PortClaims, touched: &mut Touched) {
        for DesiredFrontend { key, .. } in &port.frontends {
            touched.push(*key);
            if key.is_owned_vip() {
                *self.vips.entry(key.addr).or_insert(0) += 1;
            } else if *self.first.entry(*key).or_insert(tag) != tag {
                self.more.entry(*key).or_default().push(tag);
            }
        }
        self.ports.insert(tag, port);
    }

    fn take(&mut self, tag: OwnerTag, touched: &mut Touched) -> Option<Box<[DesiredFrontend]>> {
        let port = self.ports.remove(&tag)?;
        for DesiredFrontend { key, .. } in &port.frontends {
            touched.push(*key);
            if key.is_owned_vip() {
                self.release_vip(key.addr);
            } else {
                self.release(key, tag);
            }
        }
        Some(port.frontends)
    }

    fn release_vip(&mut self, addr: Addr) {
        if let Some(count) = self.vips.get_mut(&addr) {
            *count -= 1;
            if *count == 0 {
                self.vips.remove(&addr);
            }
        }
    }

    fn release(&mut self, key: &FrontendKey, tag: OwnerTag) {
        let more = self.more.get_mut(key);
        if self.first.get(key) != Some(&tag) {
            if let Some(more) = more {
                more.retain(|other| *other != tag);
            }
        } else if let Some(next) = more.and_then(Vec::pop) {
            self.first.insert(*key, next);
        } else {
            self.first.remove(key);
        }
        if self.more.get(key).is_some_and(Vec::is_empty) {
            self.more.remove(key);
        }
    }
}

fn find(frontends: &[DesiredFrontend], key: &FrontendKey) -> Option<DesiredFrontend> {
    let index = frontends.binary_search_by_key(key, |frontend| frontend.key).ok()?;
    Some(frontends[index])
}
