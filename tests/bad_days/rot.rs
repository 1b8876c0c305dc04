//! A cache's disk that does not keep what was written: `meta.db`, data files.

use super::{content, errno};
use crate::rig::Rig;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// The cache of the volume itself.
fn cache(rig: &Rig) -> PathBuf {
    rig.cache("first").join("test~days")
}

/// Files below a directory.
fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).expect("list").flatten().map(|entry| entry.path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

fn overwrite(path: &Path, at: u64, length: usize) {
    File::options().write(true).open(path).expect("open").write_all_at(&vec![0x5a; length], at).expect("write");
}

/// What was set aside as damaged.
fn damaged(rig: &Rig) -> Vec<PathBuf> {
    let named = |path: &PathBuf| path.to_string_lossy().contains(".damaged-");
    fs::read_dir(rig.cache("first")).expect("list").flatten().map(|entry| entry.path()).filter(named).collect()
}

#[test]
fn a_damaged_meta_db_is_set_aside_and_the_volume_comes_from_the_log() {
    let rig = Rig::new();
    let first = rig.mount("first");
    for n in 0..300 {
        fs::write(first.root.join(format!("f{n}")), content(n, 3000)).expect("write");
    }
    rig.unmount("first", first);
    let meta = cache(&rig).join("meta.db");
    overwrite(&meta, fs::metadata(&meta).expect("stat").len() / 2 / 4096 * 4096, 4096);
    let first = rig.mount("first");
    first.says("holdfast: the cache was damaged and is kept as");
    for n in 0..300 {
        assert_eq!(fs::read(first.root.join(format!("f{n}"))).expect("read"), content(n, 3000), "f{n}");
    }
    let kept = damaged(&rig);
    assert_eq!(kept.len(), 1, "{kept:?}");
    let (code, status) = rig.status("first");
    assert!(status["status"]["damaged_cache"].to_string().contains(&kept[0].display().to_string()), "{code} {status}");
    rig.unmount("first", first);
    let first = rig.mount("first");
    assert_eq!(rig.status("first").1["status"]["damaged_cache"], serde_json::Value::Null, "its own cache is sound");
    rig.unmount("first", first);
    assert_eq!(damaged(&rig), kept, "kept for a person");
}

#[test]
fn what_a_damaged_cache_had_in_no_commit_is_told() {
    let rig = Rig::new();
    let first = rig.mount("first");
    fs::write(first.root.join("committed"), "in the log").expect("write");
    rig.flush("first");
    fs::rename(rig.store(), rig.path("away")).expect("the store goes");
    fs::write(first.root.join("precious"), "nowhere else").expect("write");
    File::open(first.root.join("precious")).and_then(|file| file.sync_all()).expect("fsync");
    // The machine is switched off; its disk has lost the beginning of a file.
    first.kill();
    overwrite(&cache(&rig).join("meta.db"), 0, 100);
    fs::rename(rig.path("away"), rig.store()).expect("the store comes back");
    // Nobody need take anything over: whose cache it is can be read without meta.db.
    let first = rig.mount("first");
    first.says("what it had in no commit cannot be known");
    assert_eq!(fs::read_to_string(first.root.join("committed")).expect("read"), "in the log");
    assert_eq!(errno(fs::metadata(first.root.join("precious"))), libc::ENOENT);
    let (code, status) = rig.status("first");
    assert_eq!(code, 20, "{status}");
    assert!(status["why"].to_string().contains("cannot be known"), "{status}");
    fs::write(first.root.join("new"), "goes on").expect("write");
    rig.flush("first");
    rig.unmount("first", first);
}

#[test]
fn data_files_that_are_gone_or_cut() {
    let rig = Rig::new();
    let first = rig.mount("first");
    for n in 0..20 {
        fs::write(first.root.join(format!("small{n}")), content(n, 3000)).expect("write");
        fs::write(first.root.join(format!("large{n}")), content(n, 300_000)).expect("write");
    }
    rig.flush("first");
    fs::rename(rig.store(), rig.path("away")).expect("the store goes");
    let dirty = File::options().write(true).open(first.root.join("large7")).expect("open");
    dirty.write_all_at(&content(99, 8192), 65_536).expect("write");
    dirty.sync_all().expect("fsync");
    drop(dirty);
    first.kill();
    for (n, path) in files(&cache(&rig).join("data")).into_iter().enumerate() {
        if n % 2 == 0 { fs::remove_file(&path) } else { File::options().write(true).open(&path).and_then(|file| file.set_len(4096)) }
            .expect("the disk loses it");
    }
    fs::rename(rig.path("away"), rig.store()).expect("the store comes back");
    let first = rig.mount("first");
    for n in 0..20 {
        assert_eq!(fs::read(first.root.join(format!("small{n}"))).expect("read"), content(n, 3000), "small{n}");
        if n != 7 {
            assert_eq!(fs::read(first.root.join(format!("large{n}"))).expect("read"), content(n, 300_000), "large{n}");
        }
    }
    let file = File::open(first.root.join("large7")).expect("open");
    let (mut page, whole) = (vec![0; 4096], content(7, 300_000));
    for at in (0..73 * 4096).step_by(4096) {
        let read = file.read_exact_at(&mut page, at);
        if (65_536..73_728).contains(&at) {
            assert_eq!(errno(read), libc::EIO, "what was in no commit is gone, at {at}");
        } else {
            read.expect("what is committed is fetched again");
            assert_eq!(page, whole[at as usize..at as usize + 4096], "at {at}");
        }
    }
    let (code, status) = rig.status("first");
    assert_eq!(code, 20, "{status}");
    assert!(status["why"].to_string().contains("large7"), "{status}");
    drop(file);
    let healed = File::options().write(true).open(first.root.join("large7")).expect("open");
    healed.write_all_at(&content(98, 8192), 65_536).expect("written anew");
    healed.sync_all().expect("fsync");
    drop(healed);
    rig.flush("first");
    assert_eq!(rig.status("first").0, 0, "nothing is missing any more");
    rig.unmount("first", first);
    let second = rig.mount("second");
    let mut wanted = whole;
    wanted[65_536..73_728].copy_from_slice(&content(98, 8192));
    assert_eq!(fs::read(second.root.join("large7")).expect("read"), wanted);
    rig.unmount("second", second);
}
