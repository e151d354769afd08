//! The true root of the cgroup v2 tree is found from where only a part of the tree is mounted.

use std::process::Command;

use rustix::fs::fstat;
use shunt::sys::cgroup::{self, CgroupError, ROOT_ID};
use tests::cgroup::Cgroup;
use tests::netns::run;
use tests::sweep::scratch_dir;

use crate::proofs_object::peer;

#[test]
fn the_root_is_found_from_a_private_cgroup_namespace() {
    let cgroup = Cgroup::create("private").expect("cgroup");
    let own_id = cgroup::id(cgroup.open().expect("open")).expect("id");
    let mount_point = scratch_dir("cgroupns").expect("directory");
    let script = r#"echo $$ > "$1/cgroup.procs"; shift; exec unshare --cgroup --mount "$@""#;
    let mut command = Command::new("sh");
    command.args(["-ec", script, "sh"]).arg(cgroup.path()).arg(peer().expect("peer"));
    command.arg("cgroup-root").arg(&mount_point);
    let said = run(&mut command).expect("run in a private cgroup namespace");
    std::fs::remove_dir(&mount_point).expect("the mount ended with its namespace");

    // What is mounted there is the sub-cgroup, so without the handle the search would have found nothing.
    assert_ne!(own_id, ROOT_ID);
    assert_eq!(said.trim(), format!("mounted {own_id} root {ROOT_ID} is-root"));
}

#[test]
fn the_root_is_found_from_the_initial_namespace() {
    let root = cgroup::true_root().expect("root");
    assert_eq!(fstat(&root).expect("stat").st_ino, ROOT_ID);
}

#[test]
fn a_cgroup_is_opened_by_its_id_until_it_is_removed() {
    let root = cgroup::true_root().expect("root");
    let scratch = Cgroup::create("by-id").expect("cgroup");
    let id = cgroup::id(cgroup::open_dir(scratch.path()).expect("open")).expect("id");
    let opened = cgroup::open_by_id(&root, id).expect("by id");
    assert_eq!(cgroup::id(&opened).expect("id"), id);
    drop(opened);
    drop(scratch);
    let error = cgroup::open_by_id(&root, id).expect_err("it is gone");
    assert_eq!(error.raw_os_error(), Some(libc::ESTALE), "{error}");
}

#[test]
fn a_directory_of_another_file_system_is_refused() {
    let error = cgroup::open_dir(&std::env::temp_dir()).expect_err("no cgroup");
    assert!(matches!(error, CgroupError::NotCgroup2 { .. }), "{error}");
}
