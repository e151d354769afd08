//! The guards of the helpers: what they make works, and goes away.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tests::bpffs::Bpffs;
use tests::cgroup::Cgroup;
use tests::netns::Netns;
use tests::process::{Process, placed};
use tests::sweep;

const LIMIT: Duration = Duration::from_secs(10);

#[test]
fn two_namespaces_talk_over_a_pair_and_go_away() {
    let (near, far) = (Netns::create("near").unwrap(), Netns::create("far").unwrap());
    near.veth("eth0", &far, "eth0").unwrap();
    near.add_address("eth0", "fd00::1".parse().unwrap(), 64).unwrap();
    far.add_address("eth0", "fd00::2".parse().unwrap(), 64).unwrap();
    let listener = far.inside(|| TcpListener::bind("[fd00::2]:80").unwrap()).unwrap();
    let mut stream = near.inside(|| TcpStream::connect("[fd00::2]:80").unwrap()).unwrap();
    listener.accept().unwrap().0.write_all(b"far").unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    assert_eq!(said, "far");

    let outside = near.inside(|| TcpStream::connect((Ipv4Addr::new(192, 0, 2, 1), 80))).unwrap();
    assert_eq!(outside.unwrap_err().kind(), std::io::ErrorKind::NetworkUnreachable);

    let paths = [near.path(), far.path()];
    drop((near, far));
    assert!(paths.iter().all(|path| !path.exists()));
}

#[test]
fn a_cgroup_goes_away_with_what_runs_in_it() {
    let netns = Netns::create("place").unwrap();
    let group = Cgroup::create("place").unwrap();
    let child = group.child("pod").unwrap();
    let mut command = placed(Path::new("sh"), &netns, &child);
    // The grandchild is what a guard of the child alone would leave behind.
    command.args(["-c", "sleep 60 & echo ready; readlink /proc/self/ns/net; wait"]);
    let mut process = Process::spawn("sleeper", command).unwrap();
    process.wait_line(LIMIT, |line| line == "ready").unwrap();
    let namespace = process.wait_line(LIMIT, |line| line.starts_with("net:")).unwrap();
    assert_ne!(namespace, std::fs::read_link("/proc/self/ns/net").unwrap().to_string_lossy());
    let members = std::fs::read_to_string(child.path().join("cgroup.procs")).unwrap();
    assert!(members.lines().any(|line| line == process.pid().to_string()), "{members}");
    let dir = group.path().to_path_buf();
    drop(group);
    assert!(!dir.exists());
    assert!(!process.is_running());
    // Its directory went with the parent's, which is no error.
    drop(child);
}

#[test]
fn a_bpf_file_system_goes_away() {
    let mounted = Bpffs::mount("pins").unwrap();
    let dir = mounted.path().to_path_buf();
    std::fs::create_dir(dir.join("links")).unwrap();
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(mounts.contains(&format!(" {} bpf ", dir.display())), "{mounts}");
    drop(mounted);
    assert!(!dir.exists());
}

/// Set for a process that makes leftovers and waits to be killed.
const LEAVE: &str = "SHUNT_TEST_LEAVE";

#[test]
fn leftovers_of_a_killed_run_are_swept() {
    if std::env::var_os(LEAVE).is_some() {
        return leave();
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "scratch::leftovers_of_a_killed_run_are_swept", "--nocapture"]).env(LEAVE, "1");
    let mut run = Process::spawn("killed run", command).unwrap();
    run.wait_line(LIMIT, |line| line == "made" || line.ends_with(" made")).unwrap();
    let mark = format!("{}{}-", sweep::PREFIX, run.pid());
    assert_eq!(leftovers(&mark), 3);
    run.kill().unwrap();
    assert_eq!(leftovers(&mark), 3);

    // A new process sweeps before it makes anything.
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "scratch::a_bpf_file_system_goes_away"]);
    let mut next = Process::spawn("next run", command).unwrap();
    assert!(next.wait(LIMIT).unwrap().success(), "{}", next.log());
    assert_eq!(leftovers(&mark), 0);
}

fn leave() {
    let _netns = Netns::create("left").unwrap();
    let _group = Cgroup::create("left").unwrap();
    let _bpffs = Bpffs::mount("left").unwrap();
    println!("made");
    std::thread::sleep(Duration::from_mins(1));
}

fn leftovers(mark: &str) -> usize {
    let dirs = [tests::cgroup::mount_point().unwrap(), std::env::temp_dir(), tests::netns::DIR.into()];
    dirs.iter()
        .flat_map(|dir| std::fs::read_dir(dir).unwrap())
        .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with(mark))
        .count()
}
