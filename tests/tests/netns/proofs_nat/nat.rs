//! The programs, attached to the devices of scratch namespaces, and what they are told and have counted.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result};
use aya::Ebpf;
use aya::programs::{SchedClassifier, TcAttachType};
use proxy_common::addr::Port;
use shunt::sys::map::Map;
use tests::netns::Netns;
use zerocopy::IntoBytes;

use self::layout::{Device, End};
use crate::proofs_object::{load, map};

/// The layouts that the programs and these tests share.
#[path = "../../../../proxy-ebpf/src/proofs/nat/layout.rs"]
#[expect(unreachable_pub, reason = "the file is written for the crate of the programs")]
pub(crate) mod layout;

/// A program, and the side of a device that it is for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Hook {
    /// DNAT, and the reverse of SNAT.
    Ingress,
    /// The reverse of DNAT, and SNAT.
    Egress,
    /// The reverse of DNAT at the wrong side.
    WrongReverse,
    /// SNAT at the wrong side.
    WrongSource,
    /// DNAT at a bridge's port; requests are switched once replies are.
    Switch,
    /// The same past the bridge, to the port of the backend.
    WrongRedirect,
    /// DNAT at a bridge's port; replies climb to the stack as requests do.
    Climb,
}

impl Hook {
    fn program(self) -> (&'static str, TcAttachType) {
        match self {
            Self::Ingress => ("proof_nat_ingress", TcAttachType::Ingress),
            Self::Egress => ("proof_nat_egress", TcAttachType::Egress),
            Self::WrongReverse => ("proof_nat_wrong_reverse", TcAttachType::Ingress),
            Self::WrongSource => ("proof_nat_wrong_source", TcAttachType::Ingress),
            Self::Switch => ("proof_nat_switch", TcAttachType::Ingress),
            Self::WrongRedirect => ("proof_nat_wrong_redirect", TcAttachType::Ingress),
            Self::Climb => ("proof_nat_climb", TcAttachType::Ingress),
        }
    }
}

/// The programs of one node; all are detached on drop.
pub(crate) struct Nat {
    ebpf: Ebpf,
    services: Map,
    sources: Map,
    port: Map,
    counters: Map,
}

impl Nat {
    /// Loads the object; nothing is attached.
    pub(crate) fn load() -> Result<Self> {
        let ebpf = load()?;
        Ok(Self {
            services: map(&ebpf, "PROOF_NAT_SERVICES")?,
            sources: map(&ebpf, "PROOF_NAT_SOURCES")?,
            port: map(&ebpf, "PROOF_NAT_PORT")?,
            counters: map(&ebpf, "PROOF_NAT_COUNTERS")?,
            ebpf,
        })
    }

    /// Attaches programs to a device of the namespace, behind those that are there.
    pub(crate) fn attach(&mut self, netns: &Netns, device: &str, hooks: &[Hook]) -> Result<()> {
        for hook in hooks {
            let (name, side) = hook.program();
            let program: &mut SchedClassifier =
                self.ebpf.program_mut(name).context("no such program")?.try_into()?;
            if program.fd().is_err() {
                program.load().with_context(|| format!("load {name}"))?;
            }
            let attached = netns.inside(|| program.attach(device, side))?;
            attached.with_context(|| format!("attach {name} to {device}"))?;
        }
        Ok(())
    }

    /// From now on flows to the VIP go to the backend.
    pub(crate) fn serve(&self, vip: SocketAddr, backend: SocketAddr) -> Result<()> {
        Ok(self.services.update(end(vip).as_bytes(), end(backend).as_bytes())?)
    }

    /// From now on flows to VIPs that leave by the device come from `address`.
    pub(crate) fn masquerade(&self, netns: &Netns, device: &str, address: IpAddr) -> Result<()> {
        let key = Device { index: index(netns, device)?, version: if address.is_ipv4() { 4 } else { 6 } };
        let address = proxy_common::addr::Addr::from(address);
        Ok(self.sources.update(key.as_bytes(), address.as_bytes())?)
    }

    /// From now on [`Hook::WrongRedirect`] redirects to the device.
    pub(crate) fn redirect(&self, netns: &Netns, device: &str) -> Result<()> {
        Ok(self.port.update(&0_u32.to_ne_bytes(), &index(netns, device)?.to_ne_bytes())?)
    }

    /// One of [`layout::counter`].
    pub(crate) fn count(&self, counter: u32) -> u64 {
        let value = self.counters.lookup(&counter.to_ne_bytes()).unwrap().unwrap();
        u64::from_ne_bytes(value[..].try_into().unwrap())
    }
}

fn end(at: SocketAddr) -> End {
    End { addr: at.ip().into(), port: Port::new(at.port()), pad: 0 }
}

/// Index of a device in its namespace.
fn index(netns: &Netns, device: &str) -> Result<u32> {
    let line = netns.ip(&format!("-o link show dev {device}"))?;
    line.split(':').next().unwrap_or_default().parse().context(line.clone())
}
