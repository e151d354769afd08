//! The source that a configuration names, followed.

use tokio::sync::mpsc;

use crate::config::{AgentConfig, SourceConfig};
use crate::source::kube::{Bounds, Connections, Kube};
use crate::source::manifests::Manifests;
use crate::source::node::NodeAddresses;
use crate::source::{Batch, SourceError};

/// Whoever says which Services there are and which addresses this node has; dropping it ends that.
#[derive(Debug)]
pub struct Source {
    addresses: NodeAddresses,
    follows: Follows,
}

#[derive(Debug)]
enum Follows {
    Manifests(Manifests),
    Api(Kube),
}

impl Source {
    /// Starts to follow what `config` names, an API server within `bounds`; a receiver that is slow holds the source up.
    pub fn follow(
        config: &AgentConfig,
        bounds: Bounds,
        batches: mpsc::Sender<Batch>,
    ) -> Result<Self, SourceError> {
        let addresses = NodeAddresses::follow(batches.clone())?;
        let name = &config.node_name;
        let follows = match &config.source {
            SourceConfig::Manifests(directory) => {
                Follows::Manifests(Manifests::follow(directory, name, batches)?)
            }
            SourceConfig::Api { access, .. } => {
                Follows::Api(Kube::follow(access.clone(), bounds, name, batches)?)
            }
        };
        Ok(Self { addresses, follows })
    }

    /// Resolves when a part of it has ended, to the name of that part. What that part had to say would be missed without
    /// anybody knowing: the others keep the channel open.
    pub async fn ended(&mut self) -> &'static str {
        let Self { addresses, follows } = self;
        let followed = async {
            match follows {
                Follows::Manifests(manifests) => {
                    manifests.ended().await;
                    "manifests"
                }
                Follows::Api(kube) => {
                    kube.ended().await;
                    "kube"
                }
            }
        };
        tokio::select! {
            () = addresses.ended() => "node-addresses",
            name = followed => name,
        }
    }

    /// How the watches stand, if there are any.
    pub fn connections(&self) -> Option<&Connections> {
        match &self.follows {
            Follows::Manifests(_) => None,
            Follows::Api(kube) => Some(kube.connections()),
        }
    }
}
