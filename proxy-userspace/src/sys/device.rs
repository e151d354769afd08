//! Programs at the two sides of a device (tcx).
#![expect(unsafe_code, reason = "bpf(2) takes a union; the kernel writes within the length that it is told")]

use std::io;

use aya_obj::generated::{bpf_attach_type, bpf_cmd};

use super::bpf;

/// The kernel allows 64 programs at one side of a device.
const MOST_PROGRAMS: usize = 64;

/// A side of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Where packets enter the node.
    Ingress,
    /// Where they leave it.
    Egress,
}

/// Ids of the programs at a side of a device, in the order in which they run. Needs CAP_NET_ADMIN; EINVAL: the kernel has
/// no tcx.
pub fn programs_at(index: u32, side: Side) -> io::Result<Vec<u32>> {
    let attach_type = match side {
        Side::Ingress => bpf_attach_type::BPF_TCX_INGRESS,
        Side::Egress => bpf_attach_type::BPF_TCX_EGRESS,
    };
    let mut ids = vec![0_u32; MOST_PROGRAMS];
    let mut attributes = bpf::attributes();
    attributes.query.__bindgen_anon_1.target_ifindex = index;
    attributes.query.attach_type = attach_type as u32;
    attributes.query.prog_ids = ids.as_mut_ptr() as u64;
    attributes.query.__bindgen_anon_2.prog_cnt = ids.len() as u32;
    match bpf::call(bpf_cmd::BPF_PROG_QUERY, &mut attributes) {
        Ok(_) => {}
        // Nothing was ever attached there.
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    }
    // SAFETY: the kernel wrote the count back into the member that we set.
    let count = unsafe { attributes.query.__bindgen_anon_2.prog_cnt };
    ids.truncate(count as usize);
    Ok(ids)
}
