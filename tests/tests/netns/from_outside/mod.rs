//! Clients outside the cluster, and whatever else no socket hook sees: through agents, over three layouts of pods, with and
//! without the rules of a plug-in.

mod collisions;
mod direct;
mod flood;
mod lasting;
mod layout;
mod masquerading;
mod node_ports;
mod paths;
mod pods;
mod policies;
mod reach;
mod shared_affinity;
mod shortcuts;
mod shown;
mod site;
mod streams;
mod tags;
