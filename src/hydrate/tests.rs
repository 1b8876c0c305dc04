//! Inline frames whose record was freed after a checkpoint had moved them.

use super::super::{FetchOptions, Fetcher, Source, load};
use crate::cache::{Cache, CacheOptions, CacheOrigin, Head, ReadOutcome};
use crate::env::Env;
use crate::format::changes::PackedDelta;
use crate::format::checkpoint::{self, PlainPart};
use crate::format::pack::Builder;
use crate::format::seal::{Cipher, Sealer};
use crate::format::{block, codec, names, record};
use crate::rpc::log_record::Kind;
use crate::rpc::{self, Commit, Delta, Extent, ExtentChange, LogRecord, Open};
use crate::store::{Memory, Objects, Store};
use crate::types::{BLOCK, CacheId, FaultKind, Hash, Identity, Incarnation, ROOT, Seq, StoreId};
use bytes::Bytes;
use std::sync::Arc;

const LIFE: Incarnation = Incarnation([5; 16]);
const FILE: u64 = 2;
/// Above the first block of numbers, so that those below may be freed.
const CHECKPOINT: Seq = BLOCK + 2;

struct Bench {
    _dir: tempfile::TempDir,
    store: Arc<Memory>,
    sealer: Sealer,
    cache: Arc<Cache>,
    fetcher: Fetcher,
}

fn inodes() -> Vec<rpc::Inode> {
    let inode = |ino, mode, size| rpc::Inode { ino, mode, size, ..rpc::Inode::default() };
    vec![inode(ROOT, libc::S_IFDIR | 0o755, 0), inode(FILE, libc::S_IFREG | 0o644, 5)]
}

fn file(extent: Extent) -> Vec<ExtentChange> {
    vec![ExtentChange { ino: FILE, cleared: Vec::new(), extents: vec![extent] }]
}

impl Bench {
    /// A log of a block and some records whose second holds `hello` inline, and a cache that knows it by that record.
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let env = Env::real();
        let store = Arc::new(Memory::new(env.clone()));
        let sealer = Sealer::new(Cipher::ChaCha20Poly1305, &[2; 32], StoreId([0x80; 16]), Some(LIFE));
        let objects = Objects::new(Arc::clone(&store) as Arc<dyn Store>, sealer.clone(), LIFE, env.clone());
        let mut options = CacheOptions::new(dir.path());
        (options.any_file_system, options.no_sync, options.log_bytes) = (true, true, 256 << 10);
        let identity = Identity::parse("a/b").unwrap();
        let origin = CacheOrigin { store_id: sealer.store(), incarnation: LIFE, identity, cache_id: CacheId([3; 16]) };
        let cache = Cache::create(env, options, &origin).unwrap();
        let fetcher = Fetcher::new(objects.clone(), Arc::clone(&cache), FetchOptions::default());
        let bench = Self { _dir: dir, store, sealer, cache, fetcher };
        let extent = Extent { length: 5, plain_length: 5, checksum: codec::checksum(b"hello"), ..Extent::default() };
        let names = vec![rpc::Name { dir: ROOT, name: b"f".to_vec().into(), ino: FILE, cookie: 3 }];
        let delta = Delta { inodes: inodes(), names, extents: file(extent), next_inode: 3, ..Delta::default() };
        let commit = Commit {
            delta: Some(delta.clone()),
            inline_frames: vec![codec::compress(b"hello").into()],
            inline_checksums: vec![codec::checksum(b"hello")],
            ..Commit::default()
        };
        let mut record_hashes = vec![Bytes::new()];
        record_hashes.push(bench.append(1, Kind::Open(Open::default())).await);
        record_hashes.push(bench.append(2, Kind::Commit(commit)).await);
        for seq in 3..=CHECKPOINT + 1 {
            let checkpoint = if seq > CHECKPOINT { CHECKPOINT } else { 0 };
            record_hashes.push(bench.append(seq, Kind::Commit(Commit { checkpoint, ..Commit::default() })).await);
        }
        record_hashes.truncate(BLOCK as usize);
        let name = names::block(LIFE, 0);
        let marker = rpc::BlockMarker { block: 0, record_hashes };
        let (bytes, _) = block::encode(&marker, &bench.sealer, &name, [6; 32]).unwrap();
        bench.store.put_if_absent(&name, bytes).await.unwrap();
        let head = Some(Head { seq: CHECKPOINT + 1, hash: Hash([3; 32]), epoch: 1 });
        load(&objects, &bench.cache, Source { checkpoint: None, commits: vec![(2, vec![PackedDelta::of(&delta)])], head }).await.unwrap();
        bench
    }

    async fn append(&self, seq: Seq, kind: Kind) -> Bytes {
        let (writer, nonce) = (vec![1; 16].into(), seq.to_le_bytes().repeat(2).into());
        let parent_hash = if seq == 1 { Bytes::new() } else { vec![0; 32].into() };
        let message = LogRecord { seq, parent_hash, epoch: 1, writer, nonce, time: 0, kind: Some(kind) };
        let name = names::commit(LIFE, seq);
        let (bytes, hash) = record::encode(&message, &self.sealer, &name, [seq as u8; 32]).unwrap();
        self.store.put_if_absent(&name, bytes).await.unwrap();
        Bytes::copy_from_slice(hash.as_bytes())
    }

    /// The newest checkpoint, with this content of the file in a pack.
    async fn checkpoint(&self, content: &[u8]) {
        let mut builder = Builder::default();
        builder.push(content).unwrap();
        let name = names::pack(LIFE, 1, [7; 16]);
        let pack = builder.finish(&name, 1, [7; 32], &self.sealer).unwrap();
        self.store.put_if_absent(&name, pack.bytes.clone()).await.unwrap();
        let extents = file(pack.frames[0].extent(0, content.len() as u64, 1, 0, 0));
        let message = rpc::CheckpointPart { objects: vec![pack.object], inodes: inodes(), extents, ..rpc::CheckpointPart::default() };
        let name = names::checkpoint_part(LIFE, CHECKPOINT, [8; 16]);
        let part = PlainPart { first_ino: ROOT, last_ino: FILE, message };
        let (bytes, reference) = checkpoint::encode_part(&part, &self.sealer, &name, 1, [8; 32]).unwrap();
        self.store.put_if_absent(&name, bytes).await.unwrap();
        let commit_hash = vec![2; 32].into();
        let index =
            rpc::Checkpoint { seq: CHECKPOINT, commit_hash, epoch: 1, parts: vec![reference], opens: vec![1], ..Default::default() };
        let name = names::checkpoint_index(LIFE, CHECKPOINT);
        let (bytes, _) = checkpoint::encode_index(&index, &self.sealer, &name, [9; 32]).unwrap();
        self.store.put_if_absent(&name, bytes).await.unwrap();
    }

    async fn read(&self) -> Result<Vec<u8>, FaultKind> {
        self.fetcher.fetch_now(FILE, 0..5).await.map_err(|fault| fault.kind)?;
        let mut bytes = Vec::new();
        assert_eq!(self.cache.read(FILE, 0, 5, &mut bytes).unwrap(), ReadOutcome::Done);
        Ok(bytes)
    }
}

#[tokio::test]
async fn an_inline_frame_is_read_from_its_record_while_that_is_there() {
    let bench = Bench::new().await;
    assert_eq!(bench.read().await.unwrap(), b"hello");
}

#[tokio::test]
async fn a_freed_record_leads_to_the_newest_checkpoint() {
    let bench = Bench::new().await;
    bench.checkpoint(b"hello").await;
    bench.store.delete(&names::commit(LIFE, 2)).await.unwrap();
    assert_eq!(bench.read().await.unwrap(), b"hello");
}

#[tokio::test]
async fn a_record_that_is_gone_and_was_not_moved_is_damage() {
    let bench = Bench::new().await;
    bench.checkpoint(b"other").await;
    bench.store.delete(&names::commit(LIFE, 2)).await.unwrap();
    assert_eq!(bench.read().await, Err(FaultKind::Damaged));
}
