//! A store that goes away: work goes on, nothing is lost, nothing is put in its place.

use super::{content, errno, until};
use crate::rig::{Rig, mounted};
use std::fs::{self, File};
use std::io::Write;

fn away(rig: &Rig) {
    fs::rename(rig.store(), rig.path("away")).expect("the store goes");
}

fn back(rig: &Rig) {
    assert!(!rig.store().exists(), "something was written where the store was");
    fs::rename(rig.path("away"), rig.store()).expect("the store comes back");
}

#[test]
fn store_gone_for_a_while() {
    let rig = Rig::new();
    let first = rig.mount("first");
    fs::write(first.root.join("before"), content(0, 5000)).expect("write");
    rig.flush("first");
    away(&rig);
    for n in 1..40 {
        let mut file = File::create(first.root.join(format!("f{n}"))).expect("create");
        file.write_all(&content(n, 20_000)).expect("write");
        file.sync_all().expect("fsync means this disk, whatever the store does");
    }
    let trouble = until("status tells that the store is gone", || {
        let (_, status) = rig.status("first");
        Some(status["status"]["store_trouble"].clone()).filter(|trouble| !trouble.is_null())
    });
    assert!(trouble["what"].is_string(), "{trouble}");
    let mut flush = rig.prepare("first", &["flush", &first.root.display().to_string()]).spawn().expect("holdfast starts");
    fs::write(first.root.join("during"), "flush").expect("writes go on while a flush waits");
    assert!(flush.try_wait().expect("its status").is_none(), "flush ended without a store");
    back(&rig);
    assert!(flush.wait().expect("its status").success(), "flush after the store came back");
    rig.flush("first");
    first.kill();
    let second = rig.mount_with("second", |command| {
        command.arg("--take-over");
    });
    for n in 1..40 {
        assert_eq!(fs::read(second.root.join(format!("f{n}"))).expect("read"), content(n, 20_000), "f{n}");
    }
    assert_eq!(fs::read_to_string(second.root.join("during")).expect("read"), "flush");
    rig.unmount("second", second);
}

#[test]
fn store_gone_at_the_first_mount() {
    let rig = Rig::new();
    away(&rig);
    let mut mount = rig.start("first", rig.mount_command("first"));
    mount.says("holdfast: waiting for the store");
    assert!(!mounted(&mount.root), "an empty directory in place of a volume");
    assert_eq!(mount.ended(), None, "{}", mount.said());
    back(&rig);
    let mount = mount.wait().unwrap_or_else(|refused| panic!("{refused:?}"));
    fs::write(mount.root.join("a"), "b").expect("write");
    rig.unmount("first", mount);
}

#[test]
fn driver_dies_while_the_store_is_gone() {
    let rig = Rig::new();
    let first = rig.mount("first");
    fs::write(first.root.join("a"), content(1, 100_000)).expect("write");
    rig.flush("first");
    away(&rig);
    fs::write(first.root.join("b"), content(2, 100_000)).expect("write");
    first.kill_driver();
    assert_eq!(fs::read(first.root.join("b")).expect("the successor needs no store to serve"), content(2, 100_000));
    fs::write(first.root.join("c"), content(3, 100_000)).expect("write");
    back(&rig);
    rig.flush("first");
    first.kill();
    let second = rig.mount_with("second", |command| {
        command.arg("--take-over");
    });
    for (n, name) in ["a", "b", "c"].iter().enumerate() {
        assert_eq!(fs::read(second.root.join(name)).expect("read"), content(n as u64 + 1, 100_000), "{name}");
    }
    rig.unmount("second", second);
}

#[test]
fn dirty_limit_with_the_store_gone() {
    let rig = Rig::new();
    let first = rig.mount_with("first", |command| {
        command.args(["--dirty-size", "2MiB"]);
    });
    fs::write(first.root.join("before"), "a commit").expect("write");
    rig.flush("first");
    away(&rig);
    let mut written = 0_u64;
    let refused = until("the limit is reached", || {
        let result = File::create(first.root.join(format!("f{written}"))).and_then(|mut file| {
            file.write_all(&content(written, 100_000))?;
            file.sync_all()
        });
        match result {
            Ok(()) => written += 1,
            Err(_) => return Some(errno(result)),
        }
        assert!(written < 400, "40 MB were taken with a limit of 2 MiB");
        None
    });
    assert_eq!(refused, libc::ENOSPC);
    assert!(written >= 10, "refused after {written} files");
    fs::remove_file(first.root.join("before")).expect("what frees space goes on");
    back(&rig);
    rig.flush("first");
    fs::write(first.root.join("after"), "room again").expect("write");
    rig.flush("first");
    first.kill();
    let second = rig.mount_with("second", |command| {
        command.arg("--take-over");
    });
    for n in 0..written {
        assert_eq!(fs::read(second.root.join(format!("f{n}"))).expect("read"), content(n, 100_000), "f{n}");
    }
    rig.unmount("second", second);
}
