//! BPF iterators that are aimed at one map: the kernel runs the program on each element and hands out what it wrote.
//!
//! A map's iterator sees the elements of all network namespaces. aya's own iterator cannot be aimed at a map.
#![expect(unsafe_code, reason = "bpf(2) takes a union and a pointer to the link's description")]

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use aya_obj::generated::{bpf_attach_type, bpf_cmd};

use super::bpf;

/// The kernel's `union bpf_iter_link_info` as far as it describes a map.
#[repr(C)]
struct LinkDescription {
    map_fd: u32,
    /// Zero: the rest of the union.
    rest: [u32; 3],
}

/// An iterator program bound to one map.
#[derive(Debug)]
pub struct MapIterator {
    link: OwnedFd,
}

impl MapIterator {
    /// Binds a loaded program of a section `iter/bpf_..._map` to a map of the type that it expects.
    pub fn bind(program: BorrowedFd<'_>, map: BorrowedFd<'_>) -> io::Result<Self> {
        let description = LinkDescription { map_fd: bpf::number(map), rest: [0; 3] };
        let mut attributes = bpf::attributes();
        attributes.link_create.__bindgen_anon_1.prog_fd = bpf::number(program);
        attributes.link_create.attach_type = bpf_attach_type::BPF_TRACE_ITER as u32;
        // SAFETY: writing plain members of the zeroed union; `description` outlives the call below.
        let iterator = unsafe { &mut attributes.link_create.__bindgen_anon_3.__bindgen_anon_1 };
        iterator.iter_info = std::ptr::from_ref(&description) as u64;
        iterator.iter_info_len = size_of::<LinkDescription>() as u32;
        bpf::call_for_fd(bpf_cmd::BPF_LINK_CREATE, &mut attributes).map(|link| Self { link })
    }

    /// Runs the program over all elements there are now and returns what it wrote, end to end.
    ///
    /// No snapshot: an element that comes or goes meanwhile is in the answer or not. Each one that stays is in it
    /// once.
    pub fn read_all(&self) -> io::Result<Vec<u8>> {
        let mut attributes = bpf::attributes();
        attributes.iter_create.link_fd = bpf::number(self.link.as_fd());
        let mut file = File::from(bpf::call_for_fd(bpf_cmd::BPF_ITER_CREATE, &mut attributes)?);
        let mut written = Vec::new();
        file.read_to_end(&mut written)?;
        Ok(written)
    }
}
