//! Many small files of one pack: how many requests bring them, ahead of the reader and beside him.

use super::super::{FetchOptions, Fetcher, Prefetch, Source, load, prefetch};
use crate::cache::{Cache, CacheOptions, CacheOrigin, Head, ReadOutcome};
use crate::env::Env;
use crate::format::changes::PackedDelta;
use crate::format::names;
use crate::format::pack::{Builder, PackBytes};
use crate::format::seal::{Cipher, Sealer};
use crate::rpc::{self, Delta, ExtentChange};
use crate::store::{Counters, Counting, Memory, Objects, Store, Verb, VerbResult};
use crate::types::{CacheId, FaultKind, Hash, Identity, Incarnation, Ino, ROOT, StoreId};
use bytes::Bytes;
use rand_chacha::rand_core::{Rng, SeedableRng};
use std::sync::Arc;

const LIFE: Incarnation = Incarnation([5; 16]);
const FILES: u64 = 900;
const SIZE: usize = 8192;
const FIRST: Ino = 2;
/// A file of [`PIECES`] frames, the last of the pack.
const LARGE: Ino = FIRST + FILES;
const PIECES: u64 = 4;

struct Lab {
    _dir: tempfile::TempDir,
    cache: Arc<Cache>,
    fetcher: Fetcher,
    counters: Arc<Counters>,
    memory: Arc<Memory>,
    name: String,
    pack: PackBytes,
}

/// Nobody can guess one file's bytes from another's, and nothing makes them shorter.
fn content(ino: Ino) -> Vec<u8> {
    let mut bytes = vec![0; SIZE];
    rand_chacha::ChaCha8Rng::seed_from_u64(ino).fill_bytes(&mut bytes);
    bytes
}

impl Lab {
    /// A volume of [`FILES`] files that lie in one pack, none of them here.
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let env = Env::real();
        let counters = Arc::new(Counters::default());
        let memory = Arc::new(Memory::new(env.clone()));
        let sealer = Sealer::new(Cipher::ChaCha20Poly1305, &[2; 32], StoreId([0x80; 16]), Some(LIFE));
        let store = Arc::new(Counting::new(Arc::clone(&memory) as Arc<dyn Store>, Arc::clone(&counters), env.clone()));
        let objects = Objects::new(store, sealer.clone(), LIFE, env.clone());
        let mut builder = Builder::default();
        for ino in FIRST..LARGE + PIECES {
            builder.push(&content(ino)).unwrap();
        }
        let name = names::pack(LIFE, 1, [7; 16]);
        let pack = builder.finish(&name, 1, [7; 32], &sealer).unwrap();
        memory.put_if_absent(&name, pack.bytes.clone()).await.unwrap();
        let mut delta = Delta { next_inode: LARGE + 1, objects: vec![pack.object.clone()], ..Delta::default() };
        delta.inodes.push(rpc::Inode { ino: ROOT, mode: libc::S_IFDIR | 0o755, ..rpc::Inode::default() });
        for (frame, ino) in (FIRST..FIRST + FILES).enumerate() {
            delta.inodes.push(rpc::Inode { ino, mode: libc::S_IFREG | 0o644, size: SIZE as u64, ..rpc::Inode::default() });
            delta.names.push(rpc::Name { dir: ROOT, name: ino.to_string().into_bytes().into(), ino, cookie: ino + 1 });
            let extent = pack.frames[frame].extent(0, SIZE as u64, 1, frame as u32, 0);
            delta.extents.push(ExtentChange { ino, cleared: Vec::new(), extents: vec![extent] });
        }
        delta.inodes.push(rpc::Inode { ino: LARGE, mode: libc::S_IFREG | 0o644, size: PIECES * SIZE as u64, ..rpc::Inode::default() });
        delta.names.push(rpc::Name { dir: ROOT, name: b"large".to_vec().into(), ino: LARGE, cookie: LARGE + 1 });
        let piece = |n: u64| pack.frames[(FILES + n) as usize].extent(n * SIZE as u64, SIZE as u64, 1, (FILES + n) as u32, 0);
        delta.extents.push(ExtentChange { ino: LARGE, cleared: Vec::new(), extents: (0..PIECES).map(piece).collect() });
        let mut options = CacheOptions::new(dir.path());
        (options.any_file_system, options.no_sync, options.log_bytes) = (true, true, 256 << 10);
        let identity = Identity::parse("a/b").unwrap();
        let origin = CacheOrigin { store_id: sealer.store(), incarnation: LIFE, identity, cache_id: CacheId([3; 16]) };
        let cache = Cache::create(env, options, &origin).unwrap();
        let fetcher = Fetcher::new(objects.clone(), Arc::clone(&cache), FetchOptions::default());
        let head = Some(Head { seq: 2, hash: Hash([3; 32]), epoch: 1 });
        load(&objects, &cache, Source { checkpoint: None, commits: vec![(2, vec![PackedDelta::of(&delta)])], head }).await.unwrap();
        Self { _dir: dir, cache, fetcher, counters, memory, name, pack }
    }

    /// What is stored of the pack from now on.
    async fn store(&self, bytes: &[u8]) {
        self.memory.delete(&self.name).await.unwrap();
        self.memory.put_if_absent(&self.name, Bytes::copy_from_slice(bytes)).await.unwrap();
    }

    /// The pack with a byte of one frame flipped.
    fn flipped(&self, frame: u64) -> Vec<u8> {
        let mut bytes = self.pack.bytes.to_vec();
        bytes[self.pack.frames[frame as usize].stored_offset as usize + 100] ^= 1;
        bytes
    }

    async fn fetch(&self, ino: Ino) -> Result<(), FaultKind> {
        self.fetcher.fetch(ino, 0..SIZE as u64, SIZE as u64).await.map_err(|fault| fault.kind)
    }

    fn stored(&self) -> u64 {
        self.pack.bytes.len() as u64
    }

    fn requests(&self) -> u64 {
        self.counters.count(Verb::GetRange, VerbResult::Ok)
    }

    fn is_here(&self, ino: Ino) -> bool {
        let mut bytes = Vec::new();
        match self.cache.read(ino, 0, SIZE, &mut bytes).unwrap() {
            ReadOutcome::Done => assert!(bytes == content(ino), "inode {ino} has other bytes"),
            ReadOutcome::Absent(_) => return false,
        }
        true
    }
}

struct Room(u64);

impl Prefetch for Room {
    fn room(&self) -> u64 {
        self.0
    }

    fn stopped(&self) -> bool {
        false
    }
}

#[tokio::test]
async fn prefetch_brings_a_pack_in_large_pieces() {
    let lab = Lab::new().await;
    assert_eq!(prefetch(&lab.cache, &lab.fetcher, &Room(u64::MAX)).await.unwrap(), 0);
    assert!((FIRST..FIRST + FILES).all(|ino| lab.is_here(ino)));
    assert_eq!(lab.requests(), lab.stored().div_ceil(4 << 20), "one request for each 4 MiB");
}

#[tokio::test]
async fn prefetch_without_room_brings_nothing() {
    let lab = Lab::new().await;
    let left = prefetch(&lab.cache, &lab.fetcher, &Room(SIZE as u64)).await.unwrap();
    assert_eq!((left, lab.requests()), ((FILES + PIECES) * SIZE as u64, 0));
}

#[tokio::test]
async fn a_reader_of_small_files_gets_the_pack_around_them() {
    let lab = Lab::new().await;
    for ino in (FIRST..FIRST + FILES).rev() {
        assert!(!lab.is_here(ino));
        lab.fetch(ino).await.unwrap();
        assert!(lab.is_here(ino));
    }
    // The first file for itself, then block by block, and what lies across their borders.
    let blocks = lab.stored().div_ceil(1 << 20);
    assert!(lab.requests() <= 1 + 2 * blocks, "{} requests for {blocks} blocks", lab.requests());
}

#[tokio::test]
async fn a_reader_who_jumps_about_pays_for_his_own_bytes() {
    let lab = Lab::new().await;
    lab.fetch(FIRST).await.unwrap();
    lab.fetch(FIRST + FILES / 2).await.unwrap();
    assert!(lab.counters.snapshot().bytes_down < 4 * SIZE as u64);
}

#[tokio::test]
async fn damage_fails_its_own_file_alone_and_heals_when_the_object_does() {
    let lab = Lab::new().await;
    lab.store(&lab.flipped(20)).await;
    for ino in FIRST..FIRST + 40 {
        let wanted = if ino == FIRST + 20 { Err(FaultKind::Damaged) } else { Ok(()) };
        assert_eq!(lab.fetch(ino).await, wanted, "inode {ino}");
    }
    assert_eq!(lab.fetcher.damage(), std::slice::from_ref(&lab.pack.object.name));
    lab.store(&lab.pack.bytes).await;
    lab.fetch(FIRST + 20).await.unwrap();
    assert!(lab.is_here(FIRST + 20), "what was kept of the pack is not asked for ever");
}

#[tokio::test]
async fn what_lies_before_the_end_of_a_truncated_pack_is_read() {
    let lab = Lab::new().await;
    lab.store(&lab.pack.bytes[..lab.pack.frames[30].stored_offset as usize]).await;
    for ino in FIRST..FIRST + 40 {
        let wanted = if ino < FIRST + 30 { Ok(()) } else { Err(FaultKind::Damaged) };
        assert_eq!(lab.fetch(ino).await, wanted, "inode {ino}");
    }
}

#[tokio::test]
async fn damage_behind_what_is_read_fails_nobody() {
    let lab = Lab::new().await;
    lab.store(&lab.flipped(FILES + PIECES - 1)).await;
    let size = PIECES * SIZE as u64;
    lab.fetcher.fetch(LARGE, 0..4096, size).await.unwrap();
    let last = size - 4096..size;
    assert_eq!(lab.fetcher.fetch(LARGE, last, size).await.map_err(|fault| fault.kind), Err(FaultKind::Damaged));
}
