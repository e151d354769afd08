//! The servers over real sockets on loopback.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;

use tokio::time::sleep;

use super::*;
use crate::health::{GetError, get};
use crate::model::Listing;
use crate::status::{Batch, Identity};

/// Limit of everything that takes a moment only.
const SOON: Duration = Duration::from_secs(10);

fn reporter() -> Reporter {
    Reporter::new(Identity::default(), &[Listing::Services])
}

/// Servers that try again after a moment.
fn started(reporter: &Reporter) -> HealthChecks {
    let (checks, mut server) = channel(reporter.clone());
    server.retry = Duration::from_millis(20);
    tokio::spawn(server.serve());
    checks
}

/// A free address, which stays free for as long as no other test uses this IP.
fn free(ip: &str) -> SocketAddr {
    std::net::TcpListener::bind(SocketAddr::new(ip.parse().unwrap(), 0)).unwrap().local_addr().unwrap()
}

fn wanted<const N: usize>(list: [(&str, SocketAddr, usize); N]) -> Listeners {
    let entry =
        |(name, address, count)| (Listener { service: ObjectName::new("shop", name), address }, count);
    list.map(entry).into()
}

/// Waits until `look` finds something.
async fn until<T>(look: impl AsyncFn() -> Option<T>) -> T {
    timeout(SOON, async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap()
}

/// Status code and body, once they say what is wanted.
async fn told(address: SocketAddr, code: u16, part: &str) {
    until(async || {
        let (status, body) = get(address, "/whatever").await.ok()?;
        let body = String::from_utf8(body.to_vec()).unwrap();
        (status.as_u16() == code && body.contains(part)).then_some(())
    })
    .await;
}

async fn is_refused(address: SocketAddr) {
    until(async || {
        let outcome = tokio::net::TcpStream::connect(address).await;
        outcome.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused).then_some(())
    })
    .await;
}

/// Sends a request as it is, and reads until the server closes.
async fn raw(address: SocketAddr, request: &'static str) -> String {
    let ask = move || {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    tokio::task::spawn_blocking(ask).await.unwrap()
}

#[test]
fn the_body_is_kube_proxys() {
    let service = ObjectName::new("shop", "web");
    let expected = "{\n\t\"service\": {\n\t\t\"namespace\": \"shop\",\n\t\t\"name\": \"web\"\n\t},\n\
                    \t\"localEndpoints\": 2,\n\t\"serviceProxyHealthy\": false\n}";
    assert_eq!(body(&service, 2, false), expected);
    serde_json::from_str::<serde_json::Value>(&body(&service, 0, true)).unwrap();
}

#[tokio::test]
async fn a_service_answers_with_its_count_whatever_is_asked() {
    let reporter = reporter();
    let checks = started(&reporter);
    let address = free("127.1.1.1");
    checks.want(wanted([("web", address, 2)]));
    told(address, 200, "\"localEndpoints\": 2").await;
    for request in [
        "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        "POST /a?b=c HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
        "GET /healthz HTTP/1.0\r\n\r\n",
    ] {
        let answer = raw(address, request).await;
        for line in [
            " 200 OK\r\n",
            "\r\nContent-Type: application/json\r\n",
            "\r\nX-Content-Type-Options: nosniff\r\n",
            "\r\nX-Load-Balancing-Endpoint-Weight: 2\r\n",
            "\r\nContent-Length: ",
            "\r\nDate: ",
            "\r\n\r\n{\n\t\"service\": {\n",
        ] {
            assert!(answer.contains(line), "{request:?}: {line:?} is not in {answer}");
        }
        assert!(answer.ends_with("\n}"), "{answer:?}");
    }
    let head = raw(address, "HEAD / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(head.ends_with("\r\n\r\n") && head.contains("X-Load-Balancing-Endpoint-Weight: 2\r\n"), "{head}");
}

#[tokio::test]
async fn no_endpoint_or_an_agent_that_does_not_keep_up_is_unavailable() {
    let reporter = reporter();
    let checks = started(&reporter);
    let address = free("127.1.1.2");
    checks.want(wanted([("web", address, 0)]));
    told(address, 503, "\"localEndpoints\": 0,\n\t\"serviceProxyHealthy\": true").await;
    checks.want(wanted([("web", address, 3)]));
    told(address, 200, "\"localEndpoints\": 3").await;
    // What the node is to be chosen for is no matter of one Service.
    reporter.update(|status| status.node_eligible = false);
    told(address, 200, "\"serviceProxyHealthy\": true").await;
    reporter.applied(Batch::default());
    reporter.judge_after(Duration::ZERO);
    reporter.queued(1);
    told(address, 503, "\"localEndpoints\": 3,\n\t\"serviceProxyHealthy\": false").await;
}

#[tokio::test]
async fn a_server_follows_its_number_and_goes_with_its_service() {
    let reporter = reporter();
    let checks = started(&reporter);
    let [one, other] = [free("127.1.1.3"), free("127.1.1.4")];
    checks.want(wanted([("web", one, 1)]));
    told(one, 200, "\"web\"").await;
    // A connection that is open goes with the socket.
    let mut held = TcpStream::connect(one).unwrap();
    checks.want(wanted([("web", other, 1)]));
    told(other, 200, "\"web\"").await;
    is_refused(one).await;
    held.set_read_timeout(Some(SOON)).unwrap();
    let end = tokio::task::spawn_blocking(move || held.read(&mut [0; 8])).await.unwrap();
    let end = end.map_err(|error| error.kind());
    assert!(matches!(end, Ok(0) | Err(ErrorKind::ConnectionReset)), "{end:?}");
    checks.want(Listeners::new());
    is_refused(other).await;
    assert_eq!(reporter.snapshot().health_checks, HealthChecksStatus::default());
}

#[tokio::test]
async fn an_address_passes_from_one_service_to_the_next_in_one_turn() {
    let reporter = reporter();
    let mut checks = started(&reporter);
    let address = free("127.1.1.5");
    for name in ["b", "a", "c", "b"] {
        checks.want(wanted([(name, address, 1)]));
        told(address, 200, &format!("\"name\": {name:?}")).await;
    }
    assert!(timeout(Duration::ZERO, checks.failed()).await.is_err(), "none was told to have failed");
}

#[tokio::test]
async fn an_address_that_is_taken_is_told_once_and_tried_again() {
    let reporter = reporter();
    let mut checks = started(&reporter);
    let holder = std::net::TcpListener::bind("127.1.1.6:0").unwrap();
    let address = holder.local_addr().unwrap();
    let other = free("127.1.1.7");
    checks.want(wanted([("web", address, 1), ("wet", other, 1)]));
    let Failure { listener, problem } = timeout(SOON, checks.failed()).await.unwrap();
    assert_eq!((listener.service.name(), listener.address), ("web", address));
    assert!(problem.starts_with("Address already in use"), "{problem}");
    told(other, 200, "\"wet\"").await;
    let status = until(async || {
        let status = reporter.snapshot().health_checks;
        (status.listening == 1).then_some(status)
    })
    .await;
    assert_eq!(status.failed.first, [FailedHealthCheck { service: "shop/web".to_owned(), address, problem }]);
    // Some turns, each of which fails.
    sleep(Duration::from_millis(100)).await;
    assert!(timeout(Duration::ZERO, checks.failed()).await.is_err(), "once");
    drop(holder);
    told(address, 200, "\"web\"").await;
    assert_eq!(reporter.snapshot().health_checks.failed.count, 0);
    // What fails anew is told anew.
    checks.want(wanted([("wet", other, 1)]));
    is_refused(address).await;
    let _holder = std::net::TcpListener::bind(address).unwrap();
    checks.want(wanted([("web", address, 1), ("wet", other, 1)]));
    timeout(SOON, checks.failed()).await.unwrap();
}

#[tokio::test]
async fn one_number_is_answered_in_both_families() {
    let reporter = reporter();
    let checks = started(&reporter);
    let port = free("127.1.1.8").port();
    let any = ["0.0.0.0", "::"].map(|ip| SocketAddr::new(ip.parse().unwrap(), port));
    checks.want(wanted([("web", any[0], 4), ("web", any[1], 6)]));
    told(SocketAddr::new("127.1.1.8".parse().unwrap(), port), 200, "\"localEndpoints\": 4").await;
    told(SocketAddr::new("::1".parse().unwrap(), port), 200, "\"localEndpoints\": 6").await;
}

#[tokio::test]
async fn clients_that_say_nothing_keep_nobody_else_from_an_answer() {
    let reporter = reporter();
    let checks = started(&reporter);
    let [crowded, quiet] = [free("127.1.1.9"), free("127.1.1.10")];
    checks.want(wanted([("web", crowded, 1), ("wet", quiet, 1)]));
    told(crowded, 200, "\"web\"").await;
    let silent: Vec<TcpStream> = (0..CONNECTIONS).map(|_| TcpStream::connect(crowded).unwrap()).collect();
    told(quiet, 200, "\"wet\"").await;
    assert!(matches!(get(crowded, "/").await, Err(GetError::Late { .. })), "its places are taken");
    drop(silent);
    told(crowded, 200, "\"web\"").await;
}

#[tokio::test]
async fn connections_are_bounded_over_all_services() {
    let reporter = reporter();
    let (told_to, _failures) = mpsc::channel(8);
    let mut servers = Servers { places: Arc::new(Semaphore::new(2)), ..Servers::new(reporter, told_to) };
    let [one, other] = [free("127.1.1.13"), free("127.1.1.14")];
    servers.turn(&wanted([("a", one, 1), ("b", other, 1)])).await;
    let silent = TcpStream::connect(one).unwrap();
    told(other, 200, "\"b\"").await;
    let more = TcpStream::connect(one).unwrap();
    // Both must have been accepted before anybody else comes.
    sleep(Duration::from_millis(100)).await;
    assert!(matches!(get(other, "/").await, Err(GetError::Late { .. })), "all places are taken");
    drop((silent, more));
    told(other, 200, "\"b\"").await;
}

#[tokio::test]
async fn a_thousand_services_come_and_go() {
    let reporter = reporter();
    let mut checks = started(&reporter);
    files::raise_limit().unwrap();
    let many: Listeners = (0..1000)
        .map(|number: u16| {
            let [high, low] = number.to_be_bytes();
            let address = SocketAddr::from(([127, 1, 100 + high, low], 31_000));
            (Listener { service: ObjectName::new("shop", &format!("s{number}")), address }, 1)
        })
        .collect();
    for _ in 0..3 {
        checks.want(many.clone());
        until(async || (reporter.snapshot().health_checks.listening == 1000).then_some(())).await;
        told(([127, 1, 103, 231], 31_000).into(), 200, "\"s999\"").await;
        checks.want(Listeners::new());
        until(async || (reporter.snapshot().health_checks.listening == 0).then_some(())).await;
    }
    is_refused(([127, 1, 103, 231], 31_000).into()).await;
    assert!(timeout(Duration::ZERO, checks.failed()).await.is_err());
}

#[tokio::test]
async fn who_has_no_room_is_told_and_gets_what_is_freed() {
    let reporter = reporter();
    let (told_to, mut failures) = mpsc::channel(8);
    let mut servers = Servers { room: 1, ..Servers::new(reporter, told_to) };
    let [one, other] = [free("127.1.1.11"), free("127.1.1.12")];
    servers.turn(&wanted([("a", one, 1), ("b", other, 1)])).await;
    let Failure { listener, problem } = failures.recv().await.unwrap();
    assert_eq!(listener.service.name(), "b");
    assert_eq!(problem, "the agent may open 1 sockets for health checks, which are in use");
    servers.turn(&wanted([("b", other, 1)])).await;
    assert!(servers.failed.is_empty() && servers.running.len() == 1);
}
