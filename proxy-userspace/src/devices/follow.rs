//! Follows links, addresses and default routes of the network namespace that it is started in, and sends the wanted
//! devices, all of them, whenever they change.
//!
//! Every change is a new look: a notice only says that there was one, so that none can be missed or come in the wrong
//! order, and one that the kernel had to drop is made up for. Routes are listed only where a default route may have changed:
//! a node has thousands of others, and pods come with routes of their own.

use std::collections::BTreeSet;
use std::io;
use std::time::Duration;

use futures_util::{FutureExt, Stream, StreamExt, TryStreamExt};
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::link::{LinkExtentMask, LinkMessage};
use rtnetlink::packet_route::route::RouteMessage;
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::sys::SocketAddr;
use rtnetlink::{Handle, MulticastGroup, RouteMessageBuilder};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::choose::{Choice, choose};
use super::facts::{DefaultRoute, Facts};
use super::{Hooked, read};

/// A listing that takes longer has lost its answer.
const LIST_TIMEOUT: Duration = Duration::from_secs(2);
/// Between attempts, if the kernel refuses.
const RETRY: Duration = Duration::from_millis(500);
/// A pod's device comes with some notices in a row, and waits for its first packet: no longer than this is waited for more.
const SETTLE: Duration = Duration::from_millis(1);

/// Why devices cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum DevicesError {
    /// There is no netlink socket to be had.
    #[error("open a netlink socket for devices")]
    Netlink(#[source] io::Error),
    /// The kernel does not list them.
    #[error("list devices: {0}")]
    List(String),
}

type Notice = (NetlinkMessage<RouteNetlinkMessage>, SocketAddr);

/// Follows the devices; dropping it ends that.
#[derive(Debug)]
pub struct Follower {
    /// Dropped, it ends them.
    tasks: JoinSet<()>,
}

impl Follower {
    /// Opens the sockets in the network namespace of the calling thread, which must run a tokio runtime with I/O and
    /// time. The first list comes at once, also if it is empty; each later one when something of it changed.
    pub fn follow(choice: Choice, lists: mpsc::Sender<Vec<Hooked>>) -> Result<Self, DevicesError> {
        let groups = [
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Route,
        ];
        // One socket for the notices and one for the questions: an overrun of the first cannot take an answer along.
        let (notices, _, mut changes) =
            rtnetlink::new_multicast_connection(&groups).map_err(DevicesError::Netlink)?;
        let (answers, handle, _) = rtnetlink::new_connection().map_err(DevicesError::Netlink)?;
        let follow = async move {
            let mut looker = Looker::new(handle, choice);
            loop {
                let is_known = looker.look(&lists).await;
                if lists.is_closed() {
                    return;
                }
                if !is_known {
                    tokio::time::sleep(RETRY).await;
                } else if looker.wait(&mut changes).await.is_none() {
                    return;
                }
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

/// What is there now, once; for whoever does not follow. Must be called inside a runtime.
pub async fn look() -> Result<Facts, DevicesError> {
    let (answers, handle, _) = rtnetlink::new_connection().map_err(DevicesError::Netlink)?;
    let answers = tokio::spawn(answers);
    let facts = match tokio::time::timeout(LIST_TIMEOUT, list(&handle, None)).await {
        Ok(listed) => listed.map_err(|error| DevicesError::List(error.to_string())),
        Err(_) => Err(DevicesError::List(format!("no answer within {LIST_TIMEOUT:?}"))),
    };
    answers.abort();
    facts
}

struct Looker {
    handle: Handle,
    choice: Choice,
    sent: Option<Vec<Hooked>>,
    /// As last listed; none: they may have changed.
    routes: Option<Vec<DefaultRoute>>,
    /// What was warned about, so that it is said once.
    warned: BTreeSet<String>,
}

impl Looker {
    fn new(handle: Handle, choice: Choice) -> Self {
        Self { handle, choice, sent: None, routes: None, warned: BTreeSet::new() }
    }

    /// Lists everything and sends what is wanted if that is new; false if it could not be listed.
    async fn look(&mut self, lists: &mpsc::Sender<Vec<Hooked>>) -> bool {
        let listing = list(&self.handle, self.routes.take());
        let facts = match tokio::time::timeout(LIST_TIMEOUT, listing).await {
            Ok(Ok(facts)) => facts,
            Ok(Err(error)) => return self.complain(&error.to_string()),
            Err(_) => return self.complain(&format!("no answer within {LIST_TIMEOUT:?}")),
        };
        let chosen = choose(&facts, &self.choice);
        self.routes = Some(facts.default_routes);
        for (flag, name) in chosen.unmatched {
            if self.warned.insert(format!("{flag} {name}")) {
                tracing::warn!("{flag}: no device is called `{name}`; one that comes later is taken");
            }
        }
        if self.sent.as_ref() != Some(&chosen.hooked) {
            self.sent = Some(chosen.hooked.clone());
            // A closed channel is noticed by the caller.
            let _ = lists.send(chosen.hooked).await;
        }
        true
    }

    fn complain(&mut self, problem: &str) -> bool {
        if self.warned.insert(problem.to_owned()) {
            tracing::warn!("devices cannot be listed, and is tried again: {problem}");
        }
        false
    }

    /// Waits for a change that may matter; none: there will be no more.
    async fn wait(&mut self, changes: &mut (impl Stream<Item = Notice> + Unpin)) -> Option<()> {
        while !self.note(&changes.next().await?) {}
        tokio::time::sleep(SETTLE).await;
        while let Some(Some(notice)) = changes.next().now_or_never() {
            self.note(&notice);
        }
        Some(())
    }

    /// Takes a notice in; whether it may matter.
    fn note(&mut self, (message, _): &Notice) -> bool {
        let is_through = |index| {
            self.routes.as_ref().is_some_and(|routes| routes.iter().any(|route| route.index == index))
        };
        match &message.payload {
            NetlinkPayload::InnerMessage(
                RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::DelLink(link),
            ) => {
                // Routes of a link that goes down go without a notice, and those of another are not listed again.
                if is_through(link.header.index) {
                    self.routes = None;
                }
                true
            }
            NetlinkPayload::InnerMessage(
                RouteNetlinkMessage::NewAddress(address) | RouteNetlinkMessage::DelAddress(address),
            ) => {
                // The last address of a link takes its routes along, the first of them may bring back a route's.
                if is_through(address.header.index) {
                    self.routes = None;
                }
                true
            }
            NetlinkPayload::InnerMessage(
                RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route),
            ) => {
                let is_default = read::is_default(route);
                if is_default {
                    self.routes = None;
                }
                is_default
            }
            // Notices were lost, or something else that nobody asked for.
            _ => {
                self.routes = None;
                true
            }
        }
    }
}

/// Links, addresses, and default routes unless they are known.
async fn list(handle: &Handle, routes: Option<Vec<DefaultRoute>>) -> Result<Facts, rtnetlink::Error> {
    let links = handle.link().get();
    let links = links.set_filter_mask(AddressFamily::Unspec, vec![LinkExtentMask::SkipStats]);
    let links: Vec<LinkMessage> = links.execute().try_collect().await?;
    let addresses: Vec<_> = handle.address().get().execute().try_collect().await?;
    let routes = match routes {
        Some(routes) => routes,
        None => default_routes(handle).await?,
    };
    Ok(read::facts(&links, &addresses, &routes))
}

async fn default_routes(handle: &Handle) -> Result<Vec<DefaultRoute>, rtnetlink::Error> {
    let mut defaults: Vec<RouteMessage> = Vec::new();
    for question in [
        RouteMessageBuilder::<std::net::Ipv4Addr>::new().build(),
        RouteMessageBuilder::<std::net::Ipv6Addr>::new().build(),
    ] {
        let mut answers = handle.route().get(question).execute();
        while let Some(message) = answers.try_next().await? {
            if read::is_default(&message) {
                defaults.push(message);
            }
        }
    }
    Ok(read::default_routes(&defaults))
}
