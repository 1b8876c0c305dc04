//! Checks that decoders and encoders share: what a field may hold.

use super::error::Reason;
use super::limits;
use crate::rpc;
use crate::types::Incarnation;

/// The length of a repeated field or of bytes.
pub(super) fn at_most(what: &'static str, length: usize, max: usize) -> Result<(), Reason> {
    if length > max { Err(Reason::Limit { what, length: length as u64, max: max as u64 }) } else { Ok(()) }
}

pub(super) fn ensure(holds: bool, what: impl FnOnce() -> String) -> Result<(), Reason> {
    if holds { Ok(()) } else { Err(Reason::invalid(what())) }
}

pub(super) fn text(what: &'static str, text: &str) -> Result<(), Reason> {
    at_most(what, text.len(), limits::TEXT_BYTES_MAX)
}

pub(super) fn exact(what: &'static str, bytes: &[u8], length: usize) -> Result<(), Reason> {
    ensure(bytes.len() == length, || format!("{what} of {} bytes, not {length}", bytes.len()))
}

pub(super) fn incarnation(bytes: &[u8]) -> Result<Incarnation, Reason> {
    Incarnation::from_slice(bytes).ok_or_else(|| Reason::invalid(format!("an incarnation of {} bytes, not 16", bytes.len())))
}

/// A name in a directory, or of an xattr.
pub(super) fn entry(name: &[u8]) -> Result<(), Reason> {
    let shown = || String::from_utf8_lossy(&name[..name.len().min(300)]).escape_debug().to_string();
    ensure(!name.is_empty(), || "an empty name".into())?;
    at_most("name", name.len(), limits::NAME_BYTES_MAX)?;
    ensure(!name.contains(&b'/') && !name.contains(&0), || format!("a name with `/` or NUL: `{}`", shown()))?;
    ensure(name != b"." && name != b"..", || format!("the name `{}`", shown()))
}

pub(super) fn inode_number(ino: u64) -> Result<(), Reason> {
    // SQLite and the kernel's directory entries hold 63 bits.
    ensure(ino != 0 && ino <= i64::MAX as u64, || format!("inode number {ino}"))
}

pub(super) fn object(object: &rpc::ObjectRef) -> Result<(), Reason> {
    at_most("object name", object.name.len(), limits::OBJECT_NAME_MAX)?;
    let named = super::names::absolute(Incarnation([0; 16]), &object.name).is_some();
    ensure(named, || format!("`{}` names no object", object.name.escape_debug()))?;
    exact("salt", &object.salt, 32)?;
    exact("hash", &object.hash, 32)?;
    ensure(object.frames > 0, || format!("{} without frames", object.name))?;
    at_most("frames", object.frames as usize, limits::FRAMES_MAX)?;
    at_most("pack", usize::try_from(object.size).unwrap_or(usize::MAX), limits::PACK_BYTES_MAX)
}

/// One frame of an object that a message points to.
pub(super) fn frame(object: &rpc::ObjectRef, frame: u32, stored_offset: u64, stored_length: u32) -> Result<(), Reason> {
    let end = stored_offset.checked_add(u64::from(stored_length));
    let inside = frame < object.frames
        && stored_offset >= super::seal::HEADER as u64
        && stored_length as usize >= super::seal::FRAME_OVERHEAD
        && end.is_some_and(|end| end <= object.size);
    ensure(inside, || {
        format!(
            "frame {frame} at {stored_offset}+{stored_length} is not within {} ({} frames, {} bytes)",
            object.name, object.frames, object.size
        )
    })
}

pub(super) fn domain(domain: i32) -> Result<(), Reason> {
    match rpc::Domain::try_from(domain) {
        Ok(rpc::Domain::Unspecified) => Err(Reason::invalid("a domain that is not said")),
        Ok(_) => Ok(()),
        Err(_) => Err(Reason::newer(format!("domain {domain}"))),
    }
}

/// The epoch in a message against the one its header was sealed with.
pub(super) fn epoch(said: u64, sealed: u64) -> Result<(), Reason> {
    ensure(said == sealed, || format!("of epoch {said}, sealed for epoch {sealed}"))
}
