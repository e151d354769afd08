//! Names of nftables tables and chains in the calling thread's network namespace, by netlink dumps that change nothing.
//!
//! For `shunt check` alone: the agent opens no netfilter socket. Chains of an iptables that stands on nftables are among
//! them; those of the older iptables are not.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::netlink::{NETFILTER, SocketAddrNetlink};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, sendto, socket_with,
};

/// `NFTA_TABLE_NAME`, which is also `NFTA_CHAIN_TABLE`.
const TABLE: u16 = 1;
/// `NFTA_CHAIN_NAME`.
const CHAIN: u16 = 3;
/// Bits of an attribute's type that are no part of it.
const ATTRIBUTE_FLAGS: u16 = 0xc000;
/// Bytes of `struct nlmsghdr`.
const HEADER: usize = 16;
/// Bytes of `struct nfgenmsg`, which follows it.
const FAMILY_HEADER: usize = 4;
/// Bytes of `struct nlattr`.
const ATTRIBUTE_HEADER: usize = 4;
/// Bytes of one datagram at most: the kernel packs a dump into pieces of 32 KiB.
const DATAGRAM: usize = 64 * 1024;
/// How long an answer is waited for; the kernel has it ready.
const ANSWER: Duration = Duration::from_secs(5);
/// How often a dump is begun again when something changed in the middle of it.
const ATTEMPTS: usize = 10;

/// A table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Table {
    /// `NFPROTO_*`.
    pub family: u8,
    /// Its name.
    pub name: String,
}

/// A chain.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Chain {
    /// The table that it is in.
    pub table: Table,
    /// Its name.
    pub name: String,
}

/// Every table. Needs CAP_NET_ADMIN.
pub fn tables() -> io::Result<Vec<Table>> {
    let objects = dump(libc::NFT_MSG_GETTABLE, libc::NFT_MSG_NEWTABLE)?;
    Ok(objects.into_iter().map(|object| object.table).collect())
}

/// Every chain. Needs CAP_NET_ADMIN.
pub fn chains() -> io::Result<Vec<Chain>> {
    let objects = dump(libc::NFT_MSG_GETCHAIN, libc::NFT_MSG_NEWCHAIN)?;
    let chain = |object: Object| object.chain.map(|name| Chain { table: object.table, name });
    Ok(objects.into_iter().filter_map(chain).collect())
}

/// What one message of a dump tells.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Object {
    table: Table,
    chain: Option<String>,
}

/// A dump as far as it has come.
#[derive(Debug, Default)]
struct Dump {
    objects: Vec<Object>,
    is_over: bool,
    /// Something changed since it began, so that it may lack what is there.
    is_torn: bool,
}

fn dump(question: libc::c_int, answer: libc::c_int) -> io::Result<Vec<Object>> {
    for _ in 0..ATTEMPTS {
        let mut dump = Dump::default();
        // A socket of its own, so that nothing of an earlier dump can come in.
        let socket = ask(message_type(question))?;
        let mut datagram = vec![0_u8; DATAGRAM];
        while !dump.is_over {
            let (_, length) = recv(&socket, &mut datagram[..], RecvFlags::TRUNC)?;
            let received = datagram.get(..length).ok_or_else(|| malformed("is longer than expected"))?;
            dump.read(received, message_type(answer))?;
        }
        if !dump.is_torn {
            return Ok(dump.objects);
        }
    }
    Err(io::Error::other("the rules change faster than they can be listed"))
}

/// Asks for all objects of a kind, of every family.
fn ask(question: u16) -> io::Result<OwnedFd> {
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, Some(NETFILTER))?;
    bind(&socket, &SocketAddrNetlink::new(0, 0))?;
    set_socket_timeout(&socket, Timeout::Recv, Some(ANSWER))?;
    sendto(&socket, &request(question), SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
    Ok(socket)
}

fn message_type(message: libc::c_int) -> u16 {
    ((libc::NFNL_SUBSYS_NFTABLES << 8) | message).cast_unsigned() as u16
}

fn request(question: u16) -> Vec<u8> {
    let flags = (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16;
    let mut bytes = Vec::new();
    bytes.extend(((HEADER + FAMILY_HEADER) as u32).to_ne_bytes());
    bytes.extend(question.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    // Number of the request, and the sender, whom the kernel knows by the socket.
    bytes.extend([0; 8]);
    // Any family, version 0, no resource.
    bytes.extend([0; FAMILY_HEADER]);
    bytes
}

impl Dump {
    /// Takes the messages of one datagram; those of other kinds than `answer` are passed over.
    fn read(&mut self, datagram: &[u8], answer: u16) -> io::Result<()> {
        let mut rest = datagram;
        while !rest.is_empty() && !self.is_over {
            let length = u32_at(rest, 0).map_or(0, |length| length as usize);
            let message = rest.get(..length).filter(|message| message.len() >= HEADER);
            let message = message.ok_or_else(|| malformed("ends in the middle"))?;
            self.read_message(message, answer)?;
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        Ok(())
    }

    fn read_message(&mut self, message: &[u8], answer: u16) -> io::Result<()> {
        let kind = u16_at(message, 4).unwrap_or_default();
        let flags = u16_at(message, 6).unwrap_or_default();
        self.is_torn |= i32::from(flags) & libc::NLM_F_DUMP_INTR != 0;
        let is_end = [libc::NLMSG_DONE, libc::NLMSG_ERROR].contains(&i32::from(kind));
        if is_end {
            self.is_over = true;
            // The end of a dump and an error both carry an error number, negated; zero is none.
            let code = u32_at(message, HEADER).unwrap_or_default().cast_signed();
            return if code < 0 { Err(io::Error::from_raw_os_error(-code)) } else { Ok(()) };
        }
        if kind == answer {
            let object = read_object(&message[HEADER..]).ok_or_else(|| malformed("names no table"))?;
            self.objects.push(object);
        }
        Ok(())
    }
}

fn read_object(body: &[u8]) -> Option<Object> {
    let family = *body.first()?;
    let mut rest = body.get(FAMILY_HEADER..)?;
    let (mut table, mut chain) = (None, None);
    while let (Some(length), Some(kind)) = (u16_at(rest, 0), u16_at(rest, 2)) {
        let value = rest.get(ATTRIBUTE_HEADER..usize::from(length))?;
        match kind & !ATTRIBUTE_FLAGS {
            TABLE => table = Some(text(value)),
            CHAIN => chain = Some(text(value)),
            _ => {}
        }
        rest = rest.get(usize::from(length).next_multiple_of(4)..).unwrap_or_default();
    }
    Some(Object { table: Table { family, name: table? }, chain })
}

/// A string as the kernel writes it, up to its zero byte.
fn text(value: &[u8]) -> String {
    let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn malformed(how: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("an answer of nftables {how}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEW_CHAIN: u16 = (10 << 8) | 3;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = ((ATTRIBUTE_HEADER + value.len()) as u16).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn message(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
        let mut bytes = ((HEADER + body.len()) as u32).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend([0; 8]);
        bytes.extend(body);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn chain(table: &str, name: &str) -> Vec<u8> {
        let mut body = vec![2, 0, 0, 0];
        body.extend(attribute(TABLE, format!("{table}\0").as_bytes()));
        // The handle, which is not looked at.
        body.extend(attribute(2, &7_u64.to_be_bytes()));
        body.extend(attribute(CHAIN, format!("{name}\0").as_bytes()));
        message(NEW_CHAIN, 0, &body)
    }

    fn read(datagram: &[u8]) -> io::Result<Dump> {
        let mut dump = Dump::default();
        dump.read(datagram, NEW_CHAIN)?;
        Ok(dump)
    }

    #[test]
    fn chains_are_read_up_to_the_end_of_the_dump() {
        let done = message(libc::NLMSG_DONE as u16, 0, &0_i32.to_ne_bytes());
        let other = message(NEW_CHAIN + 1, 0, &[2, 0, 0, 0]);
        let datagram = [chain("nat", "KUBE-SERVICES"), other, chain("filter", "FORWARD"), done].concat();
        let dump = read(&datagram).unwrap();
        let names = dump.objects.iter().map(|object| (&*object.table.name, object.chain.as_deref()));
        let wanted = [("nat", Some("KUBE-SERVICES")), ("filter", Some("FORWARD"))];
        assert_eq!(names.collect::<Vec<_>>(), wanted);
        assert_eq!((dump.objects[0].table.family, dump.is_over, dump.is_torn), (2, true, false));
        assert!(!read(&chain("nat", "a")).unwrap().is_over);
    }

    #[test]
    fn a_dump_that_was_disturbed_and_a_refusal_are_noticed() {
        let torn = message(NEW_CHAIN, libc::NLM_F_DUMP_INTR as u16, &chain("nat", "a")[HEADER..]);
        assert!(read(&torn).unwrap().is_torn);
        let refusal = message(libc::NLMSG_ERROR as u16, 0, &(-libc::EPERM).to_ne_bytes());
        assert_eq!(read(&refusal).unwrap_err().raw_os_error(), Some(libc::EPERM));
    }

    #[test]
    fn whatever_is_cut_off_is_an_error_and_never_a_panic() {
        let whole = chain("nat", "KUBE-SERVICES");
        for length in 1..whole.len() {
            assert!(read(&whole[..length]).is_err(), "{length}");
        }
        let endless = message(NEW_CHAIN, 0, &[2, 0, 0, 0, 0, 0, 1, 0]);
        assert!(read(&endless).is_err(), "an attribute of no length");
        let nameless = message(NEW_CHAIN, 0, &[2, 0, 0, 0]);
        assert!(read(&nameless).is_err());
    }
}
