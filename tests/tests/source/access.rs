//! Credentials that change, and the wait for a first answer.

use std::time::Duration;

use shunt::model::Listing;
use shunt::source::kube::{Access, Identity, reach};
use tests::apiserver::SERVICES;

use crate::rig::{Rig, anonymous, bounds, server, service};

#[test]
fn a_new_token_counts_without_a_restart() {
    let server = server();
    server.behave(|manners| manners.token = Some("one".to_owned()));
    let scratch = tempfile::tempdir().unwrap();
    let token = scratch.path().join("token");
    std::fs::write(&token, "one").unwrap();
    let access =
        Access::resolve(&[server.url()], Identity::ServiceAccount(scratch.path().to_owned())).unwrap();
    let mut rig = Rig::follow(access, bounds());
    rig.until("everything is listed", |rig| rig.state.is_listed());

    server.behave(|manners| manners.token = Some("two".to_owned()));
    server.cut();
    rig.until("the old token is refused", |rig| {
        rig.watch(Listing::Services)
            .last_error
            .is_some_and(|error| error.contains("answered 401 Unauthorized"))
    });
    assert!(rig.has_service("web"));
    // As the kubelet does: the whole file at once.
    let next = scratch.path().join("next");
    std::fs::write(&next, "two\n").unwrap();
    std::fs::rename(next, token).unwrap();
    server.put(SERVICES, service("late", "10.96.0.12"));
    rig.until("the new token is let in", |rig| rig.has_service("late"));
    assert_eq!(rig.watch(Listing::Services).listings, 1);
}

#[test]
fn a_kubeconfig_that_names_another_server_is_followed() {
    let (first, second) = (server(), server());
    second.put(SERVICES, service("late", "10.96.0.12"));
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("kubeconfig");
    let write = |url: &str| {
        let text = format!(
            "clusters: [{{name: c, cluster: {{server: '{url}'}}}}]\ncontexts: [{{name: x, context: {{cluster: c}}}}]\n\
             current-context: x\n"
        );
        std::fs::write(&path, text).unwrap();
    };
    write(&first.url());
    let mut rig = Rig::follow(Access::resolve(&[], Identity::Kubeconfig(path.clone())).unwrap(), bounds());
    rig.until("everything is listed", |rig| rig.state.is_listed());
    write(&second.url());
    drop(first);
    rig.until("the other server is followed", |rig| rig.has_service("late"));
}

#[tokio::test]
async fn a_first_answer_is_waited_for_so_long_and_no_longer() {
    let server = server();
    let limit = Duration::from_millis(300);
    server.behave(|manners| manners.token = Some("of another".to_owned()));
    let access = anonymous(&[&server]);
    reach(&access, bounds(), Duration::from_secs(20)).await.unwrap();
    let url = server.url();
    drop(server);
    let error = reach(&access, bounds(), limit).await.unwrap_err().to_string();
    assert!(error.contains("--api-server") && error.contains(&url), "{error}");
    assert!(error.contains("within 300ms") && error.contains("refused"), "{error}");
}
