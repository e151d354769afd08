//! HTTP over real sockets on loopback.

use std::io::{Read, Write};

use super::*;
use crate::model::Listing;
use crate::status::{Batch, Identity};

fn reporter() -> Reporter {
    let agent = Identity { node_name: "node-1".to_owned(), pid: 42, ..Identity::default() };
    Reporter::new(agent, &[Listing::Services, Listing::EndpointSlices])
}

fn pages(reporter: &Reporter) -> Pages {
    let metrics = Arc::new(Scraper::new(reporter.clone(), None, 10));
    Pages { reporter: reporter.clone(), metrics, configz: Arc::new(serde_json::json!({ "shunt": {} })) }
}

/// Serves `port` on a free port of the loopback.
async fn serving(port: Port, reporter: &Reporter) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let pages = pages(reporter);
    tokio::spawn(async move { accept_pages(port, &listener, pages).await });
    address
}

async fn page(address: SocketAddr, path: &'static str) -> (u16, String) {
    let (status, body) = get(address, path).await.unwrap();
    (status.as_u16(), String::from_utf8(body.to_vec()).unwrap())
}

/// Sends `request` as it is and reads until the server closes.
async fn raw(address: SocketAddr, request: &'static str) -> String {
    tokio::task::spawn_blocking(move || {
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        // What a header is called is of any case.
        let (status, rest) = answer.split_once("\r\n").unwrap();
        let (headers, body) = rest.split_once("\r\n\r\n").unwrap();
        format!("{status}\r\n{}\r\n\r\n{body}", headers.to_lowercase())
    })
    .await
    .unwrap()
}

#[tokio::test]
async fn readyz_tells_what_is_missing() {
    let reporter = reporter();
    let address = serving(Port::Healthz, &reporter).await;
    let expected = "services not listed yet\nendpointslices not listed yet\n";
    assert_eq!(page(address, "/readyz").await, (503, expected.to_owned()));
    reporter.listed(Listing::Services);
    reporter.listed(Listing::EndpointSlices);
    assert_eq!(page(address, "/readyz").await.0, 503);
    reporter.applied(Batch::default());
    assert_eq!(page(address, "/readyz").await, (200, "ok\n".to_owned()));
}

#[tokio::test]
async fn healthz_speaks_as_kube_proxy_does() {
    let reporter = reporter();
    let address = serving(Port::Healthz, &reporter).await;
    let (status, body) = page(address, "/healthz").await;
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, &body["nodeEligible"]), (200, &true.into()));
    assert_eq!(body["lastUpdated"], body["currentTime"], "a healthy agent has just updated");
    let time = body["currentTime"].as_str().unwrap();
    assert!(time.parse::<Timestamp>().is_ok() && time.ends_with('Z'), "{time}");

    reporter.update(|status| status.node_eligible = false);
    let (status, body) = page(address, "/healthz").await;
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, &body["nodeEligible"]), (503, &false.into()));
    let (status, body) = page(address, "/livez").await;
    assert_eq!(status, 200, "a restart would not bring the node back");
    assert!(!body.contains("nodeEligible"), "{body}");
}

#[test]
fn bodies_have_the_fields_and_the_meaning_of_kube_proxy() {
    let now: Timestamp = "2030-01-02T03:04:05.5Z".parse().unwrap();
    let then: Timestamp = "2030-01-02T03:00:00Z".parse().unwrap();
    let body = |keeps_up, node_eligible, last_updated, probe| {
        let health = Health { keeps_up, node_eligible, last_updated };
        serde_json::to_string(&health_body(health, probe, now)).unwrap()
    };
    let family = |healthy| format!(r#"{{"lastUpdated":"2030-01-02T03:00:00Z","healthy":{healthy}}}"#);
    let status = |healthy| format!(r#""status":{{"IPv4":{0},"IPv6":{0}}}"#, family(healthy));
    let current = r#""currentTime":"2030-01-02T03:04:05.5Z""#;
    assert_eq!(
        body(true, true, Some(then), Probe::Healthz),
        format!(
            r#"{{"lastUpdated":"2030-01-02T03:04:05.5Z",{current},"nodeEligible":true,"healthy":true,{}}}"#,
            status(true)
        )
    );
    // The proxy is healthy, its node is not to be chosen.
    assert_eq!(
        body(true, false, Some(then), Probe::Healthz),
        format!(
            r#"{{"lastUpdated":"2030-01-02T03:00:00Z",{current},"nodeEligible":false,"healthy":true,{}}}"#,
            status(true)
        )
    );
    assert_eq!(
        body(false, false, Some(then), Probe::Livez),
        format!(r#"{{"lastUpdated":"2030-01-02T03:00:00Z",{current},"healthy":false,{}}}"#, status(false))
    );
    assert_eq!(
        body(false, true, None, Probe::Livez),
        format!(r#"{{"lastUpdated":"0001-01-01T00:00:00Z",{current},"healthy":false}}"#)
    );
}

#[tokio::test]
async fn answers_of_the_health_port_are_counted() {
    let reporter = reporter();
    let address = serving(Port::Healthz, &reporter).await;
    page(address, "/healthz").await;
    reporter.update(|status| status.node_eligible = false);
    page(address, "/healthz").await;
    page(address, "/livez").await;
    assert_eq!(reporter.measures().answers, [[1, 1], [1, 0]]);
}

#[tokio::test]
async fn metrics_are_told_in_the_format_that_is_asked_for() {
    let reporter = reporter();
    let address = serving(Port::Metrics, &reporter).await;
    let (code, body) = page(address, "/metrics").await;
    assert!(
        code == 200 && body.contains("\n# TYPE shunt_batches_total counter\nshunt_batches_total 0\n"),
        "{body}"
    );
    assert!(body.contains("shunt_maps_readable 0\n"), "{body}");
    assert_eq!(page(address, "/configz").await, (200, r#"{"shunt":{}}"#.to_owned()));
    let accept =
        "GET /metrics HTTP/1.1\r\nhost: x\r\naccept: application/openmetrics-text;version=1.0.0\r\n\r\n";
    let answer = raw(address, accept).await;
    assert!(answer.contains("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n"));
    assert!(answer.contains("# TYPE shunt_batches counter\n") && answer.ends_with("\n# EOF\n"), "{answer}");
}

#[test]
fn an_address_that_must_be_had_and_is_taken_is_an_error() {
    let holder = std::net::TcpListener::bind("127.1.0.5:0").unwrap();
    let taken = holder.local_addr().unwrap();
    let free = SocketAddr::new(taken.ip(), 0);
    let listen = Listen { healthz: free, metrics: taken, must_bind: true };
    let checks = health_checks::channel(reporter()).1;
    let error = start(listen, pages(&reporter()), checks).unwrap_err().to_string();
    assert!(error.starts_with(&format!("listen on {taken}: ")), "{error}");
}

#[tokio::test]
async fn the_metrics_port_answers_this_node() {
    let reporter = reporter();
    let address = serving(Port::Metrics, &reporter).await;
    assert_eq!(page(address, "/proxyMode").await, (200, "shunt".to_owned()));
    assert_eq!(page(address, "/healthz").await, (200, "ok".to_owned()));
    let (code, body) = page(address, "/status").await;
    let status: crate::status::AgentStatus = serde_json::from_str(&body).unwrap();
    assert_eq!((code, status.agent.node_name.as_str(), status.agent.pid), (200, "node-1", 42));
}

#[tokio::test]
async fn each_port_answers_its_own_paths_only() {
    let reporter = reporter();
    let healthz = serving(Port::Healthz, &reporter).await;
    let metrics = serving(Port::Metrics, &reporter).await;
    for (address, path) in
        [(healthz, "/status"), (healthz, "/proxyMode"), (metrics, "/readyz"), (healthz, "/metrics")]
    {
        assert_eq!(page(address, path).await.0, 404, "{path}");
    }
}

#[tokio::test]
async fn only_reading_is_allowed() {
    let address = serving(Port::Metrics, &reporter()).await;
    let answer = raw(address, "POST /status HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 405 ") && answer.contains("allow: get, head"), "{answer}");
    let answer = raw(address, "HEAD /proxyMode HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("content-length: 5"), "{answer}");
    assert!(answer.ends_with("\r\n\r\n"), "a HEAD has no body: {answer}");
    assert!(answer.contains("x-content-type-options: nosniff"), "{answer}");
    let answer = raw(address, "not http\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
}

#[tokio::test]
async fn a_port_that_is_taken_is_tried_again() {
    let holder = std::net::TcpListener::bind("127.1.0.3:0").unwrap();
    let address = holder.local_addr().unwrap();
    let waiting = tokio::spawn(bind(Port::Healthz, address, Duration::from_millis(5)));
    sleep(Duration::from_millis(50)).await;
    assert!(!waiting.is_finished());
    drop(holder);
    let listener = timeout(Duration::from_secs(10), waiting).await.unwrap().unwrap();
    assert_eq!(listener.local_addr().unwrap(), address);
}

#[test]
fn a_thread_of_its_own_serves_both_ports() {
    // An address that no other test uses: its ports stay free after they are given back.
    let [healthz, metrics] = [(); 2]
        .map(|()| std::net::TcpListener::bind("127.1.0.1:0").unwrap())
        .map(|held| held.local_addr().unwrap());
    let (_wanted, checks) = health_checks::channel(reporter());
    start(Listen { healthz, metrics, must_bind: false }, pages(&reporter()), checks).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        for (address, path) in [(healthz, "/livez"), (metrics, "/proxyMode")] {
            let mut answer = get(address, path).await;
            for _ in 0..100 {
                if answer.is_ok() {
                    break;
                }
                sleep(Duration::from_millis(20)).await;
                answer = get(address, path).await;
            }
            assert_eq!(answer.unwrap().0, StatusCode::OK);
        }
    });
}

#[tokio::test]
async fn an_absent_agent_is_told_as_such() {
    let address = std::net::TcpListener::bind("127.1.0.2:0").unwrap().local_addr().unwrap();
    let error = get(address, "/status").await.unwrap_err();
    assert!(matches!(error, GetError::Connect { .. }), "{error}");
    assert_eq!(reachable("0.0.0.0:1".parse().unwrap()).to_string(), "127.0.0.1:1");
    assert_eq!(reachable("[::]:1".parse().unwrap()).to_string(), "[::1]:1");
}
