//! `cargo xtask demo`: a small cluster on this machine, real agents, real clients, and what they see.
//!
//! Everything happens in network namespaces and cgroups that are made for it and removed at the end; nothing
//! outside them is touched. Exit code 1 if anything went otherwise than it says it should.

mod scenes;
mod screen;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use tests::agent::Agent;
use tests::manifests::ManifestDir;
use tests::topology::Cluster;

use screen::Screen;

/// Shows Shunt at work on two small nodes.
#[derive(Parser)]
struct Arguments {
    /// Directory of the demo's manifests.
    #[arg(long, default_value = "deploy/demo")]
    manifests: PathBuf,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    ensure!(rustix::process::geteuid().is_root(), "the demo makes network namespaces and needs root");
    let start = Instant::now();
    let mut screen = Screen::default();
    play(&arguments, &mut screen)?;
    Ok(ExitCode::from(u8::from(!screen.close(start.elapsed()))))
}

fn play(arguments: &Arguments, screen: &mut Screen) -> Result<()> {
    println!("Shunt demo: Kubernetes Services without iptables, on two small nodes inside this machine.");
    let manifests = ManifestDir::create()?;
    manifests.copy_from(&arguments.manifests).context("the demo runs in the root of the repository")?;
    let cluster = Cluster::new(2, 2)?;
    scenes::show_cluster(&cluster, screen);
    let mut servers = scenes::start_backends(&cluster)?;
    scenes::nothing_works_yet(&cluster, screen)?;
    let mut agents = Vec::new();
    for node in &cluster.nodes {
        let start = Instant::now();
        agents.push(Agent::start_with(node, manifests.path(), &["--devices", "auto"])?);
        println!("  {}: agent ready after {} ms", node.name, start.elapsed().as_millis());
    }
    scenes::clients_reach_services(&cluster, screen)?;
    scenes::outside_host(&cluster, screen)?;
    scenes::refusals(&cluster, screen)?;
    scenes::endpoints_change(&cluster, &manifests, &mut servers, screen)?;
    scenes::udp_follows(&cluster, &manifests, screen)?;
    scenes::agent_explains(&agents[0], screen)?;
    scenes::agent_restarts(&cluster, &mut agents[0], screen)?;
    screen.scene("Everything is removed again");
    let left_by_hand = [cluster.nodes[0].netns.path(), cluster.nodes[0].cgroup.path().to_path_buf()];
    drop(agents);
    drop(servers);
    drop(cluster);
    screen.check("no namespace and no cgroup is left", left_by_hand.iter().all(|path| !path.exists()));
    Ok(())
}
