//! `control/<n>`: a record of the control chain.

use super::error::{FormatError, Reason};
use super::seal::{Kind, Sealer};
use super::{limits, message, names, record, valid};
use crate::rpc;
use crate::rpc::control_record::Kind as Body;
use crate::types::Hash;
use bytes::Bytes;
use valid::ensure;

/// The object's bytes and their hash.
///
/// # Errors
/// The record breaks a rule that its readers check, or is too large.
pub fn encode(record: &rpc::ControlRecord, sealer: &Sealer, name: &str, salt: [u8; 32]) -> Result<(Bytes, Hash), FormatError> {
    check(record, sealer, name).map_err(|reason| reason.of(name))?;
    message::encode(record, sealer, Kind::Control, name, 0, salt)
}

/// The record, every field checked.
///
/// # Errors
/// Anything but the object of this name.
pub fn decode(bytes: &Bytes, sealer: &Sealer, name: &str) -> Result<rpc::ControlRecord, FormatError> {
    let (record, epoch) = message::decode(bytes, sealer, Kind::Control, name)?;
    check(&record, sealer, name).map_err(|reason| reason.of(name))?;
    valid::epoch(0, epoch).map_err(|reason| reason.of(name))?;
    Ok(record)
}

fn check(record: &rpc::ControlRecord, sealer: &Sealer, name: &str) -> Result<(), Reason> {
    let number = record.number;
    let place = names::parse_control(name).map(|(incarnation, number)| (Some(incarnation), number));
    ensure(place == Some((sealer.incarnation(), number)) && number > 0, || format!("record {number} is not the one of this name"))?;
    valid::exact("parent hash", &record.parent_hash, if number == 1 { 0 } else { 32 })?;
    valid::exact("nonce", &record.nonce, 16)?;
    valid::text("author", &record.author)?;
    match &record.kind {
        Some(Body::Claim(claim)) => [&claim.kind, &claim.name, &claim.reason].into_iter().try_for_each(|text| valid::text("claim", text)),
        Some(Body::Release(release)) => earlier(release.claim, number),
        Some(Body::Retire(retire)) => check_retire(retire),
        Some(Body::Purge(purge)) => valid::text("reason", &purge.reason),
        Some(Body::Undo(undo)) => earlier(undo.number, number),
        Some(Body::Attach(attach)) => valid::text("claim uid", &attach.claim_uid),
        Some(Body::Detach(detach)) => valid::text("claim uid", &detach.claim_uid),
        Some(Body::Void(void)) => valid::text("reason", &void.reason),
        None => Err(Reason::newer("a kind of control record that is not known here")),
    }
}

fn earlier(of: u64, number: u64) -> Result<(), Reason> {
    ensure(of > 0 && of < number, || format!("record {of}, which is not before {number}"))
}

fn check_retire(retire: &rpc::Retire) -> Result<(), Reason> {
    for object in &retire.objects {
        ensure(!object.is_empty(), || "an object without a name".into())?;
        valid::at_most("object name", object.len(), limits::OBJECT_NAME_MAX)?;
    }
    for moved in &retire.moved {
        let to = moved.to.as_ref().ok_or_else(|| Reason::invalid("an inline frame moved to nowhere"))?;
        record::check_frame_ref(to)?;
    }
    Ok(())
}
