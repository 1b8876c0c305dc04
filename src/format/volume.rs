//! `volumes/<incarnation>/volume`: what a life of a volume begins with, its data key above all. Sealed with the store key.

use super::error::{FormatError, Reason};
use super::seal::{Kind, Sealer};
use super::{message, names, valid};
use crate::rpc;
use crate::types::{Hash, Identity};
use bytes::Bytes;
use valid::ensure;

/// The object's bytes and their hash.
///
/// # Errors
/// The record breaks a rule that its readers check, or is too large.
pub fn encode(record: &rpc::VolumeRecord, sealer: &Sealer, name: &str, salt: [u8; 32]) -> Result<(Bytes, Hash), FormatError> {
    check(record, sealer, name).map_err(|reason| reason.of(name))?;
    message::encode(record, sealer, Kind::Volume, name, 0, salt)
}

/// The record, every field checked.
///
/// # Errors
/// Anything but the object of this name.
pub fn decode(bytes: &Bytes, sealer: &Sealer, name: &str) -> Result<rpc::VolumeRecord, FormatError> {
    let (record, epoch) = message::decode(bytes, sealer, Kind::Volume, name)?;
    check(&record, sealer, name).map_err(|reason| reason.of(name))?;
    valid::epoch(0, epoch).map_err(|reason| reason.of(name))?;
    Ok(record)
}

fn check(record: &rpc::VolumeRecord, sealer: &Sealer, name: &str) -> Result<(), Reason> {
    ensure(sealer.incarnation().is_none(), || "a volume record is sealed with the store key".into())?;
    let incarnation = valid::incarnation(&record.incarnation)?;
    ensure(names::volume(incarnation) == name, || format!("the record of {} is not the one of this name", names::uuid(incarnation)))?;
    Identity::parse(&record.identity).map_err(|why| Reason::invalid(why.to_string()))?;
    valid::exact("data key", &record.data_key, 32)?;
    let Some(origin) = &record.origin else { return Ok(()) };
    let of = valid::incarnation(&origin.incarnation)?;
    ensure(of != incarnation, || "a clone of itself".into())?;
    valid::exact("hash of the origin's commit", &origin.commit_hash, 32)?;
    valid::exact("the origin's data key", &origin.data_key, 32)?;
    ensure(origin.seq > 0, || "an origin without a commit".into())
}
