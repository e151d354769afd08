//! Skipping a test in the open: each skip is counted and its reason printed at the end of `cargo xtask test`.

use std::env;
use std::fs::File;
use std::io::Write;
use std::thread;

/// The file that collects the reasons; `cargo xtask test` sets it.
const LOG: &str = "SHUNT_SKIP_LOG";

/// Notes why the calling test cannot run on this machine. The caller returns right after.
///
/// # Panics
///
/// Outside `cargo xtask test`, where nobody would count the skip, so that it cannot pass for a success.
pub fn skip(reason: &str) {
    let test = thread::current().name().unwrap_or("main").to_owned();
    // A reason is one line of the log, whatever text an error brought into it.
    let line = format!("{test}: {}\n", reason.replace('\n', " "));
    let Some(log) = env::var_os(LOG) else { panic!("skipped: {line}") };
    let written = File::options()
        .create(true)
        .append(true)
        .open(&log)
        .and_then(|mut file| file.write_all(line.as_bytes()));
    assert!(written.is_ok(), "write {}: {written:?}; skipped: {line}", log.display());
}
