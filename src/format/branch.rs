//! `branches/<epoch>/head`, `head-<n>`: what a fenced writer had not committed.

use super::error::{FormatError, Reason};
use super::seal::{Kind, Sealer};
use super::{message, names, record, valid};
use crate::rpc;
use crate::types::Hash;
use bytes::Bytes;
use valid::ensure;

/// The object's bytes and their hash.
///
/// # Errors
/// The record breaks a rule that its readers check, or is too large.
pub fn encode(branch: &rpc::Branch, sealer: &Sealer, name: &str, salt: [u8; 32]) -> Result<(Bytes, Hash), FormatError> {
    check(branch, sealer, name).map_err(|reason| reason.of(name))?;
    message::encode(branch, sealer, Kind::Branch, name, branch.epoch, salt)
}

/// The record, every field checked.
///
/// # Errors
/// Anything but the object of this name.
pub fn decode(bytes: &Bytes, sealer: &Sealer, name: &str) -> Result<rpc::Branch, FormatError> {
    let (branch, epoch) = message::decode(bytes, sealer, Kind::Branch, name)?;
    check(&branch, sealer, name).map_err(|reason| reason.of(name))?;
    valid::epoch(branch.epoch, epoch).map_err(|reason| reason.of(name))?;
    Ok(branch)
}

fn check(branch: &rpc::Branch, sealer: &Sealer, name: &str) -> Result<(), Reason> {
    let place = names::parse_branch(name).map(|(incarnation, epoch, _)| (Some(incarnation), epoch));
    ensure(place == Some((sealer.incarnation(), branch.epoch)), || {
        format!("the branch of epoch {} is not the one of this name", branch.epoch)
    })?;
    ensure(branch.epoch > 0, || "epoch 0".into())?;
    valid::exact("hash of the base", &branch.base_hash, if branch.base_seq == 0 { 0 } else { 32 })?;
    valid::text("host", &branch.host)?;
    let Some(state) = &branch.state else { return Ok(()) };
    // They would belong to no record: everything in a branch lies in its packs.
    ensure(state.inline_frames.is_empty(), || "inline frames in a branch".into())?;
    record::check_commit(state, u64::MAX)
}
