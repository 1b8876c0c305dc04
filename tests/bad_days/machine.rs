//! What the machine lacks: room on the cache's disk, the FUSE device.

use super::{content, errno, until};
use crate::disk::{Mounted, image};
use crate::rig::{Rig, mounted};
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::Command;

fn synced(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Takes every inode that is free on a disk.
fn take_inodes(ballast: &Path) {
    fs::create_dir(ballast).expect("ballast");
    let made = (0..).take_while(|n| File::create(ballast.join(n.to_string())).is_ok()).count();
    assert!(made < 100_000, "the disk has more inodes than it was made with");
}

/// Fills what is free on a disk.
fn fill(ballast: &Path) {
    let mut file = File::create(ballast).expect("ballast");
    let mut length = 1 << 20;
    while length >= 4096 {
        let block = vec![0x55; length];
        if file.write_all(&block).and_then(|()| file.sync_data()).is_err() {
            length /= 4;
        }
    }
}

fn full(make: &[&str], fill: fn(&Path)) {
    let rig = Rig::new();
    image(&rig.path("image"), 400 << 20, make);
    let disk = Mounted::new(&rig.path("image"), &rig.cache("first"), "noatime");
    let first = rig.mount("first");
    for n in 0..5 {
        synced(&first.root.join(format!("f{n}")), &content(n, 300_000)).expect("there is room");
    }
    let ballast = rig.cache("first").join("ballast");
    fill(&ballast);
    // The log is written beforehand and reused, so small files may still fit into it; large ones cannot.
    let mut kept: Vec<u64> = (0..5).collect();
    let refused = (5..).find_map(|n| match synced(&first.root.join(format!("f{n}")), &content(n, 300_000)) {
        Ok(()) => {
            kept.push(n);
            assert!(n < 500, "150 MB went into a disk without room");
            None
        }
        Err(error) => error.raw_os_error(),
    });
    assert_eq!(refused, Some(libc::ENOSPC));
    for n in &kept {
        assert_eq!(fs::read(first.root.join(format!("f{n}"))).expect("reads go on"), content(*n, 300_000), "f{n}");
    }
    // As if its driver had seen a flush of the disk fail: who comes next would need room for more than the log has.
    let caches = fs::read_dir(rig.cache("first")).expect("the cache's disk").flatten().map(|entry| entry.path());
    caches.filter(|cache| cache.join("meta.db").exists()).for_each(|cache| _ = fs::write(cache.join("flush-failed"), ""));
    // Names alone need no room in a data file, and their rows need some in meta.db: whatever is answered is kept, and nothing hangs.
    let names: Vec<u64> = (0..3000).take_while(|n| File::create(first.root.join(format!("n{n}"))).is_ok()).collect();
    // Its driver dies, unless it did by itself: the second death in a minute is quarantine.
    if !first.said().contains("the driver died") {
        first.kill_driver();
    }
    for n in &kept {
        assert_eq!(fs::read(first.root.join(format!("f{n}"))).expect("reads go on"), content(*n, 300_000), "f{n} after kill -9");
    }
    if ballast.is_dir() { fs::remove_dir_all(&ballast) } else { fs::remove_file(&ballast) }.expect("room again");
    until("writes work again", || synced(&first.root.join("after"), b"room").ok());
    rig.flush("first");
    rig.unmount("first", first);
    drop(disk);
    let second = rig.mount("second");
    for n in &kept {
        assert_eq!(fs::read(second.root.join(format!("f{n}"))).expect("read"), content(*n, 300_000), "f{n} was fsynced");
    }
    for n in &names {
        assert!(second.root.join(format!("n{n}")).exists(), "n{n} was made on the full disk");
    }
    assert_eq!(fs::read(second.root.join("after")).expect("read"), b"room");
    rig.unmount("second", second);
}

#[test]
fn cache_disk_full_on_ext4() {
    full(&["mkfs.ext4", "-q"], fill);
}

#[test]
fn cache_disk_full_on_xfs() {
    full(&["mkfs.xfs", "-q"], fill);
}

// A file that is too large to share a data file needs an inode of the disk.
#[test]
fn cache_disk_without_inodes() {
    full(&["mkfs.ext4", "-q", "-N", "2000"], take_inodes);
}

#[test]
fn mounted_over_a_mount() {
    let rig = Rig::new();
    let first = rig.mount("first");
    fs::write(first.root.join("a"), "mine").expect("write");
    // Another volume at the same place: its files would hide those that are there.
    let mut command = rig.prepare("first", &["mount", "test/other"]);
    command.arg(rig.root("first")).arg("--foreground").arg("--cache").arg(rig.cache("first")).arg("--recovery-key").arg(rig.key());
    let output = command.output().expect("holdfast runs");
    assert_eq!(output.status.code(), Some(8), "{}", crate::harness::command::said(&output));
    assert_eq!(fs::read_to_string(first.root.join("a")).expect("read"), "mine");
    rig.unmount("first", first);
}

#[test]
fn no_fuse_device() {
    let rig = Rig::new();
    let mount = rig.mount_command("first");
    // The same command where /dev is empty, as in a container that was not given the device.
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", "mount -t tmpfs none /dev && exec \"$0\" \"$@\""]).arg(mount.get_program()).args(mount.get_args());
    for (name, value) in mount.get_envs() {
        if let Some(value) = value {
            command.env(name, value);
        }
    }
    let refused = rig.start("first", command).wait().err().expect("a mount without the device");
    assert!(refused.code != 0 && refused.said.contains("/dev/fuse") && refused.said.contains("modprobe fuse"), "{refused:?}");
    assert!(!mounted(&rig.root("first")));
    assert_eq!(errno(fs::remove_dir(rig.root("first"))), 0, "nothing was left where the mount was to be");
}
