//! Programs at a device by rtnetlink(7): a clsact qdisc with filters of bpf, for kernels without tcx links (before 6.6).
//!
//! Everything is in the network namespace of the calling thread, and takes CAP_NET_ADMIN there.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with};

use super::link::Side;

const RTM_NEWQDISC: u16 = 36;
const RTM_DELQDISC: u16 = 37;
const RTM_NEWTFILTER: u16 = 44;
const RTM_DELTFILTER: u16 = 45;
const RTM_GETTFILTER: u16 = 46;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const DUMP: u16 = 0x300;
const EXCL: u16 = 0x200;
const CREATE: u16 = 0x400;

/// `TC_H_CLSACT`: where the qdisc is.
const CLSACT: u32 = 0xffff_fff1;
/// Its handle.
const CLSACT_HANDLE: u32 = 0xffff_0000;
/// `ETH_P_ALL` in network byte order.
const ANY_PROTOCOL: u32 = (3_u16.to_be()) as u32;

const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_BPF_FD: u16 = 6;
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_FLAGS: u16 = 8;
const TCA_BPF_ID: u16 = 11;
/// `TCA_BPF_FLAG_ACT_DIRECT`: what the program returns is what is done.
const DIRECT: u32 = 1;

/// Bytes of `struct nlmsghdr`.
const HEADER: usize = 16;
/// Bytes of `struct tcmsg`, which follows it.
const BODY: usize = 20;
/// Bytes of `struct nlattr`.
const ATTRIBUTE: usize = 4;
/// How long an answer is waited for; others may change the devices meanwhile, which the kernel waits for.
const ANSWER: Duration = Duration::from_secs(5);
/// What the kernel writes at once at most.
const BUFFER: usize = 64 * 1024;

/// Which of the filters of one side: the lowest preference comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its preference (priority).
    pub preference: u16,
    /// Its handle among those of that preference.
    pub handle: u32,
}

/// A filter that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// Where.
    pub place: Place,
    /// Kind, as `bpf` or `u32`.
    pub kind: String,
    /// Name of the program, where it is one of bpf.
    pub name: String,
    /// Id of the program; zero: none.
    pub program_id: u32,
}

/// Makes the qdisc that filters hang on; whether it was not there before.
pub fn add_clsact(index: u32) -> io::Result<bool> {
    let request = Request::new(RTM_NEWQDISC, ACK | CREATE | EXCL, (index, CLSACT_HANDLE, CLSACT, 0));
    match ask(request.text(TCA_KIND, "clsact")) {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Removes the qdisc, and with it whatever hangs on it.
pub fn remove_clsact(index: u32) -> io::Result<()> {
    ask(Request::new(RTM_DELQDISC, ACK, (index, CLSACT_HANDLE, CLSACT, 0)))
}

/// Puts a program at a place: in one step for the one that is there.
pub fn put_filter(
    program: BorrowedFd<'_>,
    name: &str,
    (index, side): (u32, Side),
    place: Place,
) -> io::Result<()> {
    let request =
        Request::new(RTM_NEWTFILTER, ACK | CREATE, (index, place.handle, parent(side), info(place)));
    let mut options = Vec::new();
    attribute(&mut options, TCA_BPF_FD, &program.as_raw_fd().to_ne_bytes());
    attribute(&mut options, TCA_BPF_NAME, &[name.as_bytes(), &[0]].concat());
    attribute(&mut options, TCA_BPF_FLAGS, &DIRECT.to_ne_bytes());
    ask(request.text(TCA_KIND, "bpf").with(TCA_OPTIONS, &options))
}

/// Removes the program at a place; whether there was one.
pub fn remove_filter((index, side): (u32, Side), place: Place) -> io::Result<bool> {
    let request = Request::new(RTM_DELTFILTER, ACK, (index, place.handle, parent(side), info(place)));
    match ask(request.text(TCA_KIND, "bpf")) {
        Ok(()) => Ok(true),
        // No filter, no qdisc, no device.
        Err(error)
            if [libc::ENOENT, libc::EINVAL, libc::ENODEV].map(Some).contains(&error.raw_os_error()) =>
        {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// The filters of a side, in the order in which they run; none where the qdisc or the device is not there.
pub fn filters(index: u32, side: Side) -> io::Result<Vec<Filter>> {
    let socket = open()?;
    let request = Request::new(RTM_GETTFILTER, DUMP, (index, 0, parent(side), 0));
    send(&socket, &request.finish(), SendFlags::empty())?;
    let mut found = Vec::new();
    loop {
        let answer = receive(&socket)?;
        for (kind, body) in messages(&answer) {
            match kind {
                NLMSG_DONE => return Ok(found),
                NLMSG_ERROR => return absent_is_none(outcome(body)).map(|()| found),
                RTM_NEWTFILTER => found.extend(filter(body)),
                _ => {}
            }
        }
        if answer.is_empty() {
            return Ok(found);
        }
    }
}

fn absent_is_none(outcome: io::Result<()>) -> io::Result<()> {
    match outcome {
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(()),
        outcome => outcome,
    }
}

/// The name of a device.
pub fn device_name(index: u32) -> io::Result<String> {
    Ok(rustix::net::netdevice::index_to_name(open()?, index)?)
}

/// `TC_H_CLSACT` with `TC_H_MIN_INGRESS` or `TC_H_MIN_EGRESS`.
const fn parent(side: Side) -> u32 {
    match side {
        Side::Ingress => 0xffff_fff2,
        Side::Egress => 0xffff_fff3,
    }
}

const fn info(place: Place) -> u32 {
    (place.preference as u32) << 16 | ANY_PROTOCOL
}

/// One filter of a dump; the kernel also lists each group of them, with no handle.
fn filter(body: &[u8]) -> Option<Filter> {
    let handle = word(body, 8)?;
    let preference = (word(body, 16)? >> 16) as u16;
    let attributes = body.get(BODY..)?;
    let kind = text(find(attributes, TCA_KIND)?);
    let options = find(attributes, TCA_OPTIONS).unwrap_or_default();
    let name = find(options, TCA_BPF_NAME).filter(|_| kind == "bpf").map(text).unwrap_or_default();
    let program_id = find(options, TCA_BPF_ID).filter(|_| kind == "bpf").and_then(|id| word(id, 0));
    let place = Place { preference, handle };
    (handle != 0).then(|| Filter { place, kind, name, program_id: program_id.unwrap_or(0) })
}

/// A message to the kernel.
struct Request {
    bytes: Vec<u8>,
}

impl Request {
    /// `struct nlmsghdr` and `struct tcmsg`: device, handle, parent and the field called info.
    fn new(kind: u16, flags: u16, (index, handle, parent, info): (u32, u32, u32, u32)) -> Self {
        let mut bytes = vec![0; 4];
        bytes.extend(kind.to_ne_bytes());
        bytes.extend((REQUEST | flags).to_ne_bytes());
        // Number of the request, and the sender, whom the kernel knows by the socket; then the family.
        bytes.extend([0; 12]);
        for word in [index, handle, parent, info] {
            bytes.extend(word.to_ne_bytes());
        }
        Self { bytes }
    }

    fn with(mut self, kind: u16, value: &[u8]) -> Self {
        attribute(&mut self.bytes, kind, value);
        self
    }

    fn text(self, kind: u16, value: &str) -> Self {
        self.with(kind, &[value.as_bytes(), &[0]].concat())
    }

    /// The bytes, with their number in front.
    fn finish(mut self) -> Vec<u8> {
        let length = self.bytes.len() as u32;
        if let Some(field) = self.bytes.first_chunk_mut() {
            *field = length.to_ne_bytes();
        }
        self.bytes
    }
}

/// Has a change made.
fn ask(request: Request) -> io::Result<()> {
    let socket = open()?;
    send(&socket, &request.finish(), SendFlags::empty())?;
    let answer = receive(&socket)?;
    let error = messages(&answer).find(|(kind, _)| *kind == NLMSG_ERROR);
    error.map_or_else(|| Err(io::Error::other("the kernel does not answer")), |(_, body)| outcome(body))
}

fn open() -> io::Result<OwnedFd> {
    // No protocol is the first of them, which is rtnetlink.
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    set_socket_timeout(&socket, Timeout::Recv, Some(ANSWER))?;
    Ok(socket)
}

fn receive(socket: &OwnedFd) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; BUFFER];
    let (length, _) = recv(socket, &mut buffer[..], RecvFlags::empty())?;
    buffer.truncate(length);
    Ok(buffer)
}

/// What an error message says; zero is an acknowledgement.
fn outcome(body: &[u8]) -> io::Result<()> {
    match body.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code)) {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(-code)),
    }
}

/// Kind and body of each message.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = word(bytes, 0)? as usize;
        let kind = u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
        let body = bytes.get(HEADER..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, body))
    })
}

/// Adds an attribute.
fn attribute(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    // Names and options here are far shorter than what a length can say.
    bytes.extend(((ATTRIBUTE + value.len()) as u16).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// The value of the attribute of a kind.
fn find(mut bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let length = usize::from(u16::from_ne_bytes(*bytes.first_chunk()?));
        let kind = u16::from_ne_bytes(*bytes.get(2..)?.first_chunk()?);
        let value = bytes.get(ATTRIBUTE..length)?;
        if kind & 0x3fff == wanted {
            return Some(value);
        }
        bytes = bytes.get(length.next_multiple_of(4)..)?;
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|word| u32::from_ne_bytes(*word))
}

fn text(value: &[u8]) -> String {
    let name: Vec<u8> = value.iter().copied().take_while(|byte| *byte != 0).collect();
    String::from_utf8_lossy(&name).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: Place = Place { preference: 9, handle: 7 };

    fn listed(name: &str, handle: u32) -> Vec<u8> {
        let mut options = Vec::new();
        attribute(&mut options, TCA_BPF_NAME, &[name.as_bytes(), &[0]].concat());
        attribute(&mut options, TCA_BPF_ID, &42_u32.to_ne_bytes());
        let place = (3, handle, parent(Side::Egress), info(PLACE));
        let request =
            Request::new(RTM_NEWTFILTER, 0, place).text(TCA_KIND, "bpf").with(TCA_OPTIONS, &options);
        request.bytes[HEADER..].to_vec()
    }

    #[test]
    fn filters_are_read_and_groups_of_them_are_none() {
        let found = filter(&listed("shunt_leave", 7)).unwrap();
        let expected =
            Filter { place: PLACE, kind: "bpf".to_owned(), name: "shunt_leave".to_owned(), program_id: 42 };
        assert_eq!(found, expected);
        assert_eq!(filter(&listed("shunt_leave", 0)), None);
    }

    #[test]
    fn what_is_cut_off_is_no_filter_or_one_without_a_name() {
        let whole = listed("shunt_leave", 7);
        for end in 0..whole.len() {
            assert!(filter(&whole[..end]).is_none_or(|found| found.name.is_empty()), "{end}");
        }
    }

    #[test]
    fn a_device_that_is_not_there_has_no_filters_and_takes_none() {
        let nowhere = i32::MAX as u32;
        assert_eq!(filters(nowhere, Side::Ingress).unwrap(), []);
        assert!(add_clsact(nowhere).is_err());
    }
}
