//! `blocks/<k>`: what the numbers of a block held before any of them is deleted.

use super::error::{FormatError, Reason};
use super::seal::{Kind, Sealer};
use super::{limits, message, names, valid};
use crate::rpc;
use crate::types::Hash;
use bytes::Bytes;
use valid::ensure;

/// The object's bytes and their hash.
///
/// # Errors
/// The record breaks a rule that its readers check, or is too large.
pub fn encode(marker: &rpc::BlockMarker, sealer: &Sealer, name: &str, salt: [u8; 32]) -> Result<(Bytes, Hash), FormatError> {
    check(marker, sealer, name).map_err(|reason| reason.of(name))?;
    message::encode(marker, sealer, Kind::Block, name, 0, salt)
}

/// The record, every field checked.
///
/// # Errors
/// Anything but the object of this name.
pub fn decode(bytes: &Bytes, sealer: &Sealer, name: &str) -> Result<rpc::BlockMarker, FormatError> {
    let (marker, epoch) = message::decode(bytes, sealer, Kind::Block, name)?;
    check(&marker, sealer, name).map_err(|reason| reason.of(name))?;
    valid::epoch(0, epoch).map_err(|reason| reason.of(name))?;
    Ok(marker)
}

fn check(marker: &rpc::BlockMarker, sealer: &Sealer, name: &str) -> Result<(), Reason> {
    let place = names::parse_block(name).map(|(incarnation, block)| (Some(incarnation), block));
    ensure(place == Some((sealer.incarnation(), marker.block)), || {
        format!("the marker of block {} is not the one of this name", marker.block)
    })?;
    valid::at_most("records of a block", marker.record_hashes.len(), limits::BLOCK_RECORDS)?;
    marker.record_hashes.iter().filter(|hash| !hash.is_empty()).try_for_each(|hash| valid::exact("record hash", hash, 32))
}
