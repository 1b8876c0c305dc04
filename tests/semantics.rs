//! SEMANTICS.md, paragraph by paragraph, through the kernel on a real store. What concerns survival over many commits and real applications
//! is in `tests/apps.rs` and `tests/crash.rs`; here each promise is shown at least once.
#![allow(clippy::expect_used, clippy::panic, clippy::print_stdout, clippy::disallowed_methods, reason = "tests against the real world")]

mod harness;

use harness::{Holdfast, Mounted, lab};
use std::ffi::{CString, OsStr};
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;

fn rename2(from: &Path, to: &Path, flags: libc::c_uint) -> i32 {
    let name = |path: &Path| CString::new(path.as_os_str().as_bytes()).expect("a path without NUL");
    // SAFETY: two C strings that live through the call.
    let done = unsafe { libc::renameat2(libc::AT_FDCWD, name(from).as_ptr(), libc::AT_FDCWD, name(to).as_ptr(), flags) };
    if done == 0 { 0 } else { std::io::Error::last_os_error().raw_os_error().expect("an errno") }
}

fn fallocate(file: &File, mode: i32, offset: i64, length: i64) -> i32 {
    // SAFETY: an open descriptor and plain numbers.
    let done = unsafe { libc::fallocate(file.as_raw_fd(), mode, offset, length) };
    if done == 0 { 0 } else { std::io::Error::last_os_error().raw_os_error().expect("an errno") }
}

/// > **S1.** What an operation reported as done is there after the driver was killed with SIGKILL at any instant, as long as the holder of
/// > the mount lives.
///
/// > **S12.** A file that was unlinked while open can be read and written until its last close; it is in no commit.
#[test]
fn acknowledged_operations_survive_the_driver() {
    let mut volume = Holdfast::new("s1");
    let root = volume.root().to_path_buf();
    let mut unlinked = OpenOptions::new().read(true).write(true).create_new(true).open(root.join("gone")).expect("a file");
    unlinked.write_all(b"before").expect("a write");
    fs::remove_file(root.join("gone")).expect("an unlink");
    for round in 0..3 {
        for i in 0..50 {
            fs::write(root.join(format!("f{round}-{i}")), format!("content {i}")).expect("a write");
        }
        fs::rename(root.join(format!("f{round}-0")), root.join(format!("moved{round}"))).expect("a rename");
        volume.bounce();
        assert_eq!(fs::read(root.join(format!("moved{round}"))).expect("a read"), b"content 0");
        assert_eq!(fs::read(root.join(format!("f{round}-49"))).expect("a read"), b"content 49");
    }
    unlinked.write_all_at(b"after!", 0).expect("a write to an unlinked file");
    let mut back = [0; 6];
    unlinked.read_exact_at(&mut back, 0).expect("a read of an unlinked file");
    assert_eq!(&back, b"after!");
    drop(unlinked);
    let commit = volume.flush();
    let shown = lab();
    volume.export(commit, shown.path());
    let names = fs::read_dir(shown.path()).expect("an export").count();
    assert_eq!(names, 150);
}

/// > **S4.** After the cache is lost, a new mount shows one commit of the log: a state that the application could have found after a power
/// > failure at one instant.
///
/// > **S8.** Names are bytes: any of 1 to 255 bytes but `/` and NUL, also those that are not UTF-8 and those with newlines.
///
/// > **S9.** Inode numbers stay the same across remount, restore and another machine, and are never used again.
///
/// > **S10.** Owner, group, mode, times to the nanosecond, extended attributes, POSIX ACLs, hard links, symbolic links, fifos, sockets,
/// > device files and holes come back as they were.
#[test]
fn everything_of_a_file_comes_back_elsewhere() {
    let mut volume = Holdfast::new("s10");
    let root = volume.root().to_path_buf();
    let names: [&[u8]; 4] = [b"plain", b"not\xffutf8", b"new\nline", &[b'x'; 255]];
    for name in names {
        fs::write(root.join(OsStr::from_bytes(name)), name).expect("a file");
    }
    let file = root.join("plain");
    fs::hard_link(&file, root.join("hard")).expect("a link");
    symlink("plain", root.join("soft")).expect("a symlink");
    std::os::unix::fs::chown(&file, Some(1234), Some(5678)).expect("an owner");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o4751)).expect("a mode");
    harness::command::succeed(std::process::Command::new("setfattr").args(["-n", "user.note", "-v", "kept"]).arg(&file));
    harness::command::succeed(std::process::Command::new("setfacl").args(["-m", "u:4321:r"]).arg(&file));
    harness::command::succeed(std::process::Command::new("mkfifo").arg(root.join("fifo")));
    harness::command::succeed(std::process::Command::new("mknod").arg(root.join("null")).args(["c", "1", "3"]));
    let holes = File::create(root.join("holes")).expect("a file");
    holes.write_all_at(b"end", 10 << 20).expect("a write behind a hole");
    harness::command::succeed(std::process::Command::new("touch").args(["-d", "2001-02-03 04:05:06.123456789"]).arg(&file));
    drop(holes);
    let picture = |root: &Path| {
        let mut lines = Vec::new();
        for name in [b"plain".as_slice(), b"hard", b"soft", b"fifo", b"null", b"holes"].into_iter().chain(names) {
            let meta = fs::symlink_metadata(root.join(OsStr::from_bytes(name))).expect("an entry");
            let (ino, mode, nlink) = (meta.ino(), meta.mode(), meta.nlink());
            lines.push(format!(
                "{name:?} {ino} {mode:o} {nlink} {} {} {} {} {}",
                meta.uid(),
                meta.gid(),
                meta.size(),
                meta.mtime(),
                meta.mtime_nsec()
            ));
        }
        let said = |program: &str, arguments: &[&str]| {
            harness::command::succeed(std::process::Command::new(program).args(arguments).current_dir(root))
        };
        lines.push(said("getfattr", &["-n", "user.note", "plain"]));
        lines.push(said("getfacl", &["-n", "plain"]));
        lines
    };
    let before = picture(&root);
    assert_eq!(before[0].split(' ').next_back(), Some("123456789"));
    volume.flush();
    volume.lose();
    let root = volume.root().to_path_buf();
    assert_eq!(picture(&root), before);
    assert_eq!(fs::read_link(root.join("soft")).expect("a symlink"), Path::new("plain"));
    let mut content = Vec::new();
    File::open(root.join("holes")).expect("a file").read_to_end(&mut content).expect("a read");
    assert!(content[..10 << 20].iter().all(|byte| *byte == 0) && content.ends_with(b"end"));
    assert!(fs::metadata(root.join("holes")).expect("a file").blocks() < 2048, "the hole came back as zeros");
    let old = fs::metadata(root.join("plain")).expect("a file").ino();
    fs::write(root.join("new"), b"").expect("a file");
    assert!(fs::metadata(root.join("new")).expect("a file").ino() > old);
}

/// > **S2.** What `fsync` or `fdatasync` of a file reported as done, its bytes, its size and its name, is there after a power failure of the
/// > machine.
///
/// The loss of power itself is played in `src/cache/tests/`, on the cache alone; here everything that holds the mount dies at once.
#[test]
fn fsynced_files_survive_the_death_of_everything() {
    let mut volume = Holdfast::new("s2");
    for i in 0..20 {
        let file = File::create(volume.root().join(format!("f{i}"))).expect("a file");
        file.write_all_at(&[i; 9000], 0).expect("a write");
        file.sync_all().expect("an fsync");
    }
    volume.crash();
    for i in 0..20 {
        assert_eq!(fs::read(volume.root().join(format!("f{i}"))).expect("a file"), [i; 9000]);
    }
}

/// > **S3.** `sync` and `syncfs` reach the driver only as writes of single files: they are not a durability point. Use `fsync`.
///
/// What can be shown: both return, and what was written is readable.
#[test]
fn sync_returns_and_promises_nothing() {
    let volume = Holdfast::new("s3");
    fs::write(volume.root().join("f"), b"x").expect("a write");
    harness::command::succeed(std::process::Command::new("sync").arg("-f").arg(volume.root()));
    assert_eq!(fs::read(volume.root().join("f")).expect("a read"), b"x");
}

/// > **S5.** Within every commit a file that was only appended to is a prefix of what was written: no hole and no zeros where bytes were
/// > written.
///
/// > **S6.** A file that replaced another by `rename` after it was written is, in every commit, whole: the old content or the new.
///
/// > **S7.** Two files that were changed one after the other, each change reported as done before the next, are in every commit in that order:
/// > never the second change without the first once an `fsync`, `close` or `rename` separated them.
#[test]
fn every_commit_is_a_cut() {
    let mut volume = Holdfast::new("s5");
    let root = volume.root().to_path_buf();
    let mut log = File::create(root.join("log")).expect("a log");
    let line = |n: u32| format!("line {n:08}\n");
    for round in 0..4u32 {
        for n in round * 500..(round + 1) * 500 {
            log.write_all(line(n).as_bytes()).expect("an append");
            if n % 25 == 0 {
                fs::write(root.join("new"), format!("{n}").repeat(3000)).expect("a write");
                fs::rename(root.join("new"), root.join("current")).expect("a rename");
                fs::write(root.join("first"), n.to_string()).expect("a write");
                fs::write(root.join("second"), n.to_string()).expect("a write");
            }
        }
        volume.flush();
    }
    let whole: String = (0..2000).map(line).collect();
    let commits = volume.commits();
    assert!(commits.len() >= 4, "{commits:?}");
    for commit in commits {
        let shown = lab();
        let tree = shown.path();
        volume.export(commit, tree);
        if let Ok(log) = fs::read(tree.join("log")) {
            assert!(whole.as_bytes().starts_with(&log), "commit {commit}: the log is no prefix");
        }
        if let Ok(current) = fs::read_to_string(tree.join("current")) {
            let part = &current[..current.len() / 3000];
            assert_eq!(current, part.repeat(3000), "commit {commit}: a replaced file is torn");
        }
        let number = |name: &str| fs::read_to_string(tree.join(name)).ok().and_then(|text| text.parse::<u32>().ok());
        // A file that is being rewritten may be shown cut to nothing.
        if let (Some(first), Some(second)) = (number("first"), number("second")) {
            assert!(first >= second, "commit {commit}: the second change ({second}) without the first ({first})");
        }
    }
}

/// > **S11.** `rename` is atomic, also over an existing target; `RENAME_NOREPLACE` and `RENAME_EXCHANGE` are carried out, `RENAME_WHITEOUT` is
/// > refused with EINVAL.
///
/// > **S13.** `fallocate` allocates, keeps the size when asked, punches holes and zeroes ranges; its other modes are refused with EOPNOTSUPP.
/// > `lseek` finds data and holes.
///
/// > **S14.** Locks (`flock`, `fcntl`) are the kernel's own: they hold between all processes of this mount and of no other machine; one volume
/// > has one writer.
#[test]
fn names_ranges_and_locks() {
    let volume = Holdfast::new("s11");
    let root = volume.root();
    let (a, b) = (root.join("a"), root.join("b"));
    fs::write(&a, b"a").expect("a write");
    fs::write(&b, b"b").expect("a write");
    assert_eq!(rename2(&a, &b, libc::RENAME_NOREPLACE), libc::EEXIST);
    assert_eq!(rename2(&a, &b, libc::RENAME_EXCHANGE), 0);
    assert_eq!((fs::read(&a).expect("a"), fs::read(&b).expect("b")), (b"b".to_vec(), b"a".to_vec()));
    assert_eq!(rename2(&a, &root.join("c"), libc::RENAME_WHITEOUT), libc::EINVAL);
    fs::rename(&a, &b).expect("a rename over a target");
    assert_eq!(fs::read(&b).expect("b"), b"b");

    let file = OpenOptions::new().read(true).write(true).create_new(true).open(root.join("ranges")).expect("a file");
    assert_eq!(fallocate(&file, libc::FALLOC_FL_KEEP_SIZE, 0, 1 << 20), 0);
    assert_eq!(file.metadata().expect("a file").len(), 0);
    assert_eq!(fallocate(&file, 0, 0, 64 << 10), 0);
    file.write_all_at(&[7; 64 << 10], 0).expect("a write");
    assert_eq!(fallocate(&file, libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE, 16 << 10, 16 << 10), 0);
    assert_eq!(fallocate(&file, libc::FALLOC_FL_ZERO_RANGE, 40 << 10, 4 << 10), 0);
    assert_eq!(fallocate(&file, libc::FALLOC_FL_COLLAPSE_RANGE, 0, 4096), libc::EOPNOTSUPP);
    let mut content = vec![0; 64 << 10];
    file.read_exact_at(&mut content, 0).expect("a read");
    assert!(content[16 << 10..32 << 10].iter().chain(&content[40 << 10..44 << 10]).all(|byte| *byte == 0));
    assert!(content[..16 << 10].iter().all(|byte| *byte == 7));
    // SAFETY: an open descriptor and plain numbers.
    let hole = unsafe { libc::lseek(file.as_raw_fd(), 0, libc::SEEK_HOLE) };
    assert_eq!(hole, 16 << 10);

    // SAFETY: open descriptors and plain numbers.
    let lock = |file: &File| unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) };
    let (one, two) = (File::open(&b).expect("b"), File::open(&b).expect("b"));
    assert_eq!((lock(&one), lock(&two)), (0, -1));
}

/// > **S15.** A write that the kernel has accepted is never refused for a limit, an absent store or another writer; it may be slow. Creating,
/// > extending by `truncate` and `fallocate` are refused with ENOSPC when a limit is reached, or the cache's disk is full; setting an extended
/// > attribute, when that disk is full; a buffered write that the cache's disk cannot take is reported by `fsync` and `close`.
///
/// The limit here is the volume's own capacity; the dirty limit and the absent store are in `tests/bad_days.rs`.
#[test]
fn a_limit_refuses_growth_and_no_write() {
    let volume = Holdfast::with("s15", &["--capacity", "1MiB"]);
    let file = File::create(volume.root().join("f")).expect("a file");
    assert_eq!(fallocate(&file, 0, 0, 8 << 20), libc::ENOSPC);
    assert_eq!(file.set_len(8 << 20).expect_err("over the limit").raw_os_error(), Some(libc::ENOSPC));
    file.write_all_at(&[1; 2 << 20], 0).expect("a write that the kernel has taken");
    file.sync_all().expect("its fsync");
    assert_eq!(fs::read(volume.root().join("f")).expect("a read").len(), 2 << 20);
}

/// > **S16.** A read of data that is neither here nor to be had from the store waits up to a limit, then fails with EIO, and works again
/// > without a new mount when the store is back.
///
/// > **S17.** While `fsync` of a file runs, writes to and renames of that file wait; other files do not.
///
/// The first is shown without a kernel in `tests/fuse/absent.rs`; of the second, that fsyncs of many files at once all end, and in order.
#[test]
fn fsyncs_of_many_files_at_once_all_end() {
    let volume = Holdfast::new("s17");
    std::thread::scope(|scope| {
        for worker in 0..8u8 {
            let root = volume.root().to_path_buf();
            scope.spawn(move || {
                let file = File::create(root.join(format!("w{worker}"))).expect("a file");
                for n in 0..40u64 {
                    file.write_all_at(&[worker; 4096], n * 4096).expect("a write");
                    file.sync_data().expect("an fsync");
                }
            });
        }
    });
    for worker in 0..8u8 {
        assert_eq!(fs::read(volume.root().join(format!("w{worker}"))).expect("a read"), vec![worker; 40 * 4096]);
    }
}

fn attribute(path: &Path) -> String {
    let said =
        harness::command::succeed(std::process::Command::new("getfattr").args(["-n", "user.holdfast.state", "--only-values"]).arg(path));
    said.trim().to_owned()
}

/// > **S21.** `getfattr -n user.holdfast.state FILE` says of a file or directory `commit N`: commit N, the newest that is known, has it as it is,
/// > its names and those of the directories above it too; or `dirty since TIME`: something of it is in no commit, and TIME is not later than the
/// > first change that is not; or `local`: no commit takes it; or `unlinked`. What was written before the call counts, whether the kernel had sent it
/// > or not. Whoever may read the file may ask, whether the store answers or not; the attribute is not listed, in no commit, and setting or
/// > removing it is refused with EPERM.
#[test]
fn where_a_file_stands_can_be_asked() {
    let policy = lab();
    let lines = policy.path().join("policy");
    fs::write(&lines, "/tmp/ local\n* debounced quiet=1h max=2h\n").expect("a policy");
    let mut volume = Holdfast::with("s21", &["--policy", &lines.display().to_string()]);
    let root = volume.root().to_path_buf();
    for dir in ["dir", "tmp"] {
        fs::create_dir(root.join(dir)).expect("a directory");
    }
    let (path, local) = (root.join("dir/file"), root.join("tmp/file"));
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path).expect("a file");
    fs::write(&local, b"x").expect("a file");
    assert!(attribute(&path).starts_with("dirty since 20"), "{}", attribute(&path));
    let first = volume.flush();
    assert_eq!([&path, &root.join("dir"), &root].map(|path| attribute(path)), [(); 3].map(|()| format!("commit {first}")));
    assert_eq!(attribute(&local), "local");
    // The kernel has it and has not sent it; the descriptor stays open.
    file.write_all_at(b"written", 0).expect("a write");
    assert!(attribute(&path).starts_with("dirty since 20"), "{}", attribute(&path));
    let second = volume.flush();
    assert_eq!(attribute(&path), format!("commit {second}"));
    // SAFETY: a new mapping of an open file, written within its length, and removed again.
    unsafe {
        let flags = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
        let map = libc::mmap(std::ptr::null_mut(), 7, flags.0, flags.1, file.as_raw_fd(), 0);
        assert_ne!(map, libc::MAP_FAILED);
        map.cast::<u8>().write(b'W');
        assert!(attribute(&path).starts_with("dirty since 20"), "{}", attribute(&path));
        libc::munmap(map, 7);
    }
    let third = volume.flush();
    assert_eq!(attribute(&path), format!("commit {third}"));
    fs::rename(root.join("dir"), root.join("moved")).expect("a rename");
    let path = root.join("moved/file");
    assert!(attribute(&path).starts_with("dirty since 20"), "{}", attribute(&path));
    volume.bounce();
    assert!(attribute(&path).starts_with("dirty since before 20"), "{}", attribute(&path));
    let fourth = volume.flush();
    assert_eq!(attribute(&path), format!("commit {fourth}"));
    let shown = lab();
    volume.export(fourth, shown.path());
    assert_eq!(fs::read(shown.path().join("moved/file")).expect("an export"), b"Written");
    volume.bounce();
    assert_eq!(attribute(&path), format!("commit {fourth}"));
    let refused = |arguments: &[&str]| {
        let output = std::process::Command::new("setfattr").args(arguments).arg(&path).output().expect("setfattr runs");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    assert!(refused(&["-n", "user.holdfast.state", "-v", "x"]).contains("Operation not permitted"));
    assert!(refused(&["-x", "user.holdfast.state"]).contains("Operation not permitted"));
    assert_eq!(harness::command::succeed(std::process::Command::new("getfattr").args(["-d", "-m", "-"]).arg(&path)), "");
}
