//! The addresses of this node's interfaces, and their changes.
//!
//! "This node" is the network namespace of the thread that opens the source: netlink sockets belong for ever to the
//! namespace they were made in. Every address counts here, loopback and link-local ones too; which of them may carry
//! what is for `plan`. Only those of kube-proxy's own interface are no addresses of the node.

use std::net::IpAddr;
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt};
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::{Handle, MulticastGroup};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::{Batch, SourceError, Warning};
use crate::model::{Event, Listing};

/// Where kube-proxy in ipvs mode keeps the addresses of Services, and leaves them when it goes: none is the node's own.
const IPVS_INTERFACE: &str = "kube-ipvs0";
/// A listing that takes longer has lost its answer.
const LIST_TIMEOUT: Duration = Duration::from_secs(2);
/// Between attempts, if the kernel refuses.
const RETRY: Duration = Duration::from_millis(500);
/// Interfaces come up with several addresses: changes this close together are looked at once.
const SETTLE: Duration = Duration::from_millis(5);

/// Follows the addresses; dropping it ends that.
#[derive(Debug)]
pub struct NodeAddresses {
    /// Dropped, it ends them.
    tasks: JoinSet<()>,
}

impl NodeAddresses {
    /// Opens the sockets in the network namespace of the calling thread, which must run a tokio runtime with I/O and
    /// time. The first batch is the listing; each later one holds all addresses again, after they changed.
    pub fn follow(batches: mpsc::Sender<Batch>) -> Result<Self, SourceError> {
        // One socket for the notices and one for the questions: an overrun of the first cannot take an answer along.
        let groups = [MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr];
        let (notices, _, mut changes) =
            rtnetlink::new_multicast_connection(&groups).map_err(SourceError::Netlink)?;
        let (answers, handle, _) = rtnetlink::new_connection().map_err(SourceError::Netlink)?;
        let follow = async move {
            let mut follower = Follower { handle, known: None, problem: None };
            loop {
                let is_known = follower.look(&batches).await;
                if batches.is_closed() {
                    return;
                }
                if !is_known {
                    tokio::time::sleep(RETRY).await;
                } else if changes.next().await.is_none() {
                    return;
                }
                tokio::time::sleep(SETTLE).await;
                while changes.try_recv().is_ok() {}
            }
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(notices);
        tasks.spawn(answers);
        tasks.spawn(follow);
        Ok(Self { tasks })
    }

    /// Resolves when a part of it has ended, without which it sees no more changes. None does by itself unless it
    /// panics, the kernel closes a socket, or the receiver is gone.
    pub async fn ended(&mut self) {
        // Which one, and how, is nothing that anybody could act upon.
        let _ = self.tasks.join_next().await;
    }
}

struct Follower {
    handle: Handle,
    known: Option<Vec<IpAddr>>,
    /// What was reported last, so that it is said once.
    problem: Option<String>,
}

impl Follower {
    /// Lists the addresses and sends them if they are new; false if they could not be listed.
    async fn look(&mut self, batches: &mpsc::Sender<Batch>) -> bool {
        let listed = match tokio::time::timeout(LIST_TIMEOUT, list(&self.handle)).await {
            Ok(Ok(addresses)) => Ok(addresses),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer within {LIST_TIMEOUT:?}")),
        };
        let (is_known, batch) = match listed {
            Ok(addresses) => (true, self.take(addresses)),
            Err(problem) => (false, self.complain(problem)),
        };
        if !batch.is_empty() {
            // A closed channel is noticed by the caller.
            let _ = batches.send(batch).await;
        }
        is_known
    }

    fn take(&mut self, addresses: Vec<IpAddr>) -> Batch {
        self.problem = None;
        if self.known.as_ref() == Some(&addresses) {
            return Batch::default();
        }
        let is_first = self.known.replace(addresses.clone()).is_none();
        let change = Event::NodeAddresses(addresses);
        let events = if is_first {
            let listing = Listing::NodeAddresses;
            vec![Event::ListStarted(listing), change, Event::ListEnded(listing)]
        } else {
            vec![change]
        };
        Batch { events, warnings: Vec::new() }
    }

    fn complain(&mut self, problem: String) -> Batch {
        if self.problem.as_ref() == Some(&problem) {
            return Batch::default();
        }
        self.problem = Some(problem.clone());
        let object = "addresses of the node's interfaces".into();
        let warning = Warning { object, field: String::new(), problem, about: None };
        Batch { events: Vec::new(), warnings: vec![warning] }
    }
}

/// All addresses, sorted, none twice.
async fn list(handle: &Handle) -> Result<Vec<IpAddr>, rtnetlink::Error> {
    let messages: Vec<AddressMessage> = handle.address().get().execute().try_collect().await?;
    // Afterwards: an interface that goes in between takes its addresses along, which is the next notice.
    let others = index_of(handle, IPVS_INTERFACE).await?;
    let own = messages.iter().filter(|message| Some(message.header.index) != others);
    let mut addresses: Vec<IpAddr> = own.filter_map(own_address).collect();
    addresses.sort_unstable();
    addresses.dedup();
    Ok(addresses)
}

/// The number of an interface, if there is one of this name.
async fn index_of(handle: &Handle, name: &str) -> Result<Option<u32>, rtnetlink::Error> {
    match handle.link().get().match_name(name.to_owned()).execute().try_next().await {
        Ok(link) => Ok(link.map(|link| link.header.index)),
        Err(rtnetlink::Error::NetlinkError(message))
            if message.raw_code() == -rustix::io::Errno::NODEV.raw_os_error() =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// On a point-to-point link `IFA_ADDRESS` is the peer and `IFA_LOCAL` the own address; elsewhere they are equal, and
/// IPv6 leaves the second one out.
fn own_address(message: &AddressMessage) -> Option<IpAddr> {
    if !matches!(message.header.family, AddressFamily::Inet | AddressFamily::Inet6) {
        return None;
    }
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(ip) => Some(*ip),
        _ => None,
    });
    local.or_else(|| {
        message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Address(ip) => Some(*ip),
            _ => None,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(family: AddressFamily, attributes: Vec<AddressAttribute>) -> AddressMessage {
        let mut message = AddressMessage::default();
        message.header.family = family;
        message.attributes = attributes;
        message
    }

    #[test]
    fn the_peer_of_a_link_is_not_the_own_address() {
        let [own, peer]: [IpAddr; 2] = [[10, 0, 0, 1].into(), [10, 0, 0, 2].into()];
        let both = vec![AddressAttribute::Address(peer), AddressAttribute::Local(own)];
        assert_eq!(own_address(&message(AddressFamily::Inet, both.clone())), Some(own));
        assert_eq!(own_address(&message(AddressFamily::Unspec, both)), None);
        let only = vec![AddressAttribute::Address(own)];
        assert_eq!(own_address(&message(AddressFamily::Inet6, only)), Some(own));
        assert_eq!(own_address(&message(AddressFamily::Inet6, vec![])), None);
    }

    #[tokio::test]
    async fn an_end_is_noticed() {
        let soon = Duration::from_millis(200);
        let (sender, batches) = mpsc::channel(1);
        let mut source = NodeAddresses::follow(sender).unwrap();
        assert!(tokio::time::timeout(soon, source.ended()).await.is_err(), "it has ended by itself");
        let (sender, nobody) = mpsc::channel(1);
        drop(nobody);
        let mut source = NodeAddresses::follow(sender).unwrap();
        tokio::time::timeout(Duration::from_secs(20), source.ended()).await.unwrap();
        drop(batches);
    }

    /// The kernel says the same in another way, whatever addresses this machine has. Changes are for the netns tier.
    #[tokio::test]
    async fn the_listing_is_what_the_kernel_shows() {
        let (sender, mut batches) = mpsc::channel(1);
        let _source = NodeAddresses::follow(sender).unwrap();
        let batch = tokio::time::timeout(Duration::from_secs(20), batches.recv()).await.unwrap().unwrap();
        let listing = Listing::NodeAddresses;
        let [start, Event::NodeAddresses(addresses), end] = &batch.events[..] else { panic!("{batch:?}") };
        assert_eq!((start, end), (&Event::ListStarted(listing), &Event::ListEnded(listing)));
        assert!(addresses.is_sorted() && batch.warnings.is_empty(), "{batch:?}");
        let v6: Vec<IpAddr> = addresses.iter().copied().filter(IpAddr::is_ipv6).collect();
        // A kernel without IPv6 has no such file, and no such addresses.
        let shown = std::fs::read_to_string("/proc/self/net/if_inet6").unwrap_or_default();
        let mut expected: Vec<IpAddr> = shown
            .lines()
            .filter_map(|line| u128::from_str_radix(line.split_whitespace().next()?, 16).ok())
            .map(|bits| std::net::Ipv6Addr::from(bits).into())
            .collect();
        expected.sort_unstable();
        expected.dedup();
        assert_eq!(v6, expected);
    }
}
