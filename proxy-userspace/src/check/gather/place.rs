//! Where this process runs.

use std::fs;
use std::io;
use std::path::Path;

use crate::check::facts::{Place, Seen};

/// `PROC_PID_INIT_INO`: the PID namespace that the kernel started with has this inode number.
const INITIAL_PID_NAMESPACE: &str = "pid:[4026531836]";

pub(super) fn look() -> Place {
    Place {
        is_initial_pid_namespace: is_initial_pid_namespace(),
        shares_network_of_process_1: shares_network(1).map_err(|error| error.to_string()),
    }
}

pub(super) fn is_initial_pid_namespace() -> Seen<bool> {
    let link = fs::read_link("/proc/self/ns/pid").map_err(|error| format!("/proc/self/ns/pid: {error}"))?;
    Ok(link == Path::new(INITIAL_PID_NAMESPACE))
}

/// Whether a process is in the network namespace of the calling thread.
pub(super) fn shares_network(pid: u32) -> io::Result<bool> {
    Ok(fs::read_link(format!("/proc/{pid}/ns/net"))? == fs::read_link("/proc/thread-self/ns/net")?)
}

/// The kernel's release; empty if it cannot be read, which the agent takes for a kernel that is too old.
pub(super) fn release() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned()
}
