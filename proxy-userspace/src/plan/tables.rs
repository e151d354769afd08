//! The desired tables: what each service port should look like in the maps, before any id is given out.

use std::sync::Arc;

use proxy_common::addr::{Addr, Port};
use proxy_common::backend::BackendState;
use proxy_common::frontend::{FrontendKey, FrontendKind};
use proxy_common::node::{CidrKey, NodeAddrFlags};
use proxy_common::service::View;

/// Identity of a service port of one family in the maps: a hash of namespace, name, port name, protocol and
/// family, stored in the cell so that a restart finds its cells again. Never zero, which marks a free cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OwnerTag(pub u64);

/// What one service port of one family should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredPort {
    /// Identity.
    pub tag: OwnerTag,
    /// `namespace/name:port/protocol` for logs and refusals, e.g. `default/web:http/tcp`.
    pub label: Arc<str>,
    /// ClientIP affinity timeout in seconds; zero: none.
    pub affinity_seconds: u32,
    /// Every frontend, sorted by key, no key twice. Two service ports may claim one key: `diff` lets the present
    /// holder keep it.
    pub frontends: Vec<DesiredFrontend>,
    /// Ranges whose clients may use the frontends that check the source, sorted, none inside another; none where no frontend
    /// checks it. Boxed, since nearly no service port has any.
    pub sources: Box<[CidrKey]>,
    /// Every endpoint that is listed and serving, sorted by address and port, none twice; the state's view bits say
    /// which views have it as a slot.
    pub backends: Vec<DesiredBackend>,
    /// What each view does, in the order of [`View::ALL`].
    pub views: [DesiredView; View::COUNT],
    /// Whether externalTrafficPolicy is Local: whoever comes by what is not a cluster IP is seen as who that is.
    pub keeps_source: bool,
}

/// One frontend of a service port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DesiredFrontend {
    /// Key in `FRONTENDS`, or a VIP as such.
    pub key: FrontendKey,
    /// Kind; [`FrontendKind::OwnedVip`] entries belong to all service ports that claim them and name no service.
    pub kind: FrontendKind,
    /// Flags of the value.
    pub flags: u8,
}

/// One row of a service port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DesiredBackend {
    /// Where the endpoint listens.
    pub addr: Addr,
    /// Where the endpoint listens.
    pub port: Port,
    /// `SERVING` and the bits of the views that have it as a slot.
    pub state: BackendState,
}

/// What a view does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DesiredView {
    /// Leaves connections alone: the service port has no frontend that uses the view.
    Pass,
    /// Picks among the backends whose state has the view's bit; there is at least one.
    Random,
    /// No usable endpoint anywhere.
    Reject,
    /// Policy Local, none here, some elsewhere.
    Drop,
}

/// What belongs to the node and to no service.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct DesiredNode {
    /// `NODE_ADDRS`, sorted by address, none twice.
    pub addresses: Vec<(Addr, NodeAddrFlags)>,
    /// `CIDRS`, sorted, none twice.
    pub service_cidrs: Vec<CidrKey>,
}
