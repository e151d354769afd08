use proxy_common::addr::{Addr, Port, Proto};
use proxy_common::backend::{Backend, BackendState};
use proxy_common::frontend::{FrontendKey, FrontendKind, FrontendValue};
use proxy_common::service::{View, ViewWord};

use super::*;
use crate::plan::quarantine::QUARANTINE;
use crate::plan::tables::{DesiredBackend, DesiredFrontend, DesiredView};

const INTERNAL: u32 = 1;
const CLUSTER: u32 = 2;
const EXTERNAL: u32 = 4;

fn key(port: u16) -> FrontendKey {
    FrontendKey::new(Addr::from_v4_word(0x0a60_0001_u32.to_be()), Port::new(port), Proto::TCP)
}

/// A service port that serves the internal and external views, with the view bits of its endpoints from 10.1.0.0 on.
fn port(tag: u64, ports: &[u16], bits: &[u32]) -> DesiredPort {
    let mut frontends: Vec<DesiredFrontend> = ports
        .iter()
        .map(|port| DesiredFrontend { key: key(*port), kind: FrontendKind::ClusterIp, flags: 0 })
        .collect();
    frontends.sort_unstable_by_key(|frontend| frontend.key);
    let backends: Vec<DesiredBackend> = (0_u32..)
        .zip(bits)
        .map(|(index, bits)| DesiredBackend {
            addr: Addr::from_v4_word((0x0a01_0000 + index).to_be()),
            port: Port::new(8080),
            state: BackendState(BackendState::SERVING.0 | bits << 1),
        })
        .collect();
    let views = View::ALL.map(|view| match view {
        View::Cluster => DesiredView::Pass,
        _ if backends.iter().any(|backend| backend.state.in_view(view)) => DesiredView::Random,
        _ => DesiredView::Reject,
    });
    let label = format!("default/web{tag}:http/tcp").into();
    DesiredPort {
        tag: OwnerTag(tag),
        label,
        affinity_seconds: 0,
        frontends,
        sources: Box::default(),
        backends,
        views,
        keeps_source: false,
    }
}

fn planner() -> Planner {
    Planner::adopt(Actual::new(64), Vec::new(), Rules::for_shards(1)).unwrap()
}

/// Plans and mirrors as a store without faults would have it.
fn sync(writer: &mut Planner, changes: Changes) -> Planned {
    let planned = writer.plan(changes, 0);
    planned.ops.iter().for_each(|op| writer.settle(op));
    writer.finish(0);
    planned
}

fn upsert(port: DesiredPort) -> Changes {
    Changes { upsert: vec![port], ..Changes::default() }
}

fn remove(tag: u64) -> Changes {
    Changes { remove: vec![OwnerTag(tag)], ..Changes::default() }
}

fn heads(planned: &Planned) -> usize {
    planned.ops.iter().filter(|op| matches!(op, MapOp::StoreHead { .. })).count()
}

#[test]
fn a_policy_flip_and_an_endpoint_change_are_one_head_store() {
    let mut writer = planner();
    sync(&mut writer, upsert(port(1, &[80], &[INTERNAL | EXTERNAL, INTERNAL])));
    let mut changed = port(1, &[80], &[INTERNAL, 0, INTERNAL]);
    changed.views[View::External as usize] = DesiredView::Drop;
    changed.affinity_seconds = 60;
    assert_eq!(heads(&sync(&mut writer, upsert(changed))), 1);
    let service = writer.actual().cell_of(OwnerTag(1)).unwrap();
    let head = writer.actual().head(service);
    assert_eq!((head.affinity_seconds(), head.sequence()), (60, 2));
    assert_eq!(writer.actual().views(service)[View::External as usize], ViewWord::DROP);
}

#[test]
fn a_timeout_alone_switches_without_a_new_half() {
    let mut writer = planner();
    sync(&mut writer, upsert(port(1, &[80], &[INTERNAL])));
    let changed = DesiredPort { affinity_seconds: 60, ..port(1, &[80], &[INTERNAL]) };
    let planned = sync(&mut writer, upsert(changed));
    assert_eq!((planned.ops.len(), heads(&planned)), (1, 1));
}

#[test]
fn an_endpoint_outside_all_views_needs_no_head() {
    let mut writer = planner();
    sync(&mut writer, upsert(port(1, &[80], &[INTERNAL])));
    let planned = sync(&mut writer, upsert(port(1, &[80], &[INTERNAL, 0])));
    assert!(matches!(planned.ops[..], [MapOp::StoreRow { .. }]));
    let planned = sync(&mut writer, upsert(port(1, &[80], &[INTERNAL])));
    assert!(matches!(planned.ops[..], [MapOp::StoreState { state: BackendState::FREE, .. }]));
}

#[test]
fn equal_views_share_an_extent_and_keep_it() {
    let mut writer = planner();
    let both = INTERNAL | EXTERNAL;
    let planned = sync(&mut writer, upsert(port(1, &[80], &[both, both, both])));
    let extents =
        |planned: &Planned| planned.ops.iter().filter(|op| matches!(op, MapOp::StoreSlots { .. })).count();
    assert_eq!(extents(&planned), 1);
    let planned = sync(&mut writer, upsert(port(1, &[80], &[both, both, INTERNAL])));
    assert_eq!(extents(&planned), 1, "only the external view is another set now");
    assert_eq!(writer.resting().slots, 0, "the first extent serves the internal view still");
}

#[test]
fn a_view_that_keeps_sources_says_so_and_shares_its_extent_all_the_same() {
    let mut writer = planner();
    let all = INTERNAL | CLUSTER | EXTERNAL;
    let desired = |keeps_source| {
        upsert(DesiredPort {
            views: [DesiredView::Random; View::COUNT],
            keeps_source,
            ..port(1, &[80], &[all, all])
        })
    };
    sync(&mut writer, desired(false));
    for (keeps_source, ops) in [(true, 2), (true, 0), (false, 2)] {
        let planned = sync(&mut writer, desired(keeps_source));
        assert_eq!(planned.ops.len(), ops, "a half and a head, or nothing: {:?}", planned.ops);
        let service = writer.actual().cell_of(OwnerTag(1)).unwrap();
        let words = writer.actual().views(service);
        assert_eq!(words.map(ViewWord::keeps_source), [false, keeps_source, keeps_source]);
        assert_eq!(writer.actual().extents(service).count(), 1);
    }
}

#[test]
fn bits_join_before_the_switch_and_leave_after_it() {
    let mut writer = planner();
    sync(&mut writer, upsert(port(1, &[80], &[INTERNAL, EXTERNAL])));
    let planned = sync(&mut writer, upsert(port(1, &[80], &[EXTERNAL, INTERNAL])));
    let at = |wanted: &dyn Fn(&MapOp) -> bool| planned.ops.iter().position(wanted).unwrap();
    let both = BackendState(BackendState::SERVING.0 | (INTERNAL | EXTERNAL) << 1);
    let joined = at(&|op| matches!(op, MapOp::StoreState { state, .. } if *state == both));
    let switched = at(&|op| matches!(op, MapOp::StoreHead { .. }));
    let left = at(&|op| matches!(op, MapOp::StoreState { state, .. } if *state != both));
    assert!(joined < switched && switched < left);
}

#[test]
fn a_moved_frontend_is_replaced_in_place() {
    let mut writer = planner();
    sync(
        &mut writer,
        Changes { upsert: vec![port(1, &[80, 81], &[INTERNAL]), port(2, &[82], &[])], ..Changes::default() },
    );
    let moved = vec![port(1, &[81], &[INTERNAL]), port(2, &[80, 82], &[])];
    let planned = sync(&mut writer, Changes { upsert: moved, ..Changes::default() });
    let service = writer.actual().cell_of(OwnerTag(2)).unwrap();
    let value = FrontendValue::new(service, FrontendKind::ClusterIp, 0);
    assert_eq!(planned.ops, [MapOp::ReplaceFrontend(key(80), value), MapOp::Grace]);
}

/// Each frontend that is replaced in place costs a grace period.
#[test]
fn many_moved_frontends_move_at_once() {
    for (count, moves) in [(8, 0), (9, 1)] {
        let mut writer = planner();
        let ports: Vec<u16> = (1..=count).collect();
        sync(&mut writer, upsert(port(1, &ports, &[INTERNAL])));
        let heir = Changes { upsert: vec![port(2, &ports, &[INTERNAL])], ..remove(1) };
        let planned = sync(&mut writer, heir);
        let is_move =
            |op: &&MapOp| matches!(op, MapOp::MoveFrontends(entries) if entries.len() == ports.len());
        assert_eq!(planned.ops.iter().filter(is_move).count(), moves, "{count} frontends");
        let graces = planned.ops.iter().filter(|op| **op == MapOp::Grace).count();
        assert_eq!(graces, if moves == 1 { 1 } else { ports.len() });
        let service = writer.actual().cell_of(OwnerTag(2)).unwrap();
        assert!(ports.iter().all(|port| writer.actual().frontend(&key(*port)).unwrap().service == service));
    }
}

#[test]
fn the_holder_keeps_a_frontend_and_the_next_takes_over() {
    let mut writer = planner();
    sync(&mut writer, upsert(port(2, &[80], &[INTERNAL])));
    let planned = sync(&mut writer, upsert(port(1, &[80], &[INTERNAL])));
    let labels: Vec<_> =
        planned.conflicts.iter().map(|conflict| (&*conflict.winner, &*conflict.loser)).collect();
    assert_eq!(labels, [("default/web2:http/tcp", "default/web1:http/tcp")]);
    let holder = |writer: &Planner| {
        let value = writer.actual().frontend(&key(80))?;
        Some(writer.actual().owner(value.service))
    };
    assert_eq!(holder(&writer), Some(OwnerTag(2)));
    sync(&mut writer, upsert(port(3, &[80], &[INTERNAL])));
    assert_eq!(sync(&mut writer, upsert(port(9, &[90], &[INTERNAL]))).conflicts, [], "none in this batch");
    let losers =
        |writer: &Planner| writer.conflicts().iter().map(|one| one.loser.to_string()).collect::<Vec<_>>();
    assert_eq!(losers(&writer), ["default/web1:http/tcp", "default/web3:http/tcp"]);
    let planned = sync(&mut writer, remove(2));
    assert_eq!(losers(&writer), ["default/web3:http/tcp"]);
    assert_eq!(holder(&writer), Some(OwnerTag(1)));
    let deletes = planned.ops.iter().filter(|op| matches!(op, MapOp::DeleteFrontends(_))).count();
    assert_eq!(deletes, 0);
}

#[test]
fn a_row_given_to_another_endpoint_gets_a_new_generation() {
    let mut writer = planner();
    let row = |writer: &Planner| {
        let service = writer.actual().cell_of(OwnerTag(1)).unwrap();
        let id = writer.actual().rows_of(service).next().unwrap();
        (id, writer.actual().row(id))
    };
    sync(&mut writer, upsert(port(1, &[80], &[INTERNAL])));
    let (id, first) = row(&writer);
    sync(&mut writer, remove(1));
    writer.settle(&MapOp::Grace);
    writer.plan(Changes::default(), QUARANTINE);
    let planned = writer.plan(upsert(port(1, &[80], &[INTERNAL])), QUARANTINE);
    planned.ops.iter().for_each(|op| writer.settle(op));
    let (again, second) = row(&writer);
    assert_eq!((again, second.generation), (id, first.generation + 1));
}

#[test]
fn what_nobody_wants_after_a_restart_goes_when_everything_has_listed() {
    let mut before = planner();
    let ports = vec![port(1, &[80], &[INTERNAL]), port(2, &[81], &[INTERNAL])];
    sync(&mut before, Changes { upsert: ports, ..Changes::default() });
    let mut writer = Planner::adopt(before.actual().clone(), Vec::new(), Rules::for_shards(1)).unwrap();
    let planned = sync(&mut writer, upsert(port(1, &[80], &[INTERNAL])));
    assert_eq!(planned.ops, []);
    sync(&mut writer, Changes { prune: true, ..Changes::default() });
    assert_eq!(writer.actual().cells().map(|(tag, _)| tag).collect::<Vec<_>>(), [OwnerTag(1)]);
    assert_eq!(writer.actual().frontend(&key(81)), None);
}

#[test]
fn nobody_loses_to_what_may_be_about_to_go_after_a_restart() {
    let mut before = planner();
    sync(&mut before, upsert(port(1, &[80, 81], &[INTERNAL])));
    let adopt = || Planner::adopt(before.actual().clone(), Vec::new(), Rules::for_shards(1)).unwrap();
    let names = |conflicts: &[Conflict]| {
        conflicts.iter().map(|one| format!("{} < {}", one.loser, one.winner)).collect::<Vec<_>>()
    };
    let none = Vec::<String>::new();
    let claim = |writer: &mut Planner| {
        let planned = sync(writer, upsert(port(2, &[80], &[INTERNAL])));
        assert_eq!((names(&planned.conflicts), names(&writer.conflicts())), (none.clone(), none.clone()));
    };

    // The one that had the frontend went while no agent ran.
    let mut writer = adopt();
    claim(&mut writer);
    let pruned = sync(&mut writer, Changes { prune: true, ..Changes::default() });
    assert_eq!((names(&pruned.conflicts), names(&writer.conflicts())), (none.clone(), none.clone()));
    assert_eq!(
        writer.actual().frontend(&key(80)).map(|value| writer.actual().owner(value.service)),
        Some(OwnerTag(2))
    );

    // It is there as before, and is heard of later.
    let mut writer = adopt();
    claim(&mut writer);
    let later = sync(&mut writer, upsert(port(1, &[80, 81], &[INTERNAL])));
    let lost = ["default/web2:http/tcp < default/web1:http/tcp"];
    assert_eq!((names(&later.conflicts), later.ops), (lost.map(str::to_owned).to_vec(), vec![]));
    assert_eq!(names(&writer.conflicts()), lost);
    let again = sync(&mut writer, upsert(port(1, &[80, 81], &[INTERNAL])));
    assert_eq!(names(&again.conflicts), none, "told once");
}

#[test]
fn a_row_of_a_cell_that_nobody_owns_is_freed() {
    let mut actual = Actual::new(64);
    actual.apply(&MapOp::GrowChunk(WordTable::Services));
    actual.apply(&MapOp::GrowChunk(WordTable::Backends));
    let (addr, port) = (Addr::UNSPECIFIED, Port::new(1));
    let row = Backend { addr, state: BackendState::SERVING.0, generation: 4, service: 7, port, pad: 0 };
    MapOp::StoreRow { id: 3, row }
        .for_each_word(|table, word, value| {
            actual.set_word(table, word, value);
            Ok::<(), ()>(())
        })
        .unwrap();
    let strays = actual.index();
    let mut writer = Planner::adopt(actual, strays, Rules::for_shards(1)).unwrap();
    let planned = sync(&mut writer, Changes::default());
    let freed = MapOp::StoreState { id: 3, state: BackendState::FREE, generation: 4 };
    assert!(planned.ops.contains(&freed));
    assert_eq!(writer.resting().rows, 1);
}

#[test]
fn maps_that_contradict_themselves_are_not_adopted() {
    let mut before = planner();
    let ports = vec![port(1, &[80], &[INTERNAL]), port(2, &[81], &[INTERNAL])];
    sync(&mut before, Changes { upsert: ports, ..Changes::default() });
    let held = before.actual();
    let (first, second) = (held.cell_of(OwnerTag(1)).unwrap(), held.cell_of(OwnerTag(2)).unwrap());
    let adopt = |wrong: &[MapOp]| {
        let mut actual = held.clone();
        for op in wrong {
            actual.apply(op);
        }
        Planner::adopt(actual, Vec::new(), Rules::for_shards(1)).map(drop)
    };
    let (views, half) = (held.views(first), held.head(second).half());
    let slots = Err(Contradiction::Slots { service: second });
    assert_eq!(adopt(&[MapOp::StoreHalf { service: second, half, views }]), slots);
    let owner = MapOp::StoreOwner { service: first, tag: OwnerTag(2) };
    assert_eq!(adopt(&[owner]), Err(Contradiction::Owner { service: second }));
    let entry = |range: u32, block| {
        let key = FrontendKey::owned_block(Addr::from_v4_word((0x0a60_0000 + (range << 8)).to_be()));
        (key, FrontendValue::new(block, FrontendKind::OwnedVip, 0))
    };
    let name = |entries: &[_]| {
        adopt(&[MapOp::GrowChunk(WordTable::Owned), MapOp::InsertFrontends(entries.to_vec())])
    };
    let block = |block| Err(Contradiction::Block { block });
    assert_eq!(name(&[entry(0, 1), entry(1, 2)]), Ok(()));
    assert_eq!(name(&[entry(0, 3), entry(1, 3)]), block(3));
    for outside in [0, 1 << 20] {
        assert_eq!(name(&[entry(0, 1), entry(1, outside)]), block(outside));
    }
}
