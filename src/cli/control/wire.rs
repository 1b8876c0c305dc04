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
    /// Compare the cache with the newest commit and its checksums.
    Scrub {
        /// Bytes a second.
        rate: u64,
    },
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
    /// To [`Ask::Scrub`].
    Scrubbed(Scrubbed),
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

/// What a scrub found.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Scrubbed {
    /// The record whose tree was compared; absent: there is no commit.
    pub commit: Option<Seq>,
    /// Inodes and names compared.
    pub rows: u64,
    /// Those that differed, the first thousand.
    pub differences: Vec<Different>,
    /// How many differed.
    pub difference_count: u64,
    /// The commit that holds the repair; absent: nothing differed.
    pub repaired_in: Option<Seq>,
    /// Bytes of clean data compared with their checksums.
    pub bytes: u64,
    /// Bytes of clean data of which their frame's checksum says nothing.
    pub uncompared_bytes: u64,
    /// Ranges that differed, the first thousand.
    pub bad: Vec<Bad>,
    /// Bytes that differed.
    pub bad_bytes: u64,
    /// Of these fetched anew.
    pub healed_bytes: u64,
}

/// A name or inode that differed from the newest commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Different {
    /// Its path.
    pub path: String,
    /// What was here is kept; else it is as committed.
    pub kept: bool,
}

/// Cached bytes that were not what was stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bad {
    /// The file's path.
    pub path: String,
    /// The first byte.
    pub offset: u64,
    /// How many.
    pub length: u64,
    /// Why they could not be fetched anew; absent: they were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left: Option<String>,
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
