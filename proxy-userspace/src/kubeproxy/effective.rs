//! What an agent runs with, in kube-proxy's words: for `/configz` and `--write-config-to`.

use std::time::Duration;

use serde_json::{Value, json};

use super::document::Document;
use super::duration::GoDuration;
use super::settings::{DetectLocalMode, Mode, PacketPath, Settings};
use crate::cli::LogFormat;

/// Settings as a document. What Shunt does not honour shows as what Shunt is, whatever was asked for.
pub fn effective(settings: &Settings) -> Document {
    let mut document = Document::shunt();
    document.hostname_override = settings.node_name.clone().unwrap_or_default();
    if let Some(path) = &settings.kubeconfig {
        document.client_connection.kubeconfig = path.display().to_string();
    }
    document.feature_gates = settings.words.feature_gates.clone();
    document.logging.format = match settings.log_format {
        LogFormat::Text => "text",
        LogFormat::Json => "json",
    }
    .into();
    document.logging.verbosity = settings.words.verbosity;
    if settings.healthz_address.is_ipv6() {
        document.bind_address = "::".into();
    }
    document.healthz_bind_address = settings.healthz_address.to_string();
    document.metrics_bind_address = settings.metrics_address.to_string();
    document.bind_address_hard_fail = settings.bind_address_hard_fail;
    document.mode = settings.words.mode.to_string();
    document.node_port_addresses =
        settings.nodeport_addresses.entries().iter().map(ToString::to_string).collect();
    document.oom_score_adj = settings.oom_score_adj;
    pacing(&mut document, settings);
    packet_path(&mut document, settings);
    document
}

/// The body of `/configz`: the document under the name of its API group.
pub fn configz(document: &Document) -> Value {
    json!({ "kubeproxy.config.k8s.io": document })
}

fn pacing(document: &mut Document, settings: &Settings) {
    let pacing = settings.pacing;
    let (sync, min_sync) = match settings.words.mode {
        Mode::Unset | Mode::Iptables => {
            (&mut document.iptables.sync_period, &mut document.iptables.min_sync_period)
        }
        Mode::Ipvs => (&mut document.ipvs.sync_period, &mut document.ipvs.min_sync_period),
        Mode::Nftables => (&mut document.nftables.sync_period, &mut document.nftables.min_sync_period),
    };
    *sync = GoDuration::of_std(pacing.sync_period);
    *min_sync = GoDuration::of_std(pacing.min_sync_period);
    document.config_sync_period = GoDuration::of_std(pacing.config_sync_period);
}

fn packet_path(document: &mut Document, settings: &Settings) {
    let PacketPath { masquerade_all, detect_local, cluster_cidrs, interface, idle } = &settings.packet_path;
    match settings.words.mode {
        Mode::Nftables => document.nftables.masquerade_all = *masquerade_all,
        Mode::Unset | Mode::Iptables | Mode::Ipvs => document.iptables.masquerade_all = *masquerade_all,
    }
    document.detect_local_mode = detect_local.to_string();
    match detect_local {
        DetectLocalMode::BridgeInterface => document.detect_local.bridge_interface.clone_from(interface),
        DetectLocalMode::InterfaceNamePrefix => {
            document.detect_local.interface_name_prefix.clone_from(interface);
        }
        DetectLocalMode::ClusterCidr | DetectLocalMode::NodeCidr => {}
    }
    document.cluster_cidr = cluster_cidrs.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let time = |given: Option<Duration>| given.map_or(GoDuration::ZERO, GoDuration::of_std);
    document.conntrack.tcp_established_timeout = Some(time(idle.tcp_established));
    document.conntrack.tcp_close_wait_timeout = Some(time(idle.tcp_close_wait));
    document.conntrack.udp_timeout = time(idle.udp);
    document.conntrack.udp_stream_timeout = time(idle.udp_stream);
}
