//! A directory of manifests as a source: the same events as an API server's.
//!
//! All `*.yaml`, `*.yml` and `*.json` below the directory are read, several documents to a file, `List`s unrolled.
//! Names that start with a dot are left alone (editors' scratch files, and the folders of mounted config maps); links
//! to files are followed, links to directories are not.
//!
//! What holds while people edit:
//! - A document that cannot be read is named by file, number and line, and skipped. As long as a file has one, nothing
//!   that was last seen in this file is deleted, since it may be in the part that cannot be read; its good documents
//!   count. The same goes for an object that is rejected as a whole. A file or directory that
//!   cannot be opened says nothing, and is tried again every second; so does a root that is gone.
//! - An object that two files define is reported with both; the first file in the order of paths wins, and the other
//!   takes over when the first lets go.
//! - What one wake-up finds is one batch: a rename into place is never seen in halves, nor is a move between files.

mod directory;
mod document;
mod reading;
#[cfg(test)]
mod tests;
mod tree;
mod watch;

pub use directory::{Directory, FileChange};
pub use watch::Manifests;
