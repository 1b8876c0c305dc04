//! A message as an object of one frame.

use super::error::{FormatError, Reason};
use super::seal::{Kind, Sealer};
use super::{codec, limits, valid};
use crate::types::{Epoch, Hash};
use bytes::Bytes;
use prost::Message;

/// Protobuf, codec, seal.
pub(super) fn encode<M: Message>(
    message: &M,
    sealer: &Sealer,
    kind: Kind,
    name: &str,
    epoch: Epoch,
    salt: [u8; 32],
) -> Result<(Bytes, Hash), FormatError> {
    valid::at_most("message", message.encoded_len(), limits::MESSAGE_PLAIN_MAX).map_err(|reason| reason.of(name))?;
    let frame = codec::compress(&message.encode_to_vec());
    let sealed = sealer.seal(kind, name, epoch, salt, &[&frame])?;
    Ok((sealed.bytes, sealed.hash))
}

/// The inverse; also gives the header's epoch.
pub(super) fn decode<M: Message + Default>(bytes: &Bytes, sealer: &Sealer, kind: Kind, name: &str) -> Result<(M, Epoch), FormatError> {
    let (frame, epoch) = sealer.open_message(kind, name, bytes)?;
    Ok((parse(&frame).map_err(|reason| reason.of(name))?, epoch))
}

/// A message from its plain bytes.
pub(super) fn parse<M: Message + Default>(plain: &Bytes) -> Result<M, Reason> {
    valid::at_most("message", plain.len(), limits::MESSAGE_PLAIN_MAX)?;
    M::decode(plain.clone()).map_err(|why| Reason::invalid(format!("protobuf: {why}")))
}
