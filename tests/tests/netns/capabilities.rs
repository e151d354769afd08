//! An agent with the capabilities that the DaemonSet of `deploy` asks for, and no others.

use tests::agent::Agent;
use tests::deployment::{of_kind, plain, strings};
use tests::load::Load;
use tests::rights;

use crate::scenario::{PORT, Scenario, WEB, ways};

/// What the kernel asks for where an agent takes over maps of maps.
const TAKES_OVER: &str = "SYS_ADMIN";

/// The capabilities that are added to none in the DaemonSet.
pub(crate) fn listed() -> Vec<String> {
    let objects = plain().unwrap();
    let set = of_kind(&objects, "DaemonSet").unwrap();
    let rights = &set["spec"]["template"]["spec"]["containers"][0]["securityContext"]["capabilities"];
    assert_eq!(rights["drop"], serde_json::json!(["ALL"]));
    strings(&rights["add"]).unwrap().into_iter().map(str::to_owned).collect()
}

#[test]
fn the_listed_capabilities_are_enough_to_start_and_to_take_over_without_a_failed_connect() {
    let listed = listed();
    let listed: Vec<&str> = listed.iter().map(|name| &**name).collect();
    let scenario = Scenario::new();
    let node = scenario.cluster.node(1);
    let mut agent = Agent::start_under(node, scenario.manifests.path(), rights::only(&listed)).unwrap();
    assert_eq!(rights::effective(agent.pid()).unwrap(), rights::mask(&listed).unwrap());

    let [(target, _), ..] = ways(WEB, PORT);
    let options = ["--threads", "1", "--pause", "100", "--read-every", "16"];
    let clients = [scenario.cluster.pod(1, 1).place(), node.host()];
    let loads: Vec<Load> = clients.map(|client| client.connects(target, &options).unwrap()).into();
    for _ in 0..2 {
        agent.kill().unwrap();
        agent.start_again().unwrap();
        let sync = agent.progress().unwrap().sync;
        assert_eq!((sync.ops, sync.stores), (0, 0), "what was there was taken over");
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
    for load in loads {
        let report = load.finish().unwrap();
        assert!(report.attempts > 500, "{report:?}");
        assert_eq!((report.failures(), report.unanswered.len()), (0, 0), "{report:?}");
    }
    for command in [&["status"][..], &["dump", "backends"], &["cleanup"]] {
        if command == ["cleanup"] {
            agent.terminate().unwrap();
        }
        let output = agent.exec(command).unwrap();
        assert!(output.status.success(), "{command:?}: {output:?}");
    }
}

/// The control: the test above can fail, and what the documents say of the largest of them is so.
#[test]
fn without_the_largest_a_first_start_works_and_a_later_one_ends_with_exit_code_3() {
    let listed = listed();
    let fewer: Vec<&str> = listed.iter().map(|name| &**name).filter(|name| *name != TAKES_OVER).collect();
    assert_eq!(fewer.len() + 1, listed.len());
    let scenario = Scenario::new();
    let node = scenario.cluster.node(1);
    let mut agent = Agent::start_under(node, scenario.manifests.path(), rights::only(&fewer)).unwrap();
    let [(target, options), ..] = ways(WEB, PORT);
    assert!(node.host().get(target, options).unwrap().error.is_none());
    agent.terminate().unwrap();
    agent.start_again().unwrap_err();
    let code = agent.wait_end(std::time::Duration::from_secs(5)).unwrap().code();
    assert_eq!(code, Some(3), "{}", agent.log());
    // And what it had attached before goes on.
    assert!(node.host().get(target, options).unwrap().error.is_none());
}
