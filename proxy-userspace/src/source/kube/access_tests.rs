//! Files that people write, and what is said of the ones that make no sense.

use super::*;

fn kubeconfig(directory: &Path, cluster: &str, user: &str) -> PathBuf {
    let path = directory.join("kubeconfig");
    let text = format!(
        "clusters: [{{name: c, cluster: {{{cluster}}}}}]\nusers: [{{name: u, user: {{{user}}}}}]\n\
         contexts: [{{name: x, context: {{cluster: c, user: u}}}}]\ncurrent-context: x\n"
    );
    std::fs::write(&path, text).unwrap();
    path
}

fn refusal(servers: &[&str], identity: Identity) -> String {
    let servers: Vec<String> = servers.iter().map(|server| (*server).to_owned()).collect();
    Access::resolve(&servers, identity).unwrap_err().to_string()
}

#[test]
fn the_server_is_given_or_the_kubeconfigs() {
    let scratch = tempfile::tempdir().unwrap();
    let path = kubeconfig(scratch.path(), "server: 'http://127.0.0.1:1'", "token: t");
    let identity = Identity::Kubeconfig(path);
    assert_eq!(Access::resolve(&[], identity.clone()).unwrap().servers(), ["http://127.0.0.1:1/"]);
    let given = ["http://127.0.0.1:2".to_owned(), "http://[::1]:3".to_owned()];
    let access = Access::resolve(&given, identity).unwrap();
    assert_eq!(access.servers(), given);
    assert_eq!(access.config(1).unwrap().cluster_url.to_string(), "http://[::1]:3/");
}

#[test]
fn a_service_account_is_read_anew_each_time() {
    let scratch = tempfile::tempdir().unwrap();
    let given = ["http://127.0.0.1:2".to_owned()];
    let access = Access::resolve(&given, Identity::ServiceAccount(scratch.path().to_owned())).unwrap();
    let token = || access.config(0).unwrap().auth_info.token.map(|token| format!("{token:?}"));
    assert_eq!(token(), None);
    std::fs::write(scratch.path().join("token"), "one\n").unwrap();
    assert!(token().is_some());
}

#[test]
fn errors_name_file_and_field() {
    let scratch = tempfile::tempdir().unwrap();
    let absent = refusal(&[], Identity::Kubeconfig("/absent/kubeconfig".into()));
    assert!(absent.starts_with("/absent/kubeconfig: "), "{absent}");
    let of = |cluster, user| {
        refusal(&[], Identity::Kubeconfig(kubeconfig(scratch.path(), cluster, user)))
            .replace(&scratch.path().display().to_string(), "")
    };
    let no_server = of("", "");
    assert!(no_server.starts_with("/kubeconfig: cluster.server: "), "{no_server}");
    let authority = of("server: 'https://a', certificate-authority: ca.crt", "");
    assert!(authority.starts_with("/kubeconfig: cluster.certificate-authority: "), "{authority}");
    assert!(authority.contains("/ca.crt"), "{authority}");
    let token = of("server: 'http://a'", "tokenFile: token");
    assert!(token.starts_with("/token: "), "{token}");
    let garbage = scratch.path().join("ca.crt");
    std::fs::write(&garbage, "not a certificate").unwrap();
    let empty = of("server: 'https://a', certificate-authority: ca.crt", "");
    assert_eq!(empty, "/kubeconfig: cluster.certificate-authority: holds no certificate");
}

#[test]
fn what_would_be_ignored_or_block_is_refused_by_name() {
    let scratch = tempfile::tempdir().unwrap();
    let of = |cluster: &str, user: &str| {
        let cluster = format!("server: 'http://127.0.0.1:1'{cluster}");
        let path = kubeconfig(scratch.path(), &cluster, user);
        let given = ["http://127.0.0.1:2".to_owned()];
        // Also where the address is given: the rest of the file counts all the same.
        let texts = [&[][..], &given[..]].map(|servers| {
            Access::resolve(servers, Identity::Kubeconfig(path.clone())).map_err(|error| error.to_string())
        });
        assert_eq!(texts[0].is_err(), texts[1].is_err());
        texts[0].clone().map(drop).map_err(|text| text.replace(&scratch.path().display().to_string(), ""))
    };
    let proxy = of(", proxy-url: 'http://192.0.2.9:3128'", "").unwrap_err();
    assert!(proxy.starts_with("/kubeconfig: cluster.proxy-url: proxies are not served"), "{proxy}");
    // It would run for ever, and must not even be started.
    let marker = scratch.path().join("ran");
    let exec = format!(
        "exec: {{apiVersion: client.authentication.k8s.io/v1, command: sh, interactiveMode: Never, \
         args: ['-c', 'touch {}; sleep 1000']}}",
        marker.display()
    );
    let exec = of("", &exec).unwrap_err();
    assert!(exec.starts_with("/kubeconfig: user.exec: no program is run for credentials"), "{exec}");
    assert!(!marker.exists());
    let provider = of("", "auth-provider: {name: gcp, config: {cmd-path: /bin/false}}").unwrap_err();
    assert!(provider.starts_with("/kubeconfig: user.auth-provider: "), "{provider}");
    of(", proxy-url: ''", "token: t").unwrap();
}

#[test]
fn users_and_clusters_of_other_contexts_do_not_count() {
    let scratch = tempfile::tempdir().unwrap();
    let path = kubeconfig(scratch.path(), "server: 'http://127.0.0.1:1'", "token: t");
    let text = std::fs::read_to_string(&path).unwrap();
    let text = text
        .replace(
            "clusters: [",
            "clusters: [{name: other, cluster: {server: 'http://a', proxy-url: 'http://b'}}, ",
        )
        .replace("users: [", "users: [{name: other, user: {exec: {apiVersion: x, command: y}}}, ");
    std::fs::write(&path, text).unwrap();
    Access::resolve(&[], Identity::Kubeconfig(path)).unwrap();
}

#[test]
fn a_server_is_a_url() {
    let scratch = tempfile::tempdir().unwrap();
    for bad in ["192.0.2.1:6443", "ftp://a", "https://", ""] {
        let error = refusal(&[bad], Identity::ServiceAccount(scratch.path().to_owned()));
        assert!(error.starts_with(&format!("`{bad}` is not the URL")), "{error}");
    }
}
