//! The control plane by itself: ready in time, whom it lets in, and what is left of it.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;
use tests::cluster::objects::{NAMESPACE, Ref};
use tests::cluster::{ControlPlane, Options};
use tests::netns::Netns;
use tests::process::Process;
use tests::sweep;
use tests::topology::Cluster;
use tests::wait;

/// Within this time a control plane is ready, on a machine that does much else.
const READY: Duration = Duration::from_secs(45);
const LIMIT: Duration = Duration::from_mins(1);
/// Set for a process that makes leftovers and waits to be killed.
const LEAVE: &str = "SHUNT_TEST_LEAVE";

#[test]
fn two_clusters_are_ready_in_time_and_leave_nothing_behind() {
    let mark = format!("{}{}-", sweep::PREFIX, std::process::id());
    let before = leftovers(&mark);
    for _ in 0..2 {
        let start = Instant::now();
        let topology = Cluster::new(0, 0).unwrap();
        let control = ControlPlane::start(&topology, &Options::default()).unwrap();
        let took = start.elapsed();
        println!("ready after {took:.1?}");
        assert!(took < READY, "ready after {took:?} only");
        let pids = members(control.cgroup().path());
        assert_eq!(pids.len(), 3, "etcd, the API server and the controllers, and nothing else");
        assert!(leftovers(&mark).len() > before.len());
        drop((control, topology));
        assert_eq!(leftovers(&mark), before);
        assert_eq!(alive(&pids), Vec::<&String>::new());
    }
}

#[test]
fn the_api_server_lets_in_whom_it_knows_and_nothing_leads_out() {
    let topology = Cluster::new(0, 0).unwrap();
    let options = Options { without_controllers: true, ..Options::default() };
    let mut control = ControlPlane::start(&topology, &options).unwrap();
    let services = "/api/v1/services";
    let codes: Vec<u16> = [
        control.api().unwrap().get_raw(services).unwrap().0,
        control.api_as("system:kube-proxy").unwrap().get_raw(services).unwrap().0,
        control.api_as("nobody").unwrap().get_raw(services).unwrap().0,
        control.connect("wrong").unwrap().get_raw(services).unwrap().0,
    ]
    .into();
    assert_eq!(codes, [200, 200, 403, 401]);

    let api = control.api().unwrap();
    let role = "system:node-proxier";
    api.apply(json!({
        "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "namespace": "default", "name": "agent" },
    }))
    .unwrap();
    let agent = control.connect(&api.service_account_token("default", "agent").unwrap()).unwrap();
    assert_eq!(agent.get_raw(services).unwrap().0, 403);
    api.apply(json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": { "name": "agent" },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role },
        "subjects": [{ "kind": "ServiceAccount", "namespace": "default", "name": "agent" }],
    }))
    .unwrap();
    wait::until(LIMIT, "the role to count", || Ok((agent.get_raw(services)?.0 == 200).then_some(())))
        .unwrap();

    // The default route is what would lead out.
    assert_eq!(control.netns().ip("route show default").unwrap(), "");
    assert_eq!(control.netns().ip("-6 route show default").unwrap(), "");

    let namespace = Ref { kind: NAMESPACE, namespace: None, name: "kept" };
    let object = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "kept" } });
    let made = control.api().unwrap().apply(object).unwrap();
    let witness = control.api_as("admin").unwrap();
    assert!(witness.get(&namespace).unwrap().is_some());
    control.stop_api_server().unwrap();
    let refused = format!("{:#}", witness.get(&namespace).unwrap_err());
    assert!(refused.contains("onnect"), "{refused}");
    control.start_api_server().unwrap();
    // The same client, certificate and data: for a client it is the same server that was away.
    assert_eq!(witness.get(&namespace).unwrap().unwrap()["metadata"]["uid"], made["metadata"]["uid"]);
}

#[test]
fn a_killed_run_is_swept() {
    if std::env::var_os(LEAVE).is_some() {
        return leave();
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "lifetime::a_killed_run_is_swept", "--nocapture"]).env(LEAVE, "1");
    let mut run = Process::spawn("killed run", command).unwrap();
    let group = run.wait_line(LIMIT, |line| line.contains("made ")).unwrap();
    let group = group.split_once("made ").unwrap().1.to_owned();
    let pids = members(Path::new(&group));
    run.kill().unwrap();
    let mark = format!("{}{}-", sweep::PREFIX, run.pid());
    assert_eq!(pids.len(), 2);
    assert!(
        pids.iter().all(|pid| Path::new("/proc").join(pid).exists()),
        "the control: they outlive the run"
    );
    assert!(!leftovers(&mark).is_empty());

    // A new process sweeps before it makes anything.
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "lifetime::a_process_that_makes_anything_sweeps_first"]);
    let mut next = Process::spawn("next run", command).unwrap();
    assert!(next.wait(LIMIT).unwrap().success(), "{}", next.log());
    assert_eq!(leftovers(&mark), Vec::<String>::new());
    assert_eq!(alive(&pids), Vec::<&String>::new());
}

#[test]
fn a_process_that_makes_anything_sweeps_first() {
    let scratch = Netns::create("next").unwrap();
    assert!(scratch.path().exists());
}

fn leave() {
    let topology = Cluster::new(0, 0).unwrap();
    let options = Options { without_controllers: true, ..Options::default() };
    let control = ControlPlane::start(&topology, &options).unwrap();
    println!("made {}", control.cgroup().path().display());
    std::thread::sleep(LIMIT);
}

fn members(group: &Path) -> Vec<String> {
    fs::read_to_string(group.join("cgroup.procs")).unwrap().lines().map(str::to_owned).collect()
}

/// Those of `pids` that run; one that ended and was not collected yet has no program any more.
fn alive(pids: &[String]) -> Vec<&String> {
    pids.iter().filter(|pid| fs::read_link(Path::new("/proc").join(pid).join("exe")).is_ok()).collect()
}

/// Scratch directories, cgroups and namespaces whose names begin with `mark`.
fn leftovers(mark: &str) -> Vec<String> {
    let dirs = [tests::cgroup::mount_point().unwrap(), std::env::temp_dir(), tests::netns::DIR.into()];
    let entries = dirs.iter().filter_map(|dir| fs::read_dir(dir).ok()).flatten();
    let names = entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with(mark)).collect()
}
