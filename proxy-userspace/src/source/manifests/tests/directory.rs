//! Which changes follow from which files.

use std::collections::BTreeMap;
use std::path::PathBuf;

use proptest::prelude::*;

use crate::model::{Event, Listing, ObjectName};
use crate::source::Batch;
use crate::source::manifests::{Directory, FileChange};
use crate::state::State;

fn service(name: &str, ip: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{ name: {name} }}\nspec: {{ clusterIP: \"{ip}\", \
         ports: [{{ port: 80 }}] }}\n"
    )
}

fn slice(name: &str, service: &str, ip: &str) -> String {
    format!(
        "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{ name: {name}, labels: \
         {{ kubernetes.io/service-name: {service} }} }}\naddressType: IPv4\nendpoints: [{{ addresses: [{ip}] }}]\n\
         ports: [{{ port: 80 }}]\n"
    )
}

fn node(name: &str, zone: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Node\nmetadata: {{ name: {name}, labels: {{ topology.kubernetes.io/zone: {zone} \
         }} }}\n"
    )
}

fn cidr(name: &str, net: &str) -> String {
    format!(
        "---\napiVersion: networking.k8s.io/v1\nkind: ServiceCIDR\nmetadata: {{ name: {name} }}\nspec: {{ cidrs: \
         [{net}] }}\n"
    )
}

const BAD: &str = "---\nkind: [\n";

fn file(path: &str, text: &str) -> FileChange {
    (PathBuf::from(path), Some(text.as_bytes().to_vec()))
}

fn gone(path: &str) -> FileChange {
    (PathBuf::from(path), None)
}

/// One word for each event.
fn words(batch: &Batch) -> Vec<String> {
    let word = |event: &Event| match event {
        Event::ServiceApplied(it) => format!("{} {}", it.name, it.cluster_ips[0]),
        Event::ServiceDeleted(name) | Event::SliceDeleted(name) => format!("-{name}"),
        Event::SliceApplied(it) => format!("{} {}", it.name, it.endpoints[0].addr),
        Event::NodeApplied(it) => format!("{} {}", it.name, it.zone.as_deref().unwrap_or("")),
        Event::NodeDeleted => "-node".into(),
        Event::ServiceCidrApplied(it) => format!("{} {}", it.name, it.cidrs[0]),
        Event::ServiceCidrDeleted(name) => format!("-{name}"),
        other => format!("{other:?}"),
    };
    batch.events.iter().map(word).collect()
}

#[test]
fn the_first_look_is_a_listing_of_each_kind() {
    let text =
        [service("web", "10.96.0.1"), node("here", "z"), node("there", "y"), cidr("k", "10.96.0.0/12")]
            .concat();
    let batch = Directory::new("here").list([file("a.yaml", &text)]);
    let mut expected: Vec<String> =
        Directory::LISTINGS.map(|it| format!("{:?}", Event::ListStarted(it))).into();
    expected.extend(["default/web 10.96.0.1", "here z", "k 10.96.0.0/12"].map(String::from));
    expected.extend(Directory::LISTINGS.map(|it| format!("{:?}", Event::ListEnded(it))));
    assert_eq!((words(&batch), batch.warnings), (expected, vec![]));
}

#[test]
fn only_what_changed_is_said() {
    let mut directory = Directory::new("here");
    let first = [service("web", "10.96.0.1"), slice("web-1", "web", "10.0.0.1")].concat();
    assert_eq!(words(&directory.update([file("a.yaml", &first)])).len(), 2);
    assert!(directory.update([file("a.yaml", &first)]).is_empty());
    let spelled = first.replace("10.96.0.1", "010.96.0.1").replace("---", "--- # comment");
    assert!(directory.update([file("a.yaml", &spelled)]).is_empty());
    let second = [service("web", "10.96.0.1"), slice("web-1", "web", "10.0.0.2")].concat();
    assert_eq!(words(&directory.update([file("a.yaml", &second)])), ["default/web-1 10.0.0.2"]);
    assert_eq!(words(&directory.update([file("a.yaml", &service("web", "10.96.0.1"))])), ["-default/web-1"]);
    assert_eq!(words(&directory.update([gone("a.yaml")])), ["-default/web"]);
    assert!(directory.update([gone("a.yaml")]).is_empty());
}

#[test]
fn a_move_between_files_is_nothing() {
    let mut directory = Directory::new("here");
    let text = service("web", "10.96.0.1");
    directory.update([file("a.yaml", &text)]);
    assert_eq!(directory.update([gone("a.yaml"), file("b.yaml", &text)]), Batch::default());
    assert_eq!(directory.update([gone("b.yaml"), file("a.yaml", &text)]).events, []);
}

#[test]
fn deletions_come_first() {
    let mut directory = Directory::new("here");
    directory.update([file("z.yaml", &service("z", "10.96.0.1"))]);
    let moved = directory.update([file("a.yaml", &service("a", "10.96.0.1")), gone("z.yaml")]);
    assert_eq!(words(&moved), ["-default/z", "default/a 10.96.0.1"]);
}

#[test]
fn the_first_file_in_order_wins_and_the_other_takes_over() {
    let mut directory = Directory::new("here");
    let [one, two, three] = ["10.96.0.1", "10.96.0.2", "10.96.0.3"].map(|ip| service("web", ip));
    directory.update([file("b.yaml", &two)]);
    let contested = directory.update([file("c.yaml", &three)]);
    assert_eq!((words(&contested), contested.warnings.len()), (vec![], 1));
    let warning = contested.warnings[0].to_string();
    assert!(warning.contains("default/web in c.yaml") && warning.contains("b.yaml, which wins"), "{warning}");
    let won = directory.update([file("a.yaml", &one)]);
    assert_eq!((words(&won), won.warnings.len()), (vec!["default/web 10.96.0.1".to_owned()], 1));
    assert_eq!(words(&directory.update([gone("b.yaml")])), [""; 0]);
    assert_eq!(words(&directory.update([gone("a.yaml")])), ["default/web 10.96.0.3"]);
    assert_eq!(words(&directory.update([gone("c.yaml")])), ["-default/web"]);
}

#[test]
fn an_object_twice_in_one_file_counts_once() {
    let text = [service("web", "10.96.0.1"), service("web", "10.96.0.2")].concat();
    let batch = Directory::new("here").update([file("a.yaml", &text)]);
    assert_eq!((words(&batch), batch.warnings.len()), (vec!["default/web 10.96.0.1".to_owned()], 1));
}

#[test]
fn a_file_with_a_bad_document_takes_nothing_away() {
    let mut directory = Directory::new("here");
    directory.update([file("a.yaml", &[service("a", "10.96.0.1"), service("b", "10.96.0.2")].concat())]);
    let broken = directory.update([file("a.yaml", &[service("a", "10.96.0.9"), BAD.into()].concat())]);
    assert_eq!(words(&broken), ["default/a 10.96.0.9"], "good documents count");
    let warning = broken.warnings[0].to_string();
    assert!(warning.starts_with("document 2 of a.yaml: line "), "{warning}");
    assert_eq!(words(&directory.update([file("a.yaml", BAD)])), [""; 0]);
    assert_eq!(words(&directory.update([file("a.yaml", &service("a", "10.96.0.9"))])), ["-default/b"]);
    directory.update([file("a.yaml", BAD)]);
    assert_eq!(
        words(&directory.update([gone("a.yaml")])),
        ["-default/a"],
        "a file that is gone is no half a file"
    );
}

#[test]
fn a_rejected_object_stands_as_it_was() {
    let mut directory = Directory::new("here");
    directory.update([file("a.yaml", &service("web", "10.96.0.1"))]);
    let rejected = directory.update([file("a.yaml", &service("web", "10.96.0.300"))]);
    assert_eq!((words(&rejected), rejected.warnings.len()), (vec![], 1));
    let warning = rejected.warnings[0].to_string();
    assert!(warning.starts_with("Service default/web in a.yaml: spec.clusterIP: "), "{warning}");
}

#[test]
fn an_object_of_an_unread_kind_is_reported_and_harms_nothing() {
    let mut directory = Directory::new("here");
    let text = service("web", "10.96.0.1");
    directory.update([file("a.yaml", &text)]);
    let other = "---\napiVersion: apps/v1\nkind: Deployment\nspec: { replicas: 3 }\n";
    let batch = directory.update([file("a.yaml", other)]);
    assert_eq!((words(&batch), batch.warnings.len()), (vec!["-default/web".to_owned()], 1));
}

#[test]
fn a_service_without_a_cluster_ip_is_an_error_that_names_the_field() {
    let mut directory = Directory::new("here");
    directory.update([file("a.yaml", &service("web", "10.96.0.1"))]);
    let text = "apiVersion: v1\nkind: Service\nmetadata: { name: web }\nspec: { selector: { app: web } }\n";
    let batch = directory.update([file("a.yaml", text)]);
    assert_eq!(words(&batch), ["-default/web"]);
    assert_eq!((batch.warnings.len(), batch.warnings[0].field.as_str()), (1, "spec.clusterIP"));
    let headless = directory.update([file("a.yaml", &service("web", "None"))]);
    assert_eq!(headless, Batch::default());
    assert_eq!(words(&directory.update([file("b.yaml", &service("web", "10.96.0.1"))])), [""; 0], "hidden");
}

/// Part of a file: an object, or something bad.
fn any_part() -> impl Strategy<Value = String> {
    let last = 1..4u8;
    prop_oneof![
        4 => (0..3u8, last.clone()).prop_map(|(it, ip)| service(&format!("s{it}"), &format!("10.96.0.{ip}"))),
        4 => (0..3u8, 0..3u8, last.clone())
            .prop_map(|(it, of, ip)| slice(&format!("e{it}"), &format!("s{of}"), &format!("10.0.0.{ip}"))),
        1 => last.clone().prop_map(|zone| node("here", &format!("z{zone}"))),
        1 => last.prop_map(|net| cidr("k", &format!("10.{net}.0.0/16"))),
        1 => Just(service("s0", "None")),
        1 => Just(BAD.to_owned()),
    ]
}

/// A change of one of four files: its parts, or gone.
fn any_change() -> impl Strategy<Value = (u8, Option<Vec<String>>)> {
    (0..4u8, prop::option::weighted(0.8, prop::collection::vec(any_part(), 0..5)))
}

fn world(state: &State) -> String {
    // A Node that has gone is remembered as one that leaves: a fresh look at its files cannot know of it.
    let node = crate::model::Node { is_leaving: false, ..state.node().clone() };
    let names = (0..3).map(|it| ObjectName::new("default", &format!("s{it}")));
    let services: Vec<_> = names
        .map(|name| (state.service(&name).cloned(), state.slices(&name).cloned().collect::<Vec<_>>()))
        .collect();
    format!("{services:?} {:?} {:?}", node, state.cidrs().collect::<Vec<_>>())
}

proptest! {
    /// Whatever happened to the files, in whatever portions, the state is that of a fresh look at them. No event is
    /// idle, and files with a bad document delete nothing.
    #[test]
    fn any_history_ends_in_the_same_world(
        history in prop::collection::vec(prop::collection::vec(any_change(), 1..4), 0..12),
    ) {
        let path = |number: &u8| PathBuf::from(format!("{number}.yaml"));
        let bytes = |parts: &[String]| Some(parts.concat().into_bytes());
        let mut directory = Directory::new("here");
        let mut state = State::new("here", Listing::ALL);
        let mut files: BTreeMap<u8, Vec<String>> = BTreeMap::new();
        for changes in history {
            let is_partial =
                |change: &(u8, Option<Vec<String>>)| change.1.iter().flatten().any(|part| part == BAD);
            let may_delete = !changes.iter().all(is_partial);
            for (number, parts) in &changes {
                match parts {
                    Some(parts) => files.insert(*number, parts.clone()),
                    None => files.remove(number),
                };
            }
            let batch = directory
                .update(changes.iter().map(|(number, parts)| (path(number), parts.as_deref().and_then(bytes))));
            for event in batch.events {
                let is_deletion = matches!(event, Event::ServiceDeleted(_) | Event::SliceDeleted(_)
                    | Event::NodeDeleted | Event::ServiceCidrDeleted(_));
                let is_headless = changes.iter().flat_map(|it| it.1.iter().flatten()).any(|it| it.contains("None"));
                prop_assert!(may_delete || is_headless || !is_deletion);
                prop_assert!(!state.apply(event).is_empty());
            }
        }
        // The bad parts are repaired, which is when what they may have hidden goes.
        for parts in files.values_mut() {
            parts.retain(|part| part != BAD);
        }
        let all = || files.iter().map(|(number, parts)| (path(number), bytes(parts)));
        directory.update(all()).events.into_iter().for_each(|event| drop(state.apply(event)));
        let mut fresh = State::new("here", Listing::ALL);
        Directory::new("here").list(all()).events.into_iter().for_each(|event| drop(fresh.apply(event)));
        prop_assert_eq!(world(&state), world(&fresh));
    }
}
