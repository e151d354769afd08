//! The commands that look at pins and take them away, run as a user runs them.

use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

use shunt::sys::link::Link;
use tests::cgroup::mount_point;
use tests::hand::{Rig, SERVICE};
use tests::process::binary;

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
