//! The real thing: a directory, its thread, and what arrives.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::sync::mpsc;

use crate::model::{Event, ObjectName};
use crate::source::manifests::{Directory, Manifests};
use crate::source::{Batch, SourceError};
use crate::state::State;

/// Long enough for a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_secs(20);

struct Following {
    root: TempDir,
    batches: mpsc::Receiver<Batch>,
    state: State,
    warnings: Vec<String>,
    _source: Manifests,
}

impl Following {
    /// Follows a directory that `fill` fills first; the listing has arrived.
    fn start(capacity: usize, fill: impl Fn(&Path)) -> Self {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("live")).unwrap();
        fill(&root.path().join("live"));
        let (sender, batches) = mpsc::channel(capacity);
        let source = Manifests::follow(&root.path().join("live"), "here", sender).unwrap();
        let state = State::new("here", Directory::LISTINGS);
        let mut following = Self { root, batches, state, warnings: Vec::new(), _source: source };
        following.until(State::is_listed);
        following
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.root.path().join("live").join(name)
    }

    /// Writes a file beside the directory and renames it into place.
    fn place(&self, name: &str, text: &str) {
        let scratch = self.root.path().join("scratch");
        fs::write(&scratch, text).unwrap();
        fs::rename(scratch, self.path(name)).unwrap();
    }

    /// The next batch, which must come.
    fn next(&mut self) -> Batch {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Ok(batch) = self.batches.try_recv() {
                self.warnings.extend(batch.warnings.iter().map(ToString::to_string));
                batch.events.iter().cloned().for_each(|event| drop(self.state.apply(event)));
                return batch;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        panic!("no batch; the state is {:?}", self.state);
    }

    fn until(&mut self, is_there: impl Fn(&State) -> bool) {
        while !is_there(&self.state) {
            self.next();
        }
    }

    fn names(&self) -> Vec<String> {
        self.state.service_names().map(|name| name.name().to_owned()).collect()
    }
}

fn name(text: &str) -> ObjectName {
    ObjectName::new("default", text)
}

fn service(name: &str, ip: &str) -> String {
    format!("apiVersion: v1\nkind: Service\nmetadata: {{ name: {name} }}\nspec: {{ clusterIP: {ip} }}\n---\n")
}

fn slice(name: &str, service: &str) -> String {
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{ name: {name}, labels: \
         {{ kubernetes.io/service-name: {service} }} }}\naddressType: IPv4\nendpoints: [{{ addresses: [10.0.0.1] }}]\n"
    )
}

fn has(text: &'static str, last: u8) -> impl Fn(&State) -> bool {
    let ip = [10, 96, 0, last].into();
    move |state| state.service(&name(text)).is_some_and(|service| service.cluster_ips.contains(&ip))
}

fn lacks(text: &'static str) -> impl Fn(&State) -> bool {
    move |state| state.service(&name(text)).is_none()
}

#[test]
fn everything_below_is_listed_and_nothing_else() {
    let following = Following::start(8, |live| {
        fs::create_dir_all(live.join("deep/er")).unwrap();
        fs::create_dir_all(live.join(".git")).unwrap();
        for (file, text) in [
            ("a.yaml", service("a", "10.96.0.1")),
            ("deep/b.yml", service("b", "10.96.0.2")),
            ("deep/er/c.json", r#"{"apiVersion":"v1","kind":"Service","metadata":{"name":"c"},"spec":{"clusterIP":"10.96.0.3"}}"#.into()),
            ("d.yaml.bak", service("d", "10.96.0.4")),
            (".e.yaml", service("e", "10.96.0.5")),
            (".git/f.yaml", service("f", "10.96.0.6")),
        ] {
            fs::write(live.join(file), text).unwrap();
        }
        symlink("deep", live.join("loop")).unwrap();
        symlink("nowhere", live.join("dangling.yaml")).unwrap();
    });
    assert_eq!((following.names(), following.warnings.len()), (vec!["a".into(), "b".into(), "c".into()], 0));
}

#[test]
fn a_directory_that_is_not_there_is_an_error() {
    let (sender, _batches) = mpsc::channel(1);
    let root = tempfile::tempdir().unwrap();
    let error = Manifests::follow(&root.path().join("none"), "here", sender).unwrap_err();
    assert!(matches!(error, SourceError::Directory { .. }), "{error}");
}

#[test]
fn a_rename_into_place_is_one_batch() {
    let mut following = Following::start(8, |_| {});
    for round in 0..50 {
        let ip = format!("10.96.0.{}", 1 + round % 2);
        let text = [service("web", &ip), slice(&format!("web-{round}"), "web")].concat();
        following.place("web.yaml", &text);
        let batch = following.next();
        let kinds: Vec<_> = batch.events.iter().map(std::mem::discriminant).collect();
        assert_eq!(kinds.len(), if round == 0 { 2 } else { 3 }, "{batch:?}");
        assert_eq!(following.state.slices(&name("web")).count(), 1);
    }
}

#[test]
fn a_change_arrives_within_a_tenth_of_a_second() {
    let mut following = Following::start(8, |_| {});
    let best = (0..10u8)
        .map(|round| {
            following.place("web.yaml", &service("web", &format!("10.96.0.{round}")));
            let placed = Instant::now();
            following.until(has("web", round));
            placed.elapsed()
        })
        .min()
        .unwrap();
    assert!(best < Duration::from_millis(100), "{best:?}");
}

#[test]
fn no_rename_of_a_burst_is_lost() {
    let mut following = Following::start(8, |_| {});
    for round in 0..400 {
        following.place(
            &format!("{}.yaml", round % 20),
            &service(&format!("s{}", round % 20), &format!("10.96.0.{}", round / 20)),
        );
    }
    for service in 0..20 {
        let text = name(&format!("s{service}"));
        let last = [10, 96, 0, 19].into();
        following.until(|state| state.service(&text).is_some_and(|it| it.cluster_ips.contains(&last)));
    }
    assert_eq!(following.names().len(), 20);
}

#[test]
fn files_move_without_a_gap() {
    let mut following = Following::start(64, |live| fs::create_dir(live.join("sub")).unwrap());
    following.place("a.yaml", &service("web", "10.96.0.1"));
    following.until(has("web", 1));
    for _ in 0..50 {
        fs::rename(following.path("a.yaml"), following.path("sub/b.yaml")).unwrap();
        fs::rename(following.path("sub/b.yaml"), following.path("a.yaml")).unwrap();
    }
    following.place("end.yaml", &service("end", "10.96.0.2"));
    while following.state.service(&name("end")).is_none() {
        let batch = following.next();
        let is_gap = |event: &Event| matches!(event, Event::ServiceDeleted(_));
        assert!(!batch.events.iter().any(is_gap), "{batch:?}");
    }
    assert_eq!(following.names(), ["end", "web"]);
}

#[test]
fn written_files_count_when_they_are_closed() {
    use std::io::Write;

    let mut following = Following::start(8, |_| {});
    let mut file = fs::File::create(following.path("a.yaml")).unwrap();
    file.write_all(service("a", "10.96.0.1").as_bytes()).unwrap();
    following.place("b.yaml", &service("b", "10.96.0.2"));
    following.until(has("b", 2));
    assert_eq!(following.names(), ["b"]);
    file.write_all(service("c", "10.96.0.3").as_bytes()).unwrap();
    drop(file);
    let batch = following.next();
    assert_eq!((batch.events.len(), following.names()), (2, vec!["a".into(), "b".into(), "c".into()]));
    fs::remove_file(following.path("a.yaml")).unwrap();
    following.until(lacks("a"));
    assert_eq!(following.names(), ["b"]);
}

#[test]
fn directories_come_and_go() {
    let mut following = Following::start(8, |_| {});
    let outside = following.root.path().join("outside");
    fs::create_dir_all(outside.join("deep")).unwrap();
    fs::write(outside.join("deep/a.yaml"), service("a", "10.96.0.1")).unwrap();
    fs::rename(&outside, following.path("in")).unwrap();
    following.until(has("a", 1));
    following.place("in/deep/a.yaml", &service("a", "10.96.0.2"));
    following.until(has("a", 2));
    fs::rename(following.path("in"), &outside).unwrap();
    following.until(lacks("a"));
    fs::write(outside.join("deep/a.yaml"), service("a", "10.96.0.3")).unwrap();
    fs::create_dir(following.path("new")).unwrap();
    following.place("new/b.yaml", &service("b", "10.96.0.4"));
    following.until(has("b", 4));
    assert_eq!(following.names(), ["b"], "what moved away is not followed");
}

#[test]
fn a_mounted_config_map_changes_at_once() {
    let mut following = Following::start(8, |live| {
        fs::create_dir(live.join("..one")).unwrap();
        fs::write(live.join("..one/a.yaml"), service("a", "10.96.0.1")).unwrap();
        symlink("..one", live.join("..data")).unwrap();
        symlink("..data/a.yaml", live.join("a.yaml")).unwrap();
    });
    assert_eq!(following.names(), ["a"]);
    fs::create_dir(following.path("..two")).unwrap();
    fs::write(following.path("..two/a.yaml"), service("a", "10.96.0.2")).unwrap();
    symlink("..two", following.path("..data_tmp")).unwrap();
    fs::rename(following.path("..data_tmp"), following.path("..data")).unwrap();
    following.until(has("a", 2));
    assert_eq!(following.warnings, [""; 0]);
}

#[test]
fn a_root_that_is_gone_has_deleted_nothing() {
    let mut following =
        Following::start(8, |live| fs::write(live.join("a.yaml"), service("a", "10.96.0.1")).unwrap());
    let (live, away) = (following.path(""), following.root.path().join("away"));
    fs::rename(&live, &away).unwrap();
    let batch = following.next();
    assert_eq!((batch.events.len(), batch.warnings.len()), (0, 1), "{batch:?}");
    fs::remove_file(away.join("a.yaml")).unwrap();
    fs::create_dir(&live).unwrap();
    fs::write(live.join("b.yaml"), service("b", "10.96.0.2")).unwrap();
    following.until(has("b", 2));
    assert_eq!(following.names(), ["b"]);
}

#[test]
fn what_is_no_file_is_reported_once_and_tried_again() {
    let fifo = |live: &Path| {
        let made = rustix::fs::mknodat(
            rustix::fs::CWD,
            live.join("p.yaml"),
            rustix::fs::FileType::Fifo,
            0o600.into(),
            0,
        );
        made.unwrap();
    };
    let mut following = Following::start(8, fifo);
    assert!(
        following.warnings.len() == 1 && following.warnings[0].contains("p.yaml: not a file"),
        "{:?}",
        following.warnings
    );
    std::thread::sleep(Duration::from_millis(1200));
    fs::remove_file(following.path("p.yaml")).unwrap();
    following.place("p.yaml", &service("a", "10.96.0.1"));
    following.until(has("a", 1));
    assert_eq!(following.warnings.len(), 1);
}

/// The thread is held up while more happens than the kernel remembers.
#[test]
fn lost_events_are_made_up_for() {
    let limit: usize =
        fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap().trim().parse().unwrap();
    let mut following = Following::start(1, |_| {});
    for round in 0..3 {
        following.place("held.yaml", &service("held", &format!("10.96.0.{round}")));
        std::thread::sleep(Duration::from_millis(50));
    }
    let busy = following.path("busy.tmp");
    for _ in 0..=limit / 2 {
        fs::write(&busy, "").unwrap();
        fs::remove_file(&busy).unwrap();
    }
    following.place("last.yaml", &service("last", "10.96.0.9"));
    fs::remove_file(following.path("held.yaml")).unwrap();
    following.until(has("last", 9));
    following.until(lacks("held"));
    assert_eq!(following.names(), ["last"]);
}

#[test]
fn the_thread_ends_with_its_source() {
    let following = Following::start(8, |_| {});
    let Following { mut batches, _source: source, .. } = following;
    drop(source);
    let deadline = Instant::now() + PATIENCE;
    while !matches!(batches.try_recv(), Err(mpsc::error::TryRecvError::Disconnected)) {
        assert!(Instant::now() < deadline, "the sender lives on");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[tokio::test]
async fn a_thread_that_has_ended_is_noticed() {
    let root = tempfile::tempdir().unwrap();
    let (sender, batches) = mpsc::channel(1);
    let mut source = Manifests::follow(root.path(), "here", sender).unwrap();
    let soon = tokio::time::timeout(Duration::from_millis(200), source.ended());
    assert!(soon.await.is_err(), "it has ended by itself");
    drop(batches);
    fs::write(root.path().join("a.yaml"), "kind: [").unwrap();
    tokio::time::timeout(PATIENCE, source.ended()).await.unwrap();
}
