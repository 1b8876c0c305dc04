//! One volume's local truth: metadata in SQLite, contents in sparse files, every mutation in a ring log before its reply.
//! Synchronous, callable from many threads, and without any I/O to the store.
//!
//! ```text
//! lock       one process at a time           meta.db    inodes, names, xattrs, extents, page sets (SQLite, WAL)
//! log        the ring of mutations           data/      contents: small files together, larger ones in a sparse file each
//! spool.db   what the seal under way froze   copies/    old content of frozen pages that were overwritten
//! reserve    room for a full disk            origin     whose cache it is, when meta.db cannot say
//! ```
//!
//! Locks, outermost first: `batch`, a file's `flushing`, `meta`, a file's `inner`, and then one of the small ones (ring, lists, slots).
//! Room in the ring is taken before any of them, since making room applies a batch. [`protocol`] has the rules.

mod batch;
mod codec;
mod compare;
mod db;
mod diff;
mod disk;
mod distrust;
mod effect;
mod evict;
mod file;
mod flip;
mod frozen;
mod fsync;
mod health;
mod hold;
mod io;
mod load;
mod meta;
mod open;
mod options;
mod pages;
mod place;
pub mod protocol;
mod put;
mod recover;
mod repair;
mod reserve;
mod resolve;
mod ring;
mod scrub;
mod seal;
mod sealed;
mod slots;
mod space;
mod spoiled;
mod spool;
mod stored;
mod touched;
mod turn;
mod types;
mod update;
mod uploads;
mod view;

#[cfg(test)]
mod tests;

pub use compare::{Basis, SCRATCH};
pub use diff::{Changed, Differs, Named};
pub use disk::{Hook, Synced};
pub use hold::Lost;
pub use load::Loader;
pub use options::CacheOptions;
pub use repair::Repair;
pub use seal::Seal;
pub use stored::{Since, Stored};
pub use touched::Touched;
pub use turn::{Place, Turn};
pub use types::{
    CacheError, CacheOrigin, Change, CopyOutcome, Cut, Difference, Entry, Head, Intent, LocalExtent, Missing, NewInode, ObjectId, Odd,
    ReadOutcome, Recovered, RequestId, SavedReply, Scrubbed, SealedFile, Space, Whence, WriteOutcome,
};
pub use update::Update;
pub use uploads::{Upload, UploadedFrame};
pub use view::View;

use crate::env::Env;
use crate::types::{ByteRange, Ino};
use file::{Content, DataFile};
use meta::Meta;
use parking_lot::{Condvar, Mutex};
use ring::{Permit, Ring};
use slots::Slots;
use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

/// One volume's cache, open. Callable from many threads.
#[derive(Debug)]
pub struct Cache {
    env: Env,
    options: CacheOptions,
    origin: CacheOrigin,
    dir: PathBuf,
    // Held until the cache is dropped.
    lock: nix::fcntl::Flock<std::fs::File>,
    meta: Mutex<Meta>,
    ring: Ring,
    disk: disk::Disk,
    failures: distrust::Failures,
    slots: Slots,
    reserve: reserve::Reserve,
    files: Mutex<HashMap<Ino, Arc<DataFile>>>,
    /// So many of them, and those that nobody uses are let go without waiting for a batch.
    cool_at: AtomicUsize,
    pending_files: Mutex<Vec<Arc<DataFile>>>,
    seal: flip::Flip,
    totals: space::Totals,
    batch: Mutex<batch::Batch>,
    replies: Mutex<Replies>,
    handles: Mutex<HashMap<Ino, Handles>>,
    head: Mutex<Option<Head>>,
    /// Unclean boots that this cache has seen.
    boots: u64,
    stir: Stir,
    touches: touched::Touches,
    /// Of those of the process, how many were looked into.
    suspicions: AtomicU64,
    spoils: spoiled::Spoils,
}

/// Whom to tell when quiet ends.
#[derive(Default)]
struct Stir(OnceLock<Box<dyn Fn() + Send + Sync>>);

impl std::fmt::Debug for Stir {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Stir")
    }
}

#[derive(Debug, Default, Clone, Copy)]
struct Handles {
    open: u32,
    writable: u32,
}

/// The answers of the last requests: more than can be in flight at once.
#[derive(Debug, Default)]
struct Replies {
    by_id: HashMap<RequestId, SavedReply>,
    order: VecDeque<RequestId>,
    changed: bool,
}

const REPLIES: usize = 4096;

impl Replies {
    fn insert(&mut self, id: RequestId, reply: SavedReply) {
        if self.by_id.insert(id, reply).is_none() {
            self.order.push_back(id);
        }
        if self.order.len() > REPLIES
            && let Some(old) = self.order.pop_front()
        {
            self.by_id.remove(&old);
        }
        self.changed = true;
    }
}

/// A broken promise that makes going on unsafe: the successor recovers from what is outside the process.
fn die(what: &str, error: &dyn std::fmt::Display) -> ! {
    tracing::error!(%error, "{what}; the process ends so that its successor recovers from the log");
    std::process::abort();
}

impl Cache {
    /// Whose cache this is.
    #[must_use]
    pub fn origin(&self) -> CacheOrigin {
        self.origin.clone()
    }

    /// Its directory.
    #[must_use]
    pub fn dir(&self) -> &std::path::Path {
        &self.dir
    }

    /// Room in the log, taken before any lock.
    fn admit(&self, bytes: u64) -> Result<Permit<'_>, CacheError> {
        self.bound_pending(false);
        loop {
            if let Some(permit) = self.ring.admit(bytes) {
                return Ok(permit);
            }
            self.apply_batch()?;
            if let Some(permit) = self.ring.admit(bytes) {
                return Ok(permit);
            }
            self.ring.wait_for_room();
        }
    }

    /// The answer to a request that was carried out already.
    #[must_use]
    pub fn replayed(&self, request: RequestId) -> Option<SavedReply> {
        self.replies.lock().by_id.get(&request).copied()
    }

    /// Forgets saved replies of older connections than `conn_epoch`.
    ///
    /// # Errors
    /// None at present.
    pub fn forget_replies(&self, conn_epoch: u64) -> Result<(), CacheError> {
        let mut replies = self.replies.lock();
        replies.order.retain(|id| id.conn_epoch >= conn_epoch);
        replies.by_id.retain(|id, _| id.conn_epoch >= conn_epoch);
        replies.changed = true;
        Ok(())
    }

    fn hot_file(&self, ino: Ino) -> Option<Arc<DataFile>> {
        self.files.lock().get(&ino).cloned()
    }

    /// The content state of a regular file, brought in when it is cold.
    fn file(&self, ino: Ino) -> Result<Arc<DataFile>, CacheError> {
        match self.hot_file(ino) {
            Some(file) => Ok(file),
            None => self.load_file(&mut self.meta.lock(), ino),
        }
    }

    fn load_file(&self, meta: &mut Meta, ino: Ino) -> Result<Arc<DataFile>, CacheError> {
        if let Some(file) = self.hot_file(ino) {
            return Ok(file);
        }
        let Some(hot) = meta.hot(ino)?.filter(|hot| hot.inode.row.attr.is_file()) else { return Err(CacheError::NoInode(ino)) };
        let (size, no_file) = (hot.inode.row.attr.size, hot.no_file);
        let mut content = Content {
            size,
            boots: self.boots,
            synced_size: size,
            settled: size,
            proven_size: size,
            told: file::Told { size, ..file::Told::default() },
            ..Content::default()
        };
        if !no_file {
            let extents = db::get_extents(&meta.db, ino)?;
            match db::get_file(&meta.db, ino)? {
                Some(row) => {
                    content = Content::decode(&row, size, extents, self.boots)
                        .ok_or_else(|| CacheError::Damaged(format!("the pages of inode {ino}")))?;
                }
                None => content.extents = pages::Extents::from_rows(extents),
            }
        }
        let changed = self.check_length(ino, &mut content)?;
        // Under the metadata mutex: a seal that ends thaws what is in memory, and nothing is frozen after that.
        if let Some(seal) = self.seal.taken.lock().frozen_for(ino) {
            content.freeze(seal, frozen::Sent::All);
            self.totals.tell(&mut content);
        }
        let file = Arc::new(DataFile::new(ino, content));
        let many = {
            let mut files = self.files.lock();
            files.insert(ino, Arc::clone(&file));
            files.len()
        };
        if many >= self.cool_at.load(Ordering::Relaxed) {
            self.cool();
        }
        if changed {
            let mut content = file.inner.lock();
            self.pend(&file, &mut content);
            self.tell(&file, &mut content);
        }
        Ok(file)
    }

    /// Puts a file whose state changes on the list of the next batch. Before its record is logged, under its lock: a batch that has
    /// the record has the file.
    fn pend(&self, file: &Arc<DataFile>, content: &mut Content) {
        if !content.pending {
            content.pending = true;
            let mut pending = self.pending_files.lock();
            pending.push(Arc::clone(file));
            if pending.len() == 1 {
                drop(pending);
                self.stir();
            }
        }
    }

    /// Background work may wait until `tell` is called: when the first thing changed after a seal, a file came or changed after a batch, or
    /// one was opened for writing (of which the kernel tells no more for a while). Called in the middle of operations: it must not wait.
    /// The first call of this counts.
    pub fn on_stir(&self, tell: impl Fn() + Send + Sync + 'static) {
        let _ = self.stir.0.set(Box::new(tell));
    }

    fn stir(&self) {
        if let Some(tell) = self.stir.0.get() {
            tell();
        }
    }

    /// Whether [`Cache::tick`] has nothing to do until something stirs.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        // On a full disk somebody has to look whether there is room again.
        !self.reserve.is_tight() && self.ring.used() == 0 && self.pending_files.lock().is_empty() && self.slots.is_settled()
    }

    /// Whether the disk that the cache lies on has no room: what is taken now could be more than what it can keep.
    #[must_use]
    pub fn disk_is_full(&self) -> bool {
        self.reserve.is_tight()
    }

    /// Tells the totals what changed, and shows the size.
    fn tell(&self, file: &DataFile, content: &mut Content) {
        file.show_size(content);
        self.totals.tell(content);
    }

    /// A handle was opened.
    pub fn opened(&self, ino: Ino, writable: bool) {
        let mut handles = self.handles.lock();
        let entry = handles.entry(ino).or_default();
        entry.open += 1;
        entry.writable += u32::from(writable);
        drop(handles);
        if writable {
            self.stir();
        }
    }

    /// A handle was released.
    pub fn released(&self, ino: Ino, writable: bool) {
        let mut handles = self.handles.lock();
        if let Some(entry) = handles.get_mut(&ino) {
            entry.writable = entry.writable.saturating_sub(u32::from(writable));
            entry.open = entry.open.saturating_sub(1).max(entry.writable);
            // Of handles of an earlier process only those for writing are known.
            if entry.open == 0 && entry.writable == 0 {
                handles.remove(&ino);
            }
        }
    }

    /// Files with a writable handle: what the kernel may hold bytes of.
    #[must_use]
    pub fn writable_open(&self) -> Vec<Ino> {
        self.handles.lock().iter().filter(|(_, h)| h.writable > 0).map(|(ino, _)| *ino).collect()
    }

    /// Handles open on an inode.
    #[must_use]
    pub fn open_count(&self, ino: Ino) -> u32 {
        self.handles.lock().get(&ino).map_or(0, |h| h.open)
    }

    /// Bytes of data here, dirty and clean.
    #[must_use]
    pub fn cached_bytes(&self) -> u64 {
        self.totals.cached.load(Ordering::Relaxed)
    }

    fn now_used(&self) -> i64 {
        self.env.now()
    }

    fn load_u64(at: &AtomicU64) -> u64 {
        at.load(Ordering::SeqCst)
    }
}

/// Bytes of a range.
fn length(range: &ByteRange) -> u64 {
    range.end - range.start
}

/// A condition that threads wait for, with the counters it is about.
#[derive(Debug, Default)]
struct Drained {
    lock: Mutex<()>,
    changed: Condvar,
}
