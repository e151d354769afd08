//! One watch: list, follow, and after a fault go on where it stopped.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use kube::client::Body;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};

use super::Bounds;
use super::access::Access;
use super::answer::{self, Change, Lines, ask};
use super::backoff::{Backoff, chance};
use super::batcher::Batcher;
use super::connections::Connections;
use super::fault::Fault;
use super::paging::Paging;
use super::resource::Resource;
use super::servers::Servers;
use crate::model::Listing;
use crate::source::Batch;

/// A watch that ends sooner is not opened again before that, and is a fault if it brought no object: asking again at once
/// would go on for ever.
const SHORTEST: Duration = Duration::from_secs(1);

/// What all watches share.
#[derive(Debug)]
pub(super) struct Surroundings {
    pub(super) access: Access,
    pub(super) bounds: Bounds,
    pub(super) servers: Servers,
    pub(super) batches: mpsc::Sender<Batch>,
    pub(super) connections: Connections,
}

/// Follows one kind of object.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own that any other may come with")]
pub(super) struct Follower {
    around: Arc<Surroundings>,
    batcher: Batcher,
    backoff: Backoff,
    /// Where the watch goes on; none: everything is to be listed.
    version: Option<String>,
    /// Whether anything came since the watch was opened.
    has_progressed: bool,
    /// Whether that was more than bookmarks.
    has_changed: bool,
    /// The server that has sent a bookmark in the midst of a watch: from it, silence means something.
    bookmarks_of: Option<usize>,
    /// Since when all has been well.
    healthy_since: Option<Instant>,
    /// Whether nobody answered when last there was a fault.
    was_unanswered: bool,
    /// Whether a listing that was to come as a stream fell silent, or did not end: the next one comes in pages.
    avoids_streaming: bool,
    paging: Paging,
    /// Until when the own Node is waited for.
    node_deadline: Option<Instant>,
}

impl Follower {
    pub(super) fn new(around: Arc<Surroundings>, resource: Resource) -> Self {
        let paging = Paging::new(&resource, around.bounds.page_bytes);
        Self {
            backoff: Backoff::new(around.bounds.backoff),
            around,
            batcher: Batcher::new(resource),
            version: None,
            has_progressed: false,
            has_changed: false,
            bookmarks_of: None,
            healthy_since: None,
            was_unanswered: false,
            avoids_streaming: false,
            paging,
            node_deadline: None,
        }
    }

    /// Goes on until nobody listens.
    pub(super) async fn run(mut self) {
        let around = Arc::clone(&self.around);
        loop {
            let server = around.servers.current();
            let turn = tokio::select! {
                turn = self.turn(server) => turn,
                // What was not read is said again by the next server.
                () = around.servers.moved_from(server) => Ok(()),
            };
            match turn {
                Ok(()) => {}
                Err(Fault::Closed) => return,
                Err(fault) => {
                    if self.suffer(server, &fault).await.is_err() {
                        return;
                    }
                }
            }
        }
    }

    /// One request, or one listing in pages, by a client of its own: credentials are never older than that.
    async fn turn(&mut self, server: usize) -> Result<(), Fault> {
        (self.has_progressed, self.has_changed) = (false, false);
        let bounds = self.around.bounds;
        let (client, address) = self.around.access.client(server, bounds)?;
        self.around.connections.tries(self.listing(), &address);
        let Some(version) = self.version.clone() else { return self.list(&client, server).await };
        let path = self.batcher.resource().watch_path(&version, watch_seconds());
        let body = self.ask(&client, &path).await?;
        self.follow(Lines::new(body), server, false).await
    }

    async fn list(&mut self, client: &Client, server: usize) -> Result<(), Fault> {
        if !self.avoids_streaming {
            let path = self.batcher.resource().streaming_path(watch_seconds());
            match self.ask(client, &path).await {
                Ok(body) => {
                    self.batcher.start();
                    let followed = self.follow(Lines::new(body), server, true).await;
                    self.avoids_streaming =
                        self.version.is_none() && matches!(followed, Err(Fault::Silent(_) | Fault::Slow(_)));
                    return followed;
                }
                Err(fault) if fault.is_unsupported() => {}
                Err(fault) => return Err(fault),
            }
        }
        self.list_pages(client).await
    }

    /// The body of an answer; whose it is is noted.
    async fn ask(&mut self, client: &Client, path: &str) -> Result<Body, Fault> {
        let limit = self.around.bounds.answer;
        let answer = self.patiently(ask(client, path, limit)).await??;
        self.around.connections.reached(self.listing(), answer.peer);
        Ok(answer.body)
    }

    async fn list_pages(&mut self, client: &Client) -> Result<(), Fault> {
        let bounds = self.around.bounds;
        self.batcher.start();
        let mut next: Option<String> = None;
        loop {
            let path = self.batcher.resource().list_path(self.paging.limit(), next.as_deref());
            let body = self.ask(client, &path).await?;
            let text = match self.patiently(answer::whole(body, bounds)).await? {
                // The same page once more, but less of it.
                Err(Fault::TooLarge(_)) if self.paging.shrink() => continue,
                Err(fault @ Fault::Slow(_)) => {
                    self.paging.shrink();
                    return Err(fault);
                }
                text => text?,
            };
            let page = answer::read_page(&text)?;
            let objects = page.items.unwrap_or_default();
            self.paging.came(objects.len(), text.len());
            for object in objects {
                self.batcher.apply(object);
                if self.batcher.is_full() {
                    self.flush().await?;
                }
            }
            next = page.metadata.next.filter(|next| !next.is_empty());
            if next.is_none() {
                self.avoids_streaming = false;
                self.end_list(page.metadata.resource_version);
                return self.flush().await;
            }
        }
    }

    /// Takes in what a watch says until it ends. With `is_listing` it starts with all there is.
    async fn follow(&mut self, mut lines: Lines, server: usize, mut is_listing: bool) -> Result<(), Fault> {
        let (began, bounds) = (Instant::now(), self.around.bounds);
        loop {
            let is_new = !self.has_progressed;
            while let Some(line) = lines.next() {
                self.read(line, server, &mut is_listing)?;
                if self.batcher.is_full() {
                    self.flush().await?;
                }
            }
            if !is_listing {
                // Not before something has come: a head alone is no sign that a watch works.
                if is_new && self.has_progressed {
                    self.note_health();
                }
                self.flush().await?;
            }
            let left = bounds.listing.saturating_sub(began.elapsed());
            let limit = if is_listing { bounds.answer.min(left) } else { bounds.silence };
            match self.patiently(lines.more(limit, bounds.page_bytes)).await? {
                Ok(true) => {}
                Ok(false) => break,
                Err(Fault::Silent(limit)) if is_listing && limit < bounds.answer => {
                    return Err(Fault::Slow(bounds.listing));
                }
                Err(Fault::Silent(limit)) if !is_listing => return self.judge_silence(limit, server),
                Err(fault) => return Err(fault),
            }
        }
        if is_listing {
            return Err(Fault::Connection("the listing broke off".to_owned()));
        }
        let early = SHORTEST.saturating_sub(began.elapsed());
        if !early.is_zero() && !self.has_changed {
            return Err(Fault::Ended);
        }
        self.patiently(sleep(early)).await
    }

    /// Takes one line in.
    fn read(&mut self, line: &[u8], server: usize, is_listing: &mut bool) -> Result<(), Fault> {
        let version = match answer::read_line(line)? {
            Change::Applied(object) => {
                self.has_changed = true;
                self.batcher.apply(object)
            }
            Change::Deleted(object) => {
                self.has_changed = true;
                self.batcher.delete(object)
            }
            Change::Bookmark { version, ends_list: true } if *is_listing => {
                *is_listing = false;
                self.end_list(version.clone());
                self.note_health();
                // That there was nothing to list is an answer too.
                self.has_changed = true;
                version
            }
            Change::Bookmark { version, .. } => {
                self.bookmarks_of = Some(server);
                version
            }
            Change::Refused(refusal) => return Err(Fault::Refused(refusal)),
        };
        if !*is_listing && !version.is_empty() {
            self.version = Some(version);
        }
        self.has_progressed = true;
        Ok(())
    }

    /// What it means that nothing came for so long. A server that sends bookmarks has lost this watch, and maybe no more
    /// than this one: it is opened again, and only a server that does not answer that is left. From one that sends none,
    /// which the API allows, nothing is to be expected while nothing changes; its host is alive, or the connection
    /// would have ended.
    fn judge_silence(&mut self, limit: Duration, server: usize) -> Result<(), Fault> {
        if self.bookmarks_of == Some(server) {
            return Err(Fault::Stalled(limit));
        }
        self.note_health();
        Ok(())
    }

    fn end_list(&mut self, version: String) {
        self.version = Some(version).filter(|version| !version.is_empty());
        if self.batcher.end() {
            self.node_deadline = None;
        } else {
            self.await_node();
        }
        self.around.connections.listed(self.listing());
    }

    fn note_health(&mut self) {
        self.healthy_since.get_or_insert_with(Instant::now);
        self.around.connections.follows(self.listing());
    }

    fn await_node(&mut self) {
        self.node_deadline.get_or_insert(Instant::now() + self.around.bounds.node);
    }

    /// Draws the consequences of a fault, and waits.
    async fn suffer(&mut self, server: usize, fault: &Fault) -> Result<(), Fault> {
        let around = Arc::clone(&self.around);
        if fault.suspects_server() {
            around.servers.fail(server);
        }
        let listing = self.listing();
        let doing = if self.version.is_some() { "watch" } else { "list" };
        if fault.loses_place(!self.has_progressed) {
            self.version = None;
        }
        let longest = around.bounds.backoff.1;
        let is_unanswered = fault.code().is_none_or(|code| code == 429 || code >= 500);
        // The waits have grown while nobody answered: whoever answers now, if only that all is to be listed anew, is back.
        let is_back = std::mem::replace(&mut self.was_unanswered, is_unanswered) && !is_unanswered;
        if self.healthy_since.take().is_some_and(|since| since.elapsed() >= longest) || is_back {
            self.backoff.reset();
        }
        let mut wait = self.backoff.wait();
        match (self.batcher.resource(), fault.code()) {
            (Resource::ServiceCidrs, Some(404)) => {
                self.version = None;
                self.batcher.empty();
                around
                    .connections
                    .absent(listing, "the server does not serve ServiceCIDRs (networking.k8s.io/v1)");
                wait = around.bounds.absent;
            }
            (resource, code) => {
                // Neither is worth a node without Services: without rights to them it goes on as without them.
                let is_denied = matches!(code, Some(403 | 404)) && !self.batcher.has_ended();
                match resource {
                    Resource::ServiceCidrs if is_denied => self.batcher.empty(),
                    Resource::Node(_) if is_denied => self.await_node(),
                    _ => {}
                }
                let plural = self.batcher.resource().plural();
                around.connections.lost(listing, format!("{doing} {plural}: {fault}"));
            }
        }
        self.flush().await?;
        self.patiently(sleep(wait)).await
    }

    /// Waits for something, and gives the own Node up meanwhile if that is due.
    async fn patiently<T>(&mut self, awaited: impl Future<Output = T>) -> Result<T, Fault> {
        let mut awaited = pin!(awaited);
        loop {
            let deadline = self.node_deadline;
            tokio::select! {
                value = &mut awaited => return Ok(value),
                () = until(deadline) => {
                    self.node_deadline = None;
                    self.batcher.give_up_node();
                    self.flush().await?;
                }
            }
        }
    }

    /// Hands on what there is. Nothing is lost if this is not awaited to its end.
    async fn flush(&mut self) -> Result<(), Fault> {
        if !self.batcher.is_empty() {
            let place = self.around.batches.reserve().await.map_err(|_| Fault::Closed)?;
            place.send(self.batcher.take());
        }
        Ok(())
    }

    fn listing(&self) -> Listing {
        self.batcher.resource().listing()
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// How long the server lets a watch live: between four and eight minutes, so that not all come back at once.
fn watch_seconds() -> u64 {
    240 + u64::from(chance())
}

/// Whether an API server answers at all: one that refuses is one.
pub(super) async fn greet(access: &Access, server: usize, bounds: Bounds) -> Result<(), Fault> {
    let (client, _) = access.client(server, bounds)?;
    match ask(&client, "/version", bounds.answer).await {
        Ok(_) | Err(Fault::Refused(_)) => Ok(()),
        Err(fault) => Err(fault),
    }
}
