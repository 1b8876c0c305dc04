//! The world around a volume: who else has it, what is wrong with what was named, what becomes of its bytes.

use super::{content, errno, packs};
use crate::rig::{Rig, VOLUME, mounted};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};

#[test]
fn mounted_twice_here() {
    let rig = Rig::new();
    let first = rig.mount("first");
    let other = rig.path("first").join("other");
    fs::create_dir(&other).expect("a second mount point");
    let mut command = rig.prepare("first", &["mount", VOLUME]);
    command.arg(&other).arg("--foreground").arg("--cache").arg(rig.cache("first")).arg("--recovery-key").arg(rig.key());
    let refused = rig.start_at("first", &other, command).wait().err().expect("a second mount of a volume in use");
    assert_eq!(refused.code, 8, "{}", refused.said);
    fs::write(first.root.join("a"), "still mine").expect("the first goes on");
    rig.unmount("first", first);
}

#[test]
fn mounted_from_a_second_cache() {
    let rig = Rig::new();
    let first = rig.mount("first");
    fs::write(first.root.join("a"), "mine").expect("write");
    rig.flush("first");
    let refused = rig.refused("second", |_| {});
    let host = nix::sys::utsname::uname().expect("uname").nodename().to_string_lossy().into_owned();
    assert_eq!(refused.code, 8, "{}", refused.said);
    assert!(refused.said.contains(&host) && refused.said.contains("--take-over"), "{}", refused.said);
    fs::write(first.root.join("b"), "still mine").expect("the first goes on");
    rig.unmount("first", first);
    // Closed there: nobody need be asked.
    let second = rig.mount("second");
    assert_eq!(fs::read_to_string(second.root.join("b")).expect("read"), "still mine");
    rig.unmount("second", second);
}

#[test]
fn taken_over_while_the_first_runs() {
    let rig = Rig::new();
    let first = rig.mount("first");
    fs::write(first.root.join("a"), "committed").expect("write");
    rig.flush("first");
    let second = rig.mount_with("second", |command| {
        command.arg("--take-over");
    });
    assert_eq!(fs::read_to_string(second.root.join("a")).expect("read"), "committed");
    let mut open = File::create(first.root.join("late")).expect("the first does not know yet");
    let synced =
        super::until("fsync fails", || open.write_all(b"x").and_then(|()| open.sync_all()).err().and_then(|error| error.raw_os_error()));
    assert_eq!(synced, libc::EIO);
    assert_eq!(errno(File::create(first.root.join("new"))), libc::EROFS);
    assert_eq!(fs::read_to_string(first.root.join("a")).expect("reads go on"), "committed");
    let (code, status) = rig.status("first");
    assert_eq!(code, 20, "{status}");
    assert!(status.to_string().contains("taken"), "{status}");
    fs::write(second.root.join("b"), "of the second").expect("write");
    rig.flush("second");
    drop(open);
    first.kill();
    rig.unmount("second", second);
}

#[test]
fn directory_that_is_not_empty() {
    let rig = Rig::new();
    fs::create_dir_all(rig.root("first")).expect("a mount point");
    fs::write(rig.root("first").join("precious"), "below").expect("write");
    let refused = rig.refused("first", |_| {});
    assert_eq!(refused.code, 8, "{}", refused.said);
    assert!(refused.said.contains("not empty"), "{}", refused.said);
    assert_eq!(fs::read_to_string(rig.root("first").join("precious")).expect("read"), "below");
}

#[test]
fn cache_of_another_volume() {
    let rig = Rig::new();
    let first = rig.mount("first");
    rig.unmount("first", first);
    let cache = rig.cache("first");
    fs::rename(cache.join("test~days"), cache.join("test~other")).expect("somebody moves it");
    let mut command = rig.prepare("first", &["mount", "test/other"]);
    command.arg(rig.root("first")).arg("--foreground").arg("--cache").arg(&cache).arg("--recovery-key").arg(rig.key());
    let refused = rig.start("first", command).wait().err().expect("another volume's cache");
    assert_eq!(refused.code, 2, "{}", refused.said);
    assert!(refused.said.contains("test/days"), "{}", refused.said);
}

#[test]
fn wrong_recovery_key() {
    let (rig, other) = (Rig::new(), Rig::new());
    let first = rig.mount("first");
    rig.unmount("first", first);
    fs::copy(other.key(), rig.key()).expect("the wrong key");
    let refused = rig.refused("second", |_| {});
    assert_eq!(refused.code, 10, "{}", refused.said);
}

#[test]
fn store_of_a_newer_version() {
    let rig = Rig::new();
    let path = rig.store().join("holdfast-store");
    let mut marker = holdfast::format::marker::Marker::decode(&fs::read(&path).expect("the marker").into()).expect("a marker");
    marker.feature_level += 1;
    fs::write(&path, marker.encode()).expect("a newer version was here");
    let refused = rig.refused("first", |_| {});
    assert_eq!(refused.code, 11, "{}", refused.said);
    assert!(refused.said.contains("feature level 2"), "{}", refused.said);
}

#[test]
fn mistyped_prefix() {
    let rig = Rig::new();
    let wrong = rig.path("stroe");
    fs::create_dir(&wrong).expect("a directory, as of a disk that is not mounted");
    let mut command = rig.mount_command("first");
    command.env("HOLDFAST_STORE", format!("file://{}", wrong.display()));
    let mut mount = rig.start("first", command);
    mount.says("holdfast: waiting for the store");
    assert!(!mounted(&mount.root), "an empty directory in place of a volume");
    assert_eq!(fs::read_dir(&wrong).expect("list").count(), 0, "nothing may be written where no store is");
    assert_eq!(mount.ended(), None, "{}", mount.said());
    mount.kill();
}

#[test]
fn missing_pack() {
    damaged_pack(|pack| fs::remove_file(pack).expect("somebody deletes it"), true);
}

#[test]
fn corrupt_frame() {
    // One frame of several: the others of the same file are readable.
    let flip = |pack: &std::path::Path| {
        let file = File::options().read(true).write(true).open(pack).expect("open the pack");
        let mut byte = [0];
        let at = file.metadata().expect("stat").size() / 2;
        file.read_exact_at(&mut byte, at).expect("read");
        file.write_all_at(&[byte[0] ^ 1], at).expect("write");
    };
    damaged_pack(flip, false);
}

fn damaged_pack(damage: impl FnOnce(&std::path::Path), whole: bool) {
    let rig = Rig::new();
    let first = rig.mount("first");
    let (bad, good) = (content(1, 2 << 20), content(2, 1 << 20));
    fs::write(first.root.join("bad"), &bad).expect("write");
    rig.flush("first");
    let pack = packs(&rig.store());
    assert_eq!(pack.len(), 1, "{pack:?}");
    fs::write(first.root.join("good"), &good).expect("write");
    rig.unmount("first", first);
    damage(&pack[0]);
    let second = rig.mount_with("second", |command| {
        command.args(["--hydrate", "metadata"]);
    });
    assert_eq!(fs::read(second.root.join("good")).expect("read"), good);
    let file = File::open(second.root.join("bad")).expect("open");
    let mut page = vec![0; 4096];
    let mut failed = 0;
    for at in (0..bad.len()).step_by(page.len()) {
        match file.read_exact_at(&mut page, at as u64) {
            Ok(()) => assert_eq!(page, bad[at..at + page.len()], "at {at}"),
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(libc::EIO), "at {at}: {error}");
                failed += page.len();
            }
        }
    }
    assert!(failed > 0, "a damaged page was read as if it were whole");
    assert_eq!(failed == bad.len(), whole, "{failed} of {} bytes", bad.len());
    let name = pack[0].file_name().expect("a name").to_string_lossy().into_owned();
    second.says(&name);
    drop(file);
    fs::write(second.root.join("new"), "goes on").expect("write");
    rig.flush("second");
    rig.unmount("second", second);
}

#[test]
fn strange_names() {
    let rig = Rig::new();
    let first = rig.mount("first");
    let long = vec![b'x'; 255];
    let names: [&[u8]; 6] = [b"new\nline", b"\xff\xfe not UTF-8", b" ", b"-rf", "\u{e9}\u{1f600}".as_bytes(), &long];
    for (n, name) in names.iter().enumerate() {
        fs::write(first.root.join(OsStr::from_bytes(name)), content(n as u64, 100)).expect("write");
    }
    rig.unmount("first", first);
    let second = rig.mount("second");
    for (n, name) in names.iter().enumerate() {
        assert_eq!(fs::read(second.root.join(OsStr::from_bytes(name))).expect("read"), content(n as u64, 100));
    }
    assert_eq!(fs::read_dir(&second.root).expect("list").count(), names.len());
    rig.unmount("second", second);
}

/// A twentieth of a million at SCALE=1: a million takes minutes, and nothing in the code changes between the two.
#[test]
fn a_million_files_in_one_directory() {
    let count = (50_000 * crate::harness::scale()).min(1_000_000);
    let name = |n: u64| format!("{n:07}-{}", if n.is_multiple_of(10_000) { "x".repeat(200) } else { String::new() });
    let rig = Rig::new();
    let first = rig.mount("first");
    let directory = first.root.join("many");
    fs::create_dir(&directory).expect("a directory");
    for n in 0..count {
        File::create(directory.join(name(n))).expect("create");
    }
    let all = |root: &std::path::Path| {
        let mut names: Vec<_> = fs::read_dir(root.join("many")).expect("list").map(|entry| entry.expect("an entry").file_name()).collect();
        names.sort_unstable();
        names
    };
    let wanted: Vec<std::ffi::OsString> = (0..count).map(|n| name(n).into()).collect();
    assert!(all(&first.root) == wanted, "listed where they were made");
    rig.unmount("first", first);
    let second = rig.mount("second");
    assert!(all(&second.root) == wanted, "listed on another machine");
    let directory = second.root.join("many");
    for n in (0..count).step_by(997) {
        assert_eq!(fs::symlink_metadata(directory.join(name(n))).expect("lookup").size(), 0);
    }
    assert_eq!(errno(fs::symlink_metadata(directory.join("none"))), libc::ENOENT);
    fs::remove_file(directory.join(name(count / 2))).expect("remove one");
    fs::rename(directory.join(name(0)), directory.join("first")).expect("rename one");
    assert_eq!(fs::read_dir(&directory).expect("list").count() as u64, count - 1);
    rig.unmount("second", second);
}

#[test]
fn sparse_file_of_a_tebibyte() {
    let rig = Rig::new();
    let first = rig.mount("first");
    let path = first.root.join("sparse");
    let mut file = File::create(&path).expect("create");
    file.set_len(1 << 40).expect("truncate up");
    file.write_all_at(b"middle", 1 << 39).expect("write");
    file.seek(SeekFrom::Start((1 << 40) - 3)).expect("seek");
    file.write_all(b"end").expect("write");
    file.sync_all().expect("fsync");
    drop(file);
    rig.unmount("first", first);
    let second = rig.mount("second");
    let mut file = File::open(second.root.join("sparse")).expect("open");
    let meta = file.metadata().expect("stat");
    assert_eq!(meta.size(), 1 << 40);
    let mut bytes = [0xff; 6];
    file.read_exact_at(&mut bytes, 1 << 39).expect("read");
    assert_eq!(&bytes, b"middle");
    file.read_exact_at(&mut bytes, 12345 << 12).expect("read a hole");
    assert_eq!(bytes, [0; 6]);
    file.seek(SeekFrom::Start((1 << 40) - 3)).expect("seek");
    let mut end = String::new();
    file.read_to_string(&mut end).expect("read");
    assert_eq!(end, "end");
    assert!((1 << 40) - crate::harness::tree::hole_bytes(&file, 1 << 40) <= 1 << 20, "the holes are gone");
    drop(file);
    rig.unmount("second", second);
}
