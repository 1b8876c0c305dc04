//! A volume through the kernel: every group of operations, what the kernel still holds, and a driver that is killed.
//! Needs root and /dev/fuse.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests against the real world")]

use holdfast::cache::{Cache, CacheOptions, CacheOrigin};
use holdfast::env::Env;
use holdfast::fuse::{Mount, MountOptions};
use holdfast::types::{ByteRange, CacheId, Fault, FaultKind, Identity, Incarnation, Ino, StoreId};
use holdfast::volume::{Fetch, NoLimits, Options, Posix};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[path = "fuse/absent.rs"]
mod absent;
#[path = "fuse/takeover.rs"]
mod takeover;

struct Unreachable;

impl Fetch for Unreachable {
    fn fetch(&self, _ino: Ino, _ranges: &[ByteRange]) -> Result<(), Fault> {
        Err(Fault::new(FaultKind::Unknown, "no store in this test"))
    }
}

fn open_cache(base: &Path) -> Arc<Cache> {
    let options = CacheOptions { log_bytes: 8 << 20, any_file_system: true, ..CacheOptions::new(base.join("cache")) };
    if Cache::exists(&options.dir) {
        return Cache::open(Env::real(), options).unwrap().0;
    }
    let origin = CacheOrigin {
        store_id: StoreId([1; 16]),
        incarnation: Incarnation([2; 16]),
        identity: Identity::parse("test").unwrap(),
        cache_id: CacheId([3; 16]),
    };
    let cache = Cache::create(Env::real(), options, &origin).unwrap();
    cache.set_epoch(1).unwrap();
    cache
}

fn operations(base: &Path, cache: Arc<Cache>, fetch: Arc<dyn Fetch>, resumed: bool) -> Arc<Posix> {
    let options = Options { cache, fetch, gate: Arc::new(NoLimits), read_only: false, handles: base.join("handles"), resumed };
    Arc::new(Posix::new(options).unwrap())
}

fn open_volume(base: &Path, resumed: bool) -> Arc<Posix> {
    operations(base, open_cache(base), Arc::new(Unreachable), resumed)
}

struct Volume {
    base: tempfile::TempDir,
    served: Option<(Arc<Posix>, Mount)>,
}

impl Volume {
    fn unmounted() -> Self {
        let base = tempfile::tempdir().unwrap();
        fs::create_dir(base.path().join("mnt")).unwrap();
        Self { base, served: None }
    }

    fn new() -> Self {
        let mut volume = Self::unmounted();
        volume.mount();
        volume
    }

    fn mount(&mut self) {
        self.serve(open_volume(self.base.path(), false), false);
    }

    fn serve(&mut self, posix: Arc<Posix>, read_only: bool) {
        let options = MountOptions { read_only, ..MountOptions::new(self.dir(), "test/fuse") };
        let mount = Mount::start(&Env::real(), &posix, &options, None).unwrap();
        self.served = Some((posix, mount));
    }

    fn unmount(&mut self) {
        let (posix, mount) = self.served.take().unwrap();
        mount.unmount(false).unwrap();
        mount.wait().unwrap();
        posix.cache().close().unwrap();
    }

    fn posix(&self) -> &Posix {
        &self.served.as_ref().unwrap().0
    }

    fn bring_in(&self) -> Vec<(Ino, u64)> {
        let brought = self.served.as_ref().unwrap().1.kernel_pages().bring_in();
        assert_eq!(brought.missed, None);
        brought.sizes
    }

    fn dir(&self) -> PathBuf {
        self.base.path().join("mnt")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir().join(name)
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        fs::write(self.path(name), bytes).unwrap();
        self.path(name)
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        if let Some((_, mount)) = self.served.take() {
            // A failed test may have files open still.
            mount.unmount(true).ok();
        }
    }
}

fn errno(result: std::io::Result<impl Sized>) -> i32 {
    result.err().and_then(|e| e.raw_os_error()).unwrap_or(0)
}

fn c(path: &Path) -> std::ffi::CString {
    std::ffi::CString::new(path.as_os_str().as_bytes()).unwrap()
}

fn check(result: i32) -> std::io::Result<()> {
    if result < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
}

fn rename2(from: &Path, to: &Path, flags: u32) -> std::io::Result<()> {
    // SAFETY: two C strings and plain numbers.
    check(unsafe { libc::renameat2(libc::AT_FDCWD, c(from).as_ptr(), libc::AT_FDCWD, c(to).as_ptr(), flags) })
}

fn set_xattr(path: &Path, name: &std::ffi::CStr, value: &[u8], flags: i32) -> std::io::Result<()> {
    // SAFETY: C strings and a buffer with its length.
    check(unsafe { libc::lsetxattr(c(path).as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), flags) })
}

fn get_xattr(path: &Path, name: &std::ffi::CStr) -> std::io::Result<Vec<u8>> {
    let mut value = vec![0; 65536];
    // SAFETY: C strings and a buffer with its length.
    let length = unsafe { libc::lgetxattr(c(path).as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
    check(length as i32)?;
    value.truncate(length as usize);
    Ok(value)
}

fn mkfifo(path: &Path, mode: u32) -> std::io::Result<()> {
    // SAFETY: a C string and a number.
    check(unsafe { libc::mkfifo(c(path).as_ptr(), mode) })
}

fn seek(file: &File, offset: i64, whence: i32) -> std::io::Result<i64> {
    // SAFETY: an open descriptor and plain numbers.
    let found = unsafe { libc::lseek(file.as_raw_fd(), offset, whence) };
    if found < 0 { Err(std::io::Error::last_os_error()) } else { Ok(found) }
}

fn allocate(file: &File, mode: i32, offset: i64, length: i64) -> std::io::Result<()> {
    // SAFETY: an open descriptor and plain numbers.
    check(unsafe { libc::fallocate(file.as_raw_fd(), mode, offset, length) })
}

#[test]
fn names() {
    let mut v = Volume::new();
    let file = v.write("file", "x");
    fs::create_dir(v.path("dir")).unwrap();
    fs::create_dir(v.path("dir/sub")).unwrap();
    symlink("dir/sub", v.path("link")).unwrap();
    mkfifo(&v.path("fifo"), 0o600).unwrap();
    fs::hard_link(&file, v.path("dir/twin")).unwrap();
    assert_eq!(fs::metadata(&file).unwrap().nlink(), 2);
    assert_eq!(fs::metadata(v.path("dir")).unwrap().nlink(), 3);
    assert!(fs::symlink_metadata(v.path("fifo")).unwrap().file_type().is_fifo());
    assert_eq!(fs::read_link(v.path("link")).unwrap(), Path::new("dir/sub"));
    assert_eq!(errno(fs::create_dir(v.path("dir"))), libc::EEXIST);
    assert_eq!(errno(fs::remove_dir(v.path("dir"))), libc::ENOTEMPTY);
    assert_eq!(errno(fs::remove_file(v.path("dir"))), libc::EISDIR);
    assert_eq!(errno(File::open(v.path("absent"))), libc::ENOENT);
    assert_eq!(errno(File::open(v.path("file/x"))), libc::ENOTDIR);
    assert_eq!(errno(File::create(v.path(&"n".repeat(256)))), libc::ENAMETOOLONG);
    let odd = v.dir().join(std::ffi::OsStr::from_bytes(b"\xff\n \\ \x01"));
    fs::write(&odd, "odd").unwrap();
    fs::write(v.path(&"n".repeat(255)), "long").unwrap();
    assert_eq!(errno(fs::rename(v.path("dir"), v.path("dir/sub/x"))), libc::EINVAL);
    assert_eq!(errno(rename2(&file, &v.path("link"), libc::RENAME_NOREPLACE)), libc::EEXIST);
    assert_eq!(errno(rename2(&file, &v.path("white"), libc::RENAME_WHITEOUT)), libc::EINVAL);
    rename2(&file, &v.path("dir"), libc::RENAME_EXCHANGE).unwrap();
    assert!(fs::metadata(&file).unwrap().is_dir());
    assert_eq!(fs::read(v.path("dir")).unwrap(), b"x");
    fs::remove_file(v.path("dir")).unwrap();
    fs::rename(&odd, v.path("file/twin")).unwrap();
    assert_eq!(fs::read(v.path("file/twin")).unwrap(), b"odd");
    // Everything is there after a remount, under the same numbers.
    let before = tree(&v.dir());
    v.unmount();
    v.mount();
    assert_eq!(tree(&v.dir()), before);
    fs::remove_dir_all(v.path("file")).unwrap();
    assert_eq!(fs::metadata(v.dir()).unwrap().nlink(), 2);
    v.unmount();
}

fn tree(dir: &Path) -> Vec<(PathBuf, u64, u32, u64, u64)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let meta = fs::symlink_metadata(&path).unwrap();
        if meta.is_dir() {
            found.extend(tree(&path));
        }
        found.push((path, meta.ino(), meta.mode(), meta.size(), meta.nlink()));
    }
    found.sort();
    found
}

#[test]
fn large_directories() {
    let mut v = Volume::new();
    for n in 0..1200 {
        File::create(v.path(&format!("file-{n:05}-with-a-name-that-fills-the-buffer"))).unwrap();
    }
    let list = |dir: &Path| fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name()).collect::<std::collections::BTreeSet<_>>();
    assert_eq!(list(&v.dir()).len(), 1200);
    v.unmount();
    v.mount();
    // Removing while listing: each name is met once.
    for entry in fs::read_dir(v.dir()).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    assert!(list(&v.dir()).is_empty());
}

#[test]
fn attributes() {
    let v = Volume::new();
    let file = v.write("file", "0123456789");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o4751)).unwrap();
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o7777, 0o4751);
    std::os::unix::fs::chown(&file, Some(12), Some(34)).unwrap();
    let meta = fs::metadata(&file).unwrap();
    assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o7777), (12, 34, 0o751));
    let times = [libc::timespec { tv_sec: -5, tv_nsec: 300_000_000 }, libc::timespec { tv_sec: 1 << 31, tv_nsec: 7 }];
    // SAFETY: a C string and two times.
    check(unsafe { libc::utimensat(libc::AT_FDCWD, c(&file).as_ptr(), times.as_ptr(), 0) }).unwrap();
    let meta = fs::metadata(&file).unwrap();
    assert_eq!((meta.atime(), meta.atime_nsec(), meta.mtime(), meta.mtime_nsec()), (-5, 300_000_000, 1 << 31, 7));
    let kept = v.posix().getattr(meta.ino()).unwrap();
    assert_eq!((kept.atime, kept.mtime), (-4_700_000_000, (1i64 << 31) * 1_000_000_000 + 7));
    File::options().write(true).open(&file).unwrap().set_len(4).unwrap();
    assert_eq!(fs::read(&file).unwrap(), b"0123");
    assert!(fs::metadata(&file).unwrap().mtime_nsec() != 7, "a cut stamps the file");
    // A directory with set-group-id hands its group down.
    fs::create_dir(v.path("group")).unwrap();
    std::os::unix::fs::chown(v.path("group"), None, Some(77)).unwrap();
    fs::set_permissions(v.path("group"), fs::Permissions::from_mode(0o2770)).unwrap();
    let inside = v.write("group/file", "");
    assert_eq!(fs::metadata(inside).unwrap().gid(), 77);
    let space = nix::sys::statvfs::statvfs(&v.dir()).unwrap();
    assert!(space.blocks() > 0 && space.blocks_free() <= space.blocks() && space.name_max() == 255);
}

#[test]
fn contents() {
    let mut v = Volume::new();
    let data: Vec<u8> = (0..3_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let path = v.write("file", &data);
    let file = File::options().read(true).write(true).open(&path).unwrap();
    file.write_all_at(b"patch", 1_000_001).unwrap();
    file.write_all_at(b"beyond", 5_000_000).unwrap();
    let mut want = data.clone();
    want[1_000_001..1_000_006].copy_from_slice(b"patch");
    want.resize(5_000_000, 0);
    want.extend(b"beyond");
    file.sync_all().unwrap();
    drop(file);
    assert!(fs::read(&path).unwrap() == want);
    v.unmount();
    v.mount();
    assert!(fs::read(&path).unwrap() == want, "after a remount");
    let mut appended = File::options().append(true).open(&path).unwrap();
    appended.write_all(b"!").unwrap();
    drop(appended);
    assert_eq!(fs::metadata(&path).unwrap().len(), 5_000_007);
    // Open and unlinked.
    let mut open = File::options().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
    assert_eq!(open.metadata().unwrap().len(), 0);
    fs::remove_file(&path).unwrap();
    open.write_all(b"nameless").unwrap();
    open.sync_all().unwrap();
    let mut text = String::new();
    File::open(format!("/proc/self/fd/{}", open.as_raw_fd())).unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "nameless");
    assert_eq!(open.metadata().unwrap().nlink(), 0);
    drop(open);
    assert_eq!(fs::read_dir(v.dir()).unwrap().count(), 0);
}

#[test]
fn holes_and_copies() {
    let v = Volume::new();
    let path = v.path("sparse");
    let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
    file.write_all_at(&[7; 4096], 1 << 20).unwrap();
    file.set_len(4 << 20).unwrap();
    // Not sent yet, and found nevertheless.
    assert_eq!(seek(&file, 0, libc::SEEK_DATA).unwrap(), 1 << 20);
    assert_eq!(seek(&file, 1 << 20, libc::SEEK_HOLE).unwrap(), (1 << 20) + 4096);
    assert_eq!(errno(seek(&file, 2 << 20, libc::SEEK_DATA)), libc::ENXIO);
    let keep = libc::FALLOC_FL_KEEP_SIZE;
    allocate(&file, keep, 0, 8 << 20).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 4 << 20);
    allocate(&file, libc::FALLOC_FL_PUNCH_HOLE | keep, (1 << 20) + 100, 200).unwrap();
    allocate(&file, libc::FALLOC_FL_ZERO_RANGE, (1 << 20) + 1000, 8).unwrap();
    let mut page = [0; 4096];
    file.read_exact_at(&mut page, 1 << 20).unwrap();
    assert!(page.iter().enumerate().all(|(at, byte)| *byte == if (100..300).contains(&at) || (1000..1008).contains(&at) { 0 } else { 7 }));
    assert_eq!(errno(allocate(&file, libc::FALLOC_FL_COLLAPSE_RANGE, 0, 4096)), libc::EOPNOTSUPP);
    allocate(&file, 0, 4 << 20, 4096).unwrap();
    assert_eq!(file.metadata().unwrap().len(), (4 << 20) + 4096);
    let copy = File::options().read(true).write(true).create_new(true).open(v.path("copy")).unwrap();
    let (mut from, mut to) = ((1 << 20) - 10, 5);
    // SAFETY: two open descriptors and two offsets.
    let copied = unsafe { libc::copy_file_range(file.as_raw_fd(), &raw mut from, copy.as_raw_fd(), &raw mut to, 4106, 0) };
    assert_eq!(copied, 4106);
    let copied = fs::read(v.path("copy")).unwrap();
    assert_eq!(copied.len(), 4111);
    assert_eq!(copied[15..], page);
}

#[test]
fn extended_attributes_and_access_lists() {
    let mut v = Volume::new();
    let file = v.write("file", "");
    set_xattr(&file, c"user.a", b"value", libc::XATTR_CREATE).unwrap();
    assert_eq!(errno(set_xattr(&file, c"user.a", b"value", libc::XATTR_CREATE)), libc::EEXIST);
    assert_eq!(errno(set_xattr(&file, c"user.b", b"value", libc::XATTR_REPLACE)), libc::ENODATA);
    set_xattr(&file, c"user.large", &[9; 65536], 0).unwrap();
    assert_eq!(get_xattr(&file, c"user.large").unwrap().len(), 65536);
    assert_eq!(errno(set_xattr(&file, c"user.holdfast.state", b"", 0)), libc::EPERM);
    assert_eq!(errno(get_xattr(&file, c"user.none")), libc::ENODATA);
    v.unmount();
    v.mount();
    assert_eq!(get_xattr(&file, c"user.a").unwrap(), b"value");
    // user::rw- user:1:rwx group::r-- mask::rwx other::---
    let list = acl(&[(1, 6, u32::MAX), (2, 7, 1), (4, 4, u32::MAX), (16, 7, u32::MAX), (32, 0, u32::MAX)]);
    set_xattr(&file, c"system.posix_acl_access", &list, 0).unwrap();
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o670, "the mask is the group's bits");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    let masked = acl(&[(1, 6, u32::MAX), (2, 7, 1), (4, 4, u32::MAX), (16, 4, u32::MAX), (32, 0, u32::MAX)]);
    assert_eq!(get_xattr(&file, c"system.posix_acl_access").unwrap(), masked, "a chmod is the mask's");
    fs::create_dir(v.path("dir")).unwrap();
    let default = acl(&[(1, 7, u32::MAX), (2, 7, 1), (4, 5, u32::MAX), (16, 7, u32::MAX), (32, 0, u32::MAX)]);
    set_xattr(&v.path("dir"), c"system.posix_acl_default", &default, 0).unwrap();
    let inherited = v.write("dir/file", "");
    assert_eq!(fs::metadata(&inherited).unwrap().mode() & 0o777, 0o660);
    let own = acl(&[(1, 6, u32::MAX), (2, 7, 1), (4, 5, u32::MAX), (16, 6, u32::MAX), (32, 0, u32::MAX)]);
    assert_eq!(get_xattr(&inherited, c"system.posix_acl_access").unwrap(), own);
}

fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let entry = |e: &(u16, u16, u32)| [&e.0.to_le_bytes()[..], &e.1.to_le_bytes(), &e.2.to_le_bytes()].concat();
    [&2u32.to_le_bytes()[..], &entries.iter().flat_map(entry).collect::<Vec<_>>()].concat()
}

#[test]
fn what_the_kernel_holds_is_brought_in() {
    let v = Volume::new();
    let path = v.path("log");
    let mut file = File::create(&path).unwrap();
    let ino = file.metadata().unwrap().ino();
    assert_eq!(v.posix().writable_open(), [ino]);
    file.write_all(&vec![5; 3 << 20]).unwrap();
    assert_eq!(v.posix().getattr(ino).unwrap().size, 0, "the kernel holds it");
    assert_eq!(v.bring_in(), [(ino, 3 << 20)]);
    assert_eq!(v.posix().getattr(ino).unwrap().size, 3 << 20);
    assert_eq!(v.posix().getattr(ino).unwrap().mtime / 1_000_000_000, file.metadata().unwrap().mtime(), "with its time");
    file.write_all(b"more").unwrap();
    assert_eq!(v.bring_in(), [(ino, (3 << 20) + 4)]);
    assert_eq!(v.posix().getattr(ino).unwrap().size, (3 << 20) + 4);
    // A rename shows the file under its new name with what was written before.
    file.write_all(b"before the rename").unwrap();
    fs::rename(&path, v.path("log.1")).unwrap();
    assert_eq!(v.posix().getattr(ino).unwrap().size, (3 << 20) + 21);
    file.write_all(b"before the link").unwrap();
    fs::hard_link(v.path("log.1"), &path).unwrap();
    assert_eq!(v.posix().getattr(ino).unwrap().size, (3 << 20) + 36);
    // A file without a name is in no commit, and no reason to wait.
    fs::remove_file(&path).unwrap();
    fs::remove_file(v.path("log.1")).unwrap();
    file.write_all(b"of nobody").unwrap();
    v.bring_in();
    drop(file);
    // The RELEASE is sent behind the close.
    while !v.posix().writable_open().is_empty() {
        std::thread::yield_now();
    }
    assert!(v.bring_in().is_empty());
}

#[test]
fn flushes_renames_and_syncs_do_not_wait_for_one_another() {
    let v = Volume::new();
    let round = &|worker: usize, n: usize| {
        let (one, two) = (v.path(&format!("{worker}-one")), v.path(&format!("{worker}-two")));
        let mut file = File::options().read(true).write(true).create(true).truncate(true).open(&one).unwrap();
        let text = vec![n as u8 + 1; 200_000 + n];
        file.write_all(&text).unwrap();
        assert_eq!(seek(&file, 0, libc::SEEK_HOLE).unwrap(), text.len() as i64);
        fs::rename(&one, &two).unwrap();
        file.sync_data().unwrap();
        file.write_all(b"after").unwrap();
        fs::hard_link(&two, &one).unwrap();
        allocate(&file, libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE, 0, 4096).unwrap();
        fs::rename(&one, v.path(&format!("{worker}-three"))).unwrap();
        let read = fs::read(&two).unwrap();
        assert!(read[..4096].iter().all(|b| *b == 0) && read[4096..text.len()] == text[4096..] && read.ends_with(b"after"));
        fs::remove_file(&two).unwrap();
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..6).map(|worker| scope.spawn(move || (0..20).for_each(|n| round(worker, n)))).collect();
        while !workers.iter().all(std::thread::ScopedJoinHandle::is_finished) {
            v.bring_in();
        }
    });
    assert_eq!(fs::read_dir(v.dir()).unwrap().count(), 6);
}

#[test]
fn a_shared_mapping_is_written_back() {
    let v = Volume::new();
    let path = v.write("mapped", [1; 8192]);
    let file = File::options().read(true).write(true).open(&path).unwrap();
    let ino = file.metadata().unwrap().ino();
    // SAFETY: a mapping of an open file, used while it is mapped.
    let map = unsafe { libc::mmap(std::ptr::null_mut(), 8192, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED, file.as_raw_fd(), 0) };
    assert_ne!(map, libc::MAP_FAILED);
    // Before anything can fail: at its exit a process must not have pages of a mount that it serves itself.
    let map = Mapping(map);
    drop(file);
    // The mapping keeps the handle: the file is in the set that is flushed.
    assert_eq!(v.posix().writable_open(), [ino]);
    for round in 2..5u8 {
        // SAFETY: within the mapping.
        unsafe { map.0.cast::<u8>().add(5000).write_volatile(round) };
        v.bring_in();
        let mut out = Vec::new();
        v.posix().read(ino, 5000, 1, &mut out).unwrap();
        assert_eq!(out, [round]);
    }
}

struct Mapping(*mut libc::c_void);

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping that the test has made.
        unsafe { libc::munmap(self.0, 8192) };
    }
}

#[test]
fn a_read_only_mount_changes_nothing() {
    let mut v = Volume::new();
    let file = v.write("file", "kept");
    v.unmount();
    v.serve(open_volume(v.base.path(), false), true);
    assert_eq!(fs::read(&file).unwrap(), b"kept");
    assert_eq!(errno(fs::write(&file, "changed")), libc::EROFS);
    assert_eq!(errno(fs::create_dir(v.path("dir"))), libc::EROFS);
    assert_eq!(errno(fs::remove_file(&file)), libc::EROFS);
    v.unmount();
}

#[test]
fn refusals_say_what_to_do() {
    let v = Volume::new();
    let posix = v.served.as_ref().unwrap().0.clone();
    let start = |dir: &Path| Mount::start(&Env::real(), &posix, &MountOptions::new(dir, "other"), None).unwrap_err();
    let twice = start(&v.dir());
    assert!(twice.kind == FaultKind::Busy && twice.to_string().contains("mounted already (by holdfast:test/fuse)"), "{twice}");
    let full = start(v.base.path());
    assert!(full.to_string().contains("is not empty"), "{full}");
    assert_eq!(start(&v.path("absent")).kind, FaultKind::NotFound);
    let found = holdfast::fuse::find(&v.dir()).unwrap().unwrap();
    assert_eq!(found.identity(), Some("test/fuse"));
    let file = File::create(v.path("busy")).unwrap();
    let busy = v.served.as_ref().unwrap().1.unmount(false).unwrap_err();
    assert_eq!(busy.kind, FaultKind::Busy, "{busy}");
    drop(file);
}
