//! The way between a node and the API server, cut in the test's own namespaces.

use anyhow::{Context, Result};

use super::ControlPlane;
use crate::netns::Netns;
use crate::topology::Node;

/// The table that holds the rules, in each namespace that has some.
const TABLE: &str = "inet cut";

/// A way that is cut until this is dropped.
#[derive(Debug)]
pub struct Cut<'a> {
    places: Vec<&'a Netns>,
}

impl<'a> Cut<'a> {
    /// Packets of `port` vanish in both directions, and nobody is told: so a host goes that loses its power.
    ///
    /// Each side loses what comes in. A packet that a host drops on its own way out is an error to the sender.
    pub fn silently(control: &'a ControlPlane, node: &'a Node, port: u16) -> Result<Self> {
        let mut cut = Self { places: Vec::new() };
        cut.add(control.netns(), &format!("prerouting priority raw; iifname eth0 tcp dport {port} drop"))?;
        cut.add(&node.netns, &format!("prerouting priority raw; iifname eth0 tcp sport {port} drop"))?;
        Ok(cut)
    }

    /// The node's packets to `port` of the control plane are answered by a reset: connections that are there break as
    /// soon as one of them is sent, and new ones are refused.
    pub fn refusing(control: &ControlPlane, node: &'a Node, port: u16) -> Result<Self> {
        let mut cut = Self { places: Vec::new() };
        let server = control.address();
        let rule =
            format!("output priority filter; ip daddr {server} tcp dport {port} reject with tcp reset");
        cut.add(&node.netns, &rule)?;
        Ok(cut)
    }

    fn add(&mut self, place: &'a Netns, rule: &str) -> Result<()> {
        let (hook, rule) = rule.split_once(';').context("a hook and a rule")?;
        place.run(
            "nft",
            &[&format!(
                "table {TABLE} {{ chain cut {{ type filter hook {hook}; policy accept; {rule}; }}; }}"
            )],
        )?;
        self.places.push(place);
        Ok(())
    }
}

impl Drop for Cut<'_> {
    fn drop(&mut self) {
        for place in &self.places {
            // Should this fail, the rules go with the namespace, and the test that waits for the way back says so.
            if let Err(error) = place.run("nft", &[&format!("delete table {TABLE}")]) {
                eprintln!("the way stays cut in {}: {error:#}", place.name());
            }
        }
    }
}
