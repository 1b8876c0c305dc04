//! The lines on the control socket.

use crate::cli::exit;
use crate::cli::status::VolumeStatus;
use crate::types::{Fault, Seq};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Version of the lines; a driver refuses a greater one.
pub const VERSION: u32 = 1;

/// The first and only line of the asker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// See [`VERSION`].
    pub version: u32,
    /// What is asked.
    #[serde(flatten)]
    pub ask: Ask,
}

/// What can be asked of a driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "kebab-case")]
pub enum Ask {
    /// How it stands.
    Status,
    /// Put everything written so far into a commit, and say which.
    Flush,
    /// Drain, close the log, unmount, and end.
    Unmount,
}

/// A line of the driver.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "kebab-case")]
pub enum Reply {
    /// On the way to the last line.
    Progress(Progress),
    /// To [`Ask::Status`].
    Status(Box<VolumeStatus>),
    /// To [`Ask::Flush`].
    Flushed(Flushed),
    /// To [`Ask::Unmount`].
    Unmounted(Unmounted),
    /// It could not be done.
    Fault {
        /// The kind's word, as in `--json`.
        kind: String,
        /// Thing, cause, next step.
        message: String,
    },
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Bytes that are stored.
    pub done: u64,
    /// Bytes that were dirty when it began; may grow.
    pub total: u64,
}

/// Everything written before the request is in a commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flushed {
    /// The commit that holds it: a new one, or the head when nothing was dirty.
    pub commit: Seq,
    /// Whether the commit shows all tiers at one cut.
    pub full: bool,
    /// Its cut.
    pub cut: Timestamp,
    /// Bytes that were uploaded for it.
    pub uploaded: u64,
}

/// The mount is gone and nothing is dirty.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unmounted {
    /// The last commit; absent when the volume has none (read-only, or nothing was ever written).
    pub commit: Option<Seq>,
    /// Its cut.
    pub cut: Option<Timestamp>,
    /// Bytes that were uploaded for it.
    pub uploaded: u64,
}

impl From<&Fault> for Reply {
    fn from(fault: &Fault) -> Self {
        Self::Fault { kind: exit::word(fault.kind).to_owned(), message: fault.to_string() }
    }
}

impl Reply {
    /// A fault becomes one again; any other line is kept.
    pub(super) fn check(self) -> Result<Self, Fault> {
        match self {
            Self::Fault { kind, message } => Err(Fault::new(exit::kind(&kind), message)),
            other => Ok(other),
        }
    }
}
