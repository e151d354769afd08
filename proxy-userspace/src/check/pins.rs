//! The pin directory: whether pins there outlive the agent, and which there are.

use super::Finding;
use super::facts::{Cgroup, PinContents, Pins, Seen};

pub(super) fn judge(pins: &Pins, cgroup: &Seen<Cgroup>) -> Vec<Finding> {
    vec![directory(pins), contents(pins, cgroup)]
}

fn directory(pins: &Pins) -> Finding {
    let check = "pin directory";
    let dir = pins.dir.display();
    if !pins.is_on_bpffs {
        return Finding::warning(
            check,
            format!("{dir} is not on a bpffs"),
            "nothing will be pinned: hooks and maps end with the agent, and a restart is not hitless. Mount one there \
             (mount -t bpf bpf /sys/fs/bpf), or name a directory of one with --pin-dir",
        );
    }
    match &pins.is_of_process_1 {
        Ok(true) => Finding::ok(check, format!("{dir}, on a bpffs of the host; pins last until a reboot")),
        Ok(false) => Finding::warning(
            check,
            format!("{dir} is on a bpffs that process 1 does not have"),
            "pins may end with this mount namespace, and a restart is then not hitless: in a container, mount the host's \
             /sys/fs/bpf",
        ),
        Err(why) => Finding::unseen(
            check,
            format!("{dir} is on a bpffs; whether it is the host's: {why}"),
            "pins on another one end with the container, and a restart is then not hitless",
        ),
    }
}

fn contents(pins: &Pins, cgroup: &Seen<Cgroup>) -> Finding {
    let check = "pins";
    let advice = "whether the next start can take over what is pinned is not known";
    let PinContents { layouts, others, foreign_map, links } = match &pins.contents {
        Ok(contents) => contents,
        Err(why) => return Finding::unseen(check, why, advice),
    };
    let links = match links {
        Ok(links) => links,
        Err(why) => return Finding::unseen(check, format!("links: {why}"), advice),
    };
    let names = layouts.iter().map(|name| &**name).chain(links.iter().map(|link| link.hook));
    let found = names.collect::<Vec<_>>().join(", ");
    if found.is_empty() {
        return Finding::ok(check, "none: the next start is a first one");
    }
    match foreign_map {
        Err(why) => return Finding::unseen(check, format!("{found}: {why}"), advice),
        Ok(Some(difference)) => {
            let advice = format!("{difference}: the next start sets these maps aside and fills new ones");
            return Finding::info(check, found, advice);
        }
        Ok(None) => {}
    }
    let here = cgroup.as_ref().map(|cgroup| cgroup.id).ok();
    let elsewhere = links.iter().filter(|link| Some(link.cgroup_id) != here);
    let elsewhere: Vec<String> =
        elsewhere.map(|link| format!("{} is at cgroup {}", link.hook, link.cgroup_id)).collect();
    if !elsewhere.is_empty() {
        let advice = format!("{}: the next start moves it to the one above", elsewhere.join(", "));
        return Finding::info(check, found, advice);
    }
    if !others.is_empty() {
        let others = others.join(", ");
        let advice =
            format!("{others}: the next start removes what it does not use once its hooks are in force");
        return Finding::info(check, found, advice);
    }
    Finding::ok(check, found)
}
