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
fn a_server_is_a_url() {
    let scratch = tempfile::tempdir().unwrap();
    for bad in ["192.0.2.1:6443", "ftp://a", "https://", ""] {
        let error = refusal(&[bad], Identity::ServiceAccount(scratch.path().to_owned()));
        assert!(error.starts_with(&format!("`{bad}` is not the URL")), "{error}");
    }
}
