//! `bpf(2)`: the call itself, pinning, and what the kernel tells of its objects.
#![expect(unsafe_code, reason = "bpf(2) takes a union of pointers and lengths; every caller is in `sys`")]

use std::ffi::CString;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use aya_obj::generated::{bpf_attr, bpf_cmd, bpf_link_info, bpf_map_info, bpf_prog_info, bpf_stats_type};

/// A zeroed attribute union, as the kernel demands of every byte that a command does not use.
pub(super) fn attributes() -> bpf_attr {
    // SAFETY: all-zero bytes are a valid value of every member of the union: integers and integer arrays.
    unsafe { std::mem::zeroed() }
}

/// Runs one command and returns what the kernel returned.
///
/// Every pointer in `attributes` must point to memory of the length that the command reads or writes.
pub(super) fn call(command: bpf_cmd, attributes: &mut bpf_attr) -> io::Result<i64> {
    // SAFETY: the kernel reads `size` bytes from a live union; the callers in `sys` vouch for the pointers in it.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command as libc::c_long,
            std::ptr::from_mut(attributes),
            size_of::<bpf_attr>(),
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// As [`call`], for the commands that return a new file descriptor.
pub(super) fn call_for_fd(command: bpf_cmd, attributes: &mut bpf_attr) -> io::Result<OwnedFd> {
    let fd = call(command, attributes)?;
    // SAFETY: the command returned a fresh descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// A descriptor as the number that attributes hold; open descriptors are never negative.
pub(super) fn number(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)
}

/// Pins an object at `path`, which must be on a bpffs and not exist.
pub fn pin(fd: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    let mut attributes = attributes();
    attributes.__bindgen_anon_4.pathname = path.as_ptr() as u64;
    attributes.__bindgen_anon_4.bpf_fd = number(fd);
    call(bpf_cmd::BPF_OBJ_PIN, &mut attributes).map(drop)
}

/// Opens the object pinned at `path`.
pub fn open_pinned(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    let mut attributes = attributes();
    attributes.__bindgen_anon_4.pathname = path.as_ptr() as u64;
    call_for_fd(bpf_cmd::BPF_OBJ_GET, &mut attributes)
}

/// What the kernel tells of an object of the type that `T` describes.
fn info<T: Answer>(fd: BorrowedFd<'_>) -> io::Result<T> {
    let mut answer = T::zeroed();
    let mut attributes = attributes();
    attributes.info.bpf_fd = number(fd);
    // The kernel writes at most this many bytes into `answer`.
    attributes.info.info_len = size_of::<T>() as u32;
    attributes.info.info = std::ptr::from_mut(&mut answer) as u64;
    call(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attributes)?;
    Ok(answer)
}

/// What the kernel fills in: plain integers, so that zero is a value.
trait Answer {
    fn zeroed() -> Self;
}

macro_rules! info_types {
    ($($name:ident),*) => {$(
        impl Answer for $name {
            fn zeroed() -> Self {
                // SAFETY: the kernel's info structures are integers and arrays of integers.
                unsafe { std::mem::zeroed() }
            }
        }
    )*};
}
info_types!(bpf_map_info, bpf_prog_info, bpf_link_info);

/// What the kernel tells of a map.
pub(super) fn map_info(fd: BorrowedFd<'_>) -> io::Result<bpf_map_info> {
    info(fd)
}

/// What the kernel tells of a link.
pub(super) fn link_info(fd: BorrowedFd<'_>) -> io::Result<bpf_link_info> {
    info(fd)
}

/// What the kernel tells of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramFacts {
    /// Id.
    pub id: u32,
    /// Hash of the instructions.
    pub tag: [u8; 8],
    /// Name, cut to 15 bytes by the kernel.
    pub name: String,
    /// Nanoseconds spent in it while run-time statistics were on.
    pub run_time_ns: u64,
    /// Runs while run-time statistics were on.
    pub run_count: u64,
    /// Instructions that the verifier walked.
    pub verified_instructions: u32,
    /// Bytes of the program after the verifier removed what can never run.
    pub translated_bytes: u32,
    /// Bytes of machine code; zero: the program is interpreted.
    pub machine_code_bytes: u32,
}

/// What the kernel tells of the program behind `fd`.
pub fn program_facts(fd: BorrowedFd<'_>) -> io::Result<ProgramFacts> {
    let info: bpf_prog_info = info(fd)?;
    let name = info.name.iter().take_while(|byte| **byte != 0).map(|byte| byte.to_ne_bytes()[0]).collect();
    Ok(ProgramFacts {
        id: info.id,
        tag: info.tag,
        name: String::from_utf8(name).map_err(io::Error::other)?,
        run_time_ns: info.run_time_ns,
        run_count: info.run_cnt,
        verified_instructions: info.verified_insns,
        translated_bytes: info.xlated_prog_len,
        machine_code_bytes: info.jited_prog_len,
    })
}

/// Opens a program by its id.
pub fn program_by_id(id: u32) -> io::Result<OwnedFd> {
    by_id(bpf_cmd::BPF_PROG_GET_FD_BY_ID, id)
}

/// Opens a map by its id.
pub(super) fn map_by_id(id: u32) -> io::Result<OwnedFd> {
    by_id(bpf_cmd::BPF_MAP_GET_FD_BY_ID, id)
}

fn by_id(command: bpf_cmd, id: u32) -> io::Result<OwnedFd> {
    let mut attributes = attributes();
    attributes.__bindgen_anon_6.__bindgen_anon_1.prog_id = id;
    call_for_fd(command, &mut attributes)
}

/// Turns on run-time statistics of all programs for as long as the descriptor is open.
pub fn enable_run_time_stats() -> io::Result<OwnedFd> {
    let mut attributes = attributes();
    attributes.enable_stats.type_ = bpf_stats_type::BPF_STATS_RUN_TIME as u32;
    call_for_fd(bpf_cmd::BPF_ENABLE_STATS, &mut attributes)
}
