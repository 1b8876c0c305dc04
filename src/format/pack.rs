//! `packs/<epoch>-<random>`, `branches/<epoch>/<random>`: an immutable object of many frames, each of its own use: extents of files,
//! parts of large deltas.
//!
//! ```text
//! header | frame 0: extent | frame 1: extent | ... | table of lengths      (see seal)
//! ```
//! A frame is compressed when it is pushed and sealed where it lies, so that a pack is in memory once.

use super::codec::Compressor;
use super::error::{FormatError, Reason};
use super::seal::{Draft, Kind, Sealed, Sealer};
use super::{codec, limits, names, valid};
use crate::rpc;
use crate::types::Epoch;
use bytes::Bytes;
use std::fmt;

/// Collects the frames of one pack.
pub struct Builder {
    draft: Draft,
    frames: Vec<FrameInfo>,
    compressor: Compressor,
}

/// Where a frame lies in its pack, and what it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameInfo {
    /// Of its first byte in the object.
    pub stored_offset: u64,
    /// With codec byte and tag.
    pub stored_length: u32,
    /// Of its content.
    pub plain_length: u32,
    /// XXH3-64 of its content.
    pub checksum: u64,
}

/// A pack, ready to be put.
#[derive(Debug, Clone)]
pub struct PackBytes {
    /// The whole object.
    pub bytes: Bytes,
    /// How messages point to it.
    pub object: rpc::ObjectRef,
    /// By frame number.
    pub frames: Vec<FrameInfo>,
}

impl Default for Builder {
    fn default() -> Self {
        Self::with_capacity(0)
    }
}

impl Builder {
    /// An empty pack, with room for `bytes`.
    #[must_use]
    pub fn with_capacity(bytes: usize) -> Self {
        Self { draft: Draft::with_capacity(bytes), frames: Vec::new(), compressor: Compressor::default() }
    }

    /// Adds a frame; gives its number. At most [`limits::EXTENT_PLAIN_MAX`] bytes for content of files,
    /// [`limits::MESSAGE_PLAIN_MAX`] for deltas.
    ///
    /// # Errors
    /// It is larger than any frame may be, or the pack is full.
    pub fn push(&mut self, plain: &[u8]) -> Result<u32, FormatError> {
        let room = valid::at_most("plain length of a frame", plain.len(), limits::MESSAGE_PLAIN_MAX)
            .and_then(|()| valid::at_most("frames", self.frames.len() + 1, limits::FRAMES_MAX));
        room.map_err(|reason| reason.of("a new pack"))?;
        let (stored_offset, stored_length) = self.draft.push(|bytes| self.compressor.append(plain, bytes));
        let info = FrameInfo { stored_offset, stored_length, plain_length: plain.len() as u32, checksum: codec::checksum(plain) };
        self.frames.push(info);
        Ok(self.frames.len() as u32 - 1)
    }

    /// Bytes of the object if it ended here.
    #[must_use]
    pub fn size(&self) -> usize {
        self.draft.size()
    }

    /// Number of frames so far.
    #[must_use]
    pub fn frames(&self) -> usize {
        self.frames.len()
    }

    /// Whether nothing was pushed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Seals the pack as the object `name` (relative to the store; of the sealer's incarnation). `salt` is new for each call.
    ///
    /// # Errors
    /// The pack is empty or over a limit, or the name is no pack's.
    pub fn finish(self, name: &str, epoch: Epoch, salt: [u8; 32], sealer: &Sealer) -> Result<PackBytes, FormatError> {
        let place = names::parse_pack(name).or_else(|| names::parse_branch_pack(name));
        let place = place.filter(|(incarnation, of, _)| Some(*incarnation) == sealer.incarnation() && *of == epoch);
        let relative = place.and_then(|(incarnation, ..)| names::relative(incarnation, name));
        let relative = relative.ok_or_else(|| Reason::invalid(format!("no name for a pack of epoch {epoch}")).of(name))?;
        let Sealed { bytes, hash, salt, frames } = sealer.finish(self.draft, Kind::Pack, name, epoch, salt)?;
        let object = rpc::ObjectRef {
            name: relative,
            salt: Bytes::copy_from_slice(&salt),
            epoch,
            frames: frames.len() as u32,
            size: bytes.len() as u64,
            hash: Bytes::copy_from_slice(hash.as_bytes()),
        };
        Ok(PackBytes { bytes, object, frames: self.frames })
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder").field("frames", &self.frames.len()).field("size", &self.size()).finish_non_exhaustive()
    }
}

impl FrameInfo {
    /// `length` bytes of a file at `offset`, from `skip` on in this frame; `object` is the pack's index in the enclosing table (from 1).
    #[must_use]
    pub fn extent(&self, offset: u64, length: u64, object: u32, frame: u32, skip: u32) -> rpc::Extent {
        let Self { stored_offset, stored_length, plain_length, checksum } = *self;
        rpc::Extent { offset, length, object, frame, stored_offset, stored_length, plain_length, skip, checksum, inline_seq: 0 }
    }
}

impl PackBytes {
    /// How a commit points to a delta in frame `frame`.
    #[must_use]
    pub fn frame_ref(&self, frame: u32) -> Option<rpc::FrameRef> {
        let FrameInfo { stored_offset, stored_length, plain_length, checksum } = *self.frames.get(frame as usize)?;
        Some(rpc::FrameRef { object: Some(self.object.clone()), frame, stored_offset, stored_length, plain_length, checksum })
    }
}

/// The plain content of one frame from the bytes of one ranged GET of `[stored_offset, stored_offset + stored_length)`.
///
/// # Errors
/// Bytes that are not this frame, or whose checksum is not the reference's.
pub fn open_frame(sealer: &Sealer, reference: &rpc::FrameRef, stored: &[u8]) -> Result<Bytes, FormatError> {
    let object = reference.object.as_ref().ok_or_else(|| Reason::invalid("a frame of no object").of("a reference"))?;
    open(sealer, object, reference.frame, (reference.stored_length, reference.plain_length, reference.checksum), stored)
}

/// The plain content of the frame that holds an extent. The extent's bytes are `[skip, skip + length)` of it.
///
/// # Errors
/// As [`open_frame`].
pub fn open_extent(sealer: &Sealer, object: &rpc::ObjectRef, extent: &rpc::Extent, stored: &[u8]) -> Result<Bytes, FormatError> {
    open(sealer, object, extent.frame, (extent.stored_length, extent.plain_length, extent.checksum), stored)
}

fn open(sealer: &Sealer, object: &rpc::ObjectRef, frame: u32, said: (u32, u32, u64), stored: &[u8]) -> Result<Bytes, FormatError> {
    let (stored_length, plain_length, checksum) = said;
    if stored.len() != stored_length as usize {
        return Err(Reason::Truncated { need: u64::from(stored_length), have: stored.len() as u64 }.of(object.name.as_str()));
    }
    let plain = sealer.open_frame(Kind::Pack, object, frame, plain_length, stored)?;
    if codec::checksum(&plain) != checksum {
        return Err(Reason::Unauthentic { what: format!("content of frame {frame}") }.of(object.name.as_str()));
    }
    Ok(plain)
}
