//! Size, offset and padding of every type that crosses into the kernel.
//!
//! The padding proof is zerocopy's `IntoBytes` derive (feature `user`), which refuses a type with padding; the
//! sizes here bind the eBPF build too, which does not enable it.

use core::mem::{offset_of, size_of};

use crate::addr::{Addr, Port, Proto};
use crate::affinity::{AffinityKey, Memory};
use crate::backend::{Backend, ROW_WORDS, STATE_WORD};
use crate::frontend::{FrontendKey, FrontendValue};
use crate::names::{BACKENDS, CHUNK_BYTES, COUNTERS, OWNED, SERVICES, SLOTS};
use crate::node::{CidrKey, NodeAddrFlags};
use crate::owned::BLOCK_WORDS;
use crate::registry::{Event, Namespace};
use crate::service::CELL_WORDS;
use crate::socket::{TcpPeer, TcpRecord};
use crate::source::SourceKey;
use crate::udp::{PAIRS, Pair, Pairs, Stale, UdpRecord};

const _: () = {
    assert!(size_of::<Addr>() == 16 && size_of::<Port>() == 2 && size_of::<Proto>() == 1);
    assert!(size_of::<FrontendKey>() == 20);
    assert!(size_of::<FrontendValue>() == 8);
    assert!(size_of::<Backend>() == ROW_WORDS * 8 && size_of::<Backend>() == BACKENDS.element_bytes as usize);
    assert!(offset_of!(Backend, state) == STATE_WORD * 8);
    assert!(offset_of!(Backend, generation) == STATE_WORD * 8 + 4);
    assert!(size_of::<NodeAddrFlags>() == 4 && size_of::<CidrKey>() == 20);
    assert!(size_of::<SourceKey>() == 24 && offset_of!(SourceKey, addr) == 8);
    assert!(size_of::<TcpRecord>() == 40 && size_of::<TcpPeer>() == 48 && offset_of!(TcpPeer, cookie) == 0);
    assert!(size_of::<Pair>() == 52 && size_of::<Pairs>() == (PAIRS + 1) * 52 + 12);
    assert!(size_of::<UdpRecord>() == size_of::<Pairs>() + 16);
    assert!(offset_of!(UdpRecord, pairs) == 16 && size_of::<Stale>() == 48);
    assert!(size_of::<AffinityKey>() == 20 && size_of::<Memory>() == 16);
    assert!(size_of::<Namespace>() == 40 && size_of::<Event>() == 16);
    assert!(SERVICES.element_bytes as usize == CELL_WORDS * 8);
    assert!(OWNED.element_bytes as usize == BLOCK_WORDS * 8 && OWNED.chunk_elements().is_power_of_two());
    assert!(CHUNK_BYTES.is_multiple_of(4096));
    assert!(SERVICES.chunk_elements().is_power_of_two() && SLOTS.chunk_elements().is_power_of_two());
    assert!(BACKENDS.chunk_elements().is_power_of_two() && COUNTERS.chunk_elements().is_power_of_two());
};
