//! Why bytes are not the object they were read as: always with the object's name.

use crate::types::{Fault, FaultKind};

/// An object that cannot be decoded (or must not be written): which, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{object}: {reason}")]
pub struct FormatError {
    /// The object's name relative to the store, or what stands for it.
    pub object: String,
    /// What is wrong.
    pub reason: Reason,
}

/// What is wrong with an object.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// Fewer bytes than its own header or table promises.
    #[error("truncated: {need} bytes needed, {have} there")]
    Truncated {
        /// Bytes that must be there.
        need: u64,
        /// Bytes that are.
        have: u64,
    },
    /// The first bytes are no header of this format.
    #[error("not a Holdfast object (its first bytes are not `HFO1`)")]
    NotOurs,
    /// Another kind of object than its name says.
    #[error("sealed as {found}, read as {wanted}")]
    Kind {
        /// From the header.
        found: String,
        /// From the caller.
        wanted: &'static str,
    },
    /// Sealed with another cipher than the store's.
    #[error("sealed with cipher {found}, the store's is {wanted}")]
    Cipher {
        /// From the header.
        found: u8,
        /// The store's.
        wanted: u8,
    },
    /// A tag or checksum does not match: damaged, moved here from another name, or sealed with another key.
    #[error("does not authenticate at {what}: damaged, of another name, or sealed with another key")]
    Unauthentic {
        /// Frame or field.
        what: String,
    },
    /// Written by a version that knows more than this one.
    #[error("written by a newer version: {what}; upgrade holdfast to read it")]
    Newer {
        /// What is not known here.
        what: String,
    },
    /// Larger than the limit.
    #[error("{what} of {length} is over the limit of {max}")]
    Limit {
        /// The thing that is too large.
        what: &'static str,
        /// Its length or number.
        length: u64,
        /// The limit (docs/format.md).
        max: u64,
    },
    /// Well-formed bytes that mean nothing.
    #[error("invalid: {what}")]
    Invalid {
        /// What.
        what: String,
    },
    /// A key ring that no given identity opens.
    #[error("none of its recipients is the identity given: {why}")]
    NoKey {
        /// What age said.
        why: String,
    },
}

impl Reason {
    pub(crate) fn invalid(what: impl Into<String>) -> Self {
        Self::Invalid { what: what.into() }
    }

    pub(crate) fn newer(what: impl Into<String>) -> Self {
        Self::Newer { what: what.into() }
    }

    pub(crate) fn of(self, object: impl Into<String>) -> FormatError {
        FormatError { object: object.into(), reason: self }
    }
}

impl FormatError {
    /// What the caller must do about it.
    #[must_use]
    pub fn kind(&self) -> FaultKind {
        match self.reason {
            Reason::Newer { .. } => FaultKind::TooNew,
            Reason::NoKey { .. } => FaultKind::Denied,
            _ => FaultKind::Damaged,
        }
    }
}

impl From<FormatError> for Fault {
    fn from(error: FormatError) -> Self {
        Self::new(error.kind(), error.to_string())
    }
}
