//! `checkpoints/<seq>/...`: the whole metadata as of one record, in parts by inode number. The index is stored last and makes it.
//!
//! ```text
//! index:  parts [1..=90] [90..=90] [91..=2^40+7] ...     ascending; a large directory or file goes on in the next part
//! part:   inodes, their names (as directories), their extents, each ascending
//! ```
//! A part says nothing about where it belongs, so that the next checkpoint can name it again when nothing in its range changed.

use super::delta::{self, Inline};
use super::error::{FormatError, Reason};
use super::seal::{self, Kind, Sealer};
use super::{limits, message, names, valid};
use crate::rpc;
use crate::types::{Epoch, Hash, Ino};
use bytes::Bytes;
use std::collections::{HashMap, VecDeque};
use valid::ensure;

/// The index's bytes and their hash.
///
/// # Errors
/// The index breaks a rule that its readers check, or is too large.
pub fn encode_index(index: &rpc::Checkpoint, sealer: &Sealer, name: &str, salt: [u8; 32]) -> Result<(Bytes, Hash), FormatError> {
    check_index(index, sealer, name).map_err(|reason| reason.of(name))?;
    message::encode(index, sealer, Kind::CheckpointIndex, name, index.epoch, salt)
}

/// The index, every field checked.
///
/// # Errors
/// Anything but the index of this name.
pub fn decode_index(bytes: &Bytes, sealer: &Sealer, name: &str) -> Result<rpc::Checkpoint, FormatError> {
    let (index, epoch) = message::decode::<rpc::Checkpoint>(bytes, sealer, Kind::CheckpointIndex, name)?;
    let checked = check_index(&index, sealer, name).and_then(|()| valid::epoch(index.epoch, epoch));
    checked.map_err(|reason| reason.of(name))?;
    Ok(index)
}

/// A part, not yet sealed, and the inodes it covers.
#[derive(Debug, Clone, PartialEq)]
pub struct PlainPart {
    /// The least inode number in it.
    pub first_ino: Ino,
    /// The greatest.
    pub last_ino: Ino,
    /// What it says.
    pub message: rpc::CheckpointPart,
}

/// The part's bytes as object `name`, and how the index points to it.
///
/// # Errors
/// The part breaks a rule that its readers check, or is too large.
pub fn encode_part(
    part: &PlainPart,
    sealer: &Sealer,
    name: &str,
    epoch: Epoch,
    salt: [u8; 32],
) -> Result<(Bytes, rpc::PartRef), FormatError> {
    let relative = names::parse_checkpoint_part(name)
        .filter(|(incarnation, ..)| Some(*incarnation) == sealer.incarnation())
        .and_then(|(incarnation, ..)| names::relative(incarnation, name))
        .ok_or_else(|| Reason::invalid("no name of a checkpoint's part").of(name))?;
    check_part(&part.message, part.first_ino, part.last_ino).map_err(|reason| reason.of(name))?;
    let (bytes, hash) = message::encode(&part.message, sealer, Kind::CheckpointPart, name, epoch, salt)?;
    let reference = rpc::PartRef {
        name: relative,
        first_ino: part.first_ino,
        last_ino: part.last_ino,
        size: bytes.len() as u64,
        hash: Bytes::copy_from_slice(hash.as_bytes()),
        first_key: Bytes::new(),
    };
    Ok((bytes, reference))
}

/// The part that an index points to, every field checked.
///
/// # Errors
/// Anything but exactly that part.
pub fn decode_part(bytes: &Bytes, sealer: &Sealer, reference: &rpc::PartRef) -> Result<rpc::CheckpointPart, FormatError> {
    let name = part_name(sealer, reference)?;
    if reference.hash != seal::hash(bytes).as_bytes() {
        return Err(Reason::Unauthentic { what: "hash in the index".into() }.of(name));
    }
    let (part, _) = message::decode::<rpc::CheckpointPart>(bytes, sealer, Kind::CheckpointPart, &name)?;
    check_part(&part, reference.first_ino, reference.last_ino).map_err(|reason| reason.of(name))?;
    Ok(part)
}

/// The name, relative to the store, of a part that an index points to.
///
/// # Errors
/// The reference names no part of the sealer's incarnation.
pub fn part_name(sealer: &Sealer, reference: &rpc::PartRef) -> Result<String, FormatError> {
    let place =
        sealer.incarnation().and_then(|incarnation| names::absolute(incarnation, &reference.name).filter(|(of, _)| *of == incarnation));
    let name = place.map(|(_, name)| name).filter(|name| names::parse_checkpoint_part(name).is_some());
    name.ok_or_else(|| Reason::invalid("names no part of this volume's checkpoints").of(reference.name.as_str()))
}

fn check_index(index: &rpc::Checkpoint, sealer: &Sealer, name: &str) -> Result<(), Reason> {
    let seq = index.seq;
    let place = names::parse_checkpoint_index(name).map(|(incarnation, seq)| (Some(incarnation), seq));
    ensure(place == Some((sealer.incarnation(), seq)) && seq > 0, || format!("checkpoint {seq} is not the one of this name"))?;
    valid::exact("commit hash", &index.commit_hash, 32)?;
    ensure(index.epoch > 0, || "epoch 0".into())?;
    index.domains.iter().try_for_each(|instant| valid::domain(instant.domain))?;
    valid::text("policy", &index.policy)?;
    let opens = index.opens.is_sorted_by(|a, b| a < b) && index.opens.iter().all(|open| (1..=seq).contains(open));
    ensure(opens, || "open records that are not ascending numbers up to it".into())?;
    let mut from = 1;
    for part in &index.parts {
        part_name(sealer, part).map_err(|error| error.reason)?;
        valid::exact("hash of a part", &part.hash, 32)?;
        valid::at_most("part", usize::try_from(part.size).unwrap_or(usize::MAX), limits::OBJECT_BYTES_MAX)?;
        ensure(part.first_ino >= from && part.last_ino >= part.first_ino, || format!("part {} is not in order", part.name))?;
        from = part.last_ino;
    }
    Ok(())
}

fn check_part(part: &rpc::CheckpointPart, first: Ino, last: Ino) -> Result<(), Reason> {
    let within = |ino: Ino| ensure((first..=last).contains(&ino), || format!("inode {ino} is not within {first}..={last}"));
    part.objects.iter().try_for_each(valid::object)?;
    for inode in &part.inodes {
        within(inode.ino)?;
        delta::inode(inode)?;
    }
    ensure(part.inodes.is_sorted_by(|a, b| a.ino < b.ino), || "inodes that are not ascending".into())?;
    for name in &part.names {
        within(name.dir)?;
        delta::name(name)?;
    }
    ensure(part.names.is_sorted_by(|a, b| (a.dir, &a.name) < (b.dir, &b.name)), || "names that are not ascending".into())?;
    let sizes: HashMap<Ino, u64> = part.inodes.iter().map(|inode| (inode.ino, inode.size)).collect();
    for change in &part.extents {
        within(change.ino)?;
        ensure(change.cleared.is_empty(), || format!("inode {} is cleared in a checkpoint", change.ino))?;
        delta::extents(change, &part.objects, Inline::Named, sizes.get(&change.ino).copied())?;
    }
    ensure(part.extents.is_sorted_by(|a, b| a.ino < b.ino), || "extents that are not ascending".into())
}

/// Builds parts from inodes in ascending order, each followed by its names (ascending) and its extents (ascending).
#[derive(Debug)]
pub struct PartBuilder {
    ready: VecDeque<PlainPart>,
    now: rpc::CheckpointPart,
    range: Option<(Ino, Ino)>,
    bytes: usize,
    target: usize,
    table: delta::Table,
}

impl PartBuilder {
    /// Parts of about `plain_target` bytes before compression; the format's limit is
    /// [`limits::MESSAGE_PLAIN_MAX`], of which at most half is taken.
    #[must_use]
    pub fn new(plain_target: usize) -> Self {
        let target = plain_target.clamp(1, limits::MESSAGE_PLAIN_MAX / 2);
        let now = rpc::CheckpointPart::default();
        Self { ready: VecDeque::new(), now, range: None, bytes: 0, target, table: delta::Table::default() }
    }

    /// The next inode.
    pub fn inode(&mut self, inode: rpc::Inode) {
        self.room(inode.ino, delta::inode_bytes(&inode));
        self.now.inodes.push(inode);
    }

    /// The next name of the directory that came last.
    pub fn name(&mut self, name: rpc::Name) {
        self.room(name.dir, name.name.len() + 40);
        self.now.names.push(name);
    }

    /// The next extent of the file that came last. `object` is where it lies; without one it is inline in commit `inline_seq`.
    pub fn extent(&mut self, ino: Ino, mut extent: rpc::Extent, object: Option<&rpc::ObjectRef>) {
        self.room(ino, 84 + self.table.cost(object));
        extent.object = self.table.index(object, &mut self.now.objects);
        delta::change_of(&mut self.now.extents, ino).extents.push(extent);
    }

    /// Ends the part here, so that the next inode begins another: where a part of the checkpoint before is named again.
    pub fn cut(&mut self) {
        if let Some((first_ino, last_ino)) = self.range.take() {
            self.ready.push_back(PlainPart { first_ino, last_ino, message: std::mem::take(&mut self.now) });
            self.table = delta::Table::default();
            self.bytes = 0;
        }
    }

    /// A part that is complete, if there is one.
    pub fn ready(&mut self) -> Option<PlainPart> {
        self.ready.pop_front()
    }

    /// The parts that are left.
    #[must_use]
    pub fn finish(mut self) -> Vec<PlainPart> {
        self.cut();
        self.ready.into()
    }

    fn room(&mut self, ino: Ino, bytes: usize) {
        if self.bytes > 0 && self.bytes + bytes > self.target {
            self.cut();
        }
        self.bytes += bytes;
        let (first, last) = self.range.unwrap_or((ino, ino));
        self.range = Some((first.min(ino), last.max(ino)));
    }
}
