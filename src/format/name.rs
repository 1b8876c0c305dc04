//! `names/<identity>/<n>`: which incarnation a volume's name means. Sealed with the store key.

use super::error::{FormatError, Reason};
use super::seal::{Kind, Sealer};
use super::{message, names, valid};
use crate::rpc;
use crate::types::Hash;
use bytes::Bytes;
use valid::ensure;

/// The object's bytes and their hash.
///
/// # Errors
/// The record breaks a rule that its readers check, or is too large.
pub fn encode(record: &rpc::NameRecord, sealer: &Sealer, name: &str, salt: [u8; 32]) -> Result<(Bytes, Hash), FormatError> {
    check(record, sealer, name).map_err(|reason| reason.of(name))?;
    message::encode(record, sealer, Kind::Name, name, 0, salt)
}

/// The record, every field checked.
///
/// # Errors
/// Anything but the object of this name.
pub fn decode(bytes: &Bytes, sealer: &Sealer, name: &str) -> Result<rpc::NameRecord, FormatError> {
    let (record, epoch) = message::decode(bytes, sealer, Kind::Name, name)?;
    check(&record, sealer, name).map_err(|reason| reason.of(name))?;
    valid::epoch(0, epoch).map_err(|reason| reason.of(name))?;
    Ok(record)
}

fn check(record: &rpc::NameRecord, sealer: &Sealer, name: &str) -> Result<(), Reason> {
    ensure(sealer.incarnation().is_none(), || "a name record is sealed with the store key".into())?;
    let number = names::parse_name_record(name).map(|(_, number)| number);
    ensure(number == Some(record.number) && record.number > 0, || format!("record {} is not the one of this name", record.number))?;
    valid::incarnation(&record.incarnation).map(|_| ())
}
