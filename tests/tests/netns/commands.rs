//! The commands that look at pins and take them away, run as a user runs them.

use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::process::Command;
use std::time::Duration;

use shunt::sys::link::Link;
use tests::agent::{Agent, Launch};
use tests::apiserver::ApiServer;
use tests::cgroup::mount_point;
use tests::hand::{Rig, SERVICE};
use tests::process::binary;
use tests::topology::Cluster;
use tests::wait;

/// Runs `shunt COMMAND` on the rig's pins; returns exit code, standard output and standard error.
fn shunt(rig: &Rig, command: &str, arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(binary("shunt").unwrap())
        .arg(command)
        .arg("--pin-dir")
        .arg(rig.pin_root())
        .args(arguments)
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// No agent answers there.
const NOBODY: [&str; 2] = ["--metrics-address", "127.1.1.1:9"];

/// Inode number of the cgroup that this process is in, which is the hooked one.
fn own_cgroup() -> u64 {
    let membership = std::fs::read_to_string("/proc/self/cgroup").unwrap();
    let path = membership.lines().find_map(|line| line.strip_prefix("0::/")).unwrap();
    mount_point().unwrap().join(path).metadata().unwrap().ino()
}

fn hook_line(status: &str, hook: &str) -> Vec<String> {
    let line = status.lines().find(|line| line.split_whitespace().next() == Some(hook));
    line.unwrap_or_else(|| panic!("no {hook} in {status}")).split_whitespace().map(str::to_owned).collect()
}

#[test]
fn status_reads_the_kernel_and_cleanup_leaves_no_trace() {
    let mut rig = Rig::new("commands").unwrap();
    let backend: SocketAddr = "127.0.0.1:9".parse().unwrap();
    for id in 1..=3 {
        rig.write_row(id, backend).unwrap();
    }

    let (code, status, errors) = shunt(&rig, "status", &NOBODY);
    assert_eq!(code, Some(0), "{errors}");
    assert!(status.starts_with("agent:  not running (connect to 127.1.1.1:9: "), "{status}");
    let cgroup = own_cgroup().to_string();
    let programs = rig.loaded.program_facts().unwrap();
    for (hook, facts) in shunt::datapath::hooks::HOOKS.iter().zip(programs) {
        let line = hook_line(&status, hook.name);
        let tag = facts.tag.map(|byte| format!("{byte:02x}")).concat();
        assert_eq!(line[1..], ["attached".to_owned(), facts.id.to_string(), tag, cgroup.clone()], "{status}");
    }
    assert_eq!(hook_line(&status, "BACKENDS")[1..3], ["3", "16384"], "{status}");
    assert_eq!(hook_line(&status, "SERVICES")[1], "0", "cell {SERVICE} has no owner yet: {status}");

    let stranger = rig.pin_root().join("another");
    std::fs::create_dir(&stranger).unwrap();
    let (code, _, errors) = shunt(&rig, "cleanup", &[]);
    assert_eq!(code, Some(2));
    assert!(errors.contains("another is not Shunt's; nothing was removed"), "{errors}");
    assert_eq!(hook_line(&shunt(&rig, "status", &NOBODY).1, "connect4")[1], "attached");

    std::fs::remove_dir(&stranger).unwrap();
    let held = Link::open_pinned(&rig.pin_dir().links().join("connect4")).unwrap();
    assert_eq!(held.facts().unwrap().cgroup_id.to_string(), cgroup);
    let (code, removed, errors) = shunt(&rig, "cleanup", &[]);
    assert_eq!(code, Some(0), "{errors}");
    assert!(removed.contains("links/connect6\n") && !rig.pin_root().exists(), "{removed}");
    let (code, status, _) = shunt(&rig, "status", &NOBODY);
    assert_eq!(
        (code, &hook_line(&status, "connect4")[1..]),
        (Some(0), &["not".to_owned(), "attached".to_owned()][..])
    );
    assert!(!status.contains("BACKENDS"), "{status}");
    // The handle keeps the link alive, but it is at no cgroup any more.
    assert_eq!(held.facts().unwrap().cgroup_id, 0);
}

#[test]
fn counters_are_read_before_anything_was_written() {
    let cluster = Cluster::new(1, 0).unwrap();
    let node = cluster.node(1);
    let server = node.netns.inside(ApiServer::start).unwrap().unwrap();
    server.behave(|manners| manners.is_silent = true);
    let agent = Agent::spawn_as(node, Launch::at(&server.url())).unwrap();
    let limit = Duration::from_secs(20);
    let status = || agent.progress().map_err(|error| format!("{error:#}"));
    let status = wait::until_ok(limit, "the agent to have its maps", status).unwrap();
    assert_eq!((status.ready_at, status.sync.ops), (None, 0));
    let text = agent.shunt(&["dump", "counters"]).unwrap();
    let line = text.lines().find(|line| line.starts_with("reason unknown-port"));
    assert_eq!(line.and_then(|line| line.split_whitespace().last()), Some("0"), "{text}");
}
