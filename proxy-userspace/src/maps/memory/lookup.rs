//! The fake store as the packet decision sees it.

use proxy_common::addr::{Addr, Port, Proto};
use proxy_common::backend::{Backend, ROW_WORDS, split};
use proxy_common::filter;
use proxy_common::frontend::{FrontendKey, FrontendValue};
use proxy_common::lb::Lookup;
use proxy_common::node::NodeAddrFlags;
use proxy_common::service::{Half, Head, View, ViewWord};
use proxy_common::source::SourceKey;

use super::Memory;
use crate::maps::live::Elements;
use crate::maps::{StoreError, WordTable, Words};
use crate::plan::ops::{block_word, cell_word, row_word};

impl Memory {
    fn existing(&self, table: WordTable, word: u64) -> Option<u64> {
        self.load(table, word).ok()
    }
}

impl filter::Bits for Memory {
    fn is_set(&self, bit: u32) -> bool {
        let (word, mask) = filter::position(bit);
        self.word(WordTable::Filter, u64::from(word)) & mask != 0
    }
}

impl Lookup for Memory {
    fn may_own(&self, addr: Addr) -> bool {
        filter::may_own(self, addr)
    }

    fn may_serve(&self, port: Port, proto: Proto) -> bool {
        filter::may_serve(self, port, proto)
    }

    fn frontend(&self, key: &FrontendKey) -> Option<FrontendValue> {
        self.frontends.get(key).copied()
    }

    fn node_addr(&self, addr: Addr) -> Option<NodeAddrFlags> {
        self.node_addrs.get(&addr).copied()
    }

    fn in_service_cidr(&self, addr: Addr) -> bool {
        self.cidrs.iter().any(|key| covers((key.addr, key.prefix_len), addr))
    }

    fn is_allowed_source(&self, service: u32, addr: Addr) -> bool {
        let covers = |key: &SourceKey| {
            let bits = key.prefix_len.saturating_sub(SourceKey::SERVICE_BITS);
            key.service == service && covers((key.addr, bits), addr)
        };
        self.sources.iter().any(covers)
    }

    fn owned_word(&self, block: u32, word: usize) -> Option<u64> {
        self.existing(WordTable::Owned, block_word(block, word))
    }

    fn head(&self, service: u32) -> Option<Head> {
        self.existing(WordTable::Services, cell_word(service, 0)).map(Head)
    }

    fn view(&self, service: u32, half: Half, view: View) -> Option<ViewWord> {
        self.existing(WordTable::Services, cell_word(service, half.word(view))).map(ViewWord)
    }

    fn slot(&self, slot: u32) -> Option<u32> {
        let (even, odd) = split(self.existing(WordTable::Slots, u64::from(slot / 2))?);
        Some(if slot.is_multiple_of(2) { even } else { odd })
    }

    fn backend(&self, id: u32) -> Option<Backend> {
        let mut words = [0; ROW_WORDS];
        for (index, word) in words.iter_mut().enumerate() {
            *word = self.existing(WordTable::Backends, row_word(id, index))?;
        }
        Some(Backend::from_words(words))
    }
}

/// The hashes alone, for a reader that makes sense of the words by itself.
impl Elements for Memory {
    fn frontend(&self, key: &FrontendKey) -> Result<Option<FrontendValue>, StoreError> {
        Ok(Lookup::frontend(self, key))
    }

    fn node_addr(&self, addr: Addr) -> Result<Option<NodeAddrFlags>, StoreError> {
        Ok(Lookup::node_addr(self, addr))
    }

    fn in_service_cidr(&self, addr: Addr) -> Result<bool, StoreError> {
        Ok(Lookup::in_service_cidr(self, addr))
    }

    fn is_allowed_source(&self, service: u32, addr: Addr) -> Result<bool, StoreError> {
        Ok(Lookup::is_allowed_source(self, service, addr))
    }
}

/// Whether the first `prefix_len` bits of two addresses are the same.
fn covers((range, prefix_len): (Addr, u32), addr: Addr) -> bool {
    let bits =
        |addr: Addr| addr.words().into_iter().fold(0, |all, word| all << 32 | u128::from(u32::from_be(word)));
    let shift = 128 - prefix_len.min(128);
    shift == 128 || bits(range) >> shift == bits(addr) >> shift
}
