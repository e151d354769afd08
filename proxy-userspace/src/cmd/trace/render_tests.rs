use super::*;
use crate::trace::{FrontendFound, MemoryFound, Outcome, Step, ViewFound};

fn backend(row: u32, candidate: bool) -> BackendFound {
    let views = if candidate { vec!["internal", "cluster"] } else { vec!["cluster"] };
    BackendFound {
        backend: format!("10.1.0.{row}:8080"),
        candidate,
        row,
        generation: 5,
        serving: true,
        views,
    }
}

fn trace() -> Trace {
    Trace {
        origin: "pod",
        origin_reason: "any pod of this node: which one is not said".to_owned(),
        destination: "10.96.0.10:53/udp".to_owned(),
        verdict: Outcome {
            action: "forward",
            reason: None,
            backend: None,
            carried_out: true,
            text: "forwarded to one of 2 candidates at random".to_owned(),
        },
        frontend: Some(FrontendFound {
            kind: "cluster-ip",
            service: "kube-system/dns:dns/udp".to_owned(),
            family: "IPv4",
            cell: 3,
        }),
        view: Some(ViewFound {
            view: "internal",
            reason: "a cluster IP: internalTrafficPolicy decides",
            half: "b",
            sequence: 7,
            candidates: 2,
        }),
        affinity: Some(AffinityFound { timeout_seconds: 60, remembered: None }),
        source_ranges: None,
        backends: vec![backend(1, true), backend(2, true), backend(3, false)],
        open_sockets: Some("one that has a backend which serves (3 do) keeps it".to_owned()),
        seen_as: Some("the client"),
        steps: vec![Step { table: "filter", key: "10.96.0.10".to_owned(), found: "may be owned".to_owned() }],
        notes: vec!["something else".to_owned()],
    }
}

fn asked(text: &str) -> Destination {
    text.parse().unwrap()
}

#[test]
fn one_port_is_told_at_length() {
    assert_eq!(
        text(&[trace()], asked("10.96.0.10:53")),
        "from          pod: any pod of this node: which one is not said\n\
         to            10.96.0.10:53/udp\n\
         verdict       forwarded to one of 2 candidates at random\n\
         service       kube-system/dns:dns/udp (IPv4, cell 3), by its cluster-ip\n\
         view          internal: a cluster IP: internalTrafficPolicy decides (half b, sequence 7)\n\
         affinity      timeout 60 s; the client is not remembered\n\
         sources       any\n\
         open sockets  one that has a backend which serves (3 do) keeps it\n\
         seen as       the client\n\
         note          something else\n\
         \n\
         LOOKED INTO  FOR         FOUND\n\
         filter       10.96.0.10  may be owned\n\
         \n\
         BACKEND        CANDIDATE  ROW  GENERATION  STATE\n\
         10.1.0.1:8080  yes        1    5           serving,internal,cluster\n\
         10.1.0.2:8080  yes        2    5           serving,internal,cluster\n\
         10.1.0.3:8080  no         3    5           serving,cluster\n"
    );
}

#[test]
fn an_address_has_a_line_for_each_port() {
    let none = Trace {
        destination: "10.96.0.99:0/tcp".to_owned(),
        frontend: None,
        view: None,
        verdict: Outcome { text: "times out".to_owned(), ..trace().verdict },
        ..trace()
    };
    assert_eq!(
        text(&[trace(), none], asked("10.96.0.10")),
        "from pod: any pod of this node: which one is not said\n\
         \n\
         DESTINATION         KIND        SERVICE                  VIEW      VERDICT\n\
         10.96.0.10:53/udp   cluster-ip  kube-system/dns:dns/udp  internal  forwarded to one of 2 candidates at random\n\
         10.96.0.99:any/tcp  -           -                        -         times out\n\
         note          something else\n"
    );
}

#[test]
fn of_many_backends_twenty_are_shown_and_the_rest_is_counted() {
    let backends: Vec<BackendFound> = (1..=25).map(|row| backend(row, row <= 22)).collect();
    let out = text(&[Trace { backends, ..trace() }], asked("10.96.0.10:53"));
    assert!(out.contains("10.1.0.20:8080") && !out.contains("10.1.0.21:8080"), "{out}");
    assert!(out.ends_with("and 5 more, 2 of them candidates\n"), "{out}");
}

#[test]
fn what_is_remembered_and_who_is_let_in_is_said_in_words() {
    let memory = |standing, decides, backend: Option<&str>| MemoryFound {
        client: "10.244.1.11".to_owned(),
        backend: backend.map(str::to_owned),
        age_seconds: 12,
        standing,
        decides,
    };
    let line =
        |remembered| affinity(Some(&AffinityFound { timeout_seconds: 60, remembered: Some(remembered) }));
    let was_given = "timeout 60 s; 10.244.1.11 was given";
    assert_eq!(
        line(memory("fresh", true, Some("10.1.0.1:80"))),
        format!("{was_given} 10.1.0.1:80 12 s ago, which decides")
    );
    assert_eq!(
        line(memory("fresh", false, Some("10.1.0.1:80"))),
        format!(
            "{was_given} 10.1.0.1:80 12 s ago, which does not decide: the view does not have that backend"
        )
    );
    assert_eq!(
        line(memory("replaced", false, None)),
        format!(
            "{was_given} a row that is another endpoint's by now 12 s ago, which does not decide: replaced"
        )
    );
    let clients = [("172.30.0.1", true), ("172.31.0.1", false)]
        .map(|(address, allowed)| SourceFound { address: address.to_owned(), allowed })
        .into();
    let found = SourcesFound { clients, admission: "depends" };
    assert_eq!(sources(Some(&found)), "ranges, depends: 172.30.0.1 within a range, 172.31.0.1 within none");
    assert_eq!(sources(Some(&SourcesFound { clients: Vec::new(), admission: "unknown" })), "ranges, unknown");
}

#[test]
fn programs_read_the_same_fields() {
    let json = serde_json::to_value(trace()).unwrap();
    assert_eq!(json["verdict"]["action"], "forward");
    assert_eq!(json["frontend"]["service"], "kube-system/dns:dns/udp");
    assert_eq!(json["backends"].as_array().unwrap().len(), 3);
}
