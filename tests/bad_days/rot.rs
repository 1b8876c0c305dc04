//! A cache's disk that does not keep what was written: `meta.db`, data files.

use super::{content, errno, until};
use crate::rig::Rig;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
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

/// `scrub --json` of the first machine's mount: exit code and answer.
fn scrub(rig: &Rig) -> (i32, serde_json::Value) {
    let root = rig.root("first").display().to_string();
    let output = rig.run("first", &["scrub", &root, "--rate", "1GiB", "--json"]);
    let value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    (output.status.code().unwrap_or(-1), value)
}

#[test]
fn flipped_bytes_of_cached_data_are_found_and_mended() {
    let rig = Rig::new();
    let first = rig.mount("first");
    for n in 0..30 {
        fs::write(first.root.join(format!("small{n}")), content(n, 3000)).expect("write");
    }
    fs::write(first.root.join("large"), content(99, 3 << 20)).expect("write");
    rig.flush("first");
    let (code, found) = scrub(&rig);
    assert!(code == 0 && found["bad_bytes"] == 0 && found["difference_count"] == 0, "{found}");
    assert!(found["bytes"].as_u64().is_some_and(|bytes| bytes >= 3 << 20) && found["rows"].as_u64() >= Some(63), "{found}");
    let mut flipped = 0;
    for path in files(&cache(&rig).join("data")) {
        let file = File::options().read(true).write(true).open(&path).expect("open");
        let length = file.metadata().expect("stat").len();
        let mut byte = [0];
        if length > 0 && file.read_exact_at(&mut byte, length / 2).is_ok() {
            file.write_all_at(&[byte[0] ^ 1], length / 2).expect("a byte rots");
            flipped += 1;
        }
    }
    assert!(flipped >= 2, "{flipped} data files");
    let (code, found) = scrub(&rig);
    assert!(code == 0 && found["bad_bytes"] == found["healed_bytes"], "{found}");
    assert_eq!(found["bad"].as_array().map(Vec::len), Some(flipped), "{found}");
    first.says("cached bytes were not what was stored");
    // Also what the kernel had in memory is what was written.
    for n in 0..30 {
        assert_eq!(fs::read(first.root.join(format!("small{n}"))).expect("read"), content(n, 3000), "small{n}");
    }
    assert_eq!(fs::read(first.root.join("large")).expect("read"), content(99, 3 << 20));
    assert_eq!(scrub(&rig).1["bad_bytes"], 0);
    rig.unmount("first", first);
}

#[test]
fn what_no_commit_has_is_no_difference() {
    let rig = Rig::new();
    let first = rig.mount("first");
    for n in 0..3 {
        fs::write(first.root.join(format!("small{n}")), content(n, 3000)).expect("write");
    }
    fs::hard_link(first.root.join("small1"), first.root.join("again")).expect("link");
    std::os::unix::fs::symlink("small2", first.root.join("symlink")).expect("symlink");
    fs::create_dir(first.root.join("local")).expect("mkdir");
    fs::write(first.root.join("local/CACHEDIR.TAG"), "Signature: 8a477f597d28d172789f06886806bc55").expect("write");
    fs::write(first.root.join("local/file"), content(100, 5000)).expect("write");
    let nameless = File::create_new(first.root.join("nameless")).expect("create");
    nameless.write_all_at(&content(101, 5000), 0).expect("write");
    fs::remove_file(first.root.join("nameless")).expect("unlink");
    rig.flush("first");
    fs::write(first.root.join("local/later"), "later").expect("write");
    let sound = |found: &serde_json::Value| found["difference_count"] == 0 && found["bad_bytes"] == 0 && found["rows"].as_u64() >= Some(12);
    let (code, found) = scrub(&rig);
    assert!(code == 0 && sound(&found), "{found}");
    drop(nameless);
    rig.unmount("first", first);
    let first = rig.mount("first");
    let (code, found) = scrub(&rig);
    assert!(code == 0 && sound(&found), "{found}");
    rig.unmount("first", first);
}

#[test]
fn rotten_bytes_that_the_kernel_has_in_memory_are_renewed() {
    let rig = Rig::new();
    let first = rig.mount("first");
    let path = first.root.join("file");
    fs::write(&path, content(1, 300_000)).expect("write");
    rig.flush("first");
    let data = files(&cache(&rig).join("data")).into_iter().find(|path| fs::metadata(path).expect("stat").len() >= 300_000);
    overwrite(&data.expect("its data file"), 100_000, 100);
    let file = File::open(&path).expect("open");
    nix::fcntl::posix_fadvise(&file, 0, 0, nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED).expect("the kernel forgets it");
    assert_ne!(fs::read(&path).expect("read"), content(1, 300_000), "nobody looks at checksums when a clean page is read");
    let (code, found) = scrub(&rig);
    assert!(code == 0 && found["bad"].as_array().is_some_and(|bad| bad.len() == 1), "{found}");
    assert_eq!(fs::read(&path).expect("read"), content(1, 300_000));
    drop(file);
    rig.unmount("first", first);
}

#[test]
fn a_scrub_ends_with_its_mount() {
    let rig = Rig::new();
    let first = rig.mount("first");
    fs::write(first.root.join("file"), content(1, 300_000)).expect("write");
    rig.flush("first");
    let root = first.root.display().to_string();
    let mut slow = rig.prepare("first", &["scrub", &root, "--rate", "1KiB"]).spawn().expect("holdfast starts");
    let tree = cache(&rig).join("scrub");
    until("it is at work", || tree.exists().then_some(()));
    assert_eq!(scrub(&rig).0, 8, "one at a time");
    rig.unmount("first", first);
    assert!(!slow.wait().expect("its status").success(), "given up");
    assert!(!tree.exists(), "and nothing is left of it");
    let first = rig.mount("first");
    assert_eq!(scrub(&rig).0, 0);
    rig.unmount("first", first);
}

#[test]
fn rows_that_differ_from_the_newest_commit_are_repaired_in_a_commit() {
    let rig = Rig::new();
    let first = rig.mount("first");
    fs::create_dir(first.root.join("dir")).expect("mkdir");
    for n in 0..20 {
        fs::write(first.root.join(format!("dir/f{n}")), content(n, 3000)).expect("write");
    }
    fs::write(first.root.join("large"), content(99, 300_000)).expect("write");
    rig.unmount("first", first);
    let meta = cache(&rig).join("meta.db");
    let database = |sql: &str| change_row(&meta, sql);
    let ino = |name: &str| format!("(SELECT ino FROM names WHERE name=CAST('{name}' AS BLOB))");
    database(&format!("UPDATE inodes SET mode=mode|7 WHERE ino={}", ino("f1")));
    database(&format!("UPDATE inodes SET size=100 WHERE ino={}", ino("f2")));
    database("UPDATE names SET name=CAST('g3' AS BLOB) WHERE name=CAST('f3' AS BLOB)");
    database(&format!("UPDATE extents SET checksum=checksum+1 WHERE ino={}", ino("large")));
    database("DELETE FROM names WHERE name=CAST('f4' AS BLOB)");
    // The application changed this one, and the mark of it was lost.
    database(&format!("UPDATE inodes SET uid=4711, ctime=ctime+1000000000 WHERE ino={}", ino("f5")));
    let first = rig.mount("first");
    assert_eq!(errno(fs::metadata(first.root.join("dir/f4"))), libc::ENOENT, "as the database says");
    let (code, found) = scrub(&rig);
    assert!(code == 0 && found["difference_count"].as_u64() >= Some(6) && found["repaired_in"].is_u64(), "{found}");
    for path in ["dir/f1", "dir/f2", "dir/f3", "large", "dir/f4", "dir/f5"] {
        let list = found["differences"].as_array().expect("a list");
        let named = list.iter().find(|found| found["path"] == path);
        assert!(named.is_some_and(|named| named["kept"] == (path == "dir/f5")), "{path} in {found}");
    }
    let whole = |root: &Path| {
        for n in 0..20 {
            assert_eq!(fs::read(root.join(format!("dir/f{n}"))).expect("read"), content(n, 3000), "f{n}");
        }
        assert_eq!(errno(fs::metadata(root.join("dir/g3"))), libc::ENOENT);
        assert_eq!(fs::read_dir(root.join("dir")).expect("list").count(), 20);
        assert_eq!(fs::read(root.join("large")).expect("read"), content(99, 300_000));
        assert_eq!(fs::metadata(root.join("dir/f1")).expect("stat").mode() & 0o777, 0o644);
        assert_eq!(fs::metadata(root.join("dir/f5")).expect("stat").uid(), 4711);
    };
    whole(&first.root);
    let (_, again) = scrub(&rig);
    assert_eq!(again["difference_count"], 0, "{again}");
    rig.unmount("first", first);
    let second = rig.mount("second");
    whole(&second.root);
    rig.unmount("second", second);
}

/// A statement on a database that nobody has open, which must change something.
fn change_row(path: &Path, sql: &str) {
    let changed = crate::harness::command::run("sqlite3", [&path.display().to_string(), &format!("{sql}; SELECT changes();")]);
    assert!(changed.trim().parse::<u32>().is_ok_and(|rows| rows > 0), "{sql}: {changed}");
}
