//! A change of the tree: what its fields may hold, and how a large one is built as a sequence of frames.

mod builder;

pub use builder::{Builder, split};
pub(super) use builder::{Table, change_of, inode_bytes};

use super::error::{FormatError, Reason};
use super::{limits, message, valid};
use crate::rpc;
use crate::types::ROOT;
use bytes::Bytes;
use prost::Message;
use std::collections::{HashMap, HashSet};
use valid::ensure;

/// What an extent with `object = 0` may point to.
#[derive(Debug, Clone, Copy)]
pub(super) enum Inline {
    /// Within a commit of this many inline frames, or one before it (`inline_seq` set).
    Commit(usize),
    /// Only a commit that `inline_seq` names.
    Named,
}

/// Reads a delta that stands in a frame of a pack (`Commit.delta_frames`).
///
/// # Errors
/// Anything but a delta whose fields are within their limits. `name` is for the message.
pub fn decode_frame(name: &str, plain: &Bytes, inline_frames: usize) -> Result<rpc::Delta, FormatError> {
    let delta = message::parse(plain).and_then(|delta| check(&delta, inline_frames).map(|()| delta));
    delta.map_err(|reason| reason.of(name))
}

/// Lays a delta out for such a frame.
///
/// # Errors
/// What a reader would refuse: nobody could read the commit.
pub fn encode_frame(delta: &rpc::Delta, inline_frames: usize) -> Result<Vec<u8>, FormatError> {
    check(delta, inline_frames).map_err(|reason| reason.of("a delta"))?;
    Ok(delta.encode_to_vec())
}

pub(super) fn check(delta: &rpc::Delta, inline_frames: usize) -> Result<(), Reason> {
    delta.objects.iter().try_for_each(valid::object)?;
    for removed in &delta.removed_names {
        valid::inode_number(removed.dir)?;
        valid::entry(&removed.name)?;
    }
    for ino in &delta.removed_inodes {
        valid::inode_number(*ino)?;
        ensure(*ino != ROOT, || "the root is removed".into())?;
    }
    delta.inodes.iter().try_for_each(inode)?;
    delta.names.iter().try_for_each(name)?;
    let mut changed = HashSet::new();
    for change in &delta.extents {
        ensure(changed.insert(change.ino), || format!("the content of inode {} is changed twice", change.ino))?;
    }
    // The last record of an inode is the one that counts.
    let sizes: HashMap<u64, u64> = delta.inodes.iter().map(|inode| (inode.ino, inode.size)).collect();
    delta
        .extents
        .iter()
        .try_for_each(|change| extents(change, &delta.objects, Inline::Commit(inline_frames), sizes.get(&change.ino).copied()))
}

pub(super) fn inode(inode: &rpc::Inode) -> Result<(), Reason> {
    let ino = inode.ino;
    valid::inode_number(ino)?;
    let kind = inode.mode & libc::S_IFMT;
    let known = [libc::S_IFREG, libc::S_IFDIR, libc::S_IFLNK, libc::S_IFIFO, libc::S_IFSOCK, libc::S_IFCHR, libc::S_IFBLK].contains(&kind);
    ensure(known && inode.mode >> 16 == 0, || format!("inode {ino} of mode {:o}", inode.mode))?;
    ensure(ino != ROOT || kind == libc::S_IFDIR, || "a root that is no directory".into())?;
    if inode.size > limits::FILE_BYTES_MAX {
        return Err(Reason::Limit { what: "file size", length: inode.size, max: limits::FILE_BYTES_MAX });
    }
    if kind == libc::S_IFLNK {
        valid::at_most("target", inode.target.len(), limits::TARGET_BYTES_MAX)?;
        ensure(!inode.target.is_empty() && !inode.target.contains(&0), || {
            format!("symbolic link {ino} without a target, or with a NUL in it")
        })?;
    } else {
        ensure(inode.target.is_empty(), || format!("inode {ino} has a target and is no symbolic link"))?;
    }
    let mut total = 0;
    for xattr in &inode.xattrs {
        let ok = !xattr.name.is_empty() && !xattr.name.contains(&0);
        ensure(ok, || format!("inode {ino} has an xattr of an empty name, or with a NUL in it"))?;
        valid::at_most("xattr name", xattr.name.len(), limits::NAME_BYTES_MAX)?;
        valid::at_most("xattr value", xattr.value.len(), limits::XATTR_BYTES_MAX)?;
        total += xattr.name.len() + xattr.value.len();
    }
    valid::at_most("xattrs", total, limits::XATTRS_BYTES_MAX)?;
    ensure(inode.xattrs.is_sorted_by(|a, b| a.name < b.name), || format!("the xattrs of inode {ino} are not sorted"))
}

pub(super) fn name(name: &rpc::Name) -> Result<(), Reason> {
    valid::inode_number(name.dir)?;
    valid::inode_number(name.ino)?;
    valid::entry(&name.name)?;
    ensure(name.ino != ROOT && name.ino != name.dir, || format!("a name in directory {} for directory {}", name.dir, name.ino))?;
    // Cookies 1 and 2 are `.` and `..`; the kernel's offsets have 63 bits.
    ensure(name.cookie <= i64::MAX as u64, || format!("cookie {}", name.cookie))
}

pub(super) fn extents(change: &rpc::ExtentChange, objects: &[rpc::ObjectRef], inline: Inline, size: Option<u64>) -> Result<(), Reason> {
    let ino = change.ino;
    valid::inode_number(ino)?;
    let end_max = size.unwrap_or(limits::FILE_BYTES_MAX);
    for range in &change.cleared {
        // The ends of ranges are kept in 63 bits by whoever applies them.
        let end = range.offset.checked_add(range.length).filter(|end| *end <= i64::MAX as u64);
        ensure(range.length > 0 && end.is_some(), || format!("inode {ino}: cleared range {}+{}", range.offset, range.length))?;
    }
    let mut from = 0;
    for extent in &change.extents {
        let rpc::Extent { offset, length, skip, plain_length, .. } = *extent;
        let end = offset.checked_add(length).filter(|end| *end <= end_max);
        let placed = length > 0 && offset >= from && end.is_some();
        ensure(placed, || format!("inode {ino}: extent {offset}+{length} is empty, overlaps, or ends above {end_max}"))?;
        from = end.unwrap_or(u64::MAX);
        valid::at_most("plain length of an extent's frame", plain_length as usize, limits::EXTENT_PLAIN_MAX)?;
        let within = u64::from(skip).checked_add(length).is_some_and(|end| end <= u64::from(plain_length));
        ensure(within, || format!("inode {ino}: extent {offset}+{length} is not within its frame ({skip} of {plain_length})"))?;
        match (extent.object.checked_sub(1), inline) {
            (Some(index), _) => {
                let object = objects.get(index as usize);
                let object =
                    object.ok_or_else(|| Reason::invalid(format!("inode {ino}: object {} of {}", extent.object, objects.len())))?;
                valid::frame(object, extent.frame, extent.stored_offset, extent.stored_length)?;
            }
            (None, Inline::Commit(frames)) if extent.inline_seq == 0 => {
                ensure((extent.frame as usize) < frames, || format!("inode {ino}: inline frame {} of {frames}", extent.frame))?;
            }
            (None, _) => ensure(extent.inline_seq != 0, || format!("inode {ino}: an inline extent that names no commit"))?,
        }
    }
    Ok(())
}
