//! What the engine does around the log's own code, on a tree of eight keys: upload, commit, checkpoint, hydrate. The caches' rules are those of
//! protocol.md 6.7 and 7.3; a pack is stored as it is.

use super::bugs::{Bug, Lying};
use super::exec::{SECOND, Sim};
use super::store::World;
use super::tree::{Change, PACK_SIZE, Tree, apply, change, delta_bytes, delta_packs, entry, pack_bytes};
use bytes::Bytes;
use holdfast::format::seal::{Cipher, Sealer, hash};
use holdfast::format::{checkpoint as format, codec, names};
use holdfast::log::lookup::{Books, Found};
use holdfast::log::{At, Head, Intent, LogError, Patience, Reader, Site, Tip, checkpoint};
use holdfast::rpc::log_record::Kind;
use holdfast::rpc::{Checkpoint, CheckpointPart, Commit, Delta, Extent, ExtentChange, Inode, ObjectRef, PartRef};
use holdfast::store::{Put, Store};
use holdfast::types::{CacheId, Epoch, Identity, Incarnation, Seq, StoreId};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Inode numbers of the files; 1 is the root.
pub const KEYS: std::ops::RangeInclusive<u64> = 2..=9;

/// A number that is being put.
#[derive(Clone, Debug)]
pub struct Pending {
    pub intent: Intent,
    pub frozen: BTreeMap<u64, u64>,
    pub change: Change,
}

/// Where a value lies that a commit sets.
#[derive(Clone, Debug)]
pub enum Home {
    Object(ObjectRef),
    /// In an inline frame of this commit.
    Here,
    /// In an inline frame of an earlier one.
    Record(Seq),
}

/// A node's cache of one volume.
#[derive(Clone, Debug)]
pub struct Cache {
    pub id: CacheId,
    pub found: Found,
    pub head: Head,
    pub tree: Tree,
    pub dirty: BTreeMap<u64, u64>,
    pub fsynced: BTreeMap<u64, u64>,
    pub intent: Option<Pending>,
    pub unnamed: Vec<(ObjectRef, BTreeMap<u64, u64>)>,
    pub opens: Vec<Seq>,
}

/// One participant's means.
#[derive(Clone)]
pub struct Kit {
    pub id: usize,
    pub sim: Sim,
    pub world: World,
    pub store: Arc<dyn Store>,
    pub skew: i64,
    pub block: u64,
    pub bug: Bug,
}

impl Kit {
    pub fn new(world: &World, id: usize, skew: i64, block: u64, bug: Bug) -> Self {
        let store = Lying::wrap(world.node(id), bug, id >= 10);
        Self { id, sim: world.sim.clone(), world: world.clone(), store, skew, block, bug }
    }

    pub fn store_sealer() -> Sealer {
        Sealer::new(Cipher::None, &[1; 32], StoreId([0, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7]), None)
    }

    pub fn books(&self) -> Books {
        Books { store: Arc::clone(&self.store), env: self.sim.env(self.skew), sealer: Self::store_sealer() }
    }

    pub fn site(&self, found: &Found) -> Site {
        let key: [u8; 32] = found.volume.data_key.as_ref().try_into().unwrap();
        self.site_of(found.incarnation, &key)
    }

    pub fn site_of(&self, incarnation: Incarnation, key: &[u8; 32]) -> Site {
        let sealer = Sealer::new(Cipher::None, key, Self::store_sealer().store(), Some(incarnation));
        let patience = Patience { give_up: Some(Duration::from_secs(60)), ..Patience::default() };
        Site::new(Arc::clone(&self.store), self.sim.env(self.skew), sealer, incarnation).with_block(self.block).with_patience(patience)
    }

    /// The end of the log, held against the truth.
    pub async fn tip(&self, reader: &Reader, hint: holdfast::log::Hint) -> Result<Tip, LogError> {
        let incarnation = reader.site().incarnation();
        let began = self.world.oracle.lock().lives[&incarnation].head();
        let tip = reader.tip(hint).await?;
        let checked = self.world.oracle.lock().read_tip(self.id, incarnation, began, &tip);
        self.check(checked);
        Ok(tip)
    }

    pub fn check<T>(&self, result: Result<T, String>) -> Option<T> {
        result.map_err(|what| self.sim.violate(what)).ok()
    }

    pub async fn pause(&self, low: u64, high: u64) {
        self.sim.sleep(self.sim.between(low, high)).await;
    }

    /// Stores a pack: the same bytes until it is there.
    pub async fn put_pack(&self, name: &str, bytes: &Bytes) -> Option<()> {
        for _ in 0..4 {
            match self.store.put_if_absent(name, bytes.clone()).await {
                Ok(Put::Stored) => return Some(()),
                // Success only when it is ours: length and checksum agree.
                Ok(Put::Exists) => match self.store.get(name).await {
                    Ok(Some(there)) if there == *bytes || self.bug == Bug::ReusePackName => return Some(()),
                    Ok(Some(_)) => {
                        self.sim.violate(format!("I6: {name} was stored by somebody else"));
                        return None;
                    }
                    _ => {}
                },
                Err(_) => self.pause(SECOND / 10, SECOND).await,
            }
        }
        None
    }

    /// A reference to a pack whose put is about to be sent: durable before it is, so that nothing uploaded is forgotten.
    pub fn pack(&self, site: &Site, epoch: Epoch, number: u64, entries: &BTreeMap<u64, u64>) -> (ObjectRef, String, Bytes) {
        let random: [u8; 16] = if self.bug == Bug::ReusePackName { (u128::from(number)).to_le_bytes() } else { site.env().random() };
        let name = names::pack(site.incarnation(), epoch, random);
        self.object(site, epoch, name, pack_bytes(entries))
    }

    /// A pack that holds nothing but a delta, and the commit that names it instead.
    pub fn framed(&self, site: &Site, epoch: Epoch, mut change: Change) -> (Change, ObjectRef, String, Bytes) {
        let (bytes, mut frame) = delta_bytes(&change.commit.delta.take().unwrap_or_default());
        let (object, name, bytes) = self.object(site, epoch, names::pack(site.incarnation(), epoch, site.env().random()), bytes);
        frame.object = Some(object.clone());
        change.commit.delta_frames = vec![frame];
        (change, object, name, bytes)
    }

    fn object(&self, site: &Site, epoch: Epoch, name: String, bytes: Bytes) -> (ObjectRef, String, Bytes) {
        let object = ObjectRef {
            name: names::relative(site.incarnation(), &name).unwrap(),
            salt: vec![0; 32].into(),
            epoch,
            frames: 1,
            size: bytes.len() as u64,
            hash: Bytes::copy_from_slice(hash(&bytes).as_bytes()),
        };
        (object, name, bytes)
    }
}

/// A commit that sets keys to values that lie there.
pub fn commit_of(changes: &BTreeMap<u64, (u64, Home)>, note: &str) -> Change {
    let mut commit = Commit { full: true, note: note.to_owned(), ..Commit::default() };
    let mut objects: Vec<ObjectRef> = Vec::new();
    let mut delta = Delta::default();
    for (key, (value, home)) in changes {
        let place = match home {
            Home::Object(object) => extent(table(&mut objects, object)),
            Home::Here => {
                let plain = entry(*key, *value);
                commit.inline_checksums.push(codec::checksum(&plain));
                commit.inline_frames.push(codec::compress(&plain).into());
                Extent { frame: commit.inline_frames.len() as u32 - 1, ..inline(0) }
            }
            Home::Record(seq) => inline(*seq),
        };
        delta.inodes.push(inode(*key, *value));
        delta.extents.push(ExtentChange { ino: *key, cleared: Vec::new(), extents: vec![place] });
    }
    delta.objects = objects;
    commit.delta = Some(delta.clone());
    Change { commit, deltas: vec![delta] }
}

fn table(objects: &mut Vec<ObjectRef>, object: &ObjectRef) -> u32 {
    let index = objects.iter().position(|known| known.name == object.name).unwrap_or_else(|| {
        objects.push(object.clone());
        objects.len() - 1
    });
    index as u32 + 1
}

fn inode(ino: u64, value: u64) -> Inode {
    Inode { ino, mode: 0o100_644, size: 8, mtime: value as i64, ..Inode::default() }
}

fn extent(object: u32) -> Extent {
    Extent { offset: 0, length: 8, object, stored_offset: 52, stored_length: 24, plain_length: 8, ..Extent::default() }
}

fn inline(seq: Seq) -> Extent {
    Extent { offset: 0, length: 8, plain_length: 16, inline_seq: seq, ..Extent::default() }
}

/// A reference as a tree holds it, from the name alone.
pub fn reference(incarnation: Incarnation, name: &str, size: u64) -> ObjectRef {
    let epoch = names::parse_pack(name).map_or(1, |(_, epoch, _)| epoch);
    let relative = names::relative(incarnation, name).unwrap();
    ObjectRef { name: relative, salt: vec![0; 32].into(), epoch, frames: 1, size, hash: vec![0; 32].into() }
}

/// How a commit names what a tree shows: `None` for what lies inline in another incarnation, which has no name here.
pub fn home(incarnation: Incarnation, place: &str) -> Option<Home> {
    match names::parse_commit(place) {
        Some((of, seq)) => (of == incarnation).then_some(Home::Record(seq)),
        None => Some(Home::Object(reference(incarnation, place, PACK_SIZE as u64))),
    }
}

/// Stores a checkpoint of this tree at `head`, sharing with `previous` each part that did not change.
pub async fn put_checkpoint(
    kit: &Kit,
    site: &Site,
    head: Head,
    tree: &Tree,
    opens: &[Seq],
    previous: Seq,
) -> Result<Option<Seq>, LogError> {
    let before = if previous == 0 { None } else { checkpoint::load(site, previous).await? };
    let mut parts = Vec::new();
    for (first, last) in [(2, 5), (6, 9)] {
        let plain = format::PlainPart { first_ino: first, last_ino: last, message: part(site.incarnation(), tree, first, last) };
        let same = before.iter().flat_map(|index| &index.parts).find(|part| part.first_ino == first);
        if let Some(shared) = same
            && load_part(site, shared).await?.as_ref() == Some(&plain.message)
        {
            parts.push(shared.clone());
            continue;
        }
        let name = names::checkpoint_part(site.incarnation(), head.seq, site.env().random());
        let (bytes, reference) = format::encode_part(&plain, site.sealer(), &name, head.epoch, site.env().random())?;
        if kit.put_pack(&name, &bytes).await.is_none() {
            return Ok(None);
        }
        parts.push(reference);
    }
    let index = Checkpoint {
        seq: head.seq,
        commit_hash: Bytes::copy_from_slice(head.hash.as_bytes()),
        epoch: head.epoch,
        parts,
        opens: opens.to_vec(),
        ..Checkpoint::default()
    };
    checkpoint::store(site, index).await?;
    Ok(Some(head.seq))
}

fn part(incarnation: Incarnation, tree: &Tree, first: u64, last: u64) -> CheckpointPart {
    let mut part = CheckpointPart::default();
    for (key, (value, place)) in tree.range(first..=last) {
        let extents = match home(incarnation, place) {
            Some(Home::Object(object)) => vec![extent(table(&mut part.objects, &object))],
            Some(Home::Record(seq)) => vec![inline(seq)],
            _ => Vec::new(),
        };
        part.inodes.push(inode(*key, *value));
        part.extents.push(ExtentChange { ino: *key, cleared: Vec::new(), extents });
    }
    part
}

async fn load_part(site: &Site, part: &PartRef) -> Result<Option<CheckpointPart>, LogError> {
    let name = format::part_name(site.sealer(), part)?;
    let bytes = match site.store().get(&name).await {
        Ok(found) => found,
        Err(error) => return Err(LogError::Unreachable(error)),
    };
    bytes.map(|bytes| format::decode_part(&bytes, site.sealer(), part)).transpose().map_err(LogError::Format)
}

/// The tree at a checkpoint, and the `open` records up to it. `None`: it is not there.
pub async fn load_checkpoint(site: &Site, seq: Seq) -> Result<Option<(Tree, Checkpoint)>, LogError> {
    let Some(index) = checkpoint::load(site, seq).await? else { return Ok(None) };
    let mut tree = Tree::new();
    for part in &index.parts {
        let Some(part) = load_part(site, part).await? else { return Ok(None) };
        tree = lay(site.incarnation(), &tree, part);
    }
    Ok(Some((tree, index)))
}

/// The tree with what a part of a checkpoint holds.
pub fn lay(incarnation: Incarnation, tree: &Tree, part: CheckpointPart) -> Tree {
    let delta = Delta { objects: part.objects, inodes: part.inodes, extents: part.extents, ..Delta::default() };
    apply(incarnation, tree, 0, &[delta])
}

/// A commit with its delta, wherever that is stored. `None`: a part of it is not there.
pub async fn read_change(site: &Site, commit: &Commit) -> Result<Option<Change>, LogError> {
    let mut there = BTreeMap::new();
    for name in delta_packs(site.incarnation(), commit) {
        let Some(bytes) = site.store().get(&name).await.map_err(LogError::Unreachable)? else { return Ok(None) };
        there.insert(name, bytes);
    }
    Ok(change(site.incarnation(), commit, &|name| there.get(name).cloned()))
}

/// The tree as of a record, from the checkpoint that it names. `None`: retired while it was read.
pub async fn tree_at(reader: &Reader, seq: Seq, hash: holdfast::types::Hash, base: Seq) -> Result<Option<(Tree, Vec<Seq>)>, LogError> {
    let site = reader.site();
    let zero = holdfast::types::Hash([0; 32]);
    let (mut tree, mut opens, from) = if base == 0 {
        (Tree::new(), Vec::new(), (0, zero))
    } else {
        let Some((tree, index)) = load_checkpoint(site, base).await? else { return Ok(None) };
        let hash = holdfast::types::Hash::from_slice(&index.commit_hash).unwrap();
        (tree, index.opens, (base, hash))
    };
    let mut commits = Vec::new();
    let mut visit = |record: holdfast::log::Record| {
        match record.record.kind {
            Some(Kind::Commit(commit)) => commits.push((record.seq, commit)),
            Some(Kind::Open(_)) => opens.push(record.seq),
            _ => {}
        }
        Ok(())
    };
    match reader.walk(from, (seq, hash), &mut visit).await {
        Ok(()) => {}
        Err(LogError::Retired { .. }) => return Ok(None),
        Err(error) => return Err(error),
    }
    for (seq, commit) in commits {
        let Some(change) = read_change(site, &commit).await? else { return Ok(None) };
        tree = apply(site.incarnation(), &tree, seq, &change.deltas);
    }
    Ok(Some((tree, opens)))
}

/// The checkpoint from which the tree of record `seq` is read: the one that it, or the newest record before it that names any, names.
pub async fn base_of(reader: &Reader, mut seq: Seq) -> Result<Option<Seq>, LogError> {
    while seq > 0 {
        match reader.at(seq).await? {
            At::Record(record) => match record.checkpoint() {
                Some(base) => return Ok(Some(base)),
                None => seq -= 1,
            },
            _ => return Ok(None),
        }
    }
    Ok(Some(0))
}

pub fn identity(text: &str) -> Identity {
    Identity::parse(text).unwrap()
}

/// The store's marker, as `store init` makes it.
pub fn init(world: &World) {
    let mut marker = holdfast::format::marker::Marker::clear([7; 16], 0, "sim");
    marker.store = Kit::store_sealer().store();
    world.plant(names::marker(), marker.encode());
}
