//! Programs in the kernel: load them, pin what must outlive the agent, attach and replace them, and read back what
//! is really attached. It knows no Service.

pub mod attach;
pub mod btf;
pub mod features;
pub mod guard;
pub mod hooks;
pub mod load;
pub mod logs;
pub mod packet;
pub mod pin;
pub mod probe;

/// What can go wrong on the way into the kernel.
#[derive(Debug, thiserror::Error)]
pub enum DatapathError {
    /// A file or directory.
    #[error("{step} {path}: {source}")]
    Path {
        /// What was done.
        step: &'static str,
        /// To which path.
        path: std::path::PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// Something in the pin directory that no version of Shunt makes.
    #[error("{} is not Shunt's; nothing was removed", .0.display())]
    Stranger(std::path::PathBuf),
    /// The object could not be read or its maps not be made.
    #[error("load the eBPF object: {0}")]
    Object(#[from] aya::EbpfError),
    /// The object lacks something it must have.
    #[error("the eBPF object has no {kind} {name}")]
    Absent {
        /// "program" or "map".
        kind: &'static str,
        /// Its name.
        name: &'static str,
    },
    /// The verifier or the kernel refused a program.
    #[error("load program {name}: {source}")]
    Program {
        /// Its name.
        name: &'static str,
        /// The reason, with the verifier's log.
        source: aya::programs::ProgramError,
    },
    /// A link.
    #[error("{step} {hook}: {source}")]
    Link {
        /// What was done.
        step: &'static str,
        /// At which hook.
        hook: &'static str,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// Something else the kernel would not tell.
    #[error("{step}: {source}")]
    System {
        /// What was asked.
        step: &'static str,
        /// The kernel's answer.
        source: std::io::Error,
    },
}
