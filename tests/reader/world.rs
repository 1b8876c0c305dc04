//! A small volume in memory: a tree that tests change, and the store that the format module makes of it. What the tree holds
//! is kept beside it as plain bytes, so that what a reader finds can be compared with what was meant.

use bytes::Bytes;
use holdfast::format::{checkpoint, delta, keys, marker::Marker, name, names, pack, record, seal::Sealer, volume};
use holdfast::rpc::{self, log_record::Kind};
use holdfast::types::{Identity, Incarnation, StoreId, StoreKey};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::ops::Range;

pub(crate) const VOLUME: &str = "home/lab/photos";
pub(crate) const LIFE: Incarnation = Incarnation([0xA1; 16]);
const DIR: u32 = 0o040_000;
const REG: u32 = 0o100_000;

type Ranges = Vec<Range<u64>>;

/// How a commit is written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// Extents and delta in the record itself.
    Inline,
    /// Extents in a pack.
    Packed,
    /// Extents in a pack, the delta in many frames of another.
    Framed,
}

#[derive(Default)]
struct Node {
    inode: rpc::Inode,
    content: Vec<u8>,
}

pub(crate) struct World {
    pub(crate) objects: BTreeMap<String, Bytes>,
    pub(crate) sealer: Sealer,
    pub(crate) trees: Vec<(u64, Vec<Value>)>,
    pub(crate) record_names: Vec<String>,
    nodes: BTreeMap<u64, Node>,
    names: BTreeMap<(u64, Vec<u8>), (u64, u64)>,
    extents: BTreeMap<u64, Vec<(rpc::Extent, Option<rpc::ObjectRef>)>>,
    pending: rpc::Delta,
    // what was cleared, and what was written, by inode
    touched: BTreeMap<u64, (Ranges, Ranges)>,
    seq: u64,
    epoch: u64,
    parent: Bytes,
    ticks: u64,
    opens: Vec<u64>,
    checkpoint: u64,
}

impl World {
    /// With a key: an encrypted store, its ring wrapped for `recipients`.
    pub(crate) fn new(key: Option<(&StoreKey, Vec<rpc::Recipient>)>) -> Self {
        let data_key = [0xD0; 32];
        let (marker, store_key) = match &key {
            Some((key, _)) => (Marker::encrypted(key, 1_700_000_000_000_000_000, "holdfast tests"), key.0),
            None => (Marker::clear([0x5C; 16], 1_700_000_000_000_000_000, "holdfast tests"), [0; 32]),
        };
        let of_store = Sealer::new(marker.cipher, &store_key, marker.store, None);
        let mut world = Self::bare(Sealer::new(marker.cipher, &data_key, marker.store, Some(LIFE)));
        world.objects.insert(names::marker().into(), marker.encode());
        if let Some((key, recipients)) = key {
            let ring = keys::wrap(key, 1, recipients).unwrap();
            let salt = world.salt();
            world.objects.insert(names::key_ring(1), keys::encode(&ring, marker.store, salt).unwrap().0);
        }
        let identity = Identity::parse(VOLUME).unwrap();
        let (incarnation, created) = (Bytes::copy_from_slice(LIFE.as_bytes()), 5);
        let data_key = Bytes::copy_from_slice(&data_key);
        let record = rpc::VolumeRecord { incarnation: incarnation.clone(), identity: VOLUME.into(), created, data_key, origin: None };
        let (of, salt) = (names::volume(LIFE), world.salt());
        world.put(&of, volume::encode(&record, &of_store, &of, salt).unwrap().0);
        let record = rpc::NameRecord { number: 1, incarnation, created };
        let (of, salt) = (names::name_record(&identity, 1), world.salt());
        world.put(&of, name::encode(&record, &of_store, &of, salt).unwrap().0);
        world
    }

    fn bare(sealer: Sealer) -> Self {
        Self {
            objects: BTreeMap::new(),
            sealer,
            trees: Vec::new(),
            record_names: Vec::new(),
            nodes: BTreeMap::new(),
            names: BTreeMap::new(),
            extents: BTreeMap::new(),
            pending: rpc::Delta::default(),
            touched: BTreeMap::new(),
            seq: 0,
            epoch: 0,
            parent: Bytes::new(),
            ticks: 0,
            opens: Vec::new(),
            checkpoint: 0,
        }
    }

    pub(crate) fn store(&self) -> StoreId {
        self.sealer.store()
    }

    fn put(&mut self, name: &str, bytes: Bytes) {
        assert!(self.objects.insert(name.into(), bytes).is_none(), "{name} is put twice");
    }

    /// Not random, so that golden stores come out the same; never the same twice.
    fn salt(&mut self) -> [u8; 32] {
        self.ticks += 1;
        Sha256::digest(self.ticks.to_le_bytes()).into()
    }

    fn random(&mut self) -> [u8; 16] {
        let salt = self.salt();
        std::array::from_fn(|i| salt[i])
    }

    fn now(&mut self) -> i64 {
        self.ticks += 1;
        1_700_000_000_000_000_000 + self.ticks as i64 * 1_000_000_007
    }

    fn append(&mut self, kind: Kind) {
        self.seq += 1;
        let (writer, nonce) = (Bytes::from_static(b"writer-of-tests!"), Bytes::copy_from_slice(&self.random()));
        let (seq, epoch, parent_hash, time) = (self.seq, self.epoch, self.parent.clone(), self.now());
        let record = rpc::LogRecord { seq, parent_hash, epoch, writer, nonce, time, kind: Some(kind) };
        let (name, salt) = (names::commit(LIFE, self.seq), self.salt());
        let (bytes, hash) = record::encode(&record, &self.sealer, &name, salt).unwrap();
        assert_eq!(record::decode(&bytes, &self.sealer, &name).unwrap(), record);
        self.parent = Bytes::copy_from_slice(hash.as_bytes());
        self.put(&name, bytes);
        self.record_names.push(name);
    }

    pub(crate) fn open(&mut self) {
        self.epoch += 1;
        let holder = rpc::Holder { host: "node-1".into(), cache_id: vec![0xCA; 16].into(), ..Default::default() };
        let open = rpc::Open { holder: Some(holder), previous_epoch: self.epoch - 1, adopted: Vec::new(), checkpoint: self.checkpoint };
        self.append(Kind::Open(open));
        self.opens.push(self.seq);
        if self.nodes.is_empty() {
            self.node(1, DIR | 0o755, &[]);
        }
    }

    pub(crate) fn close(&mut self) {
        let last_commit = self.trees.last().map_or(0, |(seq, _)| *seq);
        self.append(Kind::Close(rpc::Close { last_commit }));
    }

    fn node(&mut self, ino: u64, mode: u32, target: &[u8]) {
        let now = self.now();
        let inode = rpc::Inode {
            ino,
            mode,
            uid: 1000,
            gid: 100,
            size: target.len() as u64,
            atime: now,
            mtime: now,
            ctime: now,
            btime: now,
            target: Bytes::copy_from_slice(target),
            ..Default::default()
        };
        self.nodes.insert(ino, Node { inode, content: Vec::new() });
        self.touch(ino);
    }

    fn touch(&mut self, ino: u64) {
        self.touched.entry(ino).or_default();
    }

    fn change(&mut self, ino: u64, change: impl FnOnce(&mut rpc::Inode)) {
        let now = self.now();
        let node = self.nodes.get_mut(&ino).unwrap();
        node.inode.ctime = now;
        change(&mut node.inode);
        self.touch(ino);
    }

    /// A new inode with a name; gives its number.
    pub(crate) fn make(&mut self, dir: u64, name: &[u8], mode: u32, target: &[u8]) -> u64 {
        self.ticks += 1;
        let ino = (self.epoch << 40) + self.ticks;
        self.node(ino, mode, target);
        self.link(dir, name, ino);
        ino
    }

    pub(crate) fn mkdir(&mut self, dir: u64, name: &[u8]) -> u64 {
        self.make(dir, name, DIR | 0o750, b"")
    }

    pub(crate) fn create(&mut self, dir: u64, name: &[u8], content: &[u8]) -> u64 {
        let ino = self.make(dir, name, REG | 0o640, b"");
        self.write(ino, 0, content);
        ino
    }

    pub(crate) fn link(&mut self, dir: u64, name: &[u8], ino: u64) {
        self.ticks += 1;
        let cookie = self.ticks + 2;
        self.names.insert((dir, name.to_vec()), (ino, cookie));
        self.pending.names.push(rpc::Name { dir, name: Bytes::copy_from_slice(name), ino, cookie });
    }

    pub(crate) fn unlink(&mut self, dir: u64, name: &[u8]) {
        let (ino, _) = self.names.remove(&(dir, name.to_vec())).unwrap();
        let fresh = self.pending.names.iter().position(|new| new.dir == dir && new.name == name);
        match fresh {
            Some(at) => drop(self.pending.names.remove(at)),
            None => self.pending.removed_names.push(rpc::NameRef { dir, name: Bytes::copy_from_slice(name) }),
        }
        if !self.names.values().any(|(other, _)| *other == ino) {
            self.nodes.remove(&ino);
            self.touched.remove(&ino);
            self.extents.remove(&ino);
            self.pending.removed_inodes.push(ino);
        }
    }

    pub(crate) fn rename(&mut self, from: (u64, &[u8]), to: (u64, &[u8])) {
        let (ino, _) = self.names[&(from.0, from.1.to_vec())];
        if self.names.contains_key(&(to.0, to.1.to_vec())) {
            self.unlink(to.0, to.1);
        }
        self.link(to.0, to.1, ino);
        self.unlink(from.0, from.1);
    }

    pub(crate) fn write(&mut self, ino: u64, offset: u64, data: &[u8]) {
        let end = offset + data.len() as u64;
        let node = self.nodes.get_mut(&ino).unwrap();
        node.content.resize(node.content.len().max(end as usize), 0);
        node.content[offset as usize..end as usize].copy_from_slice(data);
        let size = node.content.len() as u64;
        self.change(ino, |inode| (inode.size, inode.mtime) = (size, inode.ctime));
        if !data.is_empty() {
            self.touched.entry(ino).or_default().1.push(offset..end);
        }
    }

    pub(crate) fn truncate(&mut self, ino: u64, size: u64) {
        let node = self.nodes.get_mut(&ino).unwrap();
        let old = node.content.len() as u64;
        node.content.resize(size as usize, 0);
        self.change(ino, |inode| inode.size = size);
        if size < old {
            self.touched.entry(ino).or_default().0.push(size..old);
        }
    }

    pub(crate) fn punch(&mut self, ino: u64, hole: Range<u64>) {
        self.nodes.get_mut(&ino).unwrap().content[hole.start as usize..hole.end as usize].fill(0);
        self.touched.entry(ino).or_default().0.push(hole);
        self.touch(ino);
    }

    pub(crate) fn xattr(&mut self, ino: u64, name: &[u8], value: &[u8]) {
        let xattr = rpc::Xattr { name: Bytes::copy_from_slice(name), value: Bytes::copy_from_slice(value) };
        self.change(ino, |inode| {
            inode.xattrs.push(xattr);
            inode.xattrs.sort_by(|a, b| a.name.cmp(&b.name));
        });
    }

    pub(crate) fn chown(&mut self, ino: u64, uid: u32, mode: u32, rdev: u64) {
        self.change(ino, |inode| (inode.uid, inode.mode, inode.rdev) = (uid, inode.mode & 0o170_000 | mode, rdev));
    }

    /// What one frame of a file holds: what was written since the last commit, within its size, in pieces.
    fn dirty(&self, ino: u64, piece: u64) -> Vec<Range<u64>> {
        let size = self.nodes[&ino].inode.size;
        let written: holdfast::types::RangeSet = self.touched[&ino].1.iter().cloned().collect();
        let clip = |range: Range<u64>| range.start.min(size)..range.end.min(size);
        let pieces = |range: Range<u64>| (range.start..range.end).step_by(piece as usize).map(move |at| at..(at + piece).min(range.end));
        written.iter().map(clip).flat_map(pieces).collect()
    }

    pub(crate) fn commit(&mut self, style: Style) {
        let mut pending = std::mem::take(&mut self.pending);
        let (mut inline_frames, mut inline_checksums, mut builder, mut plans) =
            (Vec::new(), Vec::new(), pack::Builder::default(), Vec::new());
        for ino in self.touched.keys().copied().collect::<Vec<_>>() {
            let mut new = Vec::new();
            for range in self.dirty(ino, if style == Style::Inline { 1000 } else { 1 << 20 }) {
                let plain = &self.nodes[&ino].content[range.start as usize..range.end as usize];
                let length = plain.len() as u64;
                if style == Style::Inline {
                    let (frame, plain_length, checksum) =
                        (inline_frames.len() as u32, length as u32, holdfast::format::codec::checksum(plain));
                    inline_frames.push(Bytes::from(holdfast::format::codec::compress(plain)));
                    inline_checksums.push(checksum);
                    new.push(rpc::Extent { offset: range.start, length, frame, plain_length, checksum, ..Default::default() });
                } else {
                    let frame = builder.push(plain).unwrap();
                    new.push(rpc::Extent { offset: range.start, length, object: 1, frame, ..Default::default() });
                }
            }
            plans.push((ino, new));
        }
        let packed = (!builder.is_empty()).then(|| self.store_pack(builder));
        for (ino, new) in plans {
            self.place(ino, new, packed.as_ref(), &mut pending);
        }
        pending.objects = packed.iter().map(|pack| pack.object.clone()).collect();
        (pending.next_inode, pending.next_cookie) = (self.ticks, self.ticks);
        self.touched.clear();
        let commit = rpc::Commit {
            cut_time: self.now(),
            full: true,
            checkpoint: self.checkpoint,
            inline_frames,
            inline_checksums,
            ..Default::default()
        };
        let commit = self.with_delta(commit, pending, style);
        self.append(Kind::Commit(commit));
        let lines = self.tree();
        self.trees.push((self.seq, lines));
    }

    fn with_delta(&mut self, commit: rpc::Commit, pending: rpc::Delta, style: Style) -> rpc::Commit {
        if style != Style::Framed {
            return rpc::Commit { delta: Some(pending), ..commit };
        }
        let mut builder = pack::Builder::default();
        for part in delta::split(pending, 300) {
            builder.push(&prost::Message::encode_to_vec(&part)).unwrap();
        }
        let packed = self.store_pack(builder);
        let delta_frames = (0..packed.frames.len() as u32).filter_map(|frame| packed.frame_ref(frame)).collect();
        rpc::Commit { delta_frames, ..commit }
    }

    fn store_pack(&mut self, builder: pack::Builder) -> pack::PackBytes {
        let (name, salt) = (names::pack(LIFE, self.epoch, self.random()), self.salt());
        let packed = builder.finish(&name, self.epoch, salt, &self.sealer).unwrap();
        self.put(&name, packed.bytes.clone());
        packed
    }

    /// Fills in where a file's new extents lie, and keeps what a checkpoint will say of it.
    fn place(&mut self, ino: u64, new: Vec<rpc::Extent>, packed: Option<&pack::PackBytes>, pending: &mut rpc::Delta) {
        pending.inodes.push(self.nodes[&ino].inode.clone());
        let cleared: Vec<Range<u64>> = self.touched[&ino].0.clone();
        let mut change = rpc::ExtentChange { ino, ..Default::default() };
        change.cleared = cleared.iter().map(|range| rpc::Range { offset: range.start, length: range.end - range.start }).collect();
        let size = self.nodes[&ino].inode.size;
        let mine = self.extents.entry(ino).or_default();
        cleared.into_iter().chain(std::iter::once(size..u64::MAX)).for_each(|range| cut(mine, &range));
        for extent in new {
            let (extent, object) = match (extent.object, packed) {
                (1, Some(packed)) => {
                    let info = packed.frames[extent.frame as usize];
                    (info.extent(extent.offset, extent.length, 1, extent.frame, 0), Some(packed.object.clone()))
                }
                _ => (extent, None),
            };
            cut(mine, &(extent.offset..extent.offset + extent.length));
            mine.push((rpc::Extent { inline_seq: if object.is_none() { self.seq + 1 } else { 0 }, ..extent }, object));
            change.extents.push(extent);
        }
        mine.sort_by_key(|(extent, _)| extent.offset);
        if change.cleared.len() + change.extents.len() > 0 {
            pending.extents.push(change);
        }
    }

    /// A checkpoint of the newest record.
    pub(crate) fn checkpoint(&mut self, plain_target: usize) {
        let mut builder = checkpoint::PartBuilder::new(plain_target);
        for (ino, node) in &self.nodes {
            builder.inode(node.inode.clone());
            for ((dir, name), (child, cookie)) in self.names.range((*ino, Vec::new())..(*ino + 1, Vec::new())) {
                builder.name(rpc::Name { dir: *dir, name: Bytes::copy_from_slice(name), ino: *child, cookie: *cookie });
            }
            for (extent, object) in self.extents.get(ino).into_iter().flatten() {
                builder.extent(*ino, *extent, object.as_ref());
            }
        }
        let mut parts = Vec::new();
        for part in builder.finish() {
            let (name, salt) = (names::checkpoint_part(LIFE, self.seq, self.random()), self.salt());
            let (bytes, reference) = checkpoint::encode_part(&part, &self.sealer, &name, self.epoch, salt).unwrap();
            assert_eq!(checkpoint::decode_part(&bytes, &self.sealer, &reference).unwrap(), part.message);
            self.put(&name, bytes);
            parts.push(reference);
        }
        let index = rpc::Checkpoint {
            seq: self.seq,
            commit_hash: self.parent.clone(),
            epoch: self.epoch,
            parts,
            next_inode: self.ticks,
            next_cookie: self.ticks,
            opens: self.opens.clone(),
            ..Default::default()
        };
        let (name, salt) = (names::checkpoint_index(LIFE, self.seq), self.salt());
        let bytes = checkpoint::encode_index(&index, &self.sealer, &name, salt).unwrap().0;
        assert_eq!(checkpoint::decode_index(&bytes, &self.sealer, &name).unwrap(), index);
        self.put(&name, bytes);
        self.checkpoint = self.seq;
    }

    /// What the reader's `tree` should print, as values.
    pub(crate) fn tree(&self) -> Vec<Value> {
        let mut rows = Vec::new();
        let mut links = BTreeMap::new();
        self.names.values().for_each(|(ino, _)| *links.entry(*ino).or_default() += 1);
        self.walk(b".".to_vec(), 1, &links, &mut rows);
        rows
    }

    fn walk(&self, path: Vec<u8>, ino: u64, links: &BTreeMap<u64, usize>, rows: &mut Vec<Value>) {
        let Node { inode, content } = &self.nodes[&ino];
        let children: Vec<_> = self.names.range((ino, Vec::new())..(ino + 1, Vec::new())).collect();
        let subdirs = children.iter().filter(|(_, (child, _))| self.nodes[child].inode.mode & 0o170_000 == DIR).count();
        let kind = match inode.mode & 0o170_000 {
            DIR => "dir",
            REG => "file",
            0o120_000 => "symlink",
            0o010_000 => "fifo",
            0o020_000 => "char",
            0o060_000 => "block",
            _ => "socket",
        };
        let xattrs: Map<String, Value> = inode.xattrs.iter().map(|x| (escape(&x.name), json!(hex::encode(&x.value)))).collect();
        rows.push(json!({
            "path": escape(&path), "type": kind, "mode": inode.mode & 0o7777, "uid": inode.uid, "gid": inode.gid, "size": inode.size,
            "mtime": inode.mtime, "rdev": inode.rdev, "ino": ino, "nlink": if kind == "dir" { 2 + subdirs } else { links[&ino] },
            "target": if kind == "symlink" { json!(escape(&inode.target)) } else { Value::Null },
            "sha256": if kind == "file" { json!(hex::encode(Sha256::digest(content))) } else { Value::Null },
            "xattrs": xattrs,
        }));
        for ((_, name), (child, _)) in children {
            let inside = if ino == 1 { name.clone() } else { [&path, b"/".as_slice(), name].concat() };
            self.walk(inside, *child, links, rows);
        }
    }
}

/// Takes a range out of a file's extents.
fn cut(extents: &mut Vec<(rpc::Extent, Option<rpc::ObjectRef>)>, range: &Range<u64>) {
    let mut kept = Vec::new();
    for (extent, object) in extents.drain(..) {
        let (start, end) = (extent.offset, extent.offset + extent.length);
        if start < range.start {
            kept.push((rpc::Extent { length: end.min(range.start) - start, ..extent }, object.clone()));
        }
        if end > range.end {
            let from = start.max(range.end);
            kept.push((rpc::Extent { offset: from, length: end - from, skip: extent.skip + (from - start) as u32, ..extent }, object));
        }
    }
    *extents = kept;
}

fn escape(bytes: &[u8]) -> String {
    bytes.iter().map(|b| if (32..127).contains(b) && *b != b'\\' { char::from(*b).to_string() } else { format!("\\x{b:02x}") }).collect()
}
