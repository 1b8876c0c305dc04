//! A clone's first commit: the tree of a commit of another incarnation, its data by reference.
//!
//! The metadata is laid out once, as the parts of a checkpoint, and each part is a frame of the commit's delta as well: so it is in memory
//! a part at a time, whatever the size of the volume. Packs of the origin are named where they lie; only what lay inline in the origin's
//! commits is gathered into packs of the clone.

use super::checkpoint::{PartWriter, Tail};
use super::plan::PACK_BYTES_TARGET;
use super::progress::Progress;
use super::upload::put_pack;
use crate::format::names;
use crate::format::pack::Builder;
use crate::format::tree::{ExtentMap, Item, Place};
use crate::rpc;
use crate::store::Objects;
use crate::types::{Epoch, Fault, FaultKind, Incarnation, Seq};
use prost::Message;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// A tree of another incarnation, stored in this one: what its first commit and the checkpoint of that name.
#[derive(Debug, Clone)]
pub struct Cloned {
    /// The commit's delta, frame by frame.
    pub delta_frames: Vec<rpc::FrameRef>,
    /// The packs that hold those frames.
    pub packs: Vec<rpc::ObjectRef>,
    /// Every object that those frames name: the origin's, and packs of what lay inline there.
    pub named: Vec<rpc::ObjectRef>,
    /// The checkpoint's parts.
    pub parts: Vec<rpc::PartRef>,
    /// For the checkpoint's index: the least numbers of an inode and of an entry that were never used.
    pub next: (u64, u64),
}

/// Stores the tree that `tail` shows in `from` as one of `into`: it will be commit `seq` of `epoch`.
///
/// # Errors
/// The stores' faults; damage by name.
pub async fn clone_tree(tail: &Tail, from: &Objects, into: &Objects, (seq, epoch): (Seq, Epoch)) -> Result<Cloned, Fault> {
    let progress = Progress::default();
    let cloning = Cloning {
        from: from.incarnation(),
        into: into.incarnation(),
        moved: HashMap::new(),
        next: tail.next_numbers(),
        builder: Builder::default(),
        delta_frames: Vec::new(),
        packs: Vec::new(),
        named: BTreeMap::new(),
    };
    let next = cloning.next;
    let mut writer = PartWriter::new(into, &progress, (seq, epoch), Some(cloning));
    tail.lay_out(from, &mut writer, false).await?;
    let parts = std::mem::take(&mut writer.parts);
    let Some(mut cloning) = writer.cloning.take() else {
        return Err(Fault::new(FaultKind::Local, "a clone lost its delta"));
    };
    cloning.settle(into, &progress, epoch).await?;
    let named = cloning.named.into_values().collect();
    Ok(Cloned { delta_frames: cloning.delta_frames, packs: cloning.packs, named, parts, next })
}

/// What a writer of parts does besides when the tree is one of another incarnation.
#[derive(Debug)]
pub(super) struct Cloning {
    from: Incarnation,
    into: Incarnation,
    /// The origin's objects by their name there, as the clone names them.
    moved: HashMap<String, Arc<rpc::ObjectRef>>,
    next: (u64, u64),
    builder: Builder,
    delta_frames: Vec<rpc::FrameRef>,
    packs: Vec<rpc::ObjectRef>,
    named: BTreeMap<String, rpc::ObjectRef>,
}

impl Cloning {
    /// An item with its objects named from the clone.
    pub(super) fn relocated(&mut self, item: Item) -> Result<Item, Fault> {
        let Item::Extents(ino, map) = item else { return Ok(item) };
        let mut moved = ExtentMap::default();
        for mut located in map.into_vec() {
            if let Place::Object(object) = &located.place {
                located.place = Place::Object(self.object(object)?);
            }
            moved.put(located);
        }
        Ok(Item::Extents(ino, moved))
    }

    fn object(&mut self, object: &rpc::ObjectRef) -> Result<Arc<rpc::ObjectRef>, Fault> {
        if let Some(moved) = self.moved.get(&object.name) {
            return Ok(Arc::clone(moved));
        }
        let name = names::absolute(self.from, &object.name).and_then(|(_, name)| names::relative(self.into, &name));
        let name = name.ok_or_else(|| Fault::new(FaultKind::Damaged, format!("`{}` is no object's name", object.name.escape_debug())))?;
        let moved = Arc::new(rpc::ObjectRef { name, ..object.clone() });
        self.moved.insert(object.name.clone(), Arc::clone(&moved));
        Ok(moved)
    }

    /// A part of the tree as a frame of the delta.
    pub(super) async fn delta(
        &mut self,
        into: &Objects,
        progress: &Progress,
        epoch: Epoch,
        part: &rpc::CheckpointPart,
    ) -> Result<(), Fault> {
        let rpc::CheckpointPart { objects, inodes, names, extents } = part.clone();
        self.named.extend(objects.iter().map(|object| (object.name.clone(), object.clone())));
        let (next_inode, next_cookie) = self.next;
        let delta = rpc::Delta { objects, inodes, names, extents, next_inode, next_cookie, ..Default::default() };
        self.builder.push(&delta.encode_to_vec())?;
        if self.builder.size() as u64 >= PACK_BYTES_TARGET {
            self.settle(into, progress, epoch).await?;
        }
        Ok(())
    }

    /// Stores the frames that wait.
    async fn settle(&mut self, into: &Objects, progress: &Progress, epoch: Epoch) -> Result<(), Fault> {
        if self.builder.is_empty() {
            return Ok(());
        }
        let name = into.new_pack_name(epoch);
        let pack = std::mem::take(&mut self.builder).finish(&name, epoch, into.salt(), into.sealer())?;
        put_pack(into, progress, &pack).await?;
        self.delta_frames.extend((0u32..).zip(&pack.frames).filter_map(|(frame, _)| pack.frame_ref(frame)));
        self.packs.push(pack.object);
        Ok(())
    }
}
