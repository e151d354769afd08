//! Filters at a clsact qdisc, where the kernel has no links to devices.
//!
//! Nothing of a filter can be pinned. So the pin directory has a directory for each device that has some of ours, and in it
//! another one if the qdisc is of our making, too.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use crate::datapath::DatapathError;
use crate::datapath::pin::{at, read};
use crate::sys::link::Side;
use crate::sys::tc::{self, Filter, Place};

/// Handle of our filters: who has it by chance has another preference, too.
const HANDLE: u32 = 0x5348_4e54;
/// Name of the directory that says that the qdisc is ours.
const QDISC: &str = "qdisc";

/// Where our filter is: before others where packets enter, behind them where they leave. The first few are left to those
/// who insist on being first, and whoever is numbered by the kernel gets 49152 or less.
const fn place(side: Side) -> Place {
    let preference = match side {
        Side::Ingress => 7,
        Side::Egress => 65_007,
    };
    Place { preference, handle: HANDLE }
}

/// Whether a filter is ours.
pub fn is_ours(filter: &Filter, side: Side) -> bool {
    filter.place == place(side) && filter.name.starts_with("shunt_")
}

/// Puts a program at a side of a device, in one step for the one that may be there.
pub fn attach(
    program: BorrowedFd<'_>,
    name: &str,
    (index, side): (u32, Side),
    directory: &Path,
) -> Result<(), DatapathError> {
    let own = directory.join(index.to_string());
    // Before anything is made, so that a crash leaves nothing that cleanup would not find.
    std::fs::create_dir_all(&own).map_err(at("create", &own))?;
    if tc::add_clsact(index).map_err(failed("add a clsact qdisc"))? {
        let made = own.join(QDISC);
        std::fs::create_dir_all(&made).map_err(at("create", &made))?;
    }
    tc::put_filter(program, name, (index, side), place(side)).map_err(failed("add a filter"))
}

/// Takes our filter from a side of a device, and what we made for it once the other side has none either.
pub fn detach((index, side): (u32, Side), directory: &Path) -> Result<(), DatapathError> {
    remove(index, side)?;
    let other = if side == Side::Ingress { Side::Egress } else { Side::Ingress };
    let found = tc::filters(index, other).map_err(failed("list filters"))?;
    if found.iter().any(|filter| is_ours(filter, other)) {
        return Ok(());
    }
    forget(index, directory)
}

/// Takes all our filters away that the directory knows of, and the directory.
pub fn remove_all(directory: &Path) -> Result<Vec<PathBuf>, DatapathError> {
    let mut removed = Vec::new();
    for index in devices(directory)? {
        for side in Side::ALL {
            remove(index, side)?;
        }
        forget(index, directory)?;
        removed.push(directory.join(index.to_string()));
    }
    Ok(removed)
}

/// Indices of the devices that the directory knows of.
pub fn devices(directory: &Path) -> Result<Vec<u32>, DatapathError> {
    Ok(read(directory)?.iter().filter_map(|name| name.parse().ok()).collect())
}

/// The filter must be ours by its name, too, to be removed.
fn remove(index: u32, side: Side) -> Result<(), DatapathError> {
    let found = tc::filters(index, side).map_err(failed("list filters"))?;
    if found.iter().any(|filter| is_ours(filter, side)) {
        tc::remove_filter((index, side), place(side)).map_err(failed("remove a filter"))?;
    }
    Ok(())
}

/// Removes the qdisc if it is of our making and nobody else uses it, and what is known of the device.
fn forget(index: u32, directory: &Path) -> Result<(), DatapathError> {
    let own = directory.join(index.to_string());
    let mut others = 0;
    for side in Side::ALL {
        others += tc::filters(index, side).map_err(failed("list filters"))?.len();
    }
    if own.join(QDISC).exists() && others == 0 {
        match tc::remove_clsact(index) {
            // The device or the qdisc has gone by itself.
            Err(error)
                if ![libc::ENODEV, libc::ENOENT, libc::EINVAL].map(Some).contains(&error.raw_os_error()) =>
            {
                return Err(failed("remove the clsact qdisc")(error));
            }
            _ => {}
        }
    }
    match std::fs::remove_dir_all(&own) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at("remove", &own)(error)),
        _ => Ok(()),
    }
}

fn failed(step: &'static str) -> impl Fn(io::Error) -> DatapathError {
    move |source| DatapathError::System { step, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_ours_by_place_and_name() {
        let ours = |side| Filter {
            place: place(side),
            kind: "bpf".to_owned(),
            name: "shunt_arrive".to_owned(),
            program_id: 3,
        };
        for side in Side::ALL {
            assert!(is_ours(&ours(side), side));
            assert!(!is_ours(&Filter { name: "cil_from_netdev".to_owned(), ..ours(side) }, side));
            let elsewhere = Place { handle: 1, ..place(side) };
            assert!(!is_ours(&Filter { place: elsewhere, ..ours(side) }, side));
        }
        assert!(!is_ours(&ours(Side::Ingress), Side::Egress));
    }

    #[test]
    fn a_directory_that_is_not_there_knows_of_no_device() {
        let scratch = tempfile::tempdir().unwrap();
        assert_eq!(remove_all(&scratch.path().join("filters")).unwrap(), Vec::<PathBuf>::new());
    }
}
