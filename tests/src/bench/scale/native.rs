//! The decision over the live maps from user space: words through the mappings, frontends from a dump.

use std::collections::HashMap;
use std::hint::black_box;
use std::net::SocketAddr;
use std::time::Instant;

use anyhow::{Result, ensure};
use proxy_common::addr::{Addr, Port, Proto};
use proxy_common::backend::{Backend, ROW_WORDS, split};
use proxy_common::filter;
use proxy_common::frontend::{FrontendKey, FrontendValue};
use proxy_common::lb::{Lookup, Origin, Packet, Stranger, Tuple, Verdict, translate};
use proxy_common::node::NodeAddrFlags;
use proxy_common::owned::BLOCK_WORDS;
use proxy_common::service::{CELL_WORDS, Half, Head, View, ViewWord};
use shunt::maps::{Hashes, WordTable, Words};

use super::objects::{World, dialled};
use crate::bench::estimate::float;

/// Decisions that are timed.
const DECISIONS: u32 = 1_000_000;

/// The tables as [`translate`] reads them.
struct Tables<'a, S> {
    store: &'a S,
    frontends: HashMap<FrontendKey, FrontendValue, foldhash::fast::RandomState>,
}

/// Nanoseconds a decision over random services of `world`; each must name an endpoint of its service.
pub(super) fn decide(
    store: &(impl Words + Hashes),
    world: &World,
    random: &mut fastrand::Rng,
) -> Result<f64> {
    let tables = Tables { store, frontends: store.frontends()?.into_iter().collect() };
    let packets: Vec<(u32, Packet, Stranger)> = (0..DECISIONS)
        .map(|_| {
            let service = random.u32(..world.services);
            (service, packet(dialled(service)), Stranger(random.u32(..)))
        })
        .collect();
    for (service, packet, sender) in packets.iter().take(10_000) {
        let verdict = translate(&tables, packet, sender);
        let Verdict::Forward(pick) = verdict else { anyhow::bail!("service {service}: {verdict:?}") };
        let at = SocketAddr::new(pick.addr.to_ip(), pick.port.get());
        ensure!(world.is_endpoint(*service, at), "service {service} leads to {at}");
    }
    let start = Instant::now();
    for (_, packet, sender) in &packets {
        black_box(translate(&tables, black_box(packet), sender));
    }
    Ok(start.elapsed().as_secs_f64() * 1e9 / float(u64::from(DECISIONS)))
}

fn packet(vip: SocketAddr) -> Packet {
    let tuple = Tuple { addr: vip.ip().into(), port: Port::new(vip.port()), proto: Proto::TCP };
    Packet { tuple, origin: Origin::Pod }
}

impl<S: Words> Tables<'_, S> {
    fn word(&self, table: WordTable, word: u64) -> Option<u64> {
        self.store.load(table, word).ok()
    }

    fn cell_word(&self, service: u32, word: usize) -> Option<u64> {
        self.word(WordTable::Services, u64::from(service) * CELL_WORDS as u64 + word as u64)
    }
}

impl<S: Words> filter::Bits for Tables<'_, S> {
    fn is_set(&self, bit: u32) -> bool {
        let (word, mask) = filter::position(bit);
        self.word(WordTable::Filter, u64::from(word)).is_some_and(|bits| bits & mask != 0)
    }
}

impl<S: Words> Lookup for Tables<'_, S> {
    fn may_own(&self, addr: Addr) -> bool {
        filter::may_own(self, addr)
    }

    fn frontend(&self, key: &FrontendKey) -> Option<FrontendValue> {
        self.frontends.get(key).copied()
    }

    // The bench has no node addresses and no ranges.
    fn node_addr(&self, _addr: Addr) -> Option<NodeAddrFlags> {
        None
    }

    fn in_service_cidr(&self, _addr: Addr) -> bool {
        false
    }

    fn is_allowed_source(&self, _service: u32, _addr: Addr) -> bool {
        false
    }

    fn owned_word(&self, block: u32, word: usize) -> Option<u64> {
        self.word(WordTable::Owned, u64::from(block) * BLOCK_WORDS as u64 + word as u64)
    }

    fn head(&self, service: u32) -> Option<Head> {
        self.cell_word(service, 0).map(Head)
    }

    fn view(&self, service: u32, half: Half, view: View) -> Option<ViewWord> {
        self.cell_word(service, half.word(view)).map(ViewWord)
    }

    fn slot(&self, slot: u32) -> Option<u32> {
        let (first, second) = split(self.word(WordTable::Slots, u64::from(slot / 2))?);
        Some(if slot.is_multiple_of(2) { first } else { second })
    }

    fn backend(&self, id: u32) -> Option<Backend> {
        let mut words = [0; ROW_WORDS];
        for (word, index) in words.iter_mut().zip(0..) {
            *word = self.word(WordTable::Backends, u64::from(id) * ROW_WORDS as u64 + index)?;
        }
        Some(Backend::from_words(words))
    }
}
