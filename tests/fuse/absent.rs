//! Bytes that are committed and not in the cache: fetched when they are read, EIO while they cannot be had.

use super::{Volume, check, errno, open_cache, operations};
use holdfast::cache::{Cache, Head};
use holdfast::rpc;
use holdfast::types::{ByteRange, Fault, FaultKind, Hash, Ino, ROOT};
use holdfast::volume::Fetch;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const FIRST: Ino = (1 << 40) + 1;
const LENGTH: usize = 700_001;
const FILES: [&str; 4] = ["read", "write", "cut", "copy"];

fn content() -> Vec<u8> {
    (0..LENGTH as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 11) as u8).collect()
}

struct Store {
    cache: Arc<Cache>,
    reachable: AtomicBool,
    fetched: AtomicU64,
}

impl Fetch for Store {
    fn fetch(&self, ino: Ino, ranges: &[ByteRange]) -> Result<(), Fault> {
        if !self.reachable.load(Ordering::SeqCst) {
            return Err(Fault::new(FaultKind::Unknown, "the store is not reachable"));
        }
        let content = content();
        for range in ranges {
            for missing in self.cache.missing(ino, range.clone())? {
                let bytes = &content[missing.range.start as usize..missing.range.end as usize];
                self.fetched.fetch_add(self.cache.install(ino, &missing, bytes)?, Ordering::SeqCst);
            }
        }
        Ok(())
    }
}

fn inode(ino: Ino, mode: u32, size: u64) -> rpc::Inode {
    rpc::Inode { ino, mode, size, ..rpc::Inode::default() }
}

// A volume as it is after a hydrate: all of the names, none of the bytes.
fn hydrated() -> (Volume, Arc<Store>) {
    let mut volume = Volume::unmounted();
    let cache = open_cache(volume.base.path());
    let object = rpc::ObjectRef {
        name: "packs/1-00".into(),
        salt: vec![0; 32].into(),
        epoch: 1,
        frames: 1,
        size: 1 << 20,
        hash: vec![0; 32].into(),
    };
    let mut delta = rpc::Delta { objects: vec![object], inodes: vec![inode(ROOT, libc::S_IFDIR | 0o755, 0)], ..rpc::Delta::default() };
    for (n, name) in FILES.iter().enumerate() {
        let ino = FIRST + n as u64;
        delta.inodes.push(inode(ino, libc::S_IFREG | 0o644, LENGTH as u64));
        delta.names.push(rpc::Name { dir: ROOT, name: name.as_bytes().to_vec().into(), ino, cookie: n as u64 + 1 });
        let extent =
            rpc::Extent { length: LENGTH as u64, object: 1, stored_length: 1 << 20, plain_length: LENGTH as u32, ..rpc::Extent::default() };
        delta.extents.push(rpc::ExtentChange { ino, extents: vec![extent], ..rpc::ExtentChange::default() });
    }
    let mut loader = cache.load().unwrap();
    loader.delta(1, &delta).unwrap();
    loader.finish(Head { seq: 1, hash: Hash([0; 32]), epoch: 1 }, FIRST + 10, 100).unwrap();
    let store = Arc::new(Store { cache: Arc::clone(&cache), reachable: AtomicBool::new(false), fetched: AtomicU64::new(0) });
    volume.serve(operations(volume.base.path(), cache, Arc::clone(&store) as Arc<dyn Fetch>, false), false);
    (volume, store)
}

#[test]
fn bytes_come_when_they_are_read() {
    let (v, store) = hydrated();
    let content = content();
    assert_eq!(fs::metadata(v.path("read")).unwrap().len(), LENGTH as u64);
    assert_eq!(errno(fs::read(v.path("read"))), libc::EIO, "the store is not reachable");
    // It works again without a remount.
    store.reachable.store(true, Ordering::SeqCst);
    let mut page = [0; 100];
    File::open(v.path("read")).unwrap().read_exact_at(&mut page, 300_000).unwrap();
    assert_eq!(page, content[300_000..300_100]);
    assert!(store.fetched.load(Ordering::SeqCst) > 0);
    assert!(fs::read(v.path("read")).unwrap() == content);
    let whole = store.fetched.load(Ordering::SeqCst);
    assert!(fs::read(v.path("read")).unwrap() == content);
    assert_eq!(store.fetched.load(Ordering::SeqCst), whole, "once");
}

#[test]
fn bytes_are_changed_before_they_came() {
    let (v, store) = hydrated();
    let mut want = content();
    // A cut and an extension need nothing of the store.
    let cut = File::options().read(true).write(true).open(v.path("cut")).unwrap();
    cut.set_len(10_001).unwrap();
    cut.set_len(20_000).unwrap();
    let punch = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    // SAFETY: an open descriptor and plain numbers.
    check(unsafe { libc::fallocate(cut.as_raw_fd(), punch, 4096, 4096) }).unwrap();
    store.reachable.store(true, Ordering::SeqCst);
    let mut cut_want = want[..10_001].to_vec();
    cut_want.resize(20_000, 0);
    cut_want[4096..8192].fill(0);
    assert!(fs::read(v.path("cut")).unwrap() == cut_want);
    // A part of a page.
    let file = File::options().write(true).open(v.path("write")).unwrap();
    file.write_all_at(b"changed", 5_000).unwrap();
    file.write_all_at(b"and longer", LENGTH as u64 - 3).unwrap();
    file.sync_all().unwrap();
    want[5_000..5_007].copy_from_slice(b"changed");
    want.truncate(LENGTH - 3);
    want.extend(b"and longer");
    assert!(fs::read(v.path("write")).unwrap() == want);
    assert!(store.fetched.load(Ordering::SeqCst) < 2 * LENGTH as u64);
    // A copy of what is stored.
    let (from, to) = (File::open(v.path("copy")).unwrap(), File::create(v.path("new")).unwrap());
    let mut left = LENGTH;
    while left > 0 {
        // SAFETY: two open descriptors; no offsets, so that they move.
        let n = unsafe { libc::copy_file_range(from.as_raw_fd(), std::ptr::null_mut(), to.as_raw_fd(), std::ptr::null_mut(), left, 0) };
        assert!(n > 0, "{}", std::io::Error::last_os_error());
        left -= n as usize;
    }
    assert!(fs::read(v.path("new")).unwrap() == content());
}
