//! The registry of network namespaces: each is known within milliseconds of the first connect in it, and nothing is
//! left of those that are gone.
//!
//! A process may end before anyone has looked at its namespace. The mark that keeps hooks silent is then taken
//! away, so the next connect in that namespace, if it still lives, reports it again.

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tests::cgroup::Cgroup;
use tests::netns::Netns;
use tests::process::{Process, placed};

use crate::proofs_object::layout::Namespace;
use crate::proofs_object::{LIMIT, peer, pod};
use crate::proofs_watcher::{Seen, Watcher, monotonic};

/// What pods connect to: nobody answers, and a UDP connect does not ask.
const TARGET: &str = "10.78.0.1:9";
const TARGET_V6: &str = "[fd78::1]:9";

/// Pods whose first connect is timed.
const TIMED: usize = 20;
/// Pods of 50 ms that come and go.
const BRIEF: usize = 100;
/// Within which a namespace is promised to be known.
const PROMISED: Duration = Duration::from_millis(5);
/// How many of the timed pods must find that kept: a machine may stand still for longer.
const IN_TIME: usize = 18;

/// The line that a pod prints: when it began to connect, and its namespace.
fn connected(pod: &mut Process) -> (Duration, u64) {
    let line = pod.wait_line(LIMIT, |line| line.starts_with("connected")).expect("pod");
    let numbers: Vec<u64> = line.split(' ').skip(1).map(|word| word.parse().expect("number")).collect();
    (Duration::from_nanos(numbers[0]), numbers[1])
}

/// How many entries a directory has: descriptors or threads of this process.
fn entries_of(directory: &str) -> usize {
    std::fs::read_dir(directory).expect("read").count()
}

fn spawn(command: Command) -> Process {
    Process::spawn("pod", command).expect("start a pod")
}

/// Lets the calling thread, and those that it starts, run before every thread of ordinary priority.
fn hurry() -> Result<()> {
    let thread = rustix::thread::gettid().to_string();
    let output = Command::new("chrt").args(["--fifo", "--pid", "1", &thread]).output().context("run chrt")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "a thread may not go before others: {}", said.trim());
    Ok(())
}

/// What the watcher made of a report, and when.
type Report = (Seen, Duration);

/// Follows the reports of [`TIMED`] pods, and checks that each is in the map.
fn follow(cgroup: &Cgroup, started: &mpsc::Sender<()>, reports: &mpsc::Sender<Report>) {
    let mut watcher = Watcher::start(cgroup).expect("watcher");
    hurry().expect("hurry");
    started.send(()).expect("start");
    for _ in 0..TIMED {
        let seen = watcher.next(LIMIT).expect("watch").expect("the first connect is reported");
        let known = monotonic();
        if let Seen::Known { event, namespace } = seen {
            assert_eq!(event.cgroup, watcher.cgroup_id());
            assert_eq!(watcher.entry(event.netns).expect("entry"), Some(namespace));
        }
        reports.send((seen, known)).expect("report");
    }
}

/// From the begin of a new pod's first connect to its addresses in the map.
fn time(cgroup: &Cgroup, number: usize, reports: &mpsc::Receiver<Report>) -> Duration {
    let (v4, v6) = (format!("10.78.1.{number}"), format!("fd78::{number:x}"));
    // Every second pod speaks IPv6 first.
    let target = if number.is_multiple_of(2) { TARGET } else { TARGET_V6 };
    let addresses = [format!("{v4}/8"), format!("{v6}/64")];
    let arguments = ["pod", target, "--linger", "20000"];
    let command = pod(cgroup, &addresses.each_ref().map(String::as_str), &arguments).expect("command");
    let mut process = spawn(command);

    let (seen, known) = reports.recv_timeout(LIMIT).expect("a report");
    let Seen::Known { event, namespace } = seen else { panic!("{seen:?}") };
    let (began, cookie) = connected(&mut process);
    assert_eq!(event.netns, cookie);
    assert_eq!(event.tgid, u64::from(process.pid()));
    assert_eq!((namespace.v4.to_string(), namespace.v6.to_string()), (v4, v6));
    assert_eq!(namespace.state, Namespace::KNOWN);
    known.checked_sub(began).expect("known after the connect")
}

/// Keeps every processor busy until it is dropped.
struct Busy(Arc<AtomicBool>);

impl Busy {
    fn start() -> Self {
        let busy = Arc::new(AtomicBool::new(true));
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            let busy = Arc::clone(&busy);
            thread::spawn(move || while busy.load(Ordering::Relaxed) {});
        }
        Self(busy)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// While every processor is busy with something else. A watcher of ordinary priority waits for its turn then: on two
/// processors 10 to 17 of 20 pods were known in time, and with priority 798 of 800.
#[test]
fn a_new_pod_is_known_within_five_milliseconds_of_its_first_connect() {
    if let Err(reason) = thread::spawn(hurry).join().expect("a thread") {
        tests::skip(&format!("{reason:#}"));
        return;
    }
    let cgroup = Cgroup::create("registry").expect("cgroup");
    let (start, started) = mpsc::channel();
    let (report, reports) = mpsc::channel();
    let mut delays: Vec<Duration> = thread::scope(|scope| {
        let cgroup = &cgroup;
        scope.spawn(move || follow(cgroup, &start, &report));
        started.recv_timeout(LIMIT).expect("the watcher starts");
        let _busy = Busy::start();
        (1..=TIMED).map(|number| time(cgroup, number, &reports)).collect()
    });
    delays.sort_unstable();
    let (median, worst) = (delays[TIMED / 2], delays[TIMED - 1]);
    println!("first connect to known: median {median:?}, worst {worst:?} of {TIMED}");
    let in_time = delays.iter().filter(|delay| **delay <= PROMISED).count();
    assert!(in_time >= IN_TIME, "{in_time} of {TIMED} within {PROMISED:?}: {delays:?}");
}

#[test]
fn pods_that_live_fifty_milliseconds_leave_nothing() {
    let cgroup = Cgroup::create("brief").expect("cgroup");
    let mut watcher = Watcher::start(&cgroup).expect("watcher");
    let arguments = ["pod", TARGET, "--linger", "50"];
    let live = |watcher: &mut Watcher| {
        let process = spawn(pod(&cgroup, &["10.78.1.1/8"], &arguments).expect("command"));
        watcher.next(LIMIT).expect("watch").expect("the first connect is reported");
        process
    };
    // The first one pays for whatever is set up once.
    drop(live(&mut watcher));
    watcher.sweep().expect("sweep");
    let before = [entries_of("/proc/self/fd"), entries_of("/proc/self/task")];

    let mut most = 0;
    for _ in 0..BRIEF {
        let mut process = live(&mut watcher);
        assert!(process.wait(LIMIT).expect("end").success(), "{}", process.log());
        most = most.max(watcher.entries().expect("entries").len());
        watcher.sweep().expect("sweep");
    }
    let after = [entries_of("/proc/self/fd"), entries_of("/proc/self/task")];
    println!("{BRIEF} brief pods: descriptors and threads {before:?} before, {after:?} after");
    assert_eq!(after, before, "descriptors and threads");
    assert!(most > 0, "an entry was there to be swept");
    assert_eq!(watcher.entries().expect("entries"), [] as [u64; 0]);
    assert_eq!(watcher.remembered(), 0);
}

#[test]
fn a_sweep_keeps_the_namespaces_that_live() {
    let cgroup = Cgroup::create("sweep").expect("cgroup");
    let mut watcher = Watcher::start(&cgroup).expect("watcher");
    let start =
        || spawn(pod(&cgroup, &["10.78.1.1/8"], &["pod", TARGET, "--linger", "60000"]).expect("command"));
    let (mut stays, mut goes) = (start(), start());
    for _ in 0..2 {
        watcher.next(LIMIT).expect("watch").expect("a report");
    }
    let (kept, gone) = (connected(&mut stays).1, connected(&mut goes).1);
    goes.kill().expect("kill");
    watcher.sweep().expect("sweep");
    assert_eq!(watcher.entries().expect("entries"), [kept], "{gone} is gone");
}

#[test]
fn an_unknown_namespace_is_reported_once_however_often_it_connects() {
    let cgroup = Cgroup::create("flood").expect("cgroup");
    let mut watcher = Watcher::start(&cgroup).expect("watcher");
    let netns = Netns::create("flood").expect("namespace");
    netns.add_address("lo", "10.78.1.1".parse().expect("address"), 8).expect("address");
    let start = || {
        let mut command = placed(&peer().expect("peer"), &netns, &cgroup);
        command.args(["pod", TARGET, "--times", "500", "--linger", "60000"]);
        spawn(command)
    };
    let mut pods = [start(), start()];
    let cookie = pods.each_mut().map(|pod| connected(pod).1)[0];
    assert_eq!(watcher.entry(cookie).expect("entry").map(|it| it.state), Some(Namespace::PENDING));
    assert!(watcher.next(LIMIT).expect("watch").is_some());
    assert!(watcher.next(Duration::ZERO).expect("watch").is_none(), "one report for 1 000 connects");

    // The control: without the entry the next connect is reported.
    watcher.forget(cookie).expect("forget");
    let mut third = start();
    connected(&mut third);
    assert!(watcher.next(LIMIT).expect("watch").is_some());
}

#[test]
fn a_namespace_whose_reporter_ended_is_reported_again() {
    let cgroup = Cgroup::create("ended").expect("cgroup");
    let mut watcher = Watcher::start(&cgroup).expect("watcher");
    let netns = Netns::create("ended").expect("namespace");
    netns.add_address("lo", "10.78.1.1".parse().expect("address"), 8).expect("address");
    let connect = |linger: &str| {
        let mut command = placed(&peer().expect("peer"), &netns, &cgroup);
        command.args(["pod", TARGET, "--linger", linger]);
        spawn(command)
    };
    let mut first = connect("0");
    let (_, cookie) = connected(&mut first);
    first.wait(LIMIT).expect("end");
    let started = Instant::now();
    let seen = watcher.next(LIMIT).expect("watch").expect("a report");
    assert!(matches!(seen, Seen::Gone { .. }), "{seen:?}");
    assert!(started.elapsed() < LIMIT);
    assert_eq!(watcher.entry(cookie).expect("entry"), None, "the mark is taken away");

    let _second = connect("60000");
    let seen = watcher.next(LIMIT).expect("watch").expect("a report");
    assert!(matches!(seen, Seen::Known { event, .. } if event.netns == cookie), "{seen:?}");
}
