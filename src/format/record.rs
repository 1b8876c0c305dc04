//! `commits/<seq>`: a record of the log.

use super::error::{FormatError, Reason};
use super::seal::{Kind, Sealer};
use super::{codec, delta, limits, message, names, valid};
use crate::rpc;
use crate::rpc::log_record::Kind as Body;
use crate::types::Hash;
use bytes::Bytes;
use valid::ensure;

/// The object's bytes and their hash.
///
/// # Errors
/// The record breaks a rule that its readers check, or is too large.
pub fn encode(record: &rpc::LogRecord, sealer: &Sealer, name: &str, salt: [u8; 32]) -> Result<(Bytes, Hash), FormatError> {
    check(record, sealer, name).map_err(|reason| reason.of(name))?;
    message::encode(record, sealer, Kind::LogRecord, name, record.epoch, salt)
}

/// The record, every field checked.
///
/// # Errors
/// Anything but a record of this name.
pub fn decode(bytes: &Bytes, sealer: &Sealer, name: &str) -> Result<rpc::LogRecord, FormatError> {
    let (record, epoch) = message::decode::<rpc::LogRecord>(bytes, sealer, Kind::LogRecord, name)?;
    check(&record, sealer, name).map_err(|reason| reason.of(name))?;
    if record.epoch != epoch {
        return Err(Reason::invalid(format!("a record of epoch {} sealed for epoch {epoch}", record.epoch)).of(name));
    }
    Ok(record)
}

/// The plain content of one of a commit's inline frames.
///
/// # Errors
/// There is no such frame, or its content is not what the extent says.
pub fn inline_frame(frames: &[Bytes], name: &str, frame: u32, plain_length: u32, checksum: u64) -> Result<Bytes, FormatError> {
    let open = || {
        let stored = frames.get(frame as usize).ok_or_else(|| Reason::invalid(format!("no inline frame {frame}")))?;
        valid::at_most("plain length of an extent's frame", plain_length as usize, limits::EXTENT_PLAIN_MAX)?;
        let plain = codec::decompress(stored, plain_length as usize)?;
        if plain.len() != plain_length as usize || codec::checksum(&plain) != checksum {
            return Err(Reason::Unauthentic { what: format!("inline frame {frame}") });
        }
        Ok(Bytes::from(plain))
    };
    open().map_err(|reason: Reason| reason.of(name))
}

fn check(record: &rpc::LogRecord, sealer: &Sealer, name: &str) -> Result<(), Reason> {
    let seq = record.seq;
    let place = names::parse_commit(name).map(|(incarnation, seq)| (Some(incarnation), seq));
    ensure(place == Some((sealer.incarnation(), seq)), || format!("record {seq} is not the one of this name"))?;
    ensure(seq > 0 && record.epoch > 0, || format!("number {seq} of epoch {}", record.epoch))?;
    valid::exact("parent hash", &record.parent_hash, if seq == 1 { 0 } else { 32 })?;
    valid::exact("writer", &record.writer, 16)?;
    valid::exact("nonce", &record.nonce, 16)?;
    match &record.kind {
        Some(Body::Open(open)) => check_open(open, record),
        Some(Body::Commit(commit)) => check_commit(commit, seq),
        Some(Body::Close(close)) => ensure(close.last_commit < seq, || format!("close after commit {}", close.last_commit)),
        Some(Body::Fence(fence)) => valid::text("reason", &fence.reason),
        None => Err(Reason::newer("a kind of log record that is not known here")),
    }
}

fn check_open(open: &rpc::Open, record: &rpc::LogRecord) -> Result<(), Reason> {
    let rpc::Open { holder, previous_epoch, adopted, checkpoint } = open;
    ensure(*previous_epoch < record.epoch, || format!("epoch {} after epoch {previous_epoch}", record.epoch))?;
    ensure(*checkpoint < record.seq, || format!("checkpoint {checkpoint} is not before it"))?;
    if let Some(holder) = holder {
        for text in [&holder.host, &holder.installation, &holder.boot_id, &holder.address] {
            valid::text("holder", text)?;
        }
        if !holder.cache_id.is_empty() {
            valid::exact("cache id", &holder.cache_id, 16)?;
        }
        // Of another length: a later version's, which this one does not ask. Nothing but a question depends on it.
        valid::at_most("certificate's hash", holder.certificate.len(), 64)?;
    }
    adopted.iter().try_for_each(valid::object)
}

pub(super) fn check_commit(commit: &rpc::Commit, seq: u64) -> Result<(), Reason> {
    ensure(commit.checkpoint < seq, || format!("checkpoint {} is not before it", commit.checkpoint))?;
    commit.domains.iter().try_for_each(|instant| valid::domain(instant.domain))?;
    valid::text("policy", &commit.policy)?;
    valid::text("note", &commit.note)?;
    valid::at_most("inline frames", commit.inline_frames.len(), limits::INLINE_FRAMES_MAX)?;
    valid::at_most("delta frames", commit.delta_frames.len(), limits::DELTA_FRAMES_MAX)?;
    let (frames, checksums) = (commit.inline_frames.len(), commit.inline_checksums.len());
    ensure(frames == checksums, || format!("{frames} inline frames with {checksums} checksums"))?;
    for frame in &commit.inline_frames {
        valid::at_most("inline frame", frame.len(), limits::EXTENT_PLAIN_MAX + 1)?;
    }
    ensure(commit.delta.is_none() || commit.delta_frames.is_empty(), || "a delta both here and in packs".into())?;
    commit.delta_frames.iter().try_for_each(check_frame_ref)?;
    commit.delta.as_ref().map_or(Ok(()), |delta| delta::check(delta, frames))
}

pub(super) fn check_frame_ref(frame: &rpc::FrameRef) -> Result<(), Reason> {
    let object = frame.object.as_ref().ok_or_else(|| Reason::invalid("a frame of no object"))?;
    valid::object(object)?;
    valid::at_most("plain length of a frame", frame.plain_length as usize, limits::MESSAGE_PLAIN_MAX)?;
    valid::frame(object, frame.frame, frame.stored_offset, frame.stored_length)
}
