//! UDP sockets of a network namespace by sock_diag(7): find one by its cookie, and destroy it.
//!
//! It takes CAP_NET_ADMIN in the namespace, and a kernel with `CONFIG_INET_DIAG_DESTROY`.

use std::io;
use std::os::fd::OwnedFd;

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with,
};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
const IPPROTO_UDP: u8 = 17;

/// Bytes of `struct nlmsghdr`.
const HEADER: usize = 16;
/// Bytes of `struct inet_diag_sockid`.
const ID: usize = 48;
/// Where the cookie is in it: two words, the lower one first.
const COOKIE: usize = 40;
/// Where the id is in `struct inet_diag_msg`.
const ID_IN_MESSAGE: usize = 4;
/// Sockets in any state.
const ANY_STATE: u32 = u32::MAX;
/// What the kernel writes at once at most.
const BUFFER: usize = 64 * 1024;

/// Destroys the UDP socket with this SO_COOKIE in the calling thread's network namespace; its owner sees ECONNABORTED.
/// Returns whether there was one.
pub fn destroy_udp(cookie: u64) -> io::Result<bool> {
    let kind = SocketType::RAW;
    let socket = socket_with(AddressFamily::NETLINK, kind, SocketFlags::CLOEXEC, Some(netlink::SOCK_DIAG))?;
    for family in [AddressFamily::INET, AddressFamily::INET6] {
        // Families of sockets are numbers below 256.
        let family = family.as_raw() as u8;
        if let Some(id) = find(&socket, family, cookie)? {
            let request = message((SOCK_DESTROY, NLM_F_REQUEST | NLM_F_ACK), family, &id);
            send(&socket, &request, SendFlags::empty())?;
            let answer = receive(&socket)?;
            return messages(&answer)
                .find_map(|(kind, body)| outcome(kind, body))
                .unwrap_or(Ok(()))
                .map(|()| true);
        }
    }
    Ok(false)
}

/// The id of the socket with this cookie.
fn find(socket: &OwnedFd, family: u8, cookie: u64) -> io::Result<Option<[u8; ID]>> {
    let request = message((SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP), family, &[0; ID]);
    send(socket, &request, SendFlags::empty())?;
    let mut found = None;
    loop {
        let answer = receive(socket)?;
        if answer.is_empty() {
            return Ok(found);
        }
        for (kind, body) in messages(&answer) {
            if kind == NLMSG_DONE {
                return Ok(found);
            }
            if let Some(outcome) = outcome(kind, body) {
                outcome?;
            }
            let id = body.get(ID_IN_MESSAGE..).and_then(|rest| rest.first_chunk::<ID>());
            if kind == SOCK_DIAG_BY_FAMILY
                && let Some(id) = id
                && cookie_of(id) == cookie
            {
                found = Some(*id);
            }
        }
    }
}

fn cookie_of(id: &[u8; ID]) -> u64 {
    let word =
        |at: usize| id.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_ne_bytes);
    u64::from(word(COOKIE)) | u64::from(word(COOKIE + 4)) << 32
}

/// A request: `struct nlmsghdr` and `struct inet_diag_req_v2`.
fn message((kind, flags): (u16, u16), family: u8, id: &[u8; ID]) -> Vec<u8> {
    let mut body = vec![family, IPPROTO_UDP, 0, 0];
    body.extend(ANY_STATE.to_ne_bytes());
    body.extend(id);
    let mut message = Vec::with_capacity(HEADER + body.len());
    message.extend(((HEADER + body.len()) as u32).to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend([0; 8]);
    message.extend(body);
    message
}

fn receive(socket: &OwnedFd) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; BUFFER];
    let (length, _) = recv(socket, &mut buffer[..], RecvFlags::empty())?;
    buffer.truncate(length);
    Ok(buffer)
}

/// Kind and body of each message.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
        let kind = u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
        let body = bytes.get(HEADER..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, body))
    })
}

/// What an error message says; `None`: it is none.
fn outcome(kind: u16, body: &[u8]) -> Option<io::Result<()>> {
    let code =
        (kind == NLMSG_ERROR).then(|| body.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code)))?;
    Some(if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-code)) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::sockopt::socket_cookie;
    use std::net::UdpSocket;

    #[test]
    fn a_socket_that_is_not_there_is_not_destroyed() {
        assert!(!destroy_udp(u64::MAX).unwrap());
    }

    #[test]
    fn a_socket_is_found_by_its_cookie() {
        let sockets = ["127.0.0.1:0", "[::1]:0"].map(|address| UdpSocket::bind(address).unwrap());
        let kind = SocketType::RAW;
        let diag = socket_with(AddressFamily::NETLINK, kind, SocketFlags::CLOEXEC, Some(netlink::SOCK_DIAG))
            .unwrap();
        for (socket, family) in sockets.iter().zip([AddressFamily::INET, AddressFamily::INET6]) {
            let cookie = socket_cookie(socket).unwrap();
            let id = find(&diag, family.as_raw() as u8, cookie).unwrap().unwrap();
            let port = u16::from_be_bytes([id[0], id[1]]);
            assert_eq!((cookie_of(&id), port), (cookie, socket.local_addr().unwrap().port()));
        }
    }

    #[test]
    fn messages_that_are_cut_off_end_the_list() {
        let whole = message((7, 0), 2, &[0; ID]);
        assert_eq!(messages(&whole).map(|(kind, body)| (kind, body.len())).collect::<Vec<_>>(), [(7, 56)]);
        for end in 0..whole.len() {
            assert_eq!(messages(&whole[..end]).count(), 0, "{end}");
        }
    }
}
