//! The programs find what lies beyond the first chunk of each array: a large cluster is served as a small one.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};

use proxy_common::counter::{ServiceCounter, reason_element, service_element};
use proxy_common::frontend::{FrontendKey, FrontendKind, FrontendValue};
use proxy_common::names;
use proxy_common::owned;
use proxy_common::reason::DropReason;
use proxy_common::service::ViewWord;
use shunt::maps::{Hashes, WordTable, Words};
use shunt::plan::ops::block_word;
use tests::hand::{Rig, VIP, connect_once};

/// A cell in the third chunk: its counters are in their second one.
const CELL: u32 = names::SERVICES.chunk_elements() * 2 + 1;
/// Rows, slots and blocks in the second chunk, with the offset that something else has in the first.
const ROWS: [u32; 2] = [names::BACKENDS.chunk_elements() + 1, names::BACKENDS.chunk_elements() + 2];
const SLOTS: u32 = names::CHUNK_SLOTS + 2;
const BLOCK: u32 = names::OWNED.chunk_elements() + 1;
/// What lies at the same offsets in the first chunks leads to this row.
const DECOY: u32 = 9;
/// Shards of the rig's counters.
const SHARDS: u32 = 2;

const CONNECTS: u64 = 64;

/// A service in late chunks, which do not exist yet.
fn rig() -> Rig {
    let mut rig = Rig::new("chunks").unwrap();
    rig.cell = CELL;
    rig.insert_vip().unwrap();
    let block = FrontendValue::new(BLOCK, FrontendKind::OwnedVip, 0);
    rig.store.insert_frontends(&[(FrontendKey::owned_block(VIP.ip().into()), block)]).unwrap();
    rig
}

/// Fills the late chunks, and leads whoever takes the first ones for them to the decoy.
fn fill(rig: &mut Rig, listeners: &[TcpListener]) {
    for (table, chunks) in
        WordTable::CHUNKED.map(|table| (table, if table == WordTable::Services { 3 } else { 2 }))
    {
        for _ in 1..chunks {
            rig.store.grow(table).unwrap();
        }
    }
    let [first, second, decoy] = [0, 1, 2].map(|index: usize| listeners[index].local_addr().unwrap());
    rig.write_row(ROWS[0], first).unwrap();
    rig.write_row(ROWS[1], second).unwrap();
    let [same_offset, other] = ROWS.map(|id| names::BACKENDS.offset(id));
    for id in [same_offset, other, DECOY] {
        rig.write_row(id, decoy).unwrap();
    }
    rig.write_slots(SLOTS, &ROWS).unwrap();
    rig.write_slots(SLOTS - names::CHUNK_SLOTS, &[DECOY, DECOY]).unwrap();
    rig.write_slots(0, &[DECOY]).unwrap();
    rig.cell = names::SERVICES.offset(CELL);
    rig.switch_to(ViewWord::random(0, 1)).unwrap();
    rig.cell = CELL;
    rig.switch_to(ViewWord::random(SLOTS, 2)).unwrap();
    let (word, mask) = owned::position(VIP.ip().into());
    rig.store.store(WordTable::Owned, block_word(BLOCK, word), mask).unwrap();
}

/// How many connections a listener has been given.
fn accepted(listener: &TcpListener) -> u64 {
    listener.set_nonblocking(true).unwrap();
    let mut count = 0;
    while listener.accept().is_ok() {
        count += 1;
    }
    count
}

fn counted(rig: &Rig, element: impl Fn(u32) -> u32) -> u64 {
    (0..SHARDS).map(|shard| rig.store.load(WordTable::Counters, u64::from(element(shard))).unwrap()).sum()
}

fn reasons(rig: &Rig, reason: DropReason) -> u64 {
    counted(rig, |shard| reason_element(reason as u8, SHARDS, shard))
}

#[test]
fn a_service_in_late_chunks_is_served_and_counted() {
    let mut rig = rig();
    let listeners = rig.listeners(3).unwrap();
    // The control: without the chunks there is nothing to be found, and no program looks elsewhere.
    let error = rig.netns.inside(connect_once).unwrap().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    assert_eq!(reasons(&rig, DropReason::Inconsistent), 1);

    fill(&mut rig, &listeners);
    for _ in 0..CONNECTS {
        assert_eq!(rig.netns.inside(connect_once).unwrap().unwrap(), VIP);
    }
    let served: Vec<u64> = listeners.iter().map(accepted).collect();
    assert_eq!(served[2], 0, "the decoy was reached: {served:?}");
    assert!(served[0] > 0 && served[1] > 0 && served[0] + served[1] == CONNECTS, "{served:?}");
    let picked = counted(&rig, |shard| service_element(CELL, ServiceCounter::Picked, SHARDS, shard));
    assert_eq!((picked, reasons(&rig, DropReason::Inconsistent)), (CONNECTS, 1));
}

#[test]
fn a_vip_in_a_late_block_refuses_ports_that_it_does_not_serve() {
    let mut rig = rig();
    let unknown = SocketAddr::new(VIP.ip(), VIP.port() + 1);
    let connect = |rig: &Rig| rig.netns.inside(|| TcpStream::connect(unknown)).unwrap().unwrap_err().kind();
    // The control: nothing says that the VIP is owned, and there is no route to it.
    assert_eq!(connect(&rig), io::ErrorKind::NetworkUnreachable);
    let listeners = rig.listeners(3).unwrap();
    fill(&mut rig, &listeners);
    assert_eq!(connect(&rig), io::ErrorKind::ConnectionRefused);
    assert_eq!(reasons(&rig, DropReason::UnknownPort), 1);
    let same_offset = block_word(names::OWNED.offset(BLOCK), 0);
    assert_eq!(rig.store.load(WordTable::Owned, same_offset).unwrap(), 0, "it was the late block");
}
