//! Names of service ports. The maps know service ports by a hash; the agent knows their names, and without one the hash
//! is shown.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::health::get;
use crate::plan::tables::OwnerTag;
use crate::status::AgentStatus;

/// Labels of service ports by owner tag.
#[derive(Clone, Debug, Default)]
pub(super) struct Names(BTreeMap<String, String>);

impl Names {
    /// Asks the agent at `address`; says on standard error why there are no names.
    pub(super) fn ask(address: SocketAddr) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(runtime.block_on(Self::answer_of(address)).unwrap_or_else(|reason| {
            eprintln!("shunt: service ports are shown by their hash: no names from the agent: {reason}");
            Self::default()
        }))
    }

    /// Names, and whether sockets of pods are left to others, which is not known where nobody answers.
    pub(super) fn ask_with_scope(address: SocketAddr) -> anyhow::Result<(Self, Option<bool>)> {
        let names = Self::ask(address)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let status = match runtime.block_on(get(address, "/status")) {
            Ok((code, body)) if code.is_success() => serde_json::from_slice::<AgentStatus>(&body).ok(),
            _ => None,
        };
        Ok((names, status.map(|status| status.clients.is_host_only)))
    }

    async fn answer_of(address: SocketAddr) -> Result<Self, String> {
        let (code, body) = get(address, "/names").await.map_err(|error| error.to_string())?;
        if !code.is_success() {
            return Err(format!("{address} answers {code}"));
        }
        serde_json::from_slice(&body).map(Self).map_err(|error| error.to_string())
    }

    /// The label of a service port.
    pub(super) fn label(&self, tag: OwnerTag) -> String {
        let hash = format!("{:016x}", tag.0);
        self.0.get(&hash).cloned().unwrap_or(hash)
    }
}
