//! SEMANTICS.md, paragraph by paragraph: each test quotes what it holds. (S4 to S7 are held by the applications of `tests/apps.rs` too.)
#![allow(clippy::expect_used, clippy::panic, clippy::print_stdout, clippy::disallowed_methods, reason = "tests against the real world")]

mod harness;

use harness::command::run;
use harness::{Mounted, mounted};
use std::ffi::{CString, OsStr};
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::{Command, Stdio};

/// A process that ends with its test, whatever becomes of that.
struct Killed(std::process::Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn c_path(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).expect("a path has no NUL")
}

/// The error number of a call that gives -1, 0 when it succeeds.
fn errno(result: i32) -> i32 {
    if result == 0 { 0 } else { std::io::Error::last_os_error().raw_os_error().unwrap_or(-1) }
}

fn rename_with(from: &Path, to: &Path, flags: u32) -> i32 {
    let (from, to) = (c_path(from), c_path(to));
    // SAFETY: two strings that end in NUL and live through the call.
    errno(unsafe { libc::renameat2(libc::AT_FDCWD, from.as_ptr(), libc::AT_FDCWD, to.as_ptr(), flags) })
}

fn fallocate(file: &File, mode: i32, offset: i64, length: i64) -> i32 {
    // SAFETY: a call on a descriptor that lives through it.
    errno(unsafe { libc::fallocate(file.as_raw_fd(), mode, offset, length) })
}

/// S1. What an operation reported as done is there after the driver was killed with SIGKILL at any instant, as long as the holder of the
/// mount lives.
#[test]
fn what_was_done_is_there_after_the_driver_was_killed() {
    let mut mounted = mounted("s1");
    let root = mounted.root().to_owned();
    fs::create_dir(root.join("made")).expect("mkdir");
    fs::write(root.join("made/first"), "one").expect("write");
    let mut open = OpenOptions::new().append(true).create(true).open(root.join("open")).expect("open");
    open.write_all(b"before ").expect("write");
    fs::hard_link(root.join("made/first"), root.join("linked")).expect("link");
    mounted.bounce();
    open.write_all(b"after").expect("a descriptor outlives the driver");
    fs::rename(root.join("made/first"), root.join("made/second")).expect("rename");
    assert_eq!(fs::read(root.join("linked")).expect("read"), b"one");
    assert_eq!(fs::read(root.join("open")).expect("read"), b"before after");
    assert!(root.join("made/second").exists() && !root.join("made/first").exists());
}

/// S2. What `fsync` or `fdatasync` of a file reported as done, its bytes, its size and its name, is there after a power failure of the
/// machine. (Here everything that this mount held in memory, the kernel's pages too, is lost; a disk that loses its cache is simulated by the
/// tests of `src/cache`.)
#[test]
fn what_was_fsynced_is_there_after_everything_was_killed() {
    let mut mounted = mounted("s2");
    let path = |mounted: &dyn Mounted| mounted.root().join("kept");
    let mut file = File::create(path(mounted.as_ref())).expect("create");
    file.write_all(b"synced").expect("write");
    file.sync_data().expect("fdatasync");
    file.write_all(b", and not").expect("write");
    mounted.kill();
    drop(file);
    mounted.revive();
    let found = fs::read(path(mounted.as_ref())).expect("the name is there");
    assert!(b"synced, and not".starts_with(&found) && found.starts_with(b"synced"), "{:?}", String::from_utf8_lossy(&found));
}

/// S3. `sync` and `syncfs` reach the driver only as writes of single files: they are not a durability point. Use `fsync`. (They lose nothing
/// either: what they wrote is the driver's, as any write is.)
#[test]
fn sync_is_no_durability_point_and_harms_nothing() {
    let mut mounted = mounted("s3");
    let root = mounted.root().to_owned();
    fs::write(root.join("file"), "written").expect("write");
    run("sync", ["-f".as_ref(), root.as_os_str()]);
    mounted.bounce();
    assert_eq!(fs::read(root.join("file")).expect("read"), b"written");
}

/// S4. After the cache is lost, a new mount shows one commit of the log: a state that the application could have found after a power failure at
/// one instant.
/// S5. Within every commit a file that was only appended to is a prefix of what was written: no hole and no zeros where bytes were written.
/// S6. A file that replaced another by `rename` after it was written is, in every commit, whole: the old content or the new.
/// S7. Two files that were changed one after the other, each change reported as done before the next, are in every commit in that order.
#[test]
fn every_commit_is_one_instant() {
    let mut mounted = mounted("s4");
    let root = mounted.root().to_owned();
    let mut log = File::create(root.join("log")).expect("create");
    for round in 0_u32..300 {
        log.write_all(format!("{round:08}").as_bytes()).expect("append");
        log.sync_data().expect("fdatasync");
        fs::write(root.join("state.new"), format!("{round:08}").repeat(500)).expect("write");
        fs::rename(root.join("state.new"), root.join("state")).expect("rename");
        if round % 100 == 50 {
            mounted.flush_busy();
        }
    }
    drop(log);
    mounted.flush();
    mounted.lose();
    for commit in mounted.commits() {
        let lab = harness::lab();
        let tree = lab.path().join("tree");
        fs::create_dir(&tree).expect("mkdir");
        mounted.export(commit, &tree);
        let log = fs::read(tree.join("log")).unwrap_or_default();
        for (round, line) in log.chunks(8).enumerate() {
            assert!(format!("{round:08}").as_bytes().starts_with(line), "commit {commit}: entry {round} of the log is {line:?}");
        }
        let Ok(state) = fs::read_to_string(tree.join("state")) else { continue };
        let round: usize = state[..8].parse().expect("a number");
        assert_eq!(state, format!("{round:08}").repeat(500), "commit {commit} shows half a state");
        assert!(
            log.len() / 8 > round,
            "commit {commit} has state {round}, and a log of {} entries, which was synced before",
            log.len() / 8
        );
    }
    assert_eq!(fs::metadata(mounted.root().join("log")).expect("stat").len(), 2400, "all was flushed before the machine was lost");
}

/// S8. Names are bytes: any of 1 to 255 bytes but `/` and NUL, also those that are not UTF-8 and those with newlines.
#[test]
fn names_are_bytes() {
    let mut mounted = mounted("s8");
    let every: Vec<u8> = (1..=255).filter(|byte| *byte != b'/').collect();
    let names: [&[u8]; 6] = [&every, b"a\nb", b"\xff\xfe", b"-rf", b" ", &[b'n'; 255]];
    for name in names {
        fs::write(mounted.root().join(OsStr::from_bytes(name)), name).expect("a name of bytes");
    }
    let too_long = fs::write(mounted.root().join("n".repeat(256)), "").expect_err("256 bytes are too many");
    assert_eq!(too_long.raw_os_error(), Some(libc::ENAMETOOLONG));
    mounted.flush();
    mounted.lose();
    for name in names {
        assert_eq!(fs::read(mounted.root().join(OsStr::from_bytes(name))).expect("the same name"), name);
    }
    assert_eq!(fs::read_dir(mounted.root()).expect("list").count(), names.len());
}

/// S9. Inode numbers stay the same across remount, restore and another machine, and are never used again.
#[test]
fn inode_numbers_stay() {
    let mut mounted = mounted("s9");
    let number = |mounted: &dyn Mounted, name: &str| fs::symlink_metadata(mounted.root().join(name)).expect("stat").ino();
    for name in ["kept", "goes"] {
        fs::write(mounted.root().join(name), name).expect("write");
    }
    let (kept, goes) = (number(mounted.as_ref(), "kept"), number(mounted.as_ref(), "goes"));
    fs::remove_file(mounted.root().join("goes")).expect("unlink");
    mounted.crash();
    assert_eq!(number(mounted.as_ref(), "kept"), kept);
    mounted.flush();
    mounted.lose();
    if !harness::is_fuse() {
        // A copied directory has other numbers: the stand-in shows no more than the way to here.
        return;
    }
    assert_eq!(number(mounted.as_ref(), "kept"), kept);
    for n in 0..50 {
        fs::write(mounted.root().join(n.to_string()), "").expect("create");
        assert!(![kept, goes].contains(&number(mounted.as_ref(), &n.to_string())), "an inode number is used again");
    }
}

/// S10. Owner, group, mode, times to the nanosecond, extended attributes, POSIX ACLs, hard links, symbolic links, fifos, sockets, device files
/// and holes come back as they were. (All but sockets in `tests/apps.rs`, in a tree that is compared whole.)
#[test]
fn a_socket_comes_back() {
    use std::os::unix::fs::FileTypeExt;
    let mut mounted = mounted("s10");
    // A socket's path has at most 107 bytes.
    run(
        "python3",
        ["-c", "import os, stat, sys; os.mknod(sys.argv[1], stat.S_IFSOCK | 0o640)", &mounted.root().join("socket").display().to_string()],
    );
    mounted.flush();
    mounted.lose();
    let meta = fs::symlink_metadata(mounted.root().join("socket")).expect("stat");
    assert!(meta.file_type().is_socket() && meta.mode() & 0o777 == 0o640);
}

/// S11. `rename` is atomic, also over an existing target; `RENAME_NOREPLACE` and `RENAME_EXCHANGE` are carried out, `RENAME_WHITEOUT` is refused
/// with EINVAL.
#[test]
fn renames_with_flags() {
    let mounted = mounted("s11");
    let (a, b) = (mounted.root().join("a"), mounted.root().join("b"));
    fs::write(&a, "a").expect("write");
    fs::write(&b, "b").expect("write");
    assert_eq!(rename_with(&a, &b, libc::RENAME_NOREPLACE), libc::EEXIST);
    assert_eq!(rename_with(&a, &b, libc::RENAME_EXCHANGE), 0);
    assert_eq!((fs::read(&a).expect("read"), fs::read(&b).expect("read")), (b"b".to_vec(), b"a".to_vec()));
    if harness::is_fuse() {
        assert_eq!(rename_with(&a, &b, libc::RENAME_WHITEOUT), libc::EINVAL);
    }
    // Whoever looks while one name replaces the other finds one of both.
    let looker = std::thread::spawn({
        let b = b.clone();
        move || (0..500).all(|_| fs::read(&b).is_ok_and(|text| text == b"a" || text == b"new"))
    });
    for _ in 0..200 {
        fs::write(&a, "new").expect("write");
        fs::rename(&a, &b).expect("rename");
    }
    assert!(looker.join().expect("no panic"), "a rename showed neither the old nor the new file");
}

/// S12. A file that was unlinked while open can be read and written until its last close; it is in no commit.
#[test]
fn an_unlinked_open_file_lives_until_its_last_close() {
    let mut mounted = mounted("s12");
    let path = mounted.root().join("temporary");
    let mut file = OpenOptions::new().read(true).write(true).create_new(true).open(&path).expect("create");
    file.write_all(b"before ").expect("write");
    fs::remove_file(&path).expect("unlink");
    fs::write(mounted.root().join("other"), "stays").expect("write");
    mounted.bounce();
    file.write_all(b"after").expect("write");
    let mut text = String::new();
    file.seek(SeekFrom::Start(0)).expect("seek");
    file.read_to_string(&mut text).expect("read");
    assert_eq!(text, "before after");
    mounted.flush_busy();
    drop(file);
    let last = mounted.flush();
    let lab = harness::lab();
    let tree = lab.path().join("tree");
    fs::create_dir(&tree).expect("mkdir");
    mounted.export(last, &tree);
    let names: Vec<_> = fs::read_dir(&tree).expect("list").map(|entry| entry.expect("an entry").file_name()).collect();
    assert_eq!(names, ["other"]);
}

/// S13. `fallocate` allocates, keeps the size when asked, punches holes and zeroes ranges; its other modes are refused with EOPNOTSUPP. `lseek`
/// finds data and holes.
#[test]
fn space_is_allocated_and_freed() {
    let mounted = mounted("s13");
    let file = File::options().read(true).write(true).create_new(true).open(mounted.root().join("file")).expect("create");
    file.write_all_at(&[7; 1 << 20], 0).expect("write");
    assert_eq!(fallocate(&file, libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE, 256 << 10, 256 << 10), 0);
    assert_eq!(fallocate(&file, libc::FALLOC_FL_ZERO_RANGE, 768 << 10, 4096), 0);
    assert_eq!(fallocate(&file, libc::FALLOC_FL_KEEP_SIZE, 1 << 20, 1 << 20), 0);
    assert_eq!(file.metadata().expect("stat").len(), 1 << 20);
    assert_eq!(fallocate(&file, 0, 1 << 20, 1 << 20), 0);
    assert_eq!(file.metadata().expect("stat").len(), 2 << 20);
    let mut bytes = vec![1; 2 << 20];
    file.read_exact_at(&mut bytes, 0).expect("read");
    let is_zero =
        |index: usize| (256 << 10..512 << 10).contains(&index) || (768 << 10..(768 << 10) + 4096).contains(&index) || index >= 1 << 20;
    assert!(bytes.iter().enumerate().all(|(index, byte)| *byte == if is_zero(index) { 0 } else { 7 }));
    // SAFETY: calls on a descriptor that lives through them.
    let (hole, data) =
        unsafe { (libc::lseek(file.as_raw_fd(), 0, libc::SEEK_HOLE), libc::lseek(file.as_raw_fd(), 256 << 10, libc::SEEK_DATA)) };
    assert_eq!((hole, data), (256 << 10, 512 << 10));
    if harness::is_fuse() {
        assert_eq!(fallocate(&file, libc::FALLOC_FL_COLLAPSE_RANGE, 0, 4096), libc::EOPNOTSUPP);
    }
}

/// S14. Locks (`flock`, `fcntl`) are the kernel's own: they hold between all processes of this mount and of no other machine; one volume has one
/// writer.
#[test]
fn locks_hold_between_processes_and_outlive_the_driver() {
    let mut mounted = mounted("s14");
    let path = mounted.root().join("lock");
    let held = File::create(&path).expect("create");
    held.lock().expect("flock");
    let refused = |path: &Path| !Command::new("flock").args(["-n"]).arg(path).arg("true").status().expect("flock runs").success();
    assert!(refused(&path));
    mounted.bounce();
    assert!(refused(&path), "the lock was lost with the driver");
    drop(held);
    assert!(!refused(&path));
}

/// S17. While `fsync` of a file runs, writes to and renames of that file wait; other files do not.
#[test]
fn an_fsync_holds_up_its_own_file_alone() {
    let mounted = mounted("s17");
    let root = mounted.root().to_owned();
    let busy = "import os, sys\nf = open(sys.argv[1], 'wb', buffering=0)\nwhile True:\n  f.write(b'x' * 100000); os.fsync(f.fileno())";
    let child = Command::new("python3").args(["-c", busy]).arg(root.join("busy")).stdin(Stdio::null()).spawn();
    let mut child = Killed(child.expect("a process that syncs"));
    while !fs::metadata(root.join("busy")).is_ok_and(|meta| meta.len() > 0) {
        assert!(child.0.try_wait().expect("a child's status").is_none(), "the process that syncs ended by itself");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    for n in 0..200 {
        fs::write(root.join(format!("other-{n}")), "x").expect("another file is written meanwhile");
        fs::rename(root.join(format!("other-{n}")), root.join("other")).expect("and renamed");
    }
    fs::rename(root.join("busy"), root.join("renamed")).expect("its own rename waits, and is done");
    assert!(child.0.try_wait().expect("a child's status").is_none(), "the process that syncs ended by itself");
    drop(child);
    assert!(fs::metadata(root.join("renamed")).expect("stat").len() >= 100_000);
}
