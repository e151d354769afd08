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
    _addresses: NodeAddresses,
    follows: Follows,
}

#[derive(Debug)]
enum Follows {
    Manifests { _manifests: Manifests },
    Api(Kube),
}

impl Source {
    /// Starts to follow what `config` names; a receiver that is slow holds the source up.
    pub fn follow(config: &AgentConfig, batches: mpsc::Sender<Batch>) -> Result<Self, SourceError> {
        let addresses = NodeAddresses::follow(batches.clone())?;
        let name = &config.node_name;
        let follows = match &config.source {
            SourceConfig::Manifests(directory) => {
                Follows::Manifests { _manifests: Manifests::follow(directory, name, batches)? }
            }
            SourceConfig::Api { access, .. } => {
                Follows::Api(Kube::follow(access.clone(), Bounds::default(), name, batches)?)
            }
        };
        Ok(Self { _addresses: addresses, follows })
    }

    /// How the watches stand, if there are any.
    pub fn connections(&self) -> Option<&Connections> {
        match &self.follows {
            Follows::Manifests { .. } => None,
            Follows::Api(kube) => Some(kube.connections()),
        }
    }
}
