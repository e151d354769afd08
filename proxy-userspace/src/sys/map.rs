//! Maps by file descriptor, with the batch calls that aya lacks.
//!
//! A [`Map`] knows its key and value sizes from the kernel, not from whoever opened it, so a slice of another
//! length is an error rather than an overrun.
#![expect(unsafe_code, reason = "bpf(2) takes pointers to keys and values; their lengths are checked here")]

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use aya_obj::generated::{bpf_cmd, bpf_map_type};

use super::bpf;

/// `BPF_F_MMAPABLE`.
pub const MMAPABLE: u32 = 1 << 10;
/// `BPF_F_NO_PREALLOC`.
pub const NO_PREALLOC: u32 = 1;

/// What must be equal before a map may stand in for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// `BPF_MAP_TYPE_*`.
    pub map_type: u32,
    /// Bytes of a key.
    pub key_size: u32,
    /// Bytes of a value.
    pub value_size: u32,
    /// Elements at most.
    pub max_entries: u32,
    /// `BPF_F_*`.
    pub flags: u32,
}

impl Shape {
    /// A memory-mapped array.
    pub const fn mapped_array(value_size: u32, max_entries: u32) -> Self {
        let map_type = bpf_map_type::BPF_MAP_TYPE_ARRAY as u32;
        Self { map_type, key_size: 4, value_size, max_entries, flags: MMAPABLE }
    }

    /// An array that only programs read and write.
    pub const fn array(value_size: u32, max_entries: u32) -> Self {
        let map_type = bpf_map_type::BPF_MAP_TYPE_ARRAY as u32;
        Self { map_type, key_size: 4, value_size, max_entries, flags: 0 }
    }

    /// A hash whose elements are allocated as they come.
    pub const fn hash(key_size: u32, value_size: u32, max_entries: u32) -> Self {
        let map_type = bpf_map_type::BPF_MAP_TYPE_HASH as u32;
        Self { map_type, key_size, value_size, max_entries, flags: NO_PREALLOC }
    }

    /// A hash that forgets what was used least recently once it is full.
    pub const fn lru_hash(key_size: u32, value_size: u32, max_entries: u32) -> Self {
        let map_type = bpf_map_type::BPF_MAP_TYPE_LRU_HASH as u32;
        Self { map_type, key_size, value_size, max_entries, flags: 0 }
    }

    /// A longest-prefix-match trie.
    pub const fn lpm_trie(key_size: u32, value_size: u32, max_entries: u32) -> Self {
        let map_type = bpf_map_type::BPF_MAP_TYPE_LPM_TRIE as u32;
        Self { map_type, key_size, value_size, max_entries, flags: NO_PREALLOC }
    }

    /// Storage on sockets; it has no elements of its own.
    pub const fn socket_storage(value_size: u32) -> Self {
        let map_type = bpf_map_type::BPF_MAP_TYPE_SK_STORAGE as u32;
        Self { map_type, key_size: 4, value_size, max_entries: 0, flags: NO_PREALLOC }
    }

    /// An array of maps.
    pub const fn array_of_maps(max_entries: u32) -> Self {
        let map_type = bpf_map_type::BPF_MAP_TYPE_ARRAY_OF_MAPS as u32;
        Self { map_type, key_size: 4, value_size: 4, max_entries, flags: 0 }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "type {}, key {} B, value {} B, {} entries, flags {:#x}",
            self.map_type, self.key_size, self.value_size, self.max_entries, self.flags
        )
    }
}

/// An open map.
#[derive(Debug)]
pub struct Map {
    fd: OwnedFd,
    shape: Shape,
    id: u32,
}

impl Map {
    /// Creates a map. `name` is cut to what the kernel keeps.
    pub fn create(name: &str, shape: &Shape) -> io::Result<Self> {
        Self::create_with(name, shape, None)
    }

    /// Creates a map of maps; `template` says what the inner maps look like and may be closed afterwards.
    pub fn create_outer(name: &str, shape: &Shape, template: &Self) -> io::Result<Self> {
        Self::create_with(name, shape, Some(template))
    }

    fn create_with(name: &str, shape: &Shape, template: Option<&Self>) -> io::Result<Self> {
        let mut attributes = bpf::attributes();
        // SAFETY: writing plain members of the zeroed union.
        let create = unsafe { &mut attributes.__bindgen_anon_1 };
        create.map_type = shape.map_type;
        create.key_size = shape.key_size;
        create.value_size = shape.value_size;
        create.max_entries = shape.max_entries;
        create.map_flags = shape.flags;
        if let Some(template) = template {
            create.inner_map_fd = bpf::number(template.as_fd());
        }
        for (slot, byte) in create.map_name.iter_mut().take(15).zip(name.bytes()) {
            *slot = std::ffi::c_char::from_ne_bytes([byte]);
        }
        Self::from_fd(bpf::call_for_fd(bpf_cmd::BPF_MAP_CREATE, &mut attributes)?)
    }

    /// Takes a descriptor and asks the kernel what it is.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        let info = bpf::map_info(fd.as_fd())?;
        let shape = Shape {
            map_type: info.type_,
            key_size: info.key_size,
            value_size: info.value_size,
            max_entries: info.max_entries,
            flags: info.map_flags,
        };
        Ok(Self { fd, shape, id: info.id })
    }

    /// Opens a pinned map.
    pub fn open_pinned(path: &Path) -> io::Result<Self> {
        Self::from_fd(bpf::open_pinned(path)?)
    }

    /// Opens a map by its id.
    pub fn by_id(id: u32) -> io::Result<Self> {
        Self::from_fd(bpf::map_by_id(id)?)
    }

    /// A second handle on the same map.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { fd: self.fd.try_clone()?, shape: self.shape, id: self.id })
    }

    /// What the kernel says the map is.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The kernel's id of the map.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Inserts or replaces one element.
    pub fn update(&self, key: &[u8], value: &[u8]) -> io::Result<()> {
        self.check(key.len(), self.shape.key_size)?;
        self.check(value.len(), self.shape.value_size)?;
        self.element(bpf_cmd::BPF_MAP_UPDATE_ELEM, key.as_ptr() as u64, value.as_ptr() as u64)
    }

    /// Looks one element up; `None` if there is none.
    pub fn lookup(&self, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        self.check(key.len(), self.shape.key_size)?;
        // Values are padded to eight bytes by the kernel's copy for per-CPU maps only; those are not opened here.
        let mut value = vec![0; self.shape.value_size as usize];
        absent_is_none(self.element(
            bpf_cmd::BPF_MAP_LOOKUP_ELEM,
            key.as_ptr() as u64,
            value.as_mut_ptr() as u64,
        ))
        .map(|found| found.map(|()| value))
    }

    /// Deletes one element; returns whether there was one.
    pub fn delete(&self, key: &[u8]) -> io::Result<bool> {
        self.check(key.len(), self.shape.key_size)?;
        absent_is_none(self.element(bpf_cmd::BPF_MAP_DELETE_ELEM, key.as_ptr() as u64, 0))
            .map(|found| found.is_some())
    }

    /// Puts `inner` at `index` of this array of maps; returns after a grace period (kernel commit 1ae80cf31938).
    pub fn set_inner(&self, index: u32, inner: &Self) -> io::Result<()> {
        self.update(&index.to_ne_bytes(), &inner.fd.as_raw_fd().to_ne_bytes())
    }

    /// The map at `index` of this array of maps.
    pub fn inner(&self, index: u32) -> io::Result<Option<Self>> {
        match self.lookup(&index.to_ne_bytes())? {
            Some(id) => {
                let id = id.as_slice().try_into().map_err(io::Error::other)?;
                Self::by_id(u32::from_ne_bytes(id)).map(Some)
            }
            None => Ok(None),
        }
    }

    /// Inserts or replaces elements; `keys` and `values` are laid end to end. Returns how many went through before
    /// the error, if there was one.
    pub fn update_batch(&self, keys: &[u8], values: &[u8]) -> Result<(), (u32, io::Error)> {
        let count = keys.len() / self.shape.key_size.max(1) as usize;
        self.check(keys.len(), self.shape.key_size * count as u32).map_err(|error| (0, error))?;
        self.check(values.len(), self.shape.value_size * count as u32).map_err(|error| (0, error))?;
        let pointers = (keys.as_ptr() as u64, values.as_ptr() as u64);
        self.batch(bpf_cmd::BPF_MAP_UPDATE_BATCH, pointers, count as u32)
    }

    /// Every element, keys and values laid end to end; the map must not change meanwhile.
    pub fn entries(&self) -> io::Result<(Vec<u8>, Vec<u8>)> {
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        // The token that carries a batch on is a key for tries and an index of four bytes for hashes.
        let mut token = vec![0_u8; self.shape.key_size.max(4) as usize];
        let mut resume = false;
        let mut room = 4096_u32;
        loop {
            match self.lookup_batch(&mut token, resume, room)? {
                Batch::Some { keys: more, values: with, last } => {
                    keys.extend(more);
                    values.extend(with);
                    resume = true;
                    if last {
                        return Ok((keys, values));
                    }
                }
                // The fullest bucket did not fit; nothing was copied.
                Batch::TooSmall => room = room.saturating_mul(2),
            }
        }
    }

    fn lookup_batch(&self, token: &mut [u8], resume: bool, room: u32) -> io::Result<Batch> {
        let mut keys = vec![0_u8; room as usize * self.shape.key_size as usize];
        let mut values = vec![0_u8; room as usize * self.shape.value_size as usize];
        let mut next = vec![0_u8; token.len()];
        let mut attributes = bpf::attributes();
        // SAFETY: writing plain members of the zeroed union.
        let batch = unsafe { &mut attributes.batch };
        batch.map_fd = bpf::number(self.fd.as_fd());
        batch.in_batch = if resume { token.as_ptr() as u64 } else { 0 };
        batch.out_batch = next.as_mut_ptr() as u64;
        batch.keys = keys.as_mut_ptr() as u64;
        batch.values = values.as_mut_ptr() as u64;
        batch.count = room;
        let outcome = bpf::call(bpf_cmd::BPF_MAP_LOOKUP_BATCH, &mut attributes);
        // SAFETY: the kernel wrote the count back into the member that we set.
        let count = unsafe { attributes.batch.count } as usize;
        let last = match outcome {
            Ok(_) => false,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
            Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => return Ok(Batch::TooSmall),
            Err(error) => return Err(error),
        };
        keys.truncate(count * self.shape.key_size as usize);
        values.truncate(count * self.shape.value_size as usize);
        token.copy_from_slice(&next);
        Ok(Batch::Some { keys, values, last })
    }

    fn batch(
        &self,
        command: bpf_cmd,
        (keys, values): (u64, u64),
        count: u32,
    ) -> Result<(), (u32, io::Error)> {
        if count == 0 {
            return Ok(());
        }
        let mut attributes = bpf::attributes();
        // SAFETY: writing plain members of the zeroed union; the callers checked the lengths behind the pointers.
        let batch = unsafe { &mut attributes.batch };
        batch.map_fd = bpf::number(self.fd.as_fd());
        batch.keys = keys;
        batch.values = values;
        batch.count = count;
        let outcome = bpf::call(command, &mut attributes);
        // SAFETY: the kernel wrote the count back into the member that we set.
        let done = unsafe { attributes.batch.count };
        outcome.map(drop).map_err(|error| (done.min(count), error))
    }

    fn element(&self, command: bpf_cmd, key: u64, value: u64) -> io::Result<()> {
        let mut attributes = bpf::attributes();
        attributes.__bindgen_anon_2.map_fd = bpf::number(self.fd.as_fd());
        attributes.__bindgen_anon_2.key = key;
        attributes.__bindgen_anon_2.__bindgen_anon_1.value = value;
        bpf::call(command, &mut attributes).map(drop)
    }

    fn check(&self, length: usize, expected: u32) -> io::Result<()> {
        if length == expected as usize {
            return Ok(());
        }
        let text = format!("map {} takes {expected} bytes here, not {length}", self.id);
        Err(io::Error::new(io::ErrorKind::InvalidInput, text))
    }
}

enum Batch {
    Some { keys: Vec<u8>, values: Vec<u8>, last: bool },
    TooSmall,
}

fn absent_is_none(outcome: io::Result<()>) -> io::Result<Option<()>> {
    match outcome {
        Ok(()) => Ok(Some(())),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

impl AsFd for Map {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
