//! The POSIX operations of one volume over its cache: one method per operation, synchronous, without the kernel.
//!
//! Who calls says which request of the kernel it carries out, so that a resent one is answered from the record of the
//! first time (protocol.md 7.1). Bytes that are committed and not here come by [`Fetch`]; methods that may wait for it say
//! so, all others answer at once. Refusals for a limit come from the [`Gate`], and only where protocol.md 7.5 allows them.

mod acl;
mod attrs;
mod data;
mod error;
mod handles;
mod lost;
mod names;
mod readdir;
mod rename;
#[cfg(test)]
mod tests;
mod xattrs;

pub use attrs::{SetAttr, SetTime};
pub use data::{Seek, Written};
pub use error::PosixError;
pub use names::NewEntry;
pub use rename::RenameMode;
pub use xattrs::is_state;

use crate::cache::{Cache, RequestId, SavedReply, Space};
use crate::types::{Attr, ByteRange, Fault, Ino, Seq};
use handles::Handles;
use lost::Lost;
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

type Result<T> = std::result::Result<T, PosixError>;

/// At most so many names for one inode, as on ext4.
const LINKS_MAX: u32 = 65_000;

/// Brings committed bytes into the cache.
pub trait Fetch: Send + Sync {
    /// Fetches at least these ranges of a file and installs them. Waits, up to the volume's limit for reads.
    ///
    /// # Errors
    /// The store does not answer, or the stored bytes are damaged.
    fn fetch(&self, ino: Ino, ranges: &[ByteRange]) -> std::result::Result<(), Fault>;
}

/// What asks to be let in. Writes of the kernel are not here: they are never refused (protocol.md 7.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// A new inode or name.
    Create,
    /// A handle for writing.
    OpenForWriting,
    /// A file is to grow by an attribute or an allocation.
    Grow,
    /// An extended attribute is set: small, but any number of them fit.
    Attribute,
    /// An fsync, of which success would be a promise.
    Sync,
}

/// Takes the answer to an fsync, soon or later.
pub type Answer = Box<dyn FnOnce(Result<()>) + Send>;

/// Limits, as the volume's life cycle knows them.
pub trait Gate: Send + Sync {
    /// Lets it in or says why not.
    ///
    /// # Errors
    /// `NoSpace` at a limit, `Fenced` after another writer took the volume.
    fn admit(&self, what: Admission) -> Result<()>;
    /// Whether changes of names and attributes are refused. WRITEs never are, nor what the kernel says about files after them.
    fn refuses_changes(&self) -> bool {
        false
    }
    /// How long the answer to a WRITE is to be delayed: longer the nearer the limit, never for long.
    fn delay(&self) -> Option<Duration> {
        None
    }
    /// Answers an fsync of which everything is durable here: at once, or when a commit holds it, from another thread.
    fn after_commit(&self, ino: Ino, answer: Answer) {
        let _ = ino;
        answer(Ok(()));
    }
    /// Whether what waits for the store is given up now.
    fn is_closing(&self) -> bool {
        false
    }
    /// The numbers of `statfs`, from those of the cache.
    fn space(&self, cache: Space) -> Space {
        cache
    }
    /// Whether this inode, which is in no commit, is to be in none.
    fn is_local(&self, ino: Ino) -> bool {
        let _ = ino;
        false
    }
    /// The newest commit that is known, where the cache knows only that it has what is asked for.
    fn last_commit(&self) -> Option<Seq> {
        None
    }
}

/// No limits but the cache's own.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoLimits;

impl Gate for NoLimits {
    fn admit(&self, _what: Admission) -> Result<()> {
        Ok(())
    }
}

/// Who asks, and with which request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// The kernel's request; `None`: not to be remembered.
    pub request: Option<RequestId>,
    /// The kernel sends it a second time: an earlier driver may have carried it out.
    pub resent: bool,
}

/// What has happened since the start.
#[derive(Debug, Default)]
pub struct Counters {
    /// READs answered.
    pub reads: AtomicU64,
    /// Bytes read.
    pub bytes_read: AtomicU64,
    /// WRITEs answered.
    pub writes: AtomicU64,
    /// Bytes written.
    pub bytes_written: AtomicU64,
    /// Operations that had to fetch first.
    pub fetches: AtomicU64,
    /// Changes of metadata.
    pub changes: AtomicU64,
    /// Requests the kernel sent again.
    pub resent: AtomicU64,
    /// Of those, answered from the record.
    pub replayed: AtomicU64,
    /// WRITEs that failed.
    pub lost_writes: AtomicU64,
}

impl Counters {
    fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }
}

/// What the operations are made of.
pub struct Options {
    /// The volume's local truth.
    pub cache: Arc<Cache>,
    /// Where absent bytes come from.
    pub fetch: Arc<dyn Fetch>,
    /// Limits.
    pub gate: Arc<dyn Gate>,
    /// Nothing may be changed.
    pub read_only: bool,
    /// The record of handles open for writing: a file that outlives the process, not the machine.
    pub handles: PathBuf,
    /// A live mount is taken over from a driver that died: its handles are still open.
    pub resumed: bool,
}

/// The POSIX operations of one volume.
pub struct Posix {
    cache: Arc<Cache>,
    fetch: Arc<dyn Fetch>,
    gate: Arc<dyn Gate>,
    read_only: bool,
    handles: Handles,
    lost: Lost,
    // Inodes without a name, so that the many FORGETs of others cost no look-up. They end in order: the same history is the same cache (I20).
    orphans: Mutex<BTreeSet<Ino>>,
    orphan_count: AtomicUsize,
    counters: Counters,
}

impl Posix {
    /// Over a cache. A fresh mount ends the orphans of the last one; a resumed one takes over its handles.
    ///
    /// # Errors
    /// The cache or the record of handles failed.
    pub fn new(options: Options) -> std::result::Result<Self, Fault> {
        let Options { cache, fetch, gate, read_only, handles, resumed } = options;
        let orphans = cache.view(|view| view.orphans())?;
        let posix = Self {
            handles: Handles::open(&handles, resumed)?,
            cache,
            fetch,
            gate,
            read_only,
            lost: Lost::default(),
            orphan_count: AtomicUsize::new(orphans.len()),
            orphans: Mutex::new(orphans.into_iter().collect()),
            counters: Counters::default(),
        };
        for (ino, count) in posix.handles.open_counts() {
            (0..count).for_each(|_| posix.cache.opened(ino, true));
        }
        if !resumed && !read_only {
            posix.end_orphans()?;
        }
        Ok(posix)
    }

    /// The cache below.
    #[must_use]
    pub fn cache(&self) -> &Arc<Cache> {
        &self.cache
    }

    /// What has happened since the start.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Whether nothing may be changed.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// Inodes of which the kernel may hold bytes: those with a handle open for writing.
    #[must_use]
    pub fn writable_open(&self) -> Vec<Ino> {
        self.handles.open_inodes()
    }

    /// Whether any inode has a handle open for writing.
    #[must_use]
    pub fn any_writable_open(&self) -> bool {
        self.handles.any_open()
    }

    /// Whether an inode has a handle open for writing.
    #[must_use]
    pub fn is_writable_open(&self, ino: Ino) -> bool {
        self.handles.is_open(ino)
    }

    /// How long the answer to a WRITE is to be delayed.
    #[must_use]
    pub fn write_delay(&self) -> Option<Duration> {
        self.gate.delay()
    }

    /// The kernel has forgotten these inodes: those without a name end.
    pub fn forget(&self, inodes: impl IntoIterator<Item = Ino>) {
        if self.orphan_count.load(Ordering::Acquire) == 0 {
            return;
        }
        for ino in inodes {
            let was = self.orphans.lock().remove(&ino);
            if was {
                self.orphan_count.fetch_sub(1, Ordering::AcqRel);
                // Left behind by a failure, an orphan ends at the next mount.
                if let Err(error) = self.end_orphan(ino) {
                    tracing::warn!(ino, %error, "an unlinked file could not be ended; the next mount tries again");
                }
                self.lost.forget(ino);
            }
        }
    }

    /// Ends every inode without a name: only when the kernel holds none (before a mount, after an unmount).
    ///
    /// # Errors
    /// The cache failed.
    pub fn end_orphans(&self) -> std::result::Result<(), Fault> {
        let orphans = std::mem::take(&mut *self.orphans.lock());
        self.orphan_count.store(0, Ordering::Release);
        for ino in orphans {
            self.end_orphan(ino).map_err(|e| Fault::with(crate::types::FaultKind::Local, "cannot end unlinked files", e))?;
        }
        Ok(())
    }

    fn end_orphan(&self, ino: Ino) -> Result<()> {
        self.cache.update(None, |update| {
            update.forget_orphan(ino)?;
            Ok(((), SavedReply::Empty))
        })
    }

    fn orphaned(&self, ino: Ino) {
        if self.orphans.lock().insert(ino) {
            self.orphan_count.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// What was answered to this request the first time, if it was carried out.
    fn answered(&self, caller: &Caller) -> Option<SavedReply> {
        if !caller.resent {
            return None;
        }
        Counters::add(&self.counters.resent, 1);
        let reply = self.cache.replayed(caller.request?)?;
        Counters::add(&self.counters.replayed, 1);
        Some(reply)
    }

    // The saved answer when it is an inode: with its attributes of now.
    fn answered_inode(&self, caller: &Caller) -> Option<Result<Attr>> {
        match self.answered(caller)? {
            SavedReply::Entry(ino) | SavedReply::Attr(ino) | SavedReply::Created(ino) => Some(self.getattr(ino)),
            SavedReply::Empty | SavedReply::Size(_) => None,
        }
    }

    fn change(&self) -> Result<()> {
        self.change_unless(self.gate.refuses_changes())
    }

    fn change_unless(&self, refused: bool) -> Result<()> {
        Counters::add(&self.counters.changes, 1);
        if self.read_only || refused { Err(PosixError::ReadOnly) } else { Ok(()) }
    }
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options").field("read_only", &self.read_only).field("resumed", &self.resumed).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Posix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Posix").field("read_only", &self.read_only).finish_non_exhaustive()
    }
}
