//! Frames with a tag of a VLAN.

use anyhow::{Context, Result};
use aya::Ebpf;
use aya::programs::{SchedClassifier, TcAttachType};
use tests::netns::Netns;

use super::layout::Layout;
use super::site::{Backend, Site};
use crate::proofs_object::{load, map};
use crate::traffic::{Way, exchange};

/// Attaches a program to a device, as the last of its side.
fn attach(ebpf: &mut Ebpf, name: &str, (netns, device): (&Netns, &str), side: TcAttachType) -> Result<()> {
    let program: &mut SchedClassifier = ebpf.program_mut(name).context("no such program")?.try_into()?;
    program.load().with_context(|| format!("load {name}"))?;
    netns.inside(|| program.attach(device, side))?.with_context(|| format!("attach {name} to {device}"))?;
    Ok(())
}

/// A tag that says a priority and no VLAN is beside the packet, whoever looks at it, and the stack takes it for none.
#[test]
fn a_client_whose_frames_are_tagged_with_a_priority_is_served() {
    for layout in Layout::ALL {
        let site = Site::new(layout).unwrap();
        let _agents = site.agents();
        let mut ebpf = load().unwrap();
        let node = &site.cluster.node(1).netns;
        attach(&mut ebpf, "proof_tag", (&site.client, "eth0"), TcAttachType::Egress).unwrap();
        attach(&mut ebpf, "proof_tagged", (node, "ext0"), TcAttachType::Ingress).unwrap();
        let tagged = map(&ebpf, "PROOF_TAGGED").unwrap();
        let count = || {
            let value = tagged.lookup(&0_u32.to_ne_bytes()).unwrap().unwrap();
            u64::from_ne_bytes(value[..].try_into().unwrap())
        };
        for backend in Backend::ALL {
            for frontend in backend.frontends(&site.cluster) {
                for way in Way::BOTH {
                    let before = count();
                    let seen = exchange(&site.client, frontend, way)
                        .unwrap_or_else(|error| panic!("{layout:?}, {backend:?}: {error:#}"));
                    assert_eq!(
                        seen.seen == seen.own,
                        !backend.is_remote(),
                        "{layout:?}, {backend:?}: {seen:?}"
                    );
                    assert!(count() > before, "{layout:?}, {backend:?}: its frames had no tag");
                }
            }
        }
    }
}
