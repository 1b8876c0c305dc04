//! Waiting for the disk: the one place, so that tests can see what is durable, and lose the rest.

use super::slots;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What is made durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Synced {
    /// The ring log.
    Log,
    /// The data file of a slot.
    Slot(u64),
    /// All data files.
    DataFiles,
    /// The write-ahead log of `meta.db`.
    Wal,
    /// `meta.db` itself, into which its log is copied and which SQLite flushes then.
    Meta,
}

impl Synced {
    /// The file or directory, below that of the cache.
    #[must_use]
    pub fn path(self) -> PathBuf {
        match self {
            Self::Log => "log".into(),
            Self::Slot(slot) => Path::new("data").join(slots::path_of(slot)),
            Self::DataFiles => "data".into(),
            Self::Wal => "meta.db-wal".into(),
            Self::Meta => "meta.db".into(),
        }
    }
}

type OnSync = Arc<dyn Fn(Synced) -> io::Result<()> + Send + Sync>;

/// Called before each wait for the disk, which fails when it does. For tests.
#[derive(Clone, Default)]
pub struct Hook(Option<OnSync>);

impl Hook {
    /// Calls `on_sync`.
    #[must_use]
    pub fn new(on_sync: impl Fn(Synced) -> io::Result<()> + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(on_sync)))
    }
}

impl std::fmt::Debug for Hook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hook")
    }
}

/// See the module's head.
#[derive(Debug, Clone, Default)]
pub(super) struct Disk {
    pub(super) no_sync: bool,
    pub(super) hook: Hook,
}

impl Disk {
    pub(super) fn sync(&self, what: Synced, f: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        self.ask(what)?;
        if self.no_sync { Ok(()) } else { f() }
    }

    /// For what is flushed by somebody else: whether a test lets it be.
    pub(super) fn ask(&self, what: Synced) -> io::Result<()> {
        self.hook.0.as_ref().map_or(Ok(()), |hook| hook(what))
    }
}
