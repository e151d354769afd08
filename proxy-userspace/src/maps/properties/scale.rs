//! Two thousand services of ten endpoints each: what a change costs does not depend on how many there are.

use proxy_common::addr::{Addr, Port, Proto};
use proxy_common::backend::BackendState;
use proxy_common::frontend::{FrontendKey, FrontendKind};

use super::cases::frontend;
use super::world::{RULES, World};
use crate::plan::diff::Changes;
use crate::plan::ops::MapOp;
use crate::plan::rules::{Limits, Rules};
use crate::plan::tables::{DesiredBackend, DesiredPort, DesiredView, OwnerTag};

const SERVICES: u32 = 2000;
const ENDPOINTS: u32 = 10;

fn service(index: u32, endpoints: std::ops::Range<u32>) -> DesiredPort {
    let v4 = |net: u32, host: u32| Addr::from_v4_word((net + host).to_be());
    let state = BackendState::SERVING.with_view(proxy_common::service::View::Internal);
    let backends = endpoints.map(|endpoint| DesiredBackend {
        addr: v4(0x0a80_0000, index * 16 + endpoint),
        port: Port::new(8080),
        state,
    });
    let vip = v4(0x0a60_0000, index);
    let key = FrontendKey::new(vip, Port::new(80), Proto::TCP);
    let mut frontends = vec![
        frontend(key, FrontendKind::ClusterIp),
        frontend(FrontendKey::owned_vip(vip), FrontendKind::OwnedVip),
    ];
    frontends.sort_unstable_by_key(|frontend| frontend.key);
    DesiredPort {
        tag: OwnerTag(u64::from(index)),
        label: format!("default/web{index}:http/tcp").into(),
        affinity_seconds: 0,
        frontends,
        sources: Box::default(),
        backends: backends.collect(),
        views: [DesiredView::Random, DesiredView::Pass, DesiredView::Pass],
        keeps_source: false,
    }
}

#[test]
fn a_change_costs_as_much_as_itself() {
    let mut world = World::new(Rules { limits: Limits::LAYOUT, ..RULES });
    world.store.is_looking = false;
    let upsert = (1..=SERVICES).map(|index| service(index, 0..ENDPOINTS)).collect();
    world.sync(Changes { upsert, ..Changes::default() }).unwrap();
    let actual = world.planner.actual();
    assert_eq!(actual.frontends().len() as u32, SERVICES + (SERVICES + 1).div_ceil(256));
    assert_eq!((actual.cells().count() as u32, world.planner.is_in_sync()), (SERVICES, true));

    let changed = Changes { upsert: vec![service(1000, 1..ENDPOINTS + 1)], ..Changes::default() };
    let planned = world.sync(changed.clone()).unwrap();
    let kinds: Vec<_> = planned.ops.iter().map(std::mem::discriminant).collect();
    assert_eq!(kinds.len(), 5, "a row, an extent, a half, a head, a row that left: {:?}", planned.ops);
    assert_eq!(planned.ops.iter().filter(|op| matches!(op, MapOp::StoreHead { .. })).count(), 1);
    assert_eq!(world.sync(changed).unwrap().ops, []);

    world.restart(RULES);
    assert_eq!(world.sync(world.listing()).unwrap().ops, []);
}

/// The same Services with other names: every frontend moves to another cell.
#[test]
fn a_mass_move_costs_a_grace_period_and_not_one_for_each() {
    const MOVED: u32 = 1000;
    let mut world = World::new(Rules { limits: Limits::LAYOUT, ..RULES });
    world.store.is_looking = false;
    let upsert = (1..=SERVICES).map(|index| service(index, 0..2)).collect();
    world.sync(Changes { upsert, ..Changes::default() }).unwrap();
    let heir = |index: u32| {
        let label = format!("default/heir{index}:http/tcp").into();
        DesiredPort { tag: OwnerTag(u64::from(index + SERVICES)), label, ..service(index, 0..2) }
    };
    let moved = Changes {
        upsert: (1..=MOVED).map(heir).collect(),
        remove: (1..=MOVED).map(|index| OwnerTag(u64::from(index))).collect(),
        ..Changes::default()
    };
    let graces = |mut world: World| {
        let planned = world.sync(moved.clone()).unwrap();
        assert_eq!(world.planner.actual().cells().count() as u32, SERVICES);
        world.check_converged();
        planned.ops.iter().filter(|op| **op == MapOp::Grace).count()
    };
    assert_eq!(graces(world.clone()), 1);
    // The control: with no memory for a copy, which the planner was told just now, each waits for the one before.
    world.planner.fail(&MapOp::MoveFrontends(Vec::new()), 0);
    assert_eq!(graces(world), MOVED as usize);
}
