//! Which of the addresses is in use. The watches share it: where one finds the server dead, all move.

use tokio::sync::watch;

/// The address in use, as an index.
#[derive(Debug)]
pub(super) struct Servers {
    count: usize,
    current: watch::Sender<usize>,
}

impl Servers {
    /// Starts with the first of `count` addresses.
    pub(super) fn new(count: usize) -> Self {
        Self { count, current: watch::Sender::new(0) }
    }

    /// The address in use.
    pub(super) fn current(&self) -> usize {
        *self.current.borrow()
    }

    /// An address does not serve. Only the one in use moves on to the next: of several watches that find out at once,
    /// one moves for all.
    pub(super) fn fail(&self, failed: usize) {
        let next = |current: &mut usize| {
            let moves = *current == failed && self.count > 1;
            if moves {
                *current = (failed + 1) % self.count;
            }
            moves
        };
        self.current.send_if_modified(next);
    }

    /// Resolves once another address than `before` is in use.
    pub(super) async fn moved_from(&self, before: usize) {
        // The sender lives as long as this does.
        let _ = self.current.subscribe().wait_for(|current| *current != before).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_take_turns_and_one_failure_counts_once() {
        let servers = Servers::new(3);
        servers.fail(0);
        servers.fail(0);
        assert_eq!(servers.current(), 1);
        servers.fail(1);
        servers.fail(2);
        assert_eq!(servers.current(), 0);
    }

    #[test]
    fn a_single_address_is_never_left() {
        let servers = Servers::new(1);
        servers.fail(0);
        assert_eq!(servers.current(), 0);
        let moved = std::pin::pin!(servers.moved_from(0));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(moved.poll(&mut context).is_pending());
    }
}
