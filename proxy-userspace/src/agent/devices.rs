//! The devices of the packet path, as the loop hears of them.

use std::time::Duration;

use tokio::sync::mpsc;

use super::AgentError;
use crate::config::AgentConfig;
use crate::devices::{Follower, Hooked};

/// How long a start waits for the first list.
const FIRST: Duration = Duration::from_secs(2);

/// Lists of devices, and who follows them; nobody where there is no packet path.
pub(super) struct Devices {
    follower: Option<Follower>,
    lists: mpsc::Receiver<Vec<Hooked>>,
}

impl Devices {
    /// Starts to follow them, if they matter.
    pub(super) fn follow(config: &AgentConfig) -> Result<Self, AgentError> {
        let (sender, lists) = mpsc::channel(1);
        let follower = if config.has_packet_path() {
            Some(Follower::follow(config.devices.clone(), sender)?)
        } else {
            None
        };
        Ok(Self { follower, lists })
    }

    /// The first list. Whoever is told that the agent is ready may come from outside, so that a start waits for it; on a node
    /// that cannot list its devices not for ever.
    pub(super) async fn first(&mut self) -> Option<Vec<Hooked>> {
        self.follower.as_ref()?;
        tokio::time::timeout(FIRST, self.lists.recv()).await.ok().flatten()
    }

    /// The next list, and the last that has come meanwhile; `None`: they are followed no more.
    pub(super) async fn next(&mut self) -> Option<Vec<Hooked>> {
        let Some(follower) = &mut self.follower else { return std::future::pending().await };
        let mut list = tokio::select! {
            list = self.lists.recv() => list?,
            () = follower.ended() => return None,
        };
        while let Ok(later) = self.lists.try_recv() {
            list = later;
        }
        Some(list)
    }
}
