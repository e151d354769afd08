//! Files in, batches out, without a file system; then with one.

mod directory;
mod document;
mod follow;
