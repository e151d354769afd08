//! The commands, one file each, and what they share: exit codes and ways of printing. What a command finds out
//! comes from the modules below; here it is only put together and shown.

pub mod agent;
pub mod check;
pub mod cleanup;
pub mod completions;
pub mod dump;
pub mod kube_proxy;
mod names;
pub mod status;
pub mod trace;
pub mod verify;

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use comfy_table::Table;
use proxy_common::names::SCHEMA;
use serde::Serialize;

use crate::cli::OutputForm;
use crate::config::ConfigError;
use crate::datapath::load::{open_pinned_client_maps, open_pinned_maps};
use crate::datapath::pin::PinDir;
use crate::logs::LogError;
use crate::maps::known::Known;
use crate::maps::store::KernelStore;

/// How a command ends. An error says so by carrying one of these as context, e.g.
/// `.context(Exit::Unfit)`; `main` turns it into the process's exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// A check found something, or a command could not do its work for a reason that no other code names.
    Found = 1,
    /// The command line, the environment or a configuration is wrong.
    Usage = 2,
    /// This host lacks a kernel feature, a right or a cgroup; the error names it.
    Unfit = 3,
    /// A source of Services could not be reached in time.
    Unreached = 4,
}

impl std::fmt::Display for Exit {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(match self {
            Self::Done => "done",
            Self::Found => "found something",
            Self::Usage => "usage",
            Self::Unfit => "this host cannot run shunt",
            Self::Unreached => "the source could not be reached",
        })
    }
}

impl Exit {
    /// How a command that returned `error` ends.
    pub fn of(error: &anyhow::Error) -> Self {
        if let Some(exit) = error.downcast_ref::<Self>() {
            return *exit;
        }
        if error.is::<ConfigError>() || error.is::<LogError>() {
            return Self::Usage;
        }
        // `shunt dump | head` has shown what was asked for.
        let is_closed = |cause: &io::Error| cause.kind() == io::ErrorKind::BrokenPipe;
        if error.chain().filter_map(|cause| cause.downcast_ref()).any(is_closed) {
            return Self::Done;
        }
        Self::Found
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Opens the maps pinned below `root`, for commands that only look.
pub fn open_store(root: &Path) -> anyhow::Result<KernelStore> {
    let maps = looked_at(root, open_pinned_maps(&PinDir::new(root, SCHEMA)))?;
    let store = looked_at(root, KernelStore::open_to_look(maps))?;
    store.with_context(|| format!("the maps in {} are not filled yet", root.display()))
}

/// Opens what the maps pinned below `root` know of clients, for commands that only look.
pub fn open_clients(root: &Path) -> anyhow::Result<Known> {
    let maps = looked_at(root, open_pinned_client_maps(&PinDir::new(root, SCHEMA)))?;
    looked_at(root, Known::open(maps))
}

/// A right that is missing is the host's matter.
fn looked_at<T, E>(root: &Path, outcome: Result<T, E>) -> anyhow::Result<T>
where
    E: std::error::Error + Send + Sync + 'static,
{
    outcome.map_err(anyhow::Error::new).map_err(|error| {
        if is_denied(&error) {
            let text = format!("the maps in {} may not be read, which takes CAP_SYS_ADMIN", root.display());
            error.context(text).context(Exit::Unfit)
        } else {
            error.context(format!("no maps of this version in {}", root.display()))
        }
    })
}

/// Whether a right is missing.
pub fn is_denied(error: &anyhow::Error) -> bool {
    let is_denial = |cause: &io::Error| cause.kind() == io::ErrorKind::PermissionDenied;
    error.chain().filter_map(|cause| cause.downcast_ref()).any(is_denial)
}

/// Prints `found` in the form asked for; `table` makes the one for people.
pub fn print<T: Serialize>(
    form: OutputForm,
    found: &T,
    table: impl FnOnce(&T) -> String,
) -> anyhow::Result<()> {
    let mut text = match form {
        OutputForm::Table => table(found),
        OutputForm::Json => serde_json::to_string_pretty(found).context("write JSON")?,
        OutputForm::Yaml => serde_saphyr::to_string(found).context("write YAML")?,
    };
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    write_out(text.as_bytes())
}

/// Writes to standard output.
pub fn write_out(bytes: &[u8]) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).context("write to standard output")
}

/// Columns without lines between them, so that they can be cut and searched; ends with a newline.
pub fn columns<const N: usize>(titles: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut table = Table::new();
    table.set_header(titles.to_vec());
    for row in rows {
        table.add_row(row.to_vec());
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.load_style(comfy_table::presets::NOTHING);
    let mut text = table.trim_fmt();
    text.push('\n');
    text
}

/// Text that others chose, without what would drive the reader's terminal.
pub fn plain(text: &str) -> String {
    text.chars()
        .map(|letter| if letter.is_control() { char::REPLACEMENT_CHARACTER } else { letter })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::anyhow;

    #[test]
    fn errors_say_how_to_exit() {
        let unfit = anyhow!("no cgroup v2 hierarchy").context(Exit::Unfit).context("start the agent");
        assert_eq!(Exit::of(&unfit), Exit::Unfit);
        assert_eq!(
            format!("{unfit:#}"),
            "start the agent: this host cannot run shunt: no cgroup v2 hierarchy"
        );
        let usage = anyhow::Error::new(ConfigError::NodeName { origin: "--node-name", name: "_".to_owned() });
        assert_eq!(Exit::of(&usage), Exit::Usage);
        let closed = anyhow::Error::new(io::Error::from(io::ErrorKind::BrokenPipe)).context("write");
        assert_eq!(Exit::of(&closed), Exit::Done);
        assert_eq!(Exit::of(&anyhow!("some other thing")), Exit::Found);
    }

    #[test]
    fn columns_are_plain_text() {
        let rows = [["connect4".to_owned(), "7".to_owned()], ["x".to_owned(), String::new()]];
        assert_eq!(columns(["HOOK", "ID"], rows), "HOOK      ID\nconnect4  7\nx\n");
        assert_eq!(columns(["HOOK", "ID"], []), "HOOK  ID\n");
    }
}
