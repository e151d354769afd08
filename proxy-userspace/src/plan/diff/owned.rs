//! Which VIPs are owned, compared with the maps: bits of blocks, and the entries that name the blocks.

use proxy_common::addr::Addr;
use proxy_common::frontend::{FrontendKey, FrontendKind, FrontendValue};
use proxy_common::names;
use proxy_common::owned::{self, BLOCK_WORDS};

use super::stock::{Full, Stock};
use crate::plan::actual::Actual;
use crate::plan::claims::Claims;
use crate::plan::ops::{MapOp, block_word};

/// What there is room for.
pub(super) struct Room<'a> {
    pub(super) stock: &'a mut Stock,
    /// Entries that the hash may still take.
    pub(super) entries: usize,
}

type Bits = [u64; BLOCK_WORDS];

/// Changes of the owned VIPs. A VIP's bit is set after its ports are inserted and cleared before they are deleted, or a
/// port that is served would be refused as unknown for a moment.
#[derive(Debug, Default)]
pub(super) struct OwnedChanges {
    pub(super) sets: Vec<MapOp>,
    /// Entries of new blocks, whose words are among `sets`.
    pub(super) inserts: Vec<(FrontendKey, FrontendValue)>,
    pub(super) clears: Vec<MapOp>,
    /// Entries of blocks that no VIP needs, deleted before the ports of their VIPs.
    pub(super) deletes: Vec<FrontendKey>,
}

impl OwnedChanges {
    /// Settles the VIPs among `touched`. VIPs whose block finds no room are returned, with what is full.
    pub(super) fn diff(
        actual: &Actual,
        mut room: Room<'_>,
        claims: &Claims,
        touched: &[FrontendKey],
    ) -> (Self, Vec<(FrontendKey, Full)>) {
        let mut changes = Self::default();
        let mut refused = Vec::new();
        let mut vips: Vec<FrontendKey> = touched.iter().filter(|key| key.is_owned_vip()).copied().collect();
        // The order of addresses is that of their bytes in memory, in which a block is no range.
        vips.sort_unstable_by_key(|key| (owned::block(key.addr), key.addr));
        for vips in vips.chunk_by(|one, next| owned::block(one.addr) == owned::block(next.addr)) {
            let key = FrontendKey::owned_block(vips[0].addr);
            let mut block = Block::read(actual, &key);
            for vip in vips {
                block.mark(vip.addr, claims.owns_vip(vip.addr));
            }
            if let Err(full) = changes.settle(&mut room, key, &block) {
                let owned = vips.iter().filter(|vip| claims.owns_vip(vip.addr));
                refused.extend(owned.map(|vip| (*vip, full)));
            }
        }
        (changes, refused)
    }

    fn settle(&mut self, room: &mut Room<'_>, key: FrontendKey, block: &Block) -> Result<(), Full> {
        let Block { id, before, wide, after } = *block;
        let Some(id) = id else {
            if after == [0; BLOCK_WORDS] {
                return Ok(());
            }
            if self.inserts.len() >= room.entries {
                return Err(Full(names::FRONTENDS));
            }
            let id = room.stock.take_block()?;
            // All words: whoever had the element before may have died before it was empty.
            self.sets.extend(after.iter().enumerate().map(|(index, value)| store(id, index, *value)));
            self.inserts.push((key, FrontendValue::new(id, FrontendKind::OwnedVip, 0)));
            return Ok(());
        };
        if after == [0; BLOCK_WORDS] {
            // The bits stay: they tell a restart that the element was in use not long ago.
            self.deletes.push(key);
            return Ok(());
        }
        self.sets.extend(differences(id, (before, wide)));
        self.clears.extend(differences(id, (wide, after)));
        Ok(())
    }
}

/// A block as it is, with what joins, and with what has left.
struct Block {
    id: Option<u32>,
    before: Bits,
    wide: Bits,
    after: Bits,
}

impl Block {
    fn read(actual: &Actual, key: &FrontendKey) -> Self {
        let id = actual.frontend(key).map(|value| value.service);
        let before = id.map_or([0; BLOCK_WORDS], |id| actual.owned_bits(id));
        Self { id, before, wide: before, after: before }
    }

    fn mark(&mut self, addr: Addr, is_owned: bool) {
        let (word, mask) = owned::position(addr);
        if is_owned {
            self.wide[word] |= mask;
            self.after[word] |= mask;
        } else {
            self.after[word] &= !mask;
        }
    }
}

fn differences(id: u32, (from, to): (Bits, Bits)) -> impl Iterator<Item = MapOp> {
    let changed = from.into_iter().zip(to).enumerate().filter(|(_, (from, to))| from != to);
    changed.map(move |(index, (_, value))| store(id, index, value))
}

fn store(id: u32, index: usize, value: u64) -> MapOp {
    MapOp::StoreOwned { word: block_word(id, index), value }
}
