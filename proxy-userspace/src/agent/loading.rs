//! Loading the packet path, on a thread of its own.

use std::thread::JoinHandle;

use super::Variant;
use crate::cli::Shortcuts;
use crate::datapath::load::LoadOptions;
use crate::datapath::packet::devices::Means;
use crate::datapath::packet::{OBJECT, Packet, shortcuts};
use crate::status::SHORTCUTS;

/// What was loaded.
pub(super) struct Loaded {
    pub(super) packet: Packet,
    /// When packets go past the stack, as `shunt status` says it.
    pub(super) shortcuts: String,
}

/// The thread.
pub(super) type Loading = JoinHandle<Result<Loaded, String>>;

/// Begins to load the programs. The tables are there already: they are shared by their pins.
pub(super) fn begin(
    variant: &Variant,
    load: &LoadOptions<'_>,
    shortcuts: Shortcuts,
) -> Result<Loading, String> {
    let pin_dir = load.pin_dir.cloned().ok_or("its programs share the tables by pins, which take a bpffs")?;
    let (object, means) = (variant.packet_object.clone(), variant.means);
    let LoadOptions { host_netns, counter_shards, mover, host_only, log_level, .. } = *load;
    let load = move || {
        let object = object.as_deref().unwrap_or(OBJECT);
        let pin_dir = Some(&pin_dir);
        let options =
            LoadOptions { object, pin_dir, host_netns, counter_shards, mover, host_only, log_level };
        load_packet(&options, means, shortcuts)
    };
    let thread = std::thread::Builder::new().name("shunt-load".to_owned());
    thread.spawn(load).map_err(|error| format!("no thread to load it: {error}"))
}

/// Loads the programs with shortcuts if those are wanted and this kernel lets them be: one that is locked down lets no program
/// read its memory.
fn load_packet(
    options: &LoadOptions<'_>,
    means: Option<Means>,
    shortcuts: Shortcuts,
) -> Result<Loaded, String> {
    let why = match shortcuts {
        Shortcuts::Auto => match load_with_shortcuts(options, means) {
            Ok(packet) => return Ok(Loaded { packet, shortcuts: SHORTCUTS.to_owned() }),
            Err(why) => format!("none: {why}"),
        },
        Shortcuts::None => "none".to_owned(),
    };
    let packet = Packet::load(options, means, None).map_err(|error| error.to_string())?;
    Ok(Loaded { packet, shortcuts: why })
}

fn load_with_shortcuts(options: &LoadOptions<'_>, means: Option<Means>) -> Result<Packet, String> {
    let offsets = shortcuts::offsets()?;
    Packet::load(options, means, Some(&offsets)).map_err(|error| first_line(&error.to_string()))
}

/// The rest of what the verifier says is for developers.
fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}
