//! Why the log or the control chain could not be read or written. Exact inside; [`Fault`] at the border.

use super::control::Refused;
use crate::format::FormatError;
use crate::store::StoreError;
use crate::types::{Epoch, Fault, FaultKind, Incarnation, Seq};

/// What went wrong with the log or the control chain of a volume.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The store did not answer for as long as the caller's patience allows: the outcome of a put is unknown, and only the same bytes
    /// may be tried again.
    #[error("no answer from the store for longer than is allowed here; the outcome is unknown and will be asked for again")]
    Unreachable(#[source] StoreError),
    /// The store refuses in a way that trying again does not change.
    #[error("the store cannot be used for this")]
    Refused(#[source] StoreError),
    /// An object that must be there, or must authenticate, is not or does not.
    #[error(
        "{name} is damaged: {why}; nothing is skipped silently: restore the object, or (a log record) have an administrator append a `void` \
         record for it"
    )]
    Damaged {
        /// The object.
        name: String,
        /// What is wrong with it.
        why: String,
    },
    /// The store broke its own promise: what it said was stored is not there, or not what was put.
    #[error("the store cannot be trusted: {name}: {why}; run `holdfast store probe`")]
    Untrusted {
        /// The object.
        name: String,
        /// What it did.
        why: String,
    },
    /// A valid record of a higher epoch stands at our next number: another writer has the volume.
    #[error("fenced: record {seq} belongs to epoch {epoch}, another writer has taken the volume over")]
    Fenced {
        /// Its number.
        seq: Seq,
        /// Its epoch.
        epoch: Epoch,
    },
    /// The log ends with `fence`: the incarnation was purged.
    #[error("{} was purged; its log is closed for ever, a new life of the volume has another incarnation", crate::format::names::uuid(*incarnation))]
    Purged {
        /// The incarnation.
        incarnation: Incarnation,
    },
    /// The cache's head is not the log's head, and its intent does not lead there (protocol.md 7.3).
    #[error(
        "the cache stands at commit {cache}, the log at record {log}, and no intent leads from one to the other; the cache is set aside \
         and never deleted"
    )]
    Diverged {
        /// The cache's head.
        cache: Seq,
        /// The log's.
        log: Seq,
    },
    /// The log ends before the cache's head, whose put was acknowledged: the store shows an older log than it did, or lost its end.
    #[error(
        "the store shows the log up to record {log}, and this machine has seen record {cache} in it: an older copy of the store was put \
         back, or it lost what it had stored"
    )]
    RolledBack {
        /// The cache's head.
        cache: Seq,
        /// The log's.
        log: Seq,
    },
    /// While this was opening, somebody else opened the log: whoever decides about takeovers decides again.
    #[error("record {seq}: somebody else opened the log at this moment")]
    Held {
        /// The number of the other `open`.
        seq: Seq,
    },
    /// A commit names an object that protocol.md 3 does not allow it to name.
    #[error("{object} may not be named by a commit: {why}")]
    NotNameable {
        /// The object, as the commit names it.
        object: String,
        /// Which rule.
        why: &'static str,
    },
    /// A number whose outcome is not known yet stands before the next one.
    #[error("record {seq} was put and its outcome is not known; it must be resolved first")]
    Pending {
        /// The number.
        seq: Seq,
    },
    /// What was asked for was retired by retention.
    #[error("{what} was retired and deleted; choose a commit that is kept")]
    Retired {
        /// What.
        what: String,
    },
    /// The control chain does not allow it.
    #[error("{0}")]
    Control(#[from] Refused),
    /// The record cannot be encoded.
    #[error("cannot be written")]
    Format(#[from] FormatError),
    /// A newer version wrote it.
    #[error("cannot be read by this version")]
    TooNew(#[source] FormatError),
}

impl LogError {
    /// An object that did not decode.
    pub(crate) fn undecodable(error: FormatError) -> Self {
        match error.kind() {
            FaultKind::TooNew => Self::TooNew(error),
            _ => Self::Damaged { name: error.object.clone(), why: error.reason.to_string() },
        }
    }

    /// An object that must be there and is not.
    pub(crate) fn missing(name: impl Into<String>) -> Self {
        Self::Damaged { name: name.into(), why: "it must be there and the store says it is not".into() }
    }

    /// An object that contradicts its neighbours.
    pub(crate) fn damaged(name: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Damaged { name: name.into(), why: why.into() }
    }

    /// What the caller must do.
    #[must_use]
    pub fn kind(&self) -> FaultKind {
        match self {
            Self::Unreachable(_) | Self::Pending { .. } => FaultKind::Unknown,
            Self::Refused(StoreError::Denied { .. }) => FaultKind::Denied,
            Self::Refused(_) => FaultKind::Unknown,
            Self::Damaged { .. } | Self::Untrusted { .. } | Self::RolledBack { .. } => FaultKind::Damaged,
            Self::Fenced { .. } => FaultKind::Fenced,
            Self::Purged { .. } => FaultKind::NotFound,
            Self::Diverged { .. } | Self::Held { .. } => FaultKind::Busy,
            Self::NotNameable { .. } | Self::Control(_) | Self::Format(_) => FaultKind::Invalid,
            Self::Retired { .. } => FaultKind::Stale,
            Self::TooNew(_) => FaultKind::TooNew,
        }
    }
}

impl From<LogError> for Fault {
    fn from(error: LogError) -> Self {
        let message = error.to_string();
        match error {
            LogError::Unreachable(source) | LogError::Refused(source) => Self::with(FaultKind::Unknown, message, source),
            LogError::Format(source) | LogError::TooNew(source) => Self::with(source.kind(), message, source),
            other => Self::new(other.kind(), message),
        }
    }
}
