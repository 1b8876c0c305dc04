//! The few kinds of fault that cross a module's border. A kind says what the caller must do; the exact cause is kept as
//! the source. Modules have exact enums inside and convert at their edge.

use std::error::Error;
use std::fmt;

/// What the caller must do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FaultKind {
    /// The request itself is wrong: change it.
    Invalid,
    /// Proven absent.
    NotFound,
    /// It is there already.
    Exists,
    /// The store (or a peer) does not answer: nothing is known, wait and try again.
    Unknown,
    /// Stored bytes are not what they must be: name them to a person; trying again does not help.
    Damaged,
    /// Another writer holds or has taken the volume: stop writing.
    Fenced,
    /// In use here or elsewhere: wait, or let a person decide.
    Busy,
    /// A limit is reached: free something.
    Full,
    /// Credentials or permissions do not allow it.
    Denied,
    /// Stored by a newer version: upgrade.
    TooNew,
    /// A history that was retired while it was read.
    Stale,
    /// The local disk or kernel failed.
    Local,
}

/// A fault at a module's border: kind, a message that names the thing, the cause and the next step, and its source.
#[derive(Debug)]
pub struct Fault {
    /// What the caller must do.
    pub kind: FaultKind,
    message: String,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl Fault {
    /// A fault without a deeper cause.
    pub fn new(kind: FaultKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None }
    }

    /// A fault that keeps its cause.
    pub fn with(kind: FaultKind, message: impl Into<String>, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { kind, message: message.into(), source: Some(source.into()) }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        let mut source = self.source();
        while let Some(cause) = source {
            write!(f, ": {cause}")?;
            source = cause.source();
        }
        Ok(())
    }
}

impl Error for Fault {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_ref().map(|source| source.as_ref() as _)
    }
}

impl From<std::io::Error> for Fault {
    fn from(error: std::io::Error) -> Self {
        Self::with(FaultKind::Local, "the local disk failed", error)
    }
}
