//! Links of programs to cgroups and to devices: create, replace in place, pin, detach.
#![expect(unsafe_code, reason = "bpf(2) takes a union; only integers are passed here")]

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use aya_obj::generated::{BPF_F_AFTER, BPF_F_BEFORE, bpf_attach_type, bpf_cmd, bpf_link_type};

use super::bpf;

/// A link: while it is open or pinned, its program stays attached.
#[derive(Debug)]
pub struct Link {
    fd: OwnedFd,
}

/// What the kernel tells of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkFacts {
    /// Id of the link.
    pub id: u32,
    /// Id of the program in force.
    pub program_id: u32,
    /// Id (inode number) of the cgroup; zero once that cgroup has been removed.
    pub cgroup_id: u64,
    /// `BPF_CGROUP_*`.
    pub attach_type: u32,
}

/// A side of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// Where packets enter the node.
    Ingress,
    /// Where they leave it.
    Egress,
}

impl Side {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Ingress, Self::Egress];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }

    const fn attach_type(self) -> bpf_attach_type {
        match self {
            Self::Ingress => bpf_attach_type::BPF_TCX_INGRESS,
            Self::Egress => bpf_attach_type::BPF_TCX_EGRESS,
        }
    }
}

/// What the kernel tells of a link to a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceFacts {
    /// Id of the program in force.
    pub program_id: u32,
    /// Index of the device; zero once it has gone.
    pub index: u32,
}

impl Link {
    /// Attaches a program to a side of a device (tcx, Linux 6.6): before all others where packets enter and behind them
    /// where they leave, as far as is known now; so it sees packets as they are on the wire.
    pub fn attach_device(program: BorrowedFd<'_>, index: u32, side: Side) -> io::Result<Self> {
        let mut attributes = bpf::attributes();
        attributes.link_create.__bindgen_anon_1.prog_fd = bpf::number(program);
        attributes.link_create.__bindgen_anon_2.target_ifindex = index;
        attributes.link_create.attach_type = side.attach_type() as u32;
        // Without any program to be relative to, these mean the first place and the last.
        attributes.link_create.flags = match side {
            Side::Ingress => BPF_F_BEFORE,
            Side::Egress => BPF_F_AFTER,
        };
        bpf::call_for_fd(bpf_cmd::BPF_LINK_CREATE, &mut attributes).map(|fd| Self { fd })
    }

    /// What the kernel tells of a link to a device.
    pub fn device_facts(&self) -> io::Result<DeviceFacts> {
        let info = bpf::link_info(self.fd.as_fd())?;
        if info.type_ != bpf_link_type::BPF_LINK_TYPE_TCX as u32 {
            return Err(io::Error::other("it is no link to a device"));
        }
        // SAFETY: every bit pattern is valid for these integers; for a tcx link the kernel filled this member.
        let device = unsafe { info.__bindgen_anon_1.tcx };
        Ok(DeviceFacts { program_id: info.prog_id, index: device.ifindex })
    }

    /// Attaches a program to a cgroup, beside whatever is attached already: a cgroup link is multi-attach by nature.
    pub fn attach_cgroup(
        program: BorrowedFd<'_>,
        cgroup: BorrowedFd<'_>,
        attach_type: bpf_attach_type,
    ) -> io::Result<Self> {
        let mut attributes = bpf::attributes();
        attributes.link_create.__bindgen_anon_1.prog_fd = bpf::number(program);
        attributes.link_create.__bindgen_anon_2.target_fd = bpf::number(cgroup);
        attributes.link_create.attach_type = attach_type as u32;
        bpf::call_for_fd(bpf_cmd::BPF_LINK_CREATE, &mut attributes).map(|fd| Self { fd })
    }

    /// Opens a pinned link.
    pub fn open_pinned(path: &Path) -> io::Result<Self> {
        bpf::open_pinned(path).map(|fd| Self { fd })
    }

    /// Pins the link, so that it outlives this process.
    pub fn pin(&self, path: &Path) -> io::Result<()> {
        bpf::pin(self.fd.as_fd(), path)
    }

    /// Replaces the program in one step: every call of the hook runs the old one or the new one, never none.
    /// ENOLINK: the cgroup is gone.
    pub fn replace(&self, program: BorrowedFd<'_>) -> io::Result<()> {
        let mut attributes = bpf::attributes();
        attributes.link_update.link_fd = bpf::number(self.fd.as_fd());
        attributes.link_update.__bindgen_anon_1.new_prog_fd = bpf::number(program);
        bpf::call(bpf_cmd::BPF_LINK_UPDATE, &mut attributes).map(drop)
    }

    /// Detaches the program at once, however many hold the link open.
    pub fn detach(&self) -> io::Result<()> {
        let mut attributes = bpf::attributes();
        attributes.link_detach.link_fd = bpf::number(self.fd.as_fd());
        bpf::call(bpf_cmd::BPF_LINK_DETACH, &mut attributes).map(drop)
    }

    /// What the kernel tells of the link.
    pub fn facts(&self) -> io::Result<LinkFacts> {
        let info = bpf::link_info(self.fd.as_fd())?;
        // SAFETY: every bit pattern is valid for these integers; for a cgroup link the kernel filled this member.
        let cgroup = unsafe { info.__bindgen_anon_1.cgroup };
        Ok(LinkFacts {
            id: info.id,
            program_id: info.prog_id,
            cgroup_id: cgroup.cgroup_id,
            attach_type: cgroup.attach_type,
        })
    }
}

/// `BPF_F_QUERY_EFFECTIVE`: what runs for the processes of a cgroup, whichever cgroup above it is attached to.
const EFFECTIVE: u32 = 1;
/// Programs of one hook that are asked for at most; the kernel allows 64 in one cgroup or at one side of a device.
const MOST_PROGRAMS: usize = 4096;

/// Ids of the programs that a hook runs for processes of this cgroup, in the order in which they run. Needs
/// CAP_NET_ADMIN.
pub fn programs_of(cgroup: BorrowedFd<'_>, attach_type: bpf_attach_type) -> io::Result<Vec<u32>> {
    programs(bpf::number(cgroup), attach_type, EFFECTIVE)
}

/// Ids of the programs at a side of a device (tcx), in the order in which they run. Needs CAP_NET_ADMIN.
pub fn programs_at(index: u32, side: Side) -> io::Result<Vec<u32>> {
    match programs(index, side.attach_type(), 0) {
        // Nothing was ever attached there.
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(Vec::new()),
        outcome => outcome,
    }
}

/// Whether the kernel has tcx: one that has not knows no such place.
pub fn has_tcx() -> bool {
    // Index 1 is the loopback of every network namespace.
    !programs_at(1, Side::Ingress).is_err_and(|error| error.raw_os_error() == Some(libc::EINVAL))
}

fn programs(target: u32, attach_type: bpf_attach_type, flags: u32) -> io::Result<Vec<u32>> {
    let mut room = 64;
    loop {
        match query(target, attach_type, (flags, room)) {
            Err(error) if error.raw_os_error() == Some(libc::ENOSPC) && room < MOST_PROGRAMS => room *= 2,
            outcome => return outcome,
        }
    }
}

fn query(target: u32, attach_type: bpf_attach_type, (flags, room): (u32, usize)) -> io::Result<Vec<u32>> {
    let mut ids = vec![0_u32; room];
    let mut attributes = bpf::attributes();
    // A descriptor or the index of a device: both are this one number.
    attributes.query.__bindgen_anon_1.target_fd = target;
    attributes.query.attach_type = attach_type as u32;
    attributes.query.query_flags = flags;
    // The kernel writes at most `prog_cnt` ids, the length of `ids`.
    attributes.query.prog_ids = ids.as_mut_ptr() as u64;
    attributes.query.__bindgen_anon_2.prog_cnt = ids.len() as u32;
    bpf::call(bpf_cmd::BPF_PROG_QUERY, &mut attributes)?;
    // SAFETY: the kernel wrote the count back into the member that we set.
    let count = unsafe { attributes.query.__bindgen_anon_2.prog_cnt };
    ids.truncate(count as usize);
    Ok(ids)
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
