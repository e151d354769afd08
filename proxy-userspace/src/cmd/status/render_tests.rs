//! The whole text, compared plainly.

use std::path::PathBuf;

use jiff::Timestamp;

use super::*;
use crate::cmd::status::{AgentAnswer, OtherProgram};
use crate::model::Listing;
use crate::status::{Batch, CgroupStatus, Conflict, Identity, Refusal, Reporter, Warning};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_785_312_000 + second).unwrap()
}

fn observed(name: &'static str, cgroup_id: u64, path: Option<&str>) -> ObservedHook {
    let program_tag = "00ff00ff00ff00ff".to_owned();
    ObservedHook { name, program_id: 117, program_tag, cgroup_id, path: path.map(PathBuf::from) }
}

/// A report of a node where nothing was ever started.
fn nothing() -> StatusReport {
    StatusReport {
        pin_dir: PathBuf::new(),
        agent: AgentAnswer { status: None, absent: None },
        hooks: vec![],
        missing_hooks: vec![],
        devices: vec![],
        missing_devices: vec![],
        maps: vec![],
        notes: vec![],
    }
}

fn running() -> AgentStatus {
    let agent = Identity {
        node_name: "node-1".to_owned(),
        pid: 42,
        version: "0.1.0".to_owned(),
        schema: 1,
        object_hash: "abc123".to_owned(),
    };
    let reporter = Reporter::new(agent, &[Listing::Services, Listing::NodeAddresses]);
    reporter.applied(Batch {
        ops: 12,
        stores: 340,
        took: std::time::Duration::from_micros(2070),
        pending: 0,
    });
    let mut status = reporter.snapshot();
    status.uptime_seconds = 3723;
    status.sync.last_at = Some(at(3));
    status
}

#[test]
fn a_node_at_rest() {
    let mut status = running();
    status.ready_at = Some(at(1));
    status.cgroup = Some(CgroupStatus { path: "/sys/fs/cgroup".to_owned(), id: 1 });
    status.sources.iter_mut().for_each(|source| source.listed_at = Some(at(0)));
    let maps = vec![
        MapFill { map: "FRONTENDS", used: Some(3), allocated: 4096, limit: None, bytes: None },
        MapFill {
            map: "SERVICES",
            used: Some(2),
            allocated: 8192,
            limit: Some(1_048_576),
            bytes: Some(524_288),
        },
    ];
    let report = StatusReport {
        pin_dir: "/sys/fs/bpf/shunt".into(),
        agent: AgentAnswer { status: Some(status), absent: None },
        hooks: vec![observed("connect4", 1, Some("/sys/fs/cgroup")), observed("connect6", 77, None)],
        maps,
        ..nothing()
    };
    let expected = "\
agent:  running on node-1, pid 42, version 0.1.0, up 1h 2m 3s
ready:  since 2026-07-29T08:00:01.000Z
object: abc123, schema 1
cgroup: /sys/fs/cgroup (1)
client: 0 network namespaces, 0 remembered, egress guard off; UDP sockets: 0 moved, 0 waiting
sync:   1 batches, 12 ops, 340 stores; last at 2026-07-29T08:00:03.000Z in 2.070 ms; 0 pending
pins:   /sys/fs/bpf/shunt

HOOK      STATE     PROGRAM  TAG               CGROUP
connect4  attached  117      00ff00ff00ff00ff  /sys/fs/cgroup (1)
connect6  attached  117      00ff00ff00ff00ff  77

MAP        USED  ALLOCATED  LIMIT    BYTES
FRONTENDS  3     4096       -        -
SERVICES   2     8192       1048576  524288

SOURCE          LISTED
services        2026-07-29T08:00:00.000Z
node-addresses  2026-07-29T08:00:00.000Z
";
    assert_eq!(table(&report), expected);
}

#[test]
fn watches_say_since_when_they_stand_and_why_not() {
    let mut status = running();
    status.sources.iter_mut().for_each(|source| source.listed_at = Some(at(0)));
    let server = "https://192.0.2.1:6443/".to_owned();
    let lost = Connection {
        server,
        lost_since: Some(at(2)),
        last_error: Some("watch services: nothing came for 90s".to_owned()),
        listings: 1,
        faults: 3,
        ..Connection::default()
    };
    let watched = Connection { lost_since: None, watching_since: Some(at(5)), ..lost.clone() };
    let named = Connection {
        server: "https://api.example:6443/".to_owned(),
        peer: Some(([192, 0, 2, 1], 6443).into()),
        ..watched.clone()
    };
    status.sources[0].connection = Some(lost);
    let expected = "\
SOURCE          LISTED                    WATCH
services        2026-07-29T08:00:00.000Z  https://192.0.2.1:6443/ LOST since 2026-07-29T08:00:02.000Z: watch services: nothing came for 90s (1 listings, 3 faults)
node-addresses  2026-07-29T08:00:00.000Z
";
    assert_eq!(sources(&status), expected);
    status.sources[0].connection = Some(watched);
    assert!(
        sources(&status).contains("6443/ watching since 2026-07-29T08:00:05.000Z (1 listings, 3 faults)")
    );
    status.sources[0].connection = Some(named);
    assert!(sources(&status).contains("https://api.example:6443/ at 192.0.2.1 watching since "));
}

fn conflict() -> Conflict {
    Conflict {
        service: "b/web:/tcp".to_owned(),
        frontend: "10.96.0.1:80/tcp".to_owned(),
        holder: "a/web:/tcp".to_owned(),
    }
}

#[test]
fn a_node_in_trouble() {
    let mut status = running();
    status.hooks = vec!["connect6".to_owned()];
    status.node_eligible = false;
    status.sources[0].listed_at = Some(at(0));
    status.sync.pending = 2;
    status.sync.pending_since = Some(at(4));
    status.sync.last_error = Some("SLOTS is full".to_owned());
    status.limitations = vec!["no bpffs: a restart is not hitless".to_owned()];
    let refusal = Refusal { service: "default/web:http/tcp".to_owned(), table: "SLOTS".to_owned() };
    status.refused = [refusal].into_iter().collect();
    status.conflicts = [conflict()].into_iter().collect();
    status.warnings.count = 30;
    status.warnings.last = [Warning { at: at(2), text: "Service a/b: \u{1b}[31mred".to_owned() }].into();
    let report = StatusReport {
        pin_dir: "/pins".into(),
        agent: AgentAnswer { status: Some(status), absent: None },
        hooks: vec![observed("connect4", 0, None)],
        missing_hooks: vec!["connect6"],
        notes: vec!["maps: open /pins/v1/SLOTS: no such file".to_owned()],
        ..nothing()
    };
    let expected = "\
agent:  running on node-1, pid 42, version 0.1.0, up 1h 2m 3s
ready:  no: node-addresses not listed yet; last batch: SLOTS is full
object: abc123, schema 1
client: 0 network namespaces, 0 remembered, egress guard off; UDP sockets: 0 moved, 0 waiting
sync:   1 batches, 12 ops, 340 stores; last at 2026-07-29T08:00:03.000Z in 2.070 ms; 2 pending since \
2026-07-29T08:00:04.000Z
failed: SLOTS is full
node:   going: load balancers are told to avoid it
limit:  no bpffs: a restart is not hitless
pins:   /pins
note:   maps: open /pins/v1/SLOTS: no such file

HOOK      STATE     PROGRAM  TAG               CGROUP
connect4  DETACHED  117      00ff00ff00ff00ff  gone
connect6  MISSING

SOURCE          LISTED
services        2026-07-29T08:00:00.000Z
node-addresses  not yet

1 service ports refused
  default/web:http/tcp: SLOTS is full

1 frontends claimed twice
  b/web:/tcp: 10.96.0.1:80/tcp is held by a/web:/tcp

30 warnings, 1 shown
  2026-07-29T08:00:02.000Z Service a/b: \u{fffd}[31mred
";
    assert_eq!(table(&report), expected);
}

#[test]
fn a_node_without_an_agent() {
    let absent = Some("connect to 127.0.0.1:10249: connection refused".to_owned());
    let report = StatusReport {
        pin_dir: "/pins".into(),
        agent: AgentAnswer { status: None, absent },
        missing_hooks: vec!["connect4"],
        ..nothing()
    };
    let expected = "\
agent:  not running (connect to 127.0.0.1:10249: connection refused)
pins:   /pins

HOOK      STATE         PROGRAM  TAG  CGROUP
connect4  not attached
";
    assert_eq!(table(&report), expected);
}

#[test]
fn programs_get_everything_too() {
    let report = StatusReport {
        pin_dir: "/pins".into(),
        agent: AgentAnswer { status: Some(running()), absent: None },
        hooks: vec![observed("connect4", 1, None)],
        ..nothing()
    };
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["agent"]["status"]["sync"]["stores"], 340);
    assert_eq!(json["hooks"][0]["program_tag"], "00ff00ff00ff00ff");
    let yaml = serde_saphyr::to_string(&report).unwrap();
    assert!(yaml.contains("node_name: node-1"), "{yaml}");
}

#[test]
fn devices_are_told_with_who_else_is_there() {
    let other = OtherProgram { name: "cil_from_\u{1b}dev".to_owned(), id: 7, is_outside: true };
    let shut = ObservedShortcuts {
        state: "shut",
        in_the_way: vec!["netfilter of IPv4", "a queue"],
        seconds_ago: Some(0.25),
    };
    let side = |device: Option<&str>, hook, others, shortcuts| ObservedDevice {
        device: device.map(str::to_owned),
        index: 3,
        hook,
        means: "tcx",
        program_id: 117,
        program_tag: "00ff00ff00ff00ff".to_owned(),
        others,
        shortcuts,
    };
    let others = vec![other.clone(), OtherProgram { is_outside: false, ..other }];
    let report = StatusReport {
        devices: vec![side(Some("eth0"), "ingress", others, Some(shut)), side(None, "egress", vec![], None)],
        missing_devices: vec!["eth1".to_owned()],
        ..nothing()
    };
    let expected = "\
DEVICE  HOOK     STATE           PROGRAM  TAG               SHORTCUTS                                   OTHERS
eth0    ingress  attached (tcx)  117      00ff00ff00ff00ff  shut 0.2 s ago: netfilter of IPv4, a queue  cil_from_\u{fffd}dev (7) before it, cil_from_\u{fffd}dev (7) behind it
3       egress   GONE            117      00ff00ff00ff00ff
eth1             MISSING
";
    assert!(table(&report).ends_with(expected), "{}", table(&report));
    let mut status = running();
    let packet = PacketStatus {
        means: "tcx".to_owned(),
        flows: 65_536,
        ports: "61000-65535".to_owned(),
        devices: vec!["eth0".to_owned()],
        settled: 3,
        opening: 2,
        shortcuts: "auto".to_owned(),
    };
    status.packet = Some(packet);
    let report = StatusReport { agent: AgentAnswer { status: Some(status), absent: None }, ..report };
    let line = "\npacket: 1 devices by tcx, 3 flows and 2 opening, 65536 records at most, ports 61000-65535, \
                shortcuts auto\n";
    assert!(table(&report).contains(line), "{}", table(&report));
}
