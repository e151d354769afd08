//! The shipped program under the name of kube-proxy, with kube-proxy's flags.

use std::os::unix::fs::symlink;
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::Value;
use tests::agent::ask::ask;
use tests::agent::pin_dir;
use tests::process::{Process, binary, placed};
use tests::sweep;
use tests::topology::{Cluster, Node};
use tests::wait;

use crate::pair::{ConfigFile, cluster, configuration};

const LIMIT: Duration = Duration::from_secs(20);

struct Link {
    directory: std::path::PathBuf,
}

impl Link {
    fn new() -> Self {
        let directory = sweep::scratch_dir("name").unwrap();
        symlink(binary("shunt").unwrap(), directory.join("kube-proxy")).unwrap();
        Self { directory }
    }

    fn on(&self, node: &Node) -> Command {
        let agent = node.agent();
        let mut command = placed(&self.directory.join("kube-proxy"), agent.netns, agent.cgroup);
        command.env("SHUNT_CGROUP", node.cgroup.path()).env("SHUNT_PIN_DIR", pin_dir(node));
        command
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // What is left is swept by the next run.
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn code_and_text(output: &Output) -> (Option<i32>, String) {
    (output.status.code(), String::from_utf8_lossy(&[&*output.stdout, &*output.stderr].concat()).into_owned())
}

#[test]
fn under_kube_proxys_name_it_takes_kube_proxys_flags() {
    let topology = Cluster::new(1, 1).unwrap();
    let control = cluster(&topology);
    let (node, link) = (topology.node(1), Link::new());
    let file = ConfigFile::new(&configuration(&control, node));
    let config = ["--config", file.path.to_str().unwrap()];
    let host = format!("--hostname-override={}", node.name);

    let (code, text) = code_and_text(&link.on(node).args(["--no-such-flag"]).output().unwrap());
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("--no-such-flag"), "{text}");

    let written = link.directory.join("written.yaml");
    let write = format!("--write-config-to={}", written.display());
    let (code, text) =
        code_and_text(&link.on(node).args(["--proxy-mode=nftables", &write]).output().unwrap());
    assert_eq!(code, Some(0), "{text}");
    let whole: Value = serde_saphyr::from_str(&std::fs::read_to_string(&written).unwrap()).unwrap();
    assert_eq!((&whole["kind"], &whole["mode"]), (&"KubeProxyConfiguration".into(), &"nftables".into()));

    let mut command = link.on(node);
    command.args(config).arg(&host);
    let agent = Process::spawn("kube-proxy that is Shunt", command).unwrap();
    wait::until_ok(LIMIT, "it to be ready", || {
        let answer = ask(node, true, "/readyz").map_err(|error| format!("{error:#}\n{}", agent.log()))?;
        if answer.code == 200 { Ok(()) } else { Err(format!("{answer}\n{}", agent.log())) }
    })
    .unwrap();
    assert_eq!(ask(node, false, "/proxyMode").unwrap().body, "shunt");
    drop(agent);

    assert!(pin_dir(node).exists());
    let (code, text) = code_and_text(&link.on(node).args(config).args(["--cleanup"]).output().unwrap());
    assert_eq!(code, Some(0), "{text}");
    assert!(!pin_dir(node).exists(), "{text}");
}
