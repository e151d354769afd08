//! When the egress guard is in force: while some Service may need it, and for some minutes after anybody has.
//!
//! It sees every packet that a hooked process sends, so nobody pays for it who does not need it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::{info, warn};

use crate::datapath::DatapathError;
use crate::datapath::guard::GuardHook;

/// A SYN is sent again for about two minutes; a socket that a hook has marked is judged for as long.
const LINGER: Duration = Duration::from_mins(3);

/// Why the guard is wanted, as moments of a clock that the caller has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Wanted {
    /// Some Service needs it.
    is_needed: bool,
    /// Until then in any case.
    until: Option<Instant>,
}

impl Wanted {
    fn need(&mut self, is_needed: bool, now: Instant) {
        if self.is_needed && !is_needed {
            self.ask(now);
        }
        self.is_needed = is_needed;
    }

    fn ask(&mut self, now: Instant) {
        self.until = self.until.max(Some(now + LINGER));
    }

    fn is_on(&self, now: Instant) -> bool {
        self.is_needed || self.until.is_some_and(|until| now < until)
    }
}

/// The guard, shared by the loop and by those who find that it is wanted.
#[derive(Clone, Debug)]
pub struct Guard(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    wanted: Wanted,
    hook: GuardHook,
}

impl Guard {
    /// One that was in force before the agent started stays for its time.
    pub fn new(hook: GuardHook, now: Instant) -> Self {
        let mut wanted = Wanted::default();
        if hook.is_attached() {
            wanted.ask(now);
        }
        Self(Arc::new(Mutex::new(Inner { wanted, hook })))
    }

    /// Says whether some Service needs it. It is in force when this returns, so call this before the maps say so.
    pub fn need(&self, is_needed: bool, now: Instant) -> Result<(), DatapathError> {
        let mut inner = self.lock();
        inner.wanted.need(is_needed, now);
        inner.follow(now)
    }

    /// Somebody has had to be refused for the lack of it, or waits behind it.
    pub fn ask(&self, now: Instant) -> Result<(), DatapathError> {
        let mut inner = self.lock();
        inner.wanted.ask(now);
        inner.follow(now)
    }

    /// Takes it away once its time is over.
    pub fn settle(&self, now: Instant) {
        if let Err(error) = self.lock().follow(now) {
            warn!(%error, "the egress guard stays as it is");
        }
    }

    /// Puts this agent's program under the link that another has left.
    pub fn adopt(&self) -> Result<(), DatapathError> {
        self.lock().hook.adopt()
    }

    /// Whether it is in force.
    pub fn is_on(&self) -> bool {
        self.lock().hook.is_attached()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Whoever panicked has left a hook that is attached or not, which the next step looks at.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn follow(&mut self, now: Instant) -> Result<(), DatapathError> {
        let is_on = self.wanted.is_on(now);
        if is_on != self.hook.is_attached() {
            if is_on {
                self.hook.attach()?;
            } else {
                self.hook.detach()?;
            }
            info!(is_on, "the egress guard");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_on_while_needed_and_for_its_time_after() {
        let start = Instant::now();
        let mut wanted = Wanted::default();
        assert!(!wanted.is_on(start));
        wanted.need(true, start);
        assert!(wanted.is_on(start + 100 * LINGER));
        wanted.need(true, start);
        let end = start + LINGER;
        wanted.need(false, end);
        assert!(wanted.is_on(end + LINGER / 2) && !wanted.is_on(end + LINGER));
        // Not needed any more, again and again, is not news.
        wanted.need(false, end + LINGER);
        assert!(!wanted.is_on(end + LINGER));
        wanted.ask(end + LINGER);
        wanted.ask(end);
        assert!(wanted.is_on(end + LINGER), "an older wish does not shorten a newer one");
    }
}
