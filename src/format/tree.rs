//! The tree as checkpoints and deltas describe it: sorted items, the changes of later commits laid over them, and the
//! merge of the two. Hydrate, checkpoints and readers of old commits use this one definition of what a commit shows.
//!
//! Items are sorted by [`Key`]: inode number, then the inode record, its names (as a directory), its extents. A checkpoint
//! part holds a run of that order; `PartRef.first_key` is the encoded key of its first item.

use crate::rpc;
use crate::types::{ByteRange, Ino, Seq};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// Where an item stands in the order of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// The inode.
    pub ino: Ino,
    /// What of it.
    pub part: KeyPart,
}

/// The three kinds of item an inode has, in their order.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeyPart {
    /// The inode record.
    Inode,
    /// One name in this directory.
    Name(Bytes),
    /// A run of this file's extents, by the offset of its first.
    Extents(u64),
}

impl Key {
    /// Big-endian inode number, then one byte for the kind, then the name or the big-endian offset: compares bytewise as the key does.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = self.ino.to_be_bytes().to_vec();
        match &self.part {
            KeyPart::Inode => out.push(0),
            KeyPart::Name(name) => {
                out.push(1);
                out.extend_from_slice(name);
            }
            KeyPart::Extents(offset) => {
                out.push(2);
                out.extend_from_slice(&offset.to_be_bytes());
            }
        }
        out.into()
    }

    /// The inverse; `None` for bytes that no key encodes to.
    #[must_use]
    pub fn decode(bytes: &Bytes) -> Option<Self> {
        let ino = u64::from_be_bytes(bytes.get(..8)?.try_into().ok()?);
        let part = match (bytes.get(8)?, bytes.len()) {
            (0, 9) => KeyPart::Inode,
            (1, 10..) => KeyPart::Name(bytes.slice(9..)),
            (2, 17) => KeyPart::Extents(u64::from_be_bytes(bytes.get(9..)?.try_into().ok()?)),
            _ => return None,
        };
        Some(Self { ino, part })
    }
}

/// Where a frame lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// In a pack (or any object with frames).
    Object(Arc<rpc::ObjectRef>),
    /// Inline in the commit of this number.
    Inline(Seq),
}

/// An extent with the place of its frame resolved; `extent.object` and `extent.inline_seq` mean nothing here.
#[derive(Debug, Clone, PartialEq)]
pub struct Located {
    /// Offsets, lengths, checksum.
    pub extent: rpc::Extent,
    /// The frame's home.
    pub place: Place,
}

impl Located {
    fn range(&self) -> ByteRange {
        self.extent.offset..self.extent.offset + self.extent.length
    }

    /// The part of this extent that lies in `range`, if any.
    fn clipped(&self, range: ByteRange) -> Option<Self> {
        let start = self.extent.offset.max(range.start);
        let end = self.range().end.min(range.end);
        (start < end).then(|| {
            let mut part = self.clone();
            // Both fit: skip + length <= plain_length, a u32 (checked by the decoder).
            part.extent.skip += u32::try_from(start - self.extent.offset).unwrap_or(u32::MAX);
            part.extent.offset = start;
            part.extent.length = end - start;
            part
        })
    }
}

/// The extents of one file: disjoint, by offset. What no extent covers is a hole.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ExtentMap {
    // Boxed: a node of the tree has room for eleven, and most files have one.
    extents: BTreeMap<u64, Box<Located>>,
}

impl ExtentMap {
    /// Makes a hole.
    pub fn clear(&mut self, range: ByteRange) {
        if range.is_empty() {
            return;
        }
        let first = self.extents.range(..=range.start).next_back().map_or(range.start, |(offset, _)| *offset);
        let touched: Vec<u64> =
            self.extents.range(first..range.end).filter(|(_, e)| e.range().end > range.start).map(|(offset, _)| *offset).collect();
        for offset in touched {
            let Some(old) = self.extents.remove(&offset) else { continue };
            for keep in [old.clipped(0..range.start), old.clipped(range.end..u64::MAX)].into_iter().flatten() {
                self.extents.insert(keep.extent.offset, Box::new(keep));
            }
        }
    }

    /// Lays an extent over whatever is there.
    pub fn put(&mut self, extent: Located) {
        self.clear(extent.range());
        self.extents.insert(extent.extent.offset, Box::new(extent));
    }

    /// In order.
    pub fn iter(&self) -> impl Iterator<Item = &Located> {
        self.extents.values().map(|located| &**located)
    }

    /// In order, in runs of at most `most`.
    pub fn runs(self, most: usize) -> impl Iterator<Item = Self> {
        let mut rest = self.extents.into_values().map(|located| *located).peekable();
        std::iter::from_fn(move || rest.peek().is_some().then(|| rest.by_ref().take(most.max(1)).collect()))
    }

    /// Whether the file is one hole.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.extents.is_empty()
    }

    /// Takes them, in order.
    #[must_use]
    pub fn into_vec(self) -> Vec<Located> {
        self.extents.into_values().map(|located| *located).collect()
    }
}

impl FromIterator<Located> for ExtentMap {
    fn from_iter<T: IntoIterator<Item = Located>>(extents: T) -> Self {
        Self { extents: extents.into_iter().map(|e| (e.extent.offset, Box::new(e))).collect() }
    }
}

/// One item of the order.
#[derive(Debug, Clone, PartialEq)]
pub enum Item {
    /// An inode record.
    Inode(rpc::Inode),
    /// A name.
    Name(rpc::Name),
    /// A run of a file's extents; never empty.
    Extents(Ino, ExtentMap),
}

impl Item {
    /// Where it stands.
    #[must_use]
    pub fn key(&self) -> Key {
        match self {
            Self::Inode(inode) => Key { ino: inode.ino, part: KeyPart::Inode },
            Self::Name(name) => Key { ino: name.dir, part: KeyPart::Name(name.name.clone()) },
            Self::Extents(ino, map) => {
                let first = map.iter().next().map_or(0, |located| located.extent.offset);
                Key { ino: *ino, part: KeyPart::Extents(first) }
            }
        }
    }
}

/// The changes of some commits in a row, ready to be laid over a checkpoint.
#[derive(Debug, Clone, Default)]
pub struct Overlay {
    removed: BTreeSet<Ino>,
    inodes: BTreeMap<Ino, rpc::Inode>,
    names: BTreeMap<(Ino, Bytes), Option<rpc::Name>>,
    files: BTreeMap<Ino, Vec<FileChange>>,
    /// Greatest `next_inode` seen.
    pub next_inode: u64,
    /// Greatest `next_cookie` seen.
    pub next_cookie: u64,
}

#[derive(Debug, Clone)]
enum FileChange {
    Clear(ByteRange),
    Put(Box<Located>),
    Clip(u64),
}

impl Overlay {
    /// Lays the changes of commit `seq` over those before. The delta has passed the decoder's checks: table indexes are good.
    pub fn apply(&mut self, seq: Seq, delta: &rpc::Delta) {
        let objects: Vec<Arc<rpc::ObjectRef>> = delta.objects.iter().cloned().map(Arc::new).collect();
        for gone in &delta.removed_names {
            self.names.insert((gone.dir, gone.name.clone()), None);
        }
        for ino in &delta.removed_inodes {
            self.inodes.remove(ino);
            // Should it come back (a restore in place), it has nothing of what the base knows.
            self.files.insert(*ino, vec![FileChange::Clear(0..u64::MAX)]);
            self.removed.insert(*ino);
        }
        for inode in &delta.inodes {
            self.inodes.insert(inode.ino, inode.clone());
            self.removed.remove(&inode.ino);
        }
        for name in &delta.names {
            self.names.insert((name.dir, name.name.clone()), Some(name.clone()));
        }
        for change in &delta.extents {
            let file = self.files.entry(change.ino).or_default();
            file.extend(change.cleared.iter().map(|r| FileChange::Clear(r.offset..r.offset.saturating_add(r.length))));
            for extent in &change.extents {
                if let Some(located) = locate(extent, &objects, seq) {
                    file.push(FileChange::Put(Box::new(located)));
                }
            }
        }
        // A file's size clips its extents, also when none of them changed (a truncate).
        for inode in delta.inodes.iter().filter(|inode| inode.mode & libc::S_IFMT == libc::S_IFREG) {
            self.files.entry(inode.ino).or_default().push(FileChange::Clip(inode.size));
        }
        self.next_inode = self.next_inode.max(delta.next_inode);
        self.next_cookie = self.next_cookie.max(delta.next_cookie);
    }

    /// Whether nothing changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.removed.is_empty() && self.inodes.is_empty() && self.names.is_empty() && self.files.is_empty()
    }

    /// Whether anything changed at or above `from` and below `to` (`None`: no end).
    #[must_use]
    pub fn touches(&self, from: &Key, to: Option<&Key>) -> bool {
        let last = to.map_or(Ino::MAX, |to| to.ino);
        let inos = from.ino..=last;
        // By inode is enough: too much is rewritten at most at a part's edges.
        self.removed.range(inos.clone()).next().is_some()
            || self.inodes.range(inos.clone()).next().is_some()
            || self.files.range(inos).next().is_some()
            || {
                let start = name_bound(from);
                self.names
                    .range(start..)
                    .next()
                    .is_some_and(|((ino, name), _)| to.is_none_or(|to| Key { ino: *ino, part: KeyPart::Name(name.clone()) } < *to))
            }
    }

    /// Merges the items of a base (sorted, all within `from..to`) with what changed there; the result is sorted.
    #[must_use]
    pub fn merge(&self, base: Vec<Item>, from: &Key, to: Option<&Key>) -> Vec<Item> {
        let within = |key: &Key| key >= from && to.is_none_or(|to| key < to);
        let mut merged: BTreeMap<Key, Item> = BTreeMap::new();
        let mut files: HashMap<Ino, ExtentMap> = HashMap::new();
        for item in base {
            if self.removed.contains(&item.key().ino) {
                continue;
            }
            match item {
                Item::Extents(ino, map) if self.files.contains_key(&ino) => files.entry(ino).or_default().extents.extend(map.extents),
                item => {
                    merged.insert(item.key(), item);
                }
            }
        }
        let inos = from.ino..=to.map_or(Ino::MAX, |to| to.ino);
        for inode in self.inodes.range(inos.clone()).map(|(_, inode)| inode) {
            let item = Item::Inode(inode.clone());
            if within(&item.key()) {
                merged.insert(item.key(), item);
            }
        }
        for ((dir, name), entry) in self.names.range(name_bound(from)..) {
            let key = Key { ino: *dir, part: KeyPart::Name(name.clone()) };
            if !within(&key) {
                if to.is_some_and(|to| key >= *to) {
                    break;
                }
                continue;
            }
            match entry {
                Some(name) if !self.removed.contains(dir) => merged.insert(key, Item::Name(name.clone())),
                _ => merged.remove(&key),
            };
        }
        for (ino, changes) in self.files.range(inos).filter(|(ino, _)| !self.removed.contains(ino)) {
            let window = window(*ino, from, to);
            if window.is_empty() {
                continue;
            }
            let mut map = files.remove(ino).unwrap_or_default();
            for change in changes {
                match change {
                    FileChange::Clear(range) => map.clear(clip(range, &window)),
                    FileChange::Put(extent) => extent.clipped(window.clone()).into_iter().for_each(|part| map.put(part)),
                    FileChange::Clip(size) => map.clear(clip(&(*size..u64::MAX), &window)),
                }
            }
            for run in map.runs(RUN) {
                let item = Item::Extents(*ino, run);
                merged.insert(item.key(), item);
            }
        }
        merged.into_values().collect()
    }
}

fn name_bound(from: &Key) -> (Ino, Bytes) {
    match &from.part {
        KeyPart::Inode => (from.ino, Bytes::new()),
        KeyPart::Name(name) => (from.ino, name.clone()),
        KeyPart::Extents(_) => (from.ino.saturating_add(1), Bytes::new()),
    }
}

/// Extents in one item: a file of many small ones goes on in the next part.
const RUN: usize = 4096;

/// Which bytes of a file the keys `from..to` speak of.
fn window(ino: Ino, from: &Key, to: Option<&Key>) -> ByteRange {
    let bound = |key: &Key| match key.part {
        KeyPart::Extents(offset) => offset,
        KeyPart::Inode | KeyPart::Name(_) => 0,
    };
    let start = if from.ino == ino { bound(from) } else { 0 };
    let end = to.filter(|to| to.ino == ino).map_or(u64::MAX, bound);
    start..end.max(start)
}

fn clip(range: &ByteRange, window: &ByteRange) -> ByteRange {
    let start = range.start.max(window.start);
    start..range.end.min(window.end).max(start)
}

/// The lowest key.
#[must_use]
pub fn first_key() -> Key {
    Key { ino: 0, part: KeyPart::Inode }
}

/// Resolves an extent's object by the table it indexes; an inline one lies in commit `seq` unless it names another.
#[must_use]
pub fn locate(extent: &rpc::Extent, objects: &[Arc<rpc::ObjectRef>], seq: Seq) -> Option<Located> {
    let place = match extent.object {
        0 if extent.inline_seq != 0 => Place::Inline(extent.inline_seq),
        0 => Place::Inline(seq),
        index => Place::Object(objects.get(index as usize - 1)?.clone()),
    };
    Some(Located { extent: *extent, place })
}

/// The items of a decoded checkpoint part, in order.
#[must_use]
pub fn items_of(part: rpc::CheckpointPart) -> Vec<Item> {
    let objects: Vec<Arc<rpc::ObjectRef>> = part.objects.into_iter().map(Arc::new).collect();
    let mut items: Vec<Item> = part.inodes.into_iter().map(Item::Inode).collect();
    items.extend(part.names.into_iter().map(Item::Name));
    for change in part.extents {
        let map: ExtentMap = change.extents.iter().filter_map(|extent| locate(extent, &objects, 0)).collect();
        items.extend(map.runs(RUN).map(|run| Item::Extents(change.ino, run)));
    }
    items.sort_by_cached_key(Item::key);
    items
}

/// The inverse of [`items_of`].
#[must_use]
pub fn part_of(items: Vec<Item>) -> rpc::CheckpointPart {
    let mut part = rpc::CheckpointPart::default();
    let mut table: HashMap<Bytes, u32> = HashMap::new();
    for item in items {
        match item {
            Item::Inode(inode) => part.inodes.push(inode),
            Item::Name(name) => part.names.push(name),
            Item::Extents(ino, map) => {
                let extents = map.into_vec().into_iter().map(|located| index(located, &mut part.objects, &mut table));
                match part.extents.last_mut().filter(|file| file.ino == ino) {
                    Some(file) => file.extents.extend(extents),
                    None => part.extents.push(rpc::ExtentChange { ino, cleared: Vec::new(), extents: extents.collect() }),
                }
            }
        }
    }
    part
}

/// Puts a located extent in terms of a table of objects, which grows as needed.
pub fn index(located: Located, objects: &mut Vec<rpc::ObjectRef>, table: &mut HashMap<Bytes, u32>) -> rpc::Extent {
    let mut extent = located.extent;
    match located.place {
        Place::Inline(seq) => {
            extent.object = 0;
            extent.inline_seq = seq;
        }
        Place::Object(object) => {
            extent.inline_seq = 0;
            extent.object = *table.entry(object.name.clone().into()).or_insert_with(|| {
                objects.push(object.as_ref().clone());
                u32::try_from(objects.len()).unwrap_or(u32::MAX)
            });
        }
    }
    extent
}

#[cfg(test)]
mod tests;
