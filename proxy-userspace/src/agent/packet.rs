//! The packet path beside the hooks at sockets: loaded before anything is written, put in force once the tables are.
//!
//! Whatever it lacks on a host, sockets are served all the same: that is told as a limitation.

use std::os::fd::AsFd;
use std::time::Duration;

use ipnet::IpNet;
use proxy_common::nat::{Ports, Settings};
use tracing::{info, warn};

use super::keeper::Keeper;
use super::loading::{Loaded, Loading, begin};
use super::{AgentError, Variant};
use crate::config::AgentConfig;
use crate::datapath::load::LoadOptions;
use crate::datapath::packet::ports::ends;
use crate::datapath::packet::settings::{self, SetAside, Wishes};
use crate::datapath::packet::{self, Inside, Packet};
use crate::datapath::pin::PinDir;
use crate::devices::{self, Hooked};
use crate::flows::{self, Sweeper, Swept, Tables};
use crate::kubeproxy::{self, IdleTimes};
use crate::model::Node;
use crate::status::{PacketStatus, Reporter};

/// The packet path of an agent.
#[derive(Debug)]
pub(super) struct PacketPath {
    /// Until it is needed: the verifier walks through its programs while the sources are listed.
    loading: Option<Loading>,
    /// From when it is loaded until it is attached.
    packet: Option<Packet>,
    /// From then on.
    keeper: Option<Keeper>,
    /// Where the programs look who is inside.
    ranges: Option<Inside>,
    /// Whether what another agent has left is to be taken away.
    is_unwanted: bool,
    pin_dir: Option<PinDir>,
    /// What was said before it is attached; `None`: nothing yet.
    wanted: Option<Vec<Hooked>>,
    /// What steers who counts as inside, and who did last.
    inside: (kubeproxy::PacketPath, Option<Vec<IpNet>>),
    reporter: Reporter,
}

impl PacketPath {
    /// Begins to load it if it is wanted; nothing is attached yet.
    pub(super) fn load(
        config: &AgentConfig,
        variant: &Variant,
        load: &LoadOptions<'_>,
        reporter: &Reporter,
    ) -> Self {
        let is_wanted = config.has_packet_path();
        let mut path = Self {
            loading: None,
            packet: None,
            keeper: None,
            ranges: None,
            is_unwanted: !is_wanted,
            pin_dir: load.pin_dir.cloned(),
            wanted: None,
            inside: (config.packet_path.clone(), None),
            reporter: reporter.clone(),
        };
        if is_wanted {
            match begin(variant, load, config.shortcuts) {
                Ok(loading) => path.loading = Some(loading),
                Err(why) => path.do_without(&why),
            }
        }
        path
    }

    /// Waits until it is loaded, if that has begun.
    fn take_loaded(&mut self) {
        let Some(loading) = self.loading.take() else { return };
        let loaded = loading.join().unwrap_or_else(|_| Err("its loading has panicked".to_owned()));
        let prepare = |Loaded { packet, shortcuts }| {
            self.prepare(&packet, shortcuts)?;
            let ranges = Packet::inside(&packet).map_err(|error| error.to_string())?;
            Ok((packet, ranges))
        };
        match loaded.and_then(prepare) {
            Ok((packet, ranges)) => (self.packet, self.ranges) = (Some(packet), Some(ranges)),
            Err(why) => self.do_without(&why),
        }
    }

    fn do_without(&self, why: &str) {
        self.limit(format!("nobody outside this node is served, nor what has no socket here: {why}"));
    }

    /// Tells the programs how long flows live, and which ports are for them.
    fn prepare(&self, packet: &Packet, shortcuts: String) -> Result<(), String> {
        for made in &packet.made_room {
            warn!(reason = made.difference, "{}", made.outcome);
        }
        let before = packet.settings().map_err(|error| error.to_string())?;
        let ports = self.set_ports_aside(before.map(|settings| settings.ports));
        let wishes = wishes(&self.inside.0);
        packet
            .tell(&settings::settings(ports, packet.flows, wishes, before.as_ref()))
            .map_err(|error| error.to_string())?;
        let means = packet.means().name();
        let flows = packet.flows;
        info!(means, flows, ports = %words(ports), shortcuts, "the packet path is loaded");
        self.reporter.update(|status| {
            status.packet = Some(PacketStatus {
                means: means.to_owned(),
                flows,
                ports: words(ports),
                shortcuts,
                ..PacketStatus::default()
            });
        });
        Ok(())
    }

    /// What goes wrong here costs SNAT, or a collision once in a while, and nothing else.
    fn set_ports_aside(&self, before: Option<Ports>) -> Option<Ports> {
        match settings::set_ports_aside(before) {
            Ok(SetAside { ports: None, .. }) => {
                self.limit(
                    "no port is left to change a client's into: ip_local_port_range, ip_local_reserved_ports and NodePorts \
                     hold all of them. Backends on other nodes are not reached from outside, nor are pods of this one with masqueradeAll"
                        .to_owned(),
                );
                None
            }
            Ok(SetAside { ports, outcome: Ok(()) }) => {
                info!(ports = %words(ports), "ports for clients from outside are in ip_local_reserved_ports");
                ports
            }
            Ok(SetAside { ports, outcome: Err(error) }) => {
                let ports_are = words(ports);
                self.limit(format!(
                    "ports {ports_are} are used for clients from outside, and the kernel was not told to keep them free \
                     (ip_local_reserved_ports: {error})"
                ));
                ports
            }
            Err(error) => {
                self.limit(format!("no port to change a client's into, since the sysctls of ports are not to be read: {error}"));
                None
            }
        }
    }

    fn limit(&self, text: String) {
        warn!("{text}");
        self.reporter.update(|status| status.limitations.push(text));
    }

    /// Tells the programs whose packets count as a pod's, if that has changed.
    pub(super) fn count_inside(&mut self, node: &Node) {
        self.take_loaded();
        let Some(inside) = &self.ranges else { return };
        let (steering, told) = &mut self.inside;
        let ranges = devices::inside(steering, node);
        if told.as_ref() == Some(&ranges) {
            return;
        }
        match inside.tell(&ranges) {
            Ok(()) => *told = Some(ranges),
            Err(error) => {
                warn!(%error, "who is inside stays as it was, and is told again with the next change");
            }
        }
    }

    /// Begins to sweep the tables of flows. Without, records stay, and the path goes on.
    fn sweep(&mut self) {
        let Some(packet) = &mut self.packet else { return };
        let reporter = self.reporter.clone();
        let tell = move |swept: Swept, took: Duration| {
            reporter.update(|status| {
                if let Some(packet) = &mut status.packet {
                    packet.settled = swept.settled;
                    packet.opening = swept.opening;
                }
            });
            reporter.measure(|measures| {
                measures.flows.removed += swept.removed;
                measures.flows.settled = swept.settled;
                measures.flows.opening = swept.opening;
                measures.flows.sweep_seconds = took.as_secs_f64();
            });
        };
        let begun = packet.sweep().map_err(|error| error.to_string()).and_then(|sweep| {
            let [flows, opening, places, marks, settings] = sweep.tables;
            let tables = Tables { flows, opening, places, marks, settings };
            Sweeper::new(sweep.program.as_fd(), tables)
                .and_then(|sweeper| flows::start(sweeper, tell))
                .map_err(|error| error.to_string())
        });
        if let Err(why) = begun {
            // Nobody counts anew how many are opening, so all are to begin where they make room by themselves.
            if let Ok(Some(told)) = packet.settings() {
                let _ = packet.tell(&Settings { open_at_once: 0, ..told });
            }
            self.limit(format!(
                "records of flows are not swept, and make room only by being used anew: {why}"
            ));
        }
    }

    /// From now on these are the devices.
    pub(super) fn want(&mut self, devices: Vec<Hooked>) {
        match &self.keeper {
            Some(keeper) => keeper.want(devices),
            None => self.wanted = Some(devices),
        }
    }

    /// The tables are in force: the programs may be, too. What another agent has left is taken away where it is not wanted.
    pub(super) fn put_in_force(&mut self) -> Result<(), AgentError> {
        self.take_loaded();
        self.sweep();
        if let (true, Some(pin_dir)) = (self.is_unwanted, &self.pin_dir) {
            let ports = packet::pinned_settings(pin_dir)?.map(|told| told.ports);
            for device in packet::take_away(pin_dir)? {
                info!(device, "detached, since --devices is none");
            }
            if let Some(ports) = ports {
                give_back(ports);
            }
        }
        self.attach();
        Ok(())
    }

    /// Hands the programs to the thread that keeps them at devices, and waits a little while until they are.
    fn attach(&mut self) {
        let Some(packet) = self.packet.take() else { return };
        match Keeper::start(packet, self.reporter.clone()) {
            Ok(keeper) => {
                if let Some(devices) = self.wanted.take() {
                    keeper.begin(devices);
                }
                self.keeper = Some(keeper);
            }
            Err(error) => self.do_without(&format!("no thread to attach it: {error}")),
        }
    }

    /// Looks again, and mends what somebody else has changed.
    pub(super) fn look_again(&self) {
        if let Some(keeper) = &self.keeper {
            keeper.look_again();
        }
    }

    /// Whether nothing of an agent before this one is at a device any more.
    pub(super) fn is_settled(&self) -> bool {
        self.keeper.as_ref().is_none_or(Keeper::is_settled)
    }
}

fn wishes(steering: &kubeproxy::PacketPath) -> Wishes {
    let idle = &steering.idle;
    Wishes {
        tcp_open: IdleTimes::seconds(idle.tcp_established),
        udp: IdleTimes::seconds(idle.udp),
        udp_stream: IdleTimes::seconds(idle.udp_stream),
        masquerades: steering.masquerade_all,
    }
}

/// Gives ports back; a failure is told, since nobody could act upon it here.
fn give_back(ports: Ports) {
    match settings::give_ports_back(ports) {
        Ok(true) => info!(ports = %words(Some(ports)), "given back to ip_local_reserved_ports"),
        Ok(false) => {}
        Err(error) => warn!(%error, ports = %words(Some(ports)), "stay in ip_local_reserved_ports"),
    }
}

fn words(ports: Option<Ports>) -> String {
    ports.and_then(ends).map_or_else(|| "none".to_owned(), |(first, last)| format!("{first}-{last}"))
}
