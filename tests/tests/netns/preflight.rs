//! `shunt check` on nodes: what is there is named, and the same look at a node without it is the control.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use aya::programs::{CgroupAttachMode, CgroupSockAddr};
use aya::{Ebpf, EbpfLoader};
use proxy_common::names::{SCHEMA, SOCKETS_VERSION};
use shunt::datapath::hooks::HOOKS;
use shunt::datapath::load::OBJECT;
use shunt::sys::link::programs_of;
use tests::agent::{Agent, pin_dir};
use tests::load::Place;
use tests::preflight::{Preflight, under};
use tests::process::{Process, binary, placed};
use tests::sweep;
use tests::topology::{Cluster, Node};

use crate::scenario::Scenario;

const LIMIT: Duration = Duration::from_secs(20);

/// What kube-proxy leaves: its table in both families, chains of an iptables that stands on nftables, and beside them
/// one that the kubelet makes.
const KUBE_RULES: &str = "table ip kube-proxy { chain services { }; }; table ip6 kube-proxy { chain services { }; }; \
                          table ip nat { chain KUBE-SERVICES { }; chain KUBE-SVC-ERIFXISQEP7F7OF4 { }; }; \
                          table ip filter { chain KUBE-FIREWALL { }; };";
const DELETE_KUBE_RULES: &str =
    "delete table ip kube-proxy; delete table ip6 kube-proxy; delete table ip nat; delete table ip filter;";
const IN_NFTABLES: &str = "kube-proxy in nftables";
const IN_IPTABLES: &str = "kube-proxy in iptables";

fn one_node() -> Cluster {
    Cluster::new(1, 1).unwrap()
}

/// A process that is called kube-proxy; it waits until it is dropped.
struct Namesake {
    process: Process,
    dir: std::path::PathBuf,
}

impl Namesake {
    fn start(place: Place<'_>) -> Self {
        let dir = sweep::scratch_dir("namesake").unwrap();
        let link = dir.join("kube-proxy");
        symlink(binary("peer").unwrap(), &link).unwrap();
        let mut command = placed(&link, place.netns, place.cgroup);
        command.arg("until");
        let mut process = Process::spawn("kube-proxy", command).unwrap();
        process.wait_line(LIMIT, |line| line == "ready").unwrap();
        Self { process, dir }
    }
}

impl Drop for Namesake {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

#[test]
fn rules_of_kube_proxy_are_named_and_those_of_nobody_are_to_act_on() {
    let cluster = one_node();
    let node = cluster.node(1);
    let states =
        |look: &Preflight| [IN_NFTABLES, IN_IPTABLES].map(|check| look.about(check).unwrap().0.to_owned());
    let before = Preflight::of(node).unwrap();
    assert_eq!(states(&before), ["ok", "ok"]);

    node.netns.run("nft", &[KUBE_RULES]).unwrap();
    let rules = || node.netns.run("nft", &["list", "ruleset"]).unwrap();
    let made = rules();
    // One that runs in another network does not keep the rules of this one.
    let _elsewhere = Namesake::start(node.pods[0].place());
    let left = Preflight::of(node).unwrap();
    assert_eq!((left.code, states(&left)), (Some(1), ["warning", "warning"].map(str::to_owned)));
    assert_eq!(left.about(IN_NFTABLES).unwrap().1, "table ip kube-proxy, table ip6 kube-proxy");
    assert_eq!(left.about(IN_IPTABLES).unwrap().1, "ip nat KUBE-SERVICES, ip nat KUBE-SVC-ERIFXISQEP7F7OF4");
    assert_eq!(left.about("kube-proxy").unwrap(), ("info", "none runs in this network namespace"));
    assert_eq!(rules(), made, "the check changed something");

    let here = Namesake::start(node.host());
    let kept = Preflight::of(node).unwrap();
    assert_eq!(states(&kept), ["info", "info"]);
    let pid = here.process.pid();
    assert_eq!(kept.about("kube-proxy").unwrap().1, format!("runs here: pid {pid}"));
    drop(here);

    node.netns.run("nft", &[DELETE_KUBE_RULES]).unwrap();
    let after = Preflight::of(node).unwrap();
    assert_eq!((after.code, states(&after)), (before.code, states(&before)));
    assert_eq!(after.to_act_on(), before.to_act_on());
}

#[test]
fn every_chain_of_a_large_cluster_is_seen() {
    const CHAINS: usize = 2000;
    let cluster = one_node();
    let node = cluster.node(1);
    // More than the kernel puts into one datagram of a dump.
    let chains: Vec<String> =
        (0..CHAINS).map(|number| format!("chain KUBE-SEP-{number:016} {{ }};")).collect();
    let chains = chains.join(" ");
    node.netns.run("nft", &[&format!("table ip nat {{ {chains} }};")]).unwrap();
    let look = Preflight::of(node).unwrap();
    let (state, found) = look.about(IN_IPTABLES).unwrap();
    assert!(state == "warning" && found.ends_with(&format!(" and {} more", CHAINS - 5)), "{found}");
}

/// A firewall that lets nothing through, and drops what is invalid in a chain of its own. Both of these hooks are written, so
/// that the one for the host's own packets is seen not to count.
const FIREWALL: &str = "table inet fw { chain checks { ct state invalid counter drop; }; \
                        chain input { type filter hook input priority 0; policy drop; ct state invalid drop; }; \
                        chain forward { type filter hook forward priority 0; policy drop; }; };";

#[test]
fn what_packets_from_outside_would_meet_is_told() {
    let cluster = one_node();
    let node = cluster.node(1);
    let look = || Preflight::of(node).unwrap();
    let before = look();
    assert_eq!(before.about("devices").unwrap(), ("ok", "eth0; to pods: pod1"));
    for check in ["programs at devices", "forwarding of devices", "port ranges"] {
        assert_eq!(before.about(check).unwrap().0, "ok", "{check}");
    }
    let [forwarded, invalid] = ["forwarded packets in nftables", "rules that drop invalid packets"];
    assert_eq!([forwarded, invalid].map(|check| before.about(check).unwrap().0), ["ok", "ok"]);

    node.netns.run("nft", &[FIREWALL]).unwrap();
    let closed = look();
    assert_eq!(closed.about(forwarded).unwrap(), ("warning", "all dropped: inet fw forward"));
    assert_eq!(closed.about(invalid).unwrap(), ("info", "inet fw checks"));
    node.netns.run("nft", &["add rule inet fw forward ip daddr 10.244.0.0/16 accept"]).unwrap();
    assert_eq!(
        look().about(forwarded).unwrap(),
        ("info", "dropped unless a rule accepts them: inet fw forward")
    );
    node.netns.run("nft", &["add rule inet fw checks ct state established accept"]).unwrap();
    node.netns.run("nft", &["delete table inet fw"]).unwrap();

    let settings = [
        ("net/ipv4/conf/eth0/rp_filter", "1"),
        ("net/ipv4/conf/all/rp_filter", "0"),
        ("net/ipv4/conf/pod1/rp_filter", "0"),
        ("net/ipv4/conf/pod1/forwarding", "0"),
        ("net/ipv4/conf/all/send_redirects", "0"),
        ("net/ipv4/conf/eth0/send_redirects", "1"),
        ("net/ipv4/ip_local_port_range", "20000 60999"),
    ];
    node.netns.sysctls(&settings).unwrap();
    let set = look();
    assert_eq!(set.about("reverse path filter").unwrap(), ("info", "strict: eth0"));
    assert_eq!(set.about("forwarding of devices").unwrap(), ("warning", "off: pod1"));
    assert_eq!(set.about("ICMP redirects").unwrap(), ("info", "sent by eth0"));
    assert_eq!(set.about("port ranges").unwrap().0, "warning");
    node.netns.sysctls(&[("net/ipv4/ip_local_reserved_ports", "30000-32767")]).unwrap();
    assert_eq!(look().about("port ranges").unwrap().0, "ok");

    let mut command = node.agent().command("shunt").unwrap();
    command.args(["check", "-o", "table", "--devices", "eth7,eth0", "--pod-devices", "cali*"]);
    let said = String::from_utf8(command.output().unwrap().stdout).unwrap();
    assert!(said.contains("no device: --devices eth7, --pod-devices cali*"), "{said}");
}

#[test]
fn addresses_of_kube_proxys_ipvs_mode_are_named() {
    let cluster = one_node();
    let node = cluster.node(1);
    let look = || Preflight::of(node).unwrap();
    let check = "kube-proxy in IPVS";
    assert_eq!(look().about(check).unwrap().0, "ok");
    // kube-proxy's is a dummy, which a kernel may lack; the name is what counts.
    node.netns.ip("link add kube-ipvs0 type bridge").unwrap();
    node.netns.add_address("kube-ipvs0", "10.96.0.1".parse().unwrap(), 32).unwrap();
    let look = look();
    assert_eq!(look.code, Some(1));
    let (state, found) = look.about(check).unwrap();
    assert!(state == "warning" && found.starts_with("1 addresses on kube-ipvs0"), "{state} {found}");
}

/// The shipped programs under another name, as somebody else's.
fn of_others() -> Ebpf {
    let (own, other) = (&b"shunt_connect4"[..], &b"other_connect4"[..]);
    let mut object = OBJECT.to_vec();
    for at in 0..object.len() - own.len() {
        if object[at..].starts_with(own) {
            object[at..at + own.len()].copy_from_slice(other);
        }
    }
    EbpfLoader::new().override_global("AYA_LOG_LEVEL", &0_u8, true).load(&object).unwrap()
}

#[test]
fn hooks_pins_and_addresses_of_the_agent_are_told_from_those_of_others() {
    let scenario = Scenario::new();
    let node = scenario.cluster.node(1);
    let look = || Preflight::of(node).unwrap();
    let fresh = look();
    assert_eq!(fresh.about("hook connect4").unwrap(), ("ok", "nothing attached"));
    assert_eq!(fresh.about("pins").unwrap(), ("ok", "none: the next start is a first one"));
    assert_eq!(fresh.about("--metrics-address").unwrap(), ("ok", "127.0.0.1:10249 is free"));

    let mut agent = Agent::start(node, scenario.manifests.path()).unwrap();
    node.netns.add_address("lo", "10.96.0.77".parse().unwrap(), 32).unwrap();
    let running = look();
    let (state, found) = running.about("hook connect4").unwrap();
    assert!(state == "ok" && found.contains("(shunt_connect4; pinned here)"), "{state} {found}");
    let pins = format!("sockets{SOCKETS_VERSION}, v{SCHEMA}, {}", HOOKS.map(|hook| hook.name).join(", "));
    assert_eq!(running.about("pins").unwrap(), ("ok", &*pins));
    for (flag, address) in [("--metrics-address", "127.0.0.1:10249"), ("--healthz-address", "0.0.0.0:10256")]
    {
        assert_eq!(running.about(flag).unwrap(), ("ok", &*format!("{address} is the running agent's")));
    }
    let held = running.about("cluster IPs on interfaces").unwrap();
    assert_eq!(held, ("info", "10.96.0.77 on lo"));
    assert_eq!(running.to_act_on(), fresh.to_act_on());

    let mut others = of_others();
    let program: &mut CgroupSockAddr = others.program_mut("other_connect4").unwrap().try_into().unwrap();
    program.load().unwrap();
    program.attach(node.cgroup.open().unwrap(), CgroupAttachMode::Single).unwrap();
    let id = program.info().unwrap().id();
    // Asked of a cgroup below: what a hook runs there comes from above.
    let below = node.agent().cgroup.open().unwrap();
    let hook = HOOKS.iter().find(|hook| hook.name == "connect4").unwrap();
    let runs_below = programs_of(below.as_fd(), hook.attach_type).unwrap();
    assert!(runs_below.contains(&id), "{id} is not among {runs_below:?}");
    let beside = look();
    let (state, found) = beside.about("hook connect4").unwrap();
    assert!(
        state == "warning" && found.contains(&format!("program {id} (other_connect4; not of")),
        "{found}"
    );
    assert!(found.contains("(shunt_connect4; pinned here)"), "{found}");
    assert_eq!((beside.code, beside.about("hook connect6").unwrap().0), (Some(1), "ok"));
    drop(others);
    assert_eq!(look().about("hook connect4").unwrap().0, "ok");

    // Seen from another pin directory the hooks are somebody's who has left them.
    agent.terminate().unwrap();
    let elsewhere = Preflight::run(node, &node.bpffs.path().join("another"), &[]).unwrap();
    let (state, found) = elsewhere.about("hook connect4").unwrap();
    assert!(state == "warning" && found.contains("(shunt_connect4; not of this pin directory)"), "{found}");
}

#[test]
fn a_pin_directory_on_another_file_system_is_a_warning() {
    let cluster = one_node();
    let node = cluster.node(1);
    let plain = sweep::scratch_dir("plain").unwrap();
    let (state, found) = {
        let look = Preflight::run(node, &plain, &[]).unwrap();
        assert_eq!(look.code, Some(1));
        look.about("pin directory").map(|(state, found)| (state.to_owned(), found.to_owned())).unwrap()
    };
    fs::remove_dir(&plain).unwrap();
    assert_eq!((&*state, found), ("warning", format!("{} is not on a bpffs", plain.display())));
    let on_bpffs = Preflight::of(node).unwrap();
    assert!(on_bpffs.about("pin directory").unwrap().1.contains("on a bpffs"), "{on_bpffs:?}");
}

/// Takes every right away from the program that it runs.
const POWERLESS: [&str; 2] = ["setpriv", "--bounding-set=-all"];
/// Takes one away.
const NO_SYS_ADMIN: [&str; 2] = ["setpriv", "--bounding-set=-sys_admin"];

fn agent_code(node: &Node, manifests: &Path, (cgroup, wrapper): (&Path, &[&str])) -> Option<i32> {
    let mut command = under(node, wrapper).unwrap();
    command.args(["agent", "--node-name", &node.name, "--manifests"]).arg(manifests);
    command.arg("--cgroup").arg(cgroup).arg("--pin-dir").arg(pin_dir(node));
    command.output().unwrap().status.code()
}

#[test]
fn the_check_and_the_start_of_an_agent_judge_alike() {
    let scenario = Scenario::new();
    let (node, manifests) = (scenario.cluster.node(1), scenario.manifests.path());
    let look = |wrapper: &[&str]| Preflight::run(node, &pin_dir(node), wrapper).unwrap();
    let start = |wrapper: &[&str]| agent_code(node, manifests, (node.cgroup.path(), wrapper));
    let powerless = look(&POWERLESS);
    assert_eq!((powerless.code, start(&POWERLESS)), (Some(3), Some(3)));
    for check in ["CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON"] {
        assert_eq!(powerless.about(check).unwrap().0, "missing", "{check}");
    }
    // What cannot be looked at is never called good.
    for check in ["programs", "hook connect4", IN_NFTABLES, IN_IPTABLES] {
        assert_eq!(powerless.about(check).unwrap().0, "unseen", "{check}: {powerless:?}");
    }

    assert_eq!(look(&NO_SYS_ADMIN).about("CAP_SYS_ADMIN").unwrap().0, "warning");
    let mut first = Agent::start_under(node, manifests, NO_SYS_ADMIN.map(str::to_owned).into()).unwrap();
    first.terminate().unwrap();
    let pinned = look(&NO_SYS_ADMIN);
    assert_eq!(pinned.about("CAP_SYS_ADMIN").unwrap(), ("missing", "lacking, and maps are pinned"));
    assert_eq!((pinned.code, start(&NO_SYS_ADMIN)), (Some(3), Some(3)));
    assert_ne!(look(&[]).code, Some(3));

    let no_cgroup = Path::new("/proc");
    let mut command = node.agent().command("shunt").unwrap();
    let code = command.args(["check", "--cgroup"]).arg(no_cgroup).output().unwrap().status.code();
    assert_eq!((code, agent_code(node, manifests, (no_cgroup, &[]))), (Some(3), Some(3)));
}

#[test]
fn the_check_starts_no_program() {
    let cluster = one_node();
    let node = cluster.node(1);
    let dir = sweep::scratch_dir("strace").unwrap();
    let log = dir.join("trace").display().to_string();
    let wrapper = ["strace", "-f", "-qq", "-e", "trace=execve,execveat,socket", "-o", &log];
    let look = Preflight::run(node, &pin_dir(node), &wrapper).unwrap();
    let trace = fs::read_to_string(dir.join("trace")).unwrap();
    fs::remove_dir_all(&dir).unwrap();
    assert_eq!(look.about(IN_NFTABLES).unwrap().0, "ok");
    assert_eq!(trace.matches("execve").count(), 1, "{trace}");
    // This is where netfilter may be asked; the agent's own run is traced beside.
    assert!(trace.contains("NETLINK_NETFILTER"), "{trace}");
}
