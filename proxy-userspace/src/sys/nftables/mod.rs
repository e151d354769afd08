//! nftables tables, chains and rules in the calling thread's network namespace, by netlink dumps that change nothing: names,
//! where chains are hooked, and of rules what matters to packets that pass through.
//!
//! For `shunt check` alone: the agent opens no netfilter socket. Chains of an iptables that stands on nftables are among
//! them; those of the older iptables are not.

mod rules;

pub use rules::{Rule, Verdict};

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::netlink::{NETFILTER, SocketAddrNetlink};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, sendto, socket_with,
};

/// `NFTA_TABLE_NAME`, which is also `NFTA_CHAIN_TABLE` and `NFTA_RULE_TABLE`.
const TABLE: u16 = 1;
/// `NFTA_CHAIN_NAME`.
const CHAIN: u16 = 3;
/// `NFTA_CHAIN_HOOK`: of base chains only.
const HOOK: u16 = 4;
/// `NFTA_HOOK_HOOKNUM`, inside of it.
const HOOK_NUMBER: u16 = 1;
/// `NFTA_CHAIN_POLICY`.
const POLICY: u16 = 5;
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
    /// Where it is hooked; none: it is only jumped to.
    pub base: Option<Base>,
}

/// Where a base chain is hooked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Base {
    /// `NF_INET_*`, e.g. 2 for packets that are forwarded.
    pub hook: u32,
    /// Whether what no rule decides is dropped.
    pub drops: bool,
}

/// Every table. Needs CAP_NET_ADMIN.
pub fn tables() -> io::Result<Vec<Table>> {
    dump(libc::NFT_MSG_GETTABLE, libc::NFT_MSG_NEWTABLE, read_table)
}

/// Every chain. Needs CAP_NET_ADMIN.
pub fn chains() -> io::Result<Vec<Chain>> {
    dump(libc::NFT_MSG_GETCHAIN, libc::NFT_MSG_NEWCHAIN, read_chain)
}

/// Every rule. Needs CAP_NET_ADMIN.
pub fn rules() -> io::Result<Vec<Rule>> {
    dump(libc::NFT_MSG_GETRULE, libc::NFT_MSG_NEWRULE, rules::read)
}

/// Reads what one message of a dump tells.
type Read<T> = fn(u8, &[(u16, &[u8])]) -> Option<T>;

/// A dump as far as it has come.
#[derive(Debug)]
struct Dump<T> {
    objects: Vec<T>,
    read: Read<T>,
    is_over: bool,
    /// Something changed since it began, so that it may lack what is there.
    is_torn: bool,
}

fn dump<T>(question: libc::c_int, answer: libc::c_int, read: Read<T>) -> io::Result<Vec<T>> {
    for _ in 0..ATTEMPTS {
        let mut dump = Dump::new(read);
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

impl<T> Dump<T> {
    const fn new(read: Read<T>) -> Self {
        Self { objects: Vec::new(), read, is_over: false, is_torn: false }
    }

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
            let object = self.read_object(&message[HEADER..]).ok_or_else(|| malformed("names no table"))?;
            self.objects.push(object);
        }
        Ok(())
    }

    fn read_object(&self, body: &[u8]) -> Option<T> {
        (self.read)(*body.first()?, &attributes(body.get(FAMILY_HEADER..)?)?)
    }
}

/// The attributes laid end to end in `bytes`; none if one is cut off.
fn attributes(bytes: &[u8]) -> Option<Vec<(u16, &[u8])>> {
    let (mut rest, mut found) = (bytes, Vec::new());
    while let (Some(length), Some(kind)) = (u16_at(rest, 0), u16_at(rest, 2)) {
        let value = rest.get(ATTRIBUTE_HEADER..usize::from(length))?;
        found.push((kind & !ATTRIBUTE_FLAGS, value));
        rest = rest.get(usize::from(length).next_multiple_of(4)..).unwrap_or_default();
    }
    Some(found)
}

/// The first attribute of a kind.
fn value_of<'a>(attributes: &[(u16, &'a [u8])], kind: u16) -> Option<&'a [u8]> {
    attributes.iter().find(|(other, _)| *other == kind).map(|(_, value)| *value)
}

fn read_table(family: u8, attributes: &[(u16, &[u8])]) -> Option<Table> {
    Some(Table { family, name: text(value_of(attributes, TABLE)?) })
}

fn read_chain(family: u8, attributes: &[(u16, &[u8])]) -> Option<Chain> {
    let table = read_table(family, attributes)?;
    let base = value_of(attributes, HOOK).and_then(|hook| {
        let hook = number(value_of(&self::attributes(hook)?, HOOK_NUMBER)?)?;
        // Zero is NF_DROP; a chain that says nothing accepts.
        let drops = value_of(attributes, POLICY).and_then(number) == Some(0);
        Some(Base { hook, drops })
    });
    Some(Chain { table, name: text(value_of(attributes, CHAIN)?), base })
}

/// A number as nftables writes them.
fn number(value: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(value.get(..4)?.try_into().ok()?))
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

    fn read(datagram: &[u8]) -> io::Result<Dump<Chain>> {
        let mut dump = Dump::new(read_chain);
        dump.read(datagram, NEW_CHAIN)?;
        Ok(dump)
    }

    #[test]
    fn chains_are_read_up_to_the_end_of_the_dump() {
        let done = message(libc::NLMSG_DONE as u16, 0, &0_i32.to_ne_bytes());
        let other = message(NEW_CHAIN + 1, 0, &[2, 0, 0, 0]);
        let datagram = [chain("nat", "KUBE-SERVICES"), other, chain("filter", "FORWARD"), done].concat();
        let dump = read(&datagram).unwrap();
        let names = dump.objects.iter().map(|chain| (&*chain.table.name, &*chain.name));
        let wanted = [("nat", "KUBE-SERVICES"), ("filter", "FORWARD")];
        assert_eq!(names.collect::<Vec<_>>(), wanted);
        assert_eq!((dump.objects[0].table.family, dump.is_over, dump.is_torn), (2, true, false));
        assert!(!read(&chain("nat", "a")).unwrap().is_over);
    }

    #[test]
    fn where_a_chain_is_hooked_is_read_with_its_policy() {
        let base = |attributes: &[Vec<u8>]| {
            let mut body = vec![2, 0, 0, 0];
            body.extend(attribute(TABLE, b"filter\0"));
            body.extend(attribute(CHAIN, b"FORWARD\0"));
            body.extend(attributes.concat());
            read(&message(NEW_CHAIN, 0, &body)).unwrap().objects[0].base
        };
        let hook = attribute(HOOK, &attribute(HOOK_NUMBER, &2_u32.to_be_bytes()));
        let policy = |code: u32| attribute(POLICY, &code.to_be_bytes());
        assert_eq!(base(&[]), None);
        assert_eq!(base(&[hook.clone(), policy(0)]), Some(Base { hook: 2, drops: true }));
        assert_eq!(base(&[hook.clone(), policy(1)]), Some(Base { hook: 2, drops: false }));
        assert_eq!(base(&[hook]), Some(Base { hook: 2, drops: false }));
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
