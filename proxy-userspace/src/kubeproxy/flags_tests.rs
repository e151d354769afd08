//! Command lines of kube-proxy.

use super::*;
use std::collections::BTreeSet;
use std::time::Duration;

use crate::plan::node::NodePortAddresses;

fn parse(words: &[&str]) -> Result<Flags, clap::Error> {
    Flags::parse(["kube-proxy"].iter().chain(words).map(OsString::from))
}

fn settings(words: &[&str]) -> (Settings, Vec<String>) {
    let (settings, notices) = parse(words).unwrap().settings(false).unwrap();
    (settings, notices.iter().map(ToString::to_string).collect())
}

#[test]
fn the_table_is_sound() {
    command().debug_assert();
    let document = read::tree(&crate::kubeproxy::Document::default());
    let names: BTreeSet<_> = FLAGS.iter().map(|flag| flag.name).collect();
    assert_eq!(names.len(), FLAGS.len());
    for flag in &FLAGS {
        for mode in [Mode::Unset, Mode::Ipvs, Mode::Nftables] {
            let Some(path) = flag.role.path(mode) else { continue };
            let (parent, name) = path.rsplit_once('.').unwrap_or(("", &path));
            let parent = if parent.is_empty() { &document } else { read::field(&document, parent) };
            assert!(parent.get(name).is_some(), "--{}: {path}", flag.name);
        }
    }
}

#[test]
fn flags_are_written_as_pflag_reads_them() {
    let flags = parse(&["--cleanup", "--hostname_override", "a", "--hostname-override=B", "-v=4"]).unwrap();
    assert_eq!((flags.action(), flags.text("hostname-override").as_deref()), (Action::Cleanup, Some("B")));
    assert_eq!(parse(&["--cleanup=false"]).unwrap().action(), Action::Agent);
    assert_eq!(parse(&["--init-only=1"]).unwrap().action(), Action::InitOnly);
    let both = parse(&["--cleanup", "--write-config-to=/f"]).unwrap();
    assert_eq!(both.action(), Action::WriteConfig("/f".into()));
    for words in [&["-v", "6"][..], &["--v=6"], &["-v6"], &["--v", "6"]] {
        assert_eq!(settings(words).0.words.verbosity, 6, "{words:?}");
    }
    let (lists, _) =
        settings(&["--nodeport-addresses=192.0.2.0/24,localhost", "--nodeport-addresses=primary"]);
    assert_eq!(lists.nodeport_addresses, "192.0.2.0/24,localhost,primary".parse().unwrap());
    let (gates, said) = settings(&["--feature-gates=WinDSR=true,Bogus=false", "--feature-gates=AllAlpha=T"]);
    assert_eq!(gates.words.feature_gates.len(), 3);
    assert_eq!(said, ["--feature-gates.Bogus: ignored: kube-proxy 1.37 asks for no such gate"]);
}

#[test]
fn a_wrong_command_line_is_one_of_usage() {
    for (words, named) in [
        (&["--bogus"][..], "--bogus"),
        (&["agent"], "agent"),
        (&["--cleanup=maybe"], "--cleanup"),
        (&["--oom-score-adj=low"], "--oom-score-adj"),
        (&["--iptables-sync-period=0s"], "--iptables-sync-period"),
        (&["--config-sync-period=15"], "--config-sync-period"),
        (&["--feature-gates=A"], "--feature-gates"),
        (&["--config"], "--config"),
    ] {
        let error = parse(words).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{words:?}");
        assert!(error.to_string().contains(named), "{words:?}: {error}");
    }
    for (words, exit) in [("--help", 0), ("--version", 0), ("--version=raw", 0)] {
        assert_eq!(parse(&[words]).unwrap_err().exit_code(), exit, "{words}");
    }
}

#[test]
fn flags_mean_what_fields_mean() {
    let (set, said) = settings(&[
        "--kubeconfig=/k",
        "--proxy-mode=nftables",
        "--healthz-bind-address=192.0.2.1",
        "--healthz-port=8",
        "--metrics-bind-address=[::]:9",
        "--iptables-min-sync-period=5s",
        "--config-sync-period=1m",
        "--oom-score-adj=-3",
        "--logging-format=json",
        "--bind-address-hard-fail",
        "--bind-address=::",
    ]);
    assert_eq!(set.kubeconfig.as_deref(), Some("/k".as_ref()));
    assert_eq!(set.healthz_address.to_string(), "192.0.2.1:8");
    assert_eq!(set.metrics_address.to_string(), "[::]:9");
    assert_eq!(set.nodeport_addresses, NodePortAddresses::Primary);
    assert_eq!(set.pacing.min_sync_period, Duration::from_secs(5));
    assert_eq!(set.pacing.config_sync_period, Duration::from_mins(1));
    assert!(set.bind_address_hard_fail && set.oom_score_adj == Some(-3));
    assert_eq!(said.len(), 2, "{said:?}");
    assert!(said[0].starts_with("--config-sync-period: ignored: changes come by the watches"), "{said:?}");
    assert!(said[1].starts_with("--proxy-mode: is Shunt's own"), "{said:?}");
    // Unlike in a file, the default addresses do not follow.
    assert_eq!(settings(&["--bind-address=::"]).0.healthz_address.to_string(), "0.0.0.0:10256");
    assert_eq!(settings(&[]).0.nodeport_addresses, NodePortAddresses::All);
}

#[test]
fn what_comes_to_nothing_is_named_by_its_flag() {
    for (words, expected) in [
        (&["--conntrack-tcp-timeout-close-wait=2h"][..], "--conntrack-tcp-timeout-close-wait: ignored"),
        (
            &["--detect-local-mode=NodeCIDR", "--cluster-cidr=10.0.0.0/8"],
            "--cluster-cidr: ignored: only detectLocalMode ClusterCIDR asks for it",
        ),
        (
            &["--detect-local-mode=BridgeInterface", "--pod-bridge-interface=cni0"],
            "--pod-bridge-interface: honoured for which devices lead to pods",
        ),
        (&["--ipvs-scheduler=lc"], "--ipvs-scheduler: ignored"),
        (&["--ipvs-sync-period=1m"], "--ipvs-sync-period: ignored: --proxy-mode is iptables"),
        (&["--profiling"], "--profiling: refused"),
        (
            &["--healthz-port=0"],
            "--healthz-port: refused: the server is not switched off; it is at 0.0.0.0:10256",
        ),
        (&["--metrics-port=7"], "--metrics-port: ignored, as by kube-proxy: 127.0.0.1:10249 has a port"),
        (&["--conntrack-min=7"], "--conntrack-min: ignored"),
        (&["--boot-id-file=/x"], "--boot-id-file: ignored"),
        (&["--vmodule=a=1"], "--vmodule: ignored"),
    ] {
        let said = settings(words).1;
        assert!(said.iter().any(|notice| notice.starts_with(expected)), "{words:?}: {said:?}");
    }
    assert_eq!(settings(&["--cluster-cidr=10.0.0.0/8"]).1, [""; 0]);
    let faults = |words: &[&str]| parse(words).unwrap().settings(false).unwrap_err().to_string();
    assert_eq!(faults(&["--cluster-cidr=x"]), "--cluster-cidr: `x` is not a CIDR");
    assert!(
        faults(&["--nodeport-addresses=all,all"])
            .starts_with("--nodeport-addresses[1]: `all` is given twice")
    );
    assert!(
        faults(&["--iptables-min-sync-period=1m"]).starts_with("--iptables-min-sync-period: 1m0s is more")
    );
    assert!(faults(&["--v=-1"]).starts_with("--v: "));
}

#[test]
fn beside_a_file_few_flags_count() {
    let words = ["--config=/f", "--hostname-override=n", "--v=4", "--cluster-cidr=x", "--healthz-port=0"];
    let (settings, notices) = parse(&words).unwrap().settings(true).unwrap();
    assert_eq!(settings.words.verbosity, 4);
    let said: Vec<_> = notices.iter().map(ToString::to_string).collect();
    let reason = "ignored, as by kube-proxy: --config is given";
    assert_eq!(said, [format!("--healthz-port: {reason}"), format!("--cluster-cidr: {reason}")]);
}
