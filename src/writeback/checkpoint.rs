//! Checkpoints: the whole metadata at one commit, so that opening reads a bounded number of objects.
//!
//! Made from the checkpoint before and the deltas since, never from the live cache: what a reader would see by applying the log is
//! by construction what the checkpoint says. Parts that nothing touched are shared with the newest checkpoint (protocol.md 3).
//! Extents that lie inline in commits are gathered into packs here, so that the head needs packs only.

use super::clone::Cloning;
use super::progress::Progress;
use super::upload::{put_pack, put_until_stored};
use crate::format::changes::{Changes, PackedDelta};
use crate::format::checkpoint::PlainPart;
use crate::format::pack::{Builder, PackBytes};
use crate::format::seal::hash;
use crate::format::tree::{self, ExtentMap, Item, Key, Place};
use crate::format::{checkpoint, codec, names};
use crate::log::{self, Reader, Record, Site};
use crate::rpc::{self, log_record::Kind};
use crate::store::Objects;
use crate::types::{Epoch, Fault, FaultKind, Hash, Seq};
use bytes::Bytes;
use prost::Message;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Plain bytes of a part before it is closed.
const PART_PLAIN_TARGET: usize = 2 << 20;

/// The commits since the newest checkpoint, in the form the next one needs.
#[derive(Debug, Default)]
pub struct Tail {
    /// The newest checkpoint.
    base: Option<rpc::Checkpoint>,
    changes: Vec<(Seq, PackedDelta)>,
    next_inode: u64,
    next_cookie: u64,
    /// Inline frames of those commits: codec byte and data.
    inline: HashMap<(Seq, u32), Bytes>,
    opens: Vec<Seq>,
    commits: u64,
    bytes: u64,
    /// Commits of earlier epochs that a resumed cache did not have to read: read when the next checkpoint is due.
    unread: Option<Unread>,
}

/// A part of the log between the newest checkpoint and our `open`.
#[derive(Debug)]
struct Unread {
    checkpoint: Seq,
    upto: (Seq, Hash),
    later: Vec<(Seq, Vec<Bytes>, Vec<PackedDelta>)>,
    later_opens: Vec<Seq>,
}

/// What the checkpoint is of.
#[derive(Debug, Clone)]
pub(super) struct Point {
    pub(super) seq: Seq,
    pub(super) hash: Hash,
    pub(super) epoch: Epoch,
    pub(super) totals: Option<rpc::Totals>,
    pub(super) domains: Vec<rpc::DomainInstant>,
    pub(super) policy: String,
}

impl Tail {
    /// After a checkpoint.
    #[must_use]
    pub fn after(base: Option<rpc::Checkpoint>) -> Self {
        let opens = base.as_ref().map(|base| base.opens.clone()).unwrap_or_default();
        Self { base, opens, ..Self::default() }
    }

    /// After the checkpoint of this number, with the log up to `upto` still to be read.
    #[must_use]
    pub fn unread(checkpoint: Seq, upto: (Seq, Hash)) -> Self {
        let unread = Unread { checkpoint, upto, later: Vec::new(), later_opens: Vec::new() };
        Self { commits: upto.0.saturating_sub(checkpoint), unread: Some(unread), ..Self::default() }
    }

    /// Takes an `open` record in.
    pub fn opened(&mut self, seq: Seq) {
        match &mut self.unread {
            Some(unread) => unread.later_opens.push(seq),
            None => self.opens.push(seq),
        }
    }

    /// Takes a commit in: its inline frames, and its deltas in order.
    pub fn commit(&mut self, seq: Seq, inline_frames: &[Bytes], deltas: Vec<PackedDelta>) {
        self.commits += 1;
        self.bytes += deltas.iter().map(PackedDelta::plain_length).sum::<u64>();
        self.bytes += inline_frames.iter().map(|frame| frame.len() as u64).sum::<u64>();
        match &mut self.unread {
            Some(unread) => unread.later.push((seq, inline_frames.to_vec(), deltas)),
            None => self.lay(seq, inline_frames, deltas),
        }
    }

    fn lay(&mut self, seq: Seq, inline_frames: &[Bytes], deltas: Vec<PackedDelta>) {
        for delta in deltas {
            self.next_inode = self.next_inode.max(delta.next_inode);
            self.next_cookie = self.next_cookie.max(delta.next_cookie);
            self.changes.push((seq, delta));
        }
        for (frame, bytes) in (0u32..).zip(inline_frames) {
            self.inline.insert((seq, frame), bytes.clone());
        }
    }

    /// Reads what was left unread.
    async fn catch_up(&mut self, objects: &Objects, site: &Site) -> Result<(), Fault> {
        let Some(unread) = &self.unread else { return Ok(()) };
        let (base, from) = match unread.checkpoint {
            0 => (None, (0, Hash([0; 32]))),
            seq => {
                let base = log::checkpoint::load(site, seq).await?.ok_or_else(|| {
                    Fault::new(
                        FaultKind::Damaged,
                        format!("{} is missing, though the log names it", names::checkpoint_index(site.incarnation(), seq)),
                    )
                })?;
                let hash = Hash::from_slice(&base.commit_hash).unwrap_or(Hash([0; 32]));
                (Some(base), (seq, hash))
            }
        };
        let mut records = Vec::new();
        let mut visit = |record: Record| {
            records.push(record);
            Ok(())
        };
        Reader::new(site.clone()).walk(from, unread.upto, &mut visit).await?;
        let mut whole = Self::after(base);
        for record in records {
            match &record.record.kind {
                Some(Kind::Commit(commit)) => {
                    let deltas = objects.deltas(commit).await?.iter().map(PackedDelta::of).collect();
                    whole.commit(record.seq, &commit.inline_frames, deltas);
                }
                Some(Kind::Open(_)) => whole.opened(record.seq),
                Some(Kind::Close(_) | Kind::Fence(_)) | None => {}
            }
        }
        let Some(unread) = self.unread.take() else { return Ok(()) };
        for (seq, inline_frames, deltas) in unread.later {
            whole.commit(seq, &inline_frames, deltas);
        }
        unread.later_opens.into_iter().for_each(|seq| whole.opened(seq));
        *self = whole;
        Ok(())
    }

    /// Commits since the newest checkpoint.
    #[must_use]
    pub fn commits(&self) -> u64 {
        self.commits
    }

    /// Bytes of their deltas and inline frames.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Writes the checkpoint at `point`, which is the newest commit taken in, and begins anew after it.
    pub(super) async fn write(&mut self, objects: &Objects, site: &Site, progress: &Progress, point: Point) -> Result<(), Fault> {
        self.catch_up(objects, site).await?;
        let mut writer = PartWriter::new(objects, progress, (point.seq, point.epoch), None);
        self.lay_out(objects, &mut writer, true).await?;
        let parts = std::mem::take(&mut writer.parts);
        objects.env().failpoint("writeback.after_parts_before_checkpoint");
        let checkpoint = self.index(&point, parts);
        let checkpoint = log::checkpoint::store(site, checkpoint).await?;
        objects.env().failpoint("writeback.after_checkpoint");
        *self = Self { opens: std::mem::take(&mut self.opens), base: Some(checkpoint), ..Self::default() };
        progress.checkpointed();
        Ok(())
    }

    /// Gives the whole tree, item by item in order, to a writer of parts; with `share`, parts that nothing touched are named again.
    pub(super) async fn lay_out(&self, from: &Objects, writer: &mut PartWriter<'_>, share: bool) -> Result<(), Fault> {
        let mut changes = Changes::new(&self.changes)?;
        let mut gathered = Gathered { builder: Builder::default(), places: Vec::new() };
        let base = self.base.as_ref().map(|base| base.parts.clone()).unwrap_or_default();
        let keys: Vec<Key> = base.iter().map(part_key).collect::<Result<_, _>>()?;
        // What lies below the first part belongs to it; without any part there is one range over everything.
        let ranges = base.len().max(1);
        for index in 0..ranges {
            let from_key = if index == 0 { tree::first_key() } else { keys[index].clone() };
            let to = keys.get(index + 1);
            let part = base.get(index);
            if let Some(part) = part
                && share
                && !changes.touches(&from_key, to)
            {
                writer.settle(&mut gathered).await?;
                writer.close().await?;
                writer.parts.push(part.clone());
                continue;
            }
            let items = match part {
                Some(part) => tree::items_of(from.checkpoint_part(part).await?),
                None => Vec::new(),
            };
            let mut left = Some((from_key, items));
            while let Some((from_key, items)) = left {
                let merge = changes.merge(items, &from_key, to)?;
                for item in merge.items {
                    let item = self.gather(writer.relocated(item)?, &mut gathered)?;
                    writer.push(item, &mut gathered).await?;
                }
                left = merge.rest;
            }
        }
        writer.settle(&mut gathered).await?;
        writer.close().await
    }

    /// The least numbers that no inode and no entry of a directory ever had.
    pub(super) fn next_numbers(&self) -> (u64, u64) {
        let (next_inode, next_cookie) = self.base.as_ref().map_or((0, 0), |base| (base.next_inode, base.next_cookie));
        (self.next_inode.max(next_inode), self.next_cookie.max(next_cookie))
    }

    fn index(&self, point: &Point, parts: Vec<rpc::PartRef>) -> rpc::Checkpoint {
        let (next_inode, next_cookie) = self.next_numbers();
        rpc::Checkpoint {
            seq: point.seq,
            commit_hash: Bytes::copy_from_slice(point.hash.as_bytes()),
            epoch: point.epoch,
            parts,
            next_inode,
            next_cookie,
            totals: point.totals,
            domains: point.domains.clone(),
            policy: point.policy.clone(),
            opens: self.opens.clone(),
        }
    }

    /// Takes the inline frames of a file into the pack that is being gathered.
    fn gather(&self, item: Item, gathered: &mut Gathered) -> Result<Item, Fault> {
        let Item::Extents(ino, map) = item else { return Ok(item) };
        if map.iter().all(|located| matches!(located.place, Place::Object(_))) {
            return Ok(Item::Extents(ino, map));
        }
        let mut moved = ExtentMap::default();
        for mut located in map.into_vec() {
            if let Place::Inline(seq) = located.place {
                let frame = self.inline.get(&(seq, located.extent.frame)).ok_or_else(|| {
                    Fault::new(
                        FaultKind::Damaged,
                        format!(
                            "inode {ino} names inline frame {} of commit {seq}, which is not after the checkpoint",
                            located.extent.frame
                        ),
                    )
                })?;
                located.extent.frame = gathered.take(seq, located.extent.frame, frame, located.extent.plain_length)?;
                located.place = Place::Inline(GATHERED);
            }
            moved.put(located);
        }
        Ok(Item::Extents(ino, moved))
    }
}

/// Stands for the pack that is being gathered until it has a name.
const GATHERED: Seq = Seq::MAX;

/// The pack that takes inline frames in.
struct Gathered {
    builder: Builder,
    places: Vec<(Seq, u32)>,
}

impl Gathered {
    fn take(&mut self, seq: Seq, frame: u32, stored: &Bytes, plain_length: u32) -> Result<u32, Fault> {
        if let Some(at) = self.places.iter().position(|place| *place == (seq, frame)) {
            return Ok(u32::try_from(at).unwrap_or(u32::MAX));
        }
        let plain = codec::decompress(stored, plain_length as usize)
            .map_err(|reason| Fault::new(FaultKind::Damaged, format!("inline frame {frame} of commit {seq}: {reason}")))?;
        self.builder.push(&plain)?;
        self.places.push((seq, frame));
        Ok(u32::try_from(self.places.len() - 1).unwrap_or(u32::MAX))
    }

    fn is_full(&self) -> bool {
        super::plan::pack_is_full(self.builder.size(), self.builder.frames())
    }
}

/// Fills parts in order and stores them.
pub(super) struct PartWriter<'a> {
    objects: &'a Objects,
    progress: &'a Progress,
    seq: Seq,
    epoch: Epoch,
    pub(super) parts: Vec<rpc::PartRef>,
    items: Vec<Item>,
    bytes: usize,
    /// The objects that they lie in: each stands once in the part's table.
    named: HashSet<String>,
    /// The tree is one of another incarnation.
    pub(super) cloning: Option<Cloning>,
}

impl<'a> PartWriter<'a> {
    pub(super) fn new(objects: &'a Objects, progress: &'a Progress, (seq, epoch): (Seq, Epoch), cloning: Option<Cloning>) -> Self {
        let (parts, items, named) = (Vec::new(), Vec::new(), HashSet::new());
        Self { objects, progress, seq, epoch, parts, items, bytes: 0, named, cloning }
    }

    fn relocated(&mut self, item: Item) -> Result<Item, Fault> {
        match &mut self.cloning {
            Some(cloning) => cloning.relocated(item),
            None => Ok(item),
        }
    }

    async fn push(&mut self, item: Item, gathered: &mut Gathered) -> Result<(), Fault> {
        self.bytes += weight(&item) + self.table_weight(&item);
        self.items.push(item);
        if self.bytes >= PART_PLAIN_TARGET || gathered.is_full() {
            self.settle(gathered).await?;
            self.close().await?;
        }
        Ok(())
    }

    /// What the objects of this item add to the part's table: about as much as two extents each, and there may be one for each extent.
    fn table_weight(&mut self, item: &Item) -> usize {
        let Item::Extents(_, map) = item else { return 0 };
        let mut bytes = 0;
        for located in map.iter() {
            if let Place::Object(object) = &located.place
                && !self.named.contains(&object.name)
            {
                bytes += object.name.len() + 100;
                self.named.insert(object.name.clone());
            }
        }
        bytes
    }

    /// Stores the gathered pack and points the waiting items to it.
    async fn settle(&mut self, gathered: &mut Gathered) -> Result<(), Fault> {
        if gathered.places.is_empty() {
            return Ok(());
        }
        let builder = std::mem::take(&mut gathered.builder);
        gathered.places.clear();
        let name = self.objects.new_pack_name(self.epoch);
        let pack = builder.finish(&name, self.epoch, self.objects.salt(), self.objects.sealer())?;
        put_pack(self.objects, self.progress, &pack).await?;
        let PackBytes { object, frames, .. } = pack;
        let object = Arc::new(object);
        for item in &mut self.items {
            let Item::Extents(_, map) = item else { continue };
            let located = std::mem::take(map).into_vec().into_iter().map(|mut located| {
                if located.place == Place::Inline(GATHERED)
                    && let Some(frame) = frames.get(located.extent.frame as usize)
                {
                    located.place = Place::Object(object.clone());
                    located.extent.stored_offset = frame.stored_offset;
                    located.extent.stored_length = frame.stored_length;
                }
                located
            });
            *map = located.collect();
        }
        Ok(())
    }

    async fn close(&mut self) -> Result<(), Fault> {
        let (Some(first), Some(last)) = (self.items.first().map(Item::key), self.items.last().map(Item::key)) else { return Ok(()) };
        let part = PlainPart { first_ino: first.ino, last_ino: last.ino, message: tree::part_of(std::mem::take(&mut self.items)) };
        self.bytes = 0;
        self.named.clear();
        if let Some(cloning) = &mut self.cloning {
            cloning.delta(self.objects, self.progress, self.epoch, &part.message).await?;
        }
        let name = names::checkpoint_part(self.objects.incarnation(), self.seq, self.objects.env().random());
        let (bytes, reference) = checkpoint::encode_part(&part, self.objects.sealer(), &name, self.epoch, self.objects.salt())?;
        put_until_stored(self.objects, self.progress, &name, &bytes, hash(&bytes)).await?;
        self.parts.push(rpc::PartRef { first_key: first.encode(), ..reference });
        Ok(())
    }
}

fn weight(item: &Item) -> usize {
    match item {
        Item::Inode(inode) => inode.encoded_len(),
        Item::Name(name) => name.encoded_len(),
        Item::Extents(_, map) => map.iter().count() * 48,
    }
}

fn part_key(part: &rpc::PartRef) -> Result<Key, Fault> {
    Key::decode(&part.first_key).ok_or_else(|| Fault::new(FaultKind::Damaged, format!("{}: its first key is none", part.name)))
}
