//! Hosts that cannot run the agent: it ends with exit code 3, names what is missing, and leaves nothing behind.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tests::agent::{Agent, pin_dir};
use tests::manifests::ManifestDir;
use tests::process::{Process, binary, placed};
use tests::topology::{Cluster, Node};

const LIMIT: Duration = Duration::from_secs(20);

/// Runs the agent by `wrapper` on the cgroup `cgroup` until it ends; exit code and log.
fn end_of_agent(node: &Node, wrapper: &[&str], cgroup: &Path) -> (Option<i32>, String) {
    let manifests = ManifestDir::create().unwrap();
    let program = binary("shunt").unwrap();
    let words: Vec<&OsStr> = wrapper.iter().map(OsStr::new).chain([program.as_os_str()]).collect();
    let agent = node.agent();
    let mut command: Command = placed(Path::new(words[0]), agent.netns, agent.cgroup);
    command.args(&words[1..]).args(["agent", "--node-name", &node.name, "--manifests"]).arg(manifests.path());
    command.arg("--cgroup").arg(cgroup).arg("--pin-dir").arg(pin_dir(node));
    let mut process = Process::spawn("unfit agent", command).unwrap();
    let status = process.wait(LIMIT).unwrap();
    (status.code(), process.log())
}

#[test]
fn a_directory_that_is_no_cgroup_is_refused_before_anything_is_pinned() {
    let cluster = Cluster::new(1, 0).unwrap();
    let node = cluster.node(1);
    let elsewhere = std::env::temp_dir();
    let (code, log) = end_of_agent(node, &[], &elsewhere);
    assert_eq!(code, Some(3), "{log}");
    assert!(log.contains(&format!("{} is not a cgroup v2 directory", elsewhere.display())), "{log}");
    let (code, log) = end_of_agent(node, &[], &node.cgroup.path().join("none"));
    assert_eq!(code, Some(3), "{log}");
    assert!(log.contains("none: No such file or directory"), "{log}");
    assert!(!pin_dir(node).exists());
}

/// What takes a right away from whatever it runs.
const WITHOUT: [&str; 3] = ["setpriv", "--bounding-set", "-sys_admin"];

#[test]
fn a_right_that_a_restart_needs_is_told_at_the_start_and_required_then() {
    let cluster = Cluster::new(1, 0).unwrap();
    let node = cluster.node(1);
    let manifests = ManifestDir::create().unwrap();
    manifests.write_cluster(&cluster).unwrap();
    let wrapper = WITHOUT.map(str::to_owned).to_vec();
    let mut agent = Agent::start_under(node, manifests.path(), wrapper).unwrap();
    let status = agent.status().unwrap();
    let limitations = status["limitations"].as_array().unwrap();
    assert!(limitations.iter().any(|one| one.as_str().unwrap().contains("CAP_SYS_ADMIN")), "{status}");
    assert!(agent.scrape("*/*").unwrap().contains("\nshunt_maps_readable 0\n"));
    agent.kill().unwrap();
    let (code, log) = end_of_agent(node, &WITHOUT, node.cgroup.path());
    assert_eq!(code, Some(3), "{log}");
    assert!(log.contains("this host lacks CAP_SYS_ADMIN (for taking over the pinned maps)"), "{log}");
}
