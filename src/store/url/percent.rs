//! Percent-encoding of paths, which may hold any byte, and of query values.

use std::ffi::OsString;
use std::fmt::Write;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

pub(super) fn encode_path(path: &Path) -> String {
    encode(path.as_os_str().as_bytes(), b"/-_.~+@=,")
}

pub(super) fn encode_value(value: &str) -> String {
    encode(value.as_bytes(), b"/:-_.~@,")
}

fn encode(bytes: &[u8], plain: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for byte in bytes {
        if byte.is_ascii_alphanumeric() || plain.contains(byte) {
            text.push(char::from(*byte));
        } else {
            // Writing to a String does not fail.
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text
}

/// `None`: a `%` without two hexadecimal digits, or a NUL.
pub(super) fn decode_path(text: &str) -> Option<PathBuf> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first == b'%' {
            let mut byte = [0];
            hex::decode_to_slice(rest.get(..2)?, &mut byte).ok()?;
            bytes.push(byte[0]);
            rest = &rest[2..];
        } else {
            bytes.push(*first);
        }
    }
    (!bytes.contains(&0)).then(|| PathBuf::from(OsString::from_vec(bytes)))
}
