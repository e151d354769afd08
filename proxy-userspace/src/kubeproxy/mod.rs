//! kube-proxy's configuration, read as kube-proxy reads it: the file of `--config`, and the flags of a process that was
//! started under the name `kube-proxy`. What Shunt can honour becomes [`Settings`]; everything else is named with the
//! reason, unless it is what kube-proxy has anyway. It starts nothing and looks at no environment.

mod apply;
mod document;
mod duration;
mod effective;
mod flags;
mod read;
mod refused;
mod settings;
mod table;

pub use document::{API_VERSION, Document, KIND};
pub use duration::{GoDuration, GoDurationError};
pub use effective::{configz, effective};
pub use flags::{Action, Flags};
pub use settings::{DetectLocalMode, IdleTimes, KubeProxyWords, Mode, Pacing, PacketPath, Settings};

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// One field and what is to be said of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Path of the field, as in `iptables.minSyncPeriod`, or a flag, as in `--cluster-cidr`.
    pub field: String,
    /// What is said.
    pub problem: String,
}

impl Notice {
    fn new(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { field: field.into(), problem: problem.into() }
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {}", self.field, self.problem)
    }
}

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum KubeProxyError {
    /// The file cannot be read.
    #[error("--config: {file}: {source}")]
    File {
        /// The file.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is neither YAML nor JSON, or something else than a KubeProxyConfiguration.
    #[error("--config: {file}: {problem}")]
    Document {
        /// The file.
        file: PathBuf,
        /// What is wrong, with the line if there is one.
        problem: String,
    },
    /// Fields of the file that make no sense.
    #[error("--config: {file}: {}", join(.faults))]
    Fields {
        /// The file.
        file: PathBuf,
        /// All of them.
        faults: Vec<Notice>,
    },
    /// Flags of kube-proxy that make no sense.
    #[error("{}", join(.faults))]
    Flags {
        /// All of them.
        faults: Vec<Notice>,
    },
}

fn join(faults: &[Notice]) -> String {
    faults.iter().map(Notice::to_string).collect::<Vec<_>>().join("; ")
}

/// Reads a configuration file whole, and judges it. The warnings name fields that are unknown, and fields that say
/// what Shunt does not do.
pub fn read(file: &Path) -> Result<(Settings, Vec<Notice>), KubeProxyError> {
    let bytes =
        std::fs::read(file).map_err(|source| KubeProxyError::File { file: file.to_owned(), source })?;
    let refused = |fault| match fault {
        read::Fault::Document(problem) => KubeProxyError::Document { file: file.to_owned(), problem },
        read::Fault::Field(fault) => KubeProxyError::Fields { file: file.to_owned(), faults: vec![fault] },
    };
    let (document, mut warnings) = read::document(&bytes).map_err(refused)?;
    let (settings, more) = apply::settings(&document)
        .map_err(|faults| KubeProxyError::Fields { file: file.to_owned(), faults })?;
    warnings.extend(more);
    Ok((settings, warnings))
}
