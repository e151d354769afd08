//! A store that takes everything and holds nothing: for whoever wants the tables that a state leads to, which the
//! planner's mirror has, and no maps.

use proxy_common::addr::Addr;
use proxy_common::frontend::{FrontendKey, FrontendValue};
use proxy_common::names::FRONTENDS_INITIAL;
use proxy_common::node::{CidrKey, NodeAddrFlags};
use proxy_common::source::SourceKey;

use super::{Hashes, MapStore, StoreError, WordTable, Words};

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub struct Nowhere;

impl Words for Nowhere {
    fn store(&mut self, _: WordTable, _: u64, _: u64) -> Result<(), StoreError> {
        Ok(())
    }

    fn load(&self, table: WordTable, word: u64) -> Result<u64, StoreError> {
        Err(StoreError::Missing { map: table.name(), element: word })
    }

    fn words(&self, _: WordTable) -> u64 {
        0
    }

    fn grow(&mut self, _: WordTable) -> Result<(), StoreError> {
        Ok(())
    }
}

impl Hashes for Nowhere {
    fn insert_frontends(&mut self, _: &[(FrontendKey, FrontendValue)]) -> Result<(), StoreError> {
        Ok(())
    }

    fn delete_frontends(&mut self, _: &[FrontendKey]) -> Result<(), StoreError> {
        Ok(())
    }

    fn frontends(&self) -> Result<Vec<(FrontendKey, FrontendValue)>, StoreError> {
        Ok(Vec::new())
    }

    fn frontend_capacity(&self) -> u32 {
        FRONTENDS_INITIAL
    }

    fn grow_frontends(&mut self, _: u32) -> Result<(), StoreError> {
        Ok(())
    }

    fn move_frontends(&mut self, _: &[(FrontendKey, FrontendValue)]) -> Result<(), StoreError> {
        Ok(())
    }

    fn insert_node_addr(&mut self, _: Addr, _: NodeAddrFlags) -> Result<(), StoreError> {
        Ok(())
    }

    fn delete_node_addr(&mut self, _: Addr) -> Result<(), StoreError> {
        Ok(())
    }

    fn node_addrs(&self) -> Result<Vec<(Addr, NodeAddrFlags)>, StoreError> {
        Ok(Vec::new())
    }

    fn insert_cidr(&mut self, _: CidrKey) -> Result<(), StoreError> {
        Ok(())
    }

    fn delete_cidr(&mut self, _: CidrKey) -> Result<(), StoreError> {
        Ok(())
    }

    fn cidrs(&self) -> Result<Vec<CidrKey>, StoreError> {
        Ok(Vec::new())
    }

    fn insert_source(&mut self, _: SourceKey) -> Result<(), StoreError> {
        Ok(())
    }

    fn delete_source(&mut self, _: SourceKey) -> Result<(), StoreError> {
        Ok(())
    }

    fn sources(&self) -> Result<Vec<SourceKey>, StoreError> {
        Ok(Vec::new())
    }
}

impl MapStore for Nowhere {
    fn grace(&mut self) -> Result<(), StoreError> {
        Ok(())
    }
}
