//! Effects: what a mutation does, as it stands in the log. They say the resulting state ("this row is now so"), so that doing
//! them once more changes nothing.
//!
//! ```text
//! record  = request? effect*
//! request = 0 | 1 conn_epoch unique reply
//! effect  = kind fields        (varints; bytes with their length)
//! ```

use super::codec::{Reader, Writer};
use super::types::{LocalExtent, RequestId, SavedReply};
use crate::types::{Attr, ByteRange, Ino, RangeSet};

/// An inode as it stands in `meta.db`; of regular files the size is that of the last batch ([`super::file`] has the present one).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct InodeRow {
    pub(super) attr: Attr,
    /// Where its (newest) name is: directory and cookie. 0 when it has none.
    pub(super) home: (Ino, u64),
    /// Of a directory: the last cookie given out.
    pub(super) cookies: u64,
}

/// See the module's head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Effect {
    Inode(InodeRow),
    Drop {
        ino: Ino,
    },
    Name {
        dir: Ino,
        name: Vec<u8>,
        cookie: u64,
        ino: Ino,
    },
    Unname {
        dir: Ino,
        name: Vec<u8>,
    },
    /// One of several names of an inode came or went.
    Link {
        ino: Ino,
        dir: Ino,
        name: Vec<u8>,
        there: bool,
    },
    Target {
        ino: Ino,
        target: Vec<u8>,
    },
    Xattr {
        ino: Ino,
        name: Vec<u8>,
        value: Option<Vec<u8>>,
    },
    State {
        key: String,
        value: Option<Vec<u8>>,
    },
    /// The data file of an inode.
    Slot {
        ino: Ino,
        slot: u64,
    },
    /// Clean pages are about to be overwritten: from here on they differ from their extent.
    Dirtied {
        ino: Ino,
        range: ByteRange,
    },
    Wrote {
        ino: Ino,
        range: ByteRange,
    },
    /// Zeros were written above the size, which is about to grow.
    Zeroed {
        ino: Ino,
        range: ByteRange,
    },
    Size {
        ino: Ino,
        size: u64,
    },
    Punched {
        ino: Ino,
        range: ByteRange,
    },
    Evicted {
        ino: Ino,
        ranges: RangeSet,
    },
    /// The data file was flushed when its newest record was `upto`: these pages and this size are on the disk.
    Flushed {
        ino: Ino,
        upto: u64,
        size: u64,
        ranges: RangeSet,
    },
    /// Pages as they were at an fsync, with the size.
    Data {
        ino: Ino,
        size: u64,
        parts: Vec<(u64, Vec<u8>)>,
    },
    Shared {
        ino: Ino,
        size: u64,
        extents: Vec<LocalExtent>,
    },
}

/// One mutation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) request: Option<(RequestId, SavedReply)>,
    pub(super) effects: Vec<Effect>,
}

impl Record {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut w = Writer(Vec::with_capacity(128));
        match &self.request {
            None => w.u64(0),
            Some((id, reply)) => {
                w.u64(1);
                encode_reply(&mut w, *id, *reply);
            }
        }
        for effect in &self.effects {
            encode_effect(&mut w, effect);
        }
        w.0
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut r = Reader(bytes);
        let request = match r.u64()? {
            0 => None,
            1 => Some(decode_reply(&mut r)?),
            _ => return None,
        };
        let mut effects = Vec::new();
        while !r.0.is_empty() {
            effects.push(decode_effect(&mut r)?);
        }
        Some(Self { request, effects })
    }
}

pub(super) fn encode_reply(w: &mut Writer, id: RequestId, reply: SavedReply) {
    w.u64(id.conn_epoch);
    w.u64(id.unique);
    let (kind, value) = match reply {
        SavedReply::Empty => (0, 0),
        SavedReply::Entry(ino) => (1, ino),
        SavedReply::Attr(ino) => (2, ino),
        SavedReply::Created(ino) => (3, ino),
        SavedReply::Size(size) => (4, u64::from(size)),
    };
    w.u64(kind);
    w.u64(value);
}

pub(super) fn decode_reply(r: &mut Reader<'_>) -> Option<(RequestId, SavedReply)> {
    let id = RequestId { conn_epoch: r.u64()?, unique: r.u64()? };
    let (kind, value) = (r.u64()?, r.u64()?);
    let reply = match kind {
        0 => SavedReply::Empty,
        1 => SavedReply::Entry(value),
        2 => SavedReply::Attr(value),
        3 => SavedReply::Created(value),
        4 => SavedReply::Size(u32::try_from(value).ok()?),
        _ => return None,
    };
    Some((id, reply))
}

fn encode_row(w: &mut Writer, row: &InodeRow) {
    let a = &row.attr;
    for value in [a.ino, u64::from(a.mode), u64::from(a.uid), u64::from(a.gid), u64::from(a.nlink), a.rdev, a.size] {
        w.u64(value);
    }
    // Times mostly agree: distances from the first one.
    w.i64(a.mtime);
    for time in [a.atime, a.ctime, a.btime] {
        w.i64(time.wrapping_sub(a.mtime));
    }
    for value in [row.home.0, row.home.1, row.cookies] {
        w.u64(value);
    }
}

fn decode_row(r: &mut Reader<'_>) -> Option<InodeRow> {
    let (ino, mode, uid, gid, nlink) = (r.u64()?, r.u32()?, r.u32()?, r.u32()?, r.u32()?);
    let (rdev, size, mtime) = (r.u64()?, r.u64()?, r.i64()?);
    let mut time = || Some(mtime.wrapping_add(r.i64()?));
    let (atime, ctime, btime) = (time()?, time()?, time()?);
    let attr = Attr { ino, mode, uid, gid, nlink, rdev, size, atime, mtime, ctime, btime };
    Some(InodeRow { attr, home: (r.u64()?, r.u64()?), cookies: r.u64()? })
}

fn encode_range(w: &mut Writer, kind: u64, ino: Ino, range: &ByteRange) {
    w.u64(kind);
    w.u64(ino);
    w.u64(range.start);
    w.u64(range.end - range.start);
}

fn encode_optional(w: &mut Writer, value: Option<&[u8]>) {
    match value {
        None => w.u64(0),
        Some(bytes) => {
            w.u64(1);
            w.bytes(bytes);
        }
    }
}

fn decode_optional(r: &mut Reader<'_>) -> Option<Option<Vec<u8>>> {
    match r.u64()? {
        0 => Some(None),
        1 => Some(Some(r.bytes()?.to_vec())),
        _ => None,
    }
}

fn encode_effect(w: &mut Writer, effect: &Effect) {
    match effect {
        Effect::Inode(row) => {
            w.u64(1);
            encode_row(w, row);
        }
        Effect::Drop { ino } => {
            w.u64(2);
            w.u64(*ino);
        }
        Effect::Name { dir, name, cookie, ino } => {
            w.u64(3);
            w.u64(*dir);
            w.bytes(name);
            w.u64(*cookie);
            w.u64(*ino);
        }
        Effect::Unname { dir, name } => {
            w.u64(4);
            w.u64(*dir);
            w.bytes(name);
        }
        Effect::Link { ino, dir, name, there } => {
            w.u64(17);
            w.u64(*ino);
            w.u64(*dir);
            w.bytes(name);
            w.u64(u64::from(*there));
        }
        Effect::Target { ino, target } => {
            w.u64(5);
            w.u64(*ino);
            w.bytes(target);
        }
        Effect::Xattr { ino, name, value } => {
            w.u64(6);
            w.u64(*ino);
            w.bytes(name);
            encode_optional(w, value.as_deref());
        }
        Effect::State { key, value } => {
            w.u64(7);
            w.bytes(key.as_bytes());
            encode_optional(w, value.as_deref());
        }
        _ => encode_content(w, effect),
    }
}

// The effects on content.
fn encode_content(w: &mut Writer, effect: &Effect) {
    match effect {
        Effect::Slot { ino, slot } => {
            w.u64(8);
            w.u64(*ino);
            w.u64(*slot);
        }
        Effect::Dirtied { ino, range } => encode_range(w, 9, *ino, range),
        Effect::Wrote { ino, range } => encode_range(w, 10, *ino, range),
        Effect::Zeroed { ino, range } => encode_range(w, 18, *ino, range),
        Effect::Size { ino, size } => {
            w.u64(11);
            w.u64(*ino);
            w.u64(*size);
        }
        Effect::Punched { ino, range } => encode_range(w, 12, *ino, range),
        Effect::Evicted { ino, ranges } => {
            w.u64(13);
            w.u64(*ino);
            w.ranges(ranges);
        }
        Effect::Flushed { ino, upto, size, ranges } => {
            w.u64(14);
            w.u64(*ino);
            w.u64(*upto);
            w.u64(*size);
            w.ranges(ranges);
        }
        Effect::Data { ino, size, parts } => {
            w.u64(15);
            w.u64(*ino);
            w.u64(*size);
            w.u64(parts.len() as u64);
            for (offset, bytes) in parts {
                w.u64(*offset);
                w.bytes(bytes);
            }
        }
        Effect::Shared { ino, size, extents } => {
            w.u64(16);
            w.u64(*ino);
            w.u64(*size);
            w.u64(extents.len() as u64);
            for extent in extents {
                encode_extent(w, extent);
            }
        }
        _ => {}
    }
}

fn encode_extent(w: &mut Writer, e: &LocalExtent) {
    for value in [e.offset, e.length, e.object, u64::from(e.frame), e.stored_offset, u64::from(e.stored_length)] {
        w.u64(value);
    }
    for value in [u64::from(e.plain_length), u64::from(e.skip), e.checksum, e.inline_seq] {
        w.u64(value);
    }
}

fn decode_extent(r: &mut Reader<'_>) -> Option<LocalExtent> {
    Some(LocalExtent {
        offset: r.u64()?,
        length: r.u64()?,
        object: r.u64()?,
        frame: r.u32()?,
        stored_offset: r.u64()?,
        stored_length: r.u32()?,
        plain_length: r.u32()?,
        skip: r.u32()?,
        checksum: r.u64()?,
        inline_seq: r.u64()?,
    })
}

fn decode_effect(r: &mut Reader<'_>) -> Option<Effect> {
    Some(match r.u64()? {
        1 => Effect::Inode(decode_row(r)?),
        2 => Effect::Drop { ino: r.u64()? },
        3 => Effect::Name { dir: r.u64()?, name: r.bytes()?.to_vec(), cookie: r.u64()?, ino: r.u64()? },
        4 => Effect::Unname { dir: r.u64()?, name: r.bytes()?.to_vec() },
        5 => Effect::Target { ino: r.u64()?, target: r.bytes()?.to_vec() },
        6 => Effect::Xattr { ino: r.u64()?, name: r.bytes()?.to_vec(), value: decode_optional(r)? },
        7 => Effect::State { key: String::from_utf8(r.bytes()?.to_vec()).ok()?, value: decode_optional(r)? },
        8 => Effect::Slot { ino: r.u64()?, slot: r.u64()? },
        9 => Effect::Dirtied { ino: r.u64()?, range: r.range()? },
        10 => Effect::Wrote { ino: r.u64()?, range: r.range()? },
        11 => Effect::Size { ino: r.u64()?, size: r.u64()? },
        12 => Effect::Punched { ino: r.u64()?, range: r.range()? },
        13 => Effect::Evicted { ino: r.u64()?, ranges: r.ranges()? },
        14 => Effect::Flushed { ino: r.u64()?, upto: r.u64()?, size: r.u64()?, ranges: r.ranges()? },
        15 => {
            let (ino, size, count) = (r.u64()?, r.u64()?, r.u64()?);
            let parts = (0..count).map(|_| Some((r.u64()?, r.bytes()?.to_vec()))).collect::<Option<_>>()?;
            Effect::Data { ino, size, parts }
        }
        16 => {
            let (ino, size, count) = (r.u64()?, r.u64()?, r.u64()?);
            Effect::Shared { ino, size, extents: (0..count).map(|_| decode_extent(r)).collect::<Option<_>>()? }
        }
        18 => Effect::Zeroed { ino: r.u64()?, range: r.range()? },
        17 => Effect::Link { ino: r.u64()?, dir: r.u64()?, name: r.bytes()?.to_vec(), there: r.u64()? != 0 },
        _ => return None,
    })
}
