//! Batches: what the log holds goes into `meta.db`, and its room is used again.
//!
//! 1. Under the metadata mutex, everything pending is written into the open transaction: `meta.db` is then the state at record n.
//! 2. The data files of that state are flushed, without the mutex.
//! 3. What came to the metadata meanwhile is added, and the transaction committed: it names n as the place where replay begins, and
//!    says up to which record the metadata are newer. Content is exactly that of n, and durable.
//! 4. The write-ahead log of SQLite is flushed; then the ring's room up to n is free, and space without truth is given
//!    back. (Slots freed before n are emptied by [`Cache::tick`].)

use super::codec::Writer;
use super::disk::Synced;
use super::effect::encode_reply;
use super::file::DataFile;
use super::meta::Meta;
use super::pages::common;
use super::ring::Place;
use super::slots::{self, CLASSES};
use super::types::{CacheError, chain};
use super::{Cache, db, die};
use crate::env::memory;
use crate::types::{Ino, RangeSet};
use rusqlite::Connection;
use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

// Above so many files one flush of the whole file system costs less than one of each.
const FEW_FILES: usize = 32;
// The write-ahead log is taken into meta.db when it is larger.
const WAL_BYTES: u64 = 8 << 20;
// When it is larger than this although it was copied, it is emptied while the metadata wait: under a load without gaps there is always
// a transaction that goes on behind what was copied, and it never begins anew.
pub(super) const WAL_BYTES_MAX: u64 = 64 << 20;
// Data files emptied at a time.
const SETTLED: usize = 64;
/// In `meta.db`, the first slot of each class that was never used.
pub(super) const NEXT_SLOTS: [&str; CLASSES] = ["next_slot", "next_slot_1", "next_slot_2", "next_slot_3"];
const PERIOD: Duration = Duration::from_secs(5);
/// A batch does not wait for its time when so many files have state that only memory has: about a kilobyte each.
const PENDING_DUE: usize = 4 << 10;
/// Nor does an operation begin before the next batch has, when there are so many.
const PENDING_MAX: usize = 8 << 10;

/// What belongs to whoever applies a batch.
#[derive(Debug)]
pub(super) struct Batch {
    /// A second connection: it copies the write-ahead log while the first one goes on.
    pub(super) checkpointer: Connection,
    pub(super) wal_path: PathBuf,
    pub(super) wal: Option<File>,
    pub(super) wal_max: u64,
    pub(super) last: Duration,
    /// The newest record that `meta.db` has durably.
    pub(super) durable: u64,
    /// The cache is marked as closed in order: nothing may be taken away any more that only its log would tell.
    pub(super) closed: bool,
}

#[derive(Debug)]
struct Encoded {
    file: Arc<DataFile>,
    slot: Option<u64>,
    unflushed: bool,
    /// Its flush is awaited in `Content::syncing`.
    syncing: bool,
    stale: RangeSet,
    /// `Content::moves` then.
    moves: u64,
}

/// A batch that has begun: what is written into the open transaction already.
#[derive(Debug)]
pub(super) struct Begun {
    flush: u64,
    failures: u64,
    encoded: Vec<Encoded>,
}

impl Begun {
    pub(super) fn new(cache: &Cache) -> Self {
        Self { flush: cache.next_flush(), failures: cache.failures.count(), encoded: Vec::new() }
    }
}

static FLUSHES: AtomicU64 = AtomicU64::new(1);

impl Cache {
    /// A number for a flush of data files.
    #[allow(clippy::unused_self, reason = "read as a property of the cache")]
    pub(super) fn next_flush(&self) -> u64 {
        FLUSHES.fetch_add(1, Ordering::Relaxed)
    }

    /// Background work, to be called about once a second: applies the log when due.
    ///
    /// # Errors
    /// When the cache's disk fails.
    pub fn tick(&self) -> Result<(), CacheError> {
        self.reserve.look();
        let due = self.env.monotonic().saturating_sub(self.batch.lock().last) >= PERIOD;
        let files = self.pending_files.lock().len();
        let pending = self.ring.used() > 0 || files > 0;
        if self.ring.half_full() || files >= PENDING_DUE || (due && pending) {
            self.apply_batch()?;
        }
        // Emptying thousands of files takes a while, on a disk that discards what is freed most of all: nobody waits for it.
        let durable = self.batch.lock().durable;
        while self.slots.settle(durable, SETTLED)? {}
        Ok(())
    }

    /// Bounds what the next batch has to take, before any lock: to so many files of what nobody waits for (`ahead`), else to a few more. Who
    /// comes while a batch flushes goes on: it has taken its files already. A disk that fails refuses nothing here: it is told by what is to
    /// be durable, and by the log when that has no room left.
    pub(super) fn bound_pending(&self, ahead: bool) {
        let most = if ahead { PENDING_DUE } else { PENDING_MAX };
        if self.pending_files.lock().len() < most {
            return;
        }
        let mut batch = self.batch.lock();
        // Perhaps the one that was waited for has taken them.
        if self.pending_files.lock().len() >= most
            && let Err(error) = self.apply_locked(&mut batch, Begun::new(self))
        {
            tracing::warn!(%error, "the cache's disk does not take what changed; it is tried again");
        }
    }

    /// Applies all that is logged; it is durable on return.
    ///
    /// # Errors
    /// When the cache's disk fails.
    pub fn apply_batch(&self) -> Result<(), CacheError> {
        self.apply_locked(&mut self.batch.lock(), Begun::new(self))
    }

    pub(super) fn apply_locked(&self, batch: &mut Batch, begun: Begun) -> Result<(), CacheError> {
        let Begun { flush, failures, mut encoded } = begun;
        let place = {
            let mut meta = self.meta.lock();
            meta.flush()?;
            let place = self.ring.end();
            self.encode_pending(&mut meta, flush, &mut encoded);
            place
        };
        let done = self.make_durable_as_encoded(batch, &encoded, place);
        // Not before meta.db says it: an fsync until then has to log what the flush has covered, as recovery would not believe it.
        for entry in &encoded {
            entry.file.inner.lock().synced(flush, done.is_ok());
        }
        done?;
        self.ring.trim(place);
        self.trust_again(failures);
        batch.durable = place.lsn;
        let many = encoded.len() >= PENDING_DUE;
        self.reclaim(encoded)?;
        self.cool();
        if many {
            memory::give_back();
        }
        batch.last = self.env.monotonic();
        Ok(())
    }

    // Steps 2 to 4: the data files, the transaction, its log.
    fn make_durable_as_encoded(&self, batch: &mut Batch, encoded: &[Encoded], place: Place) -> Result<(), CacheError> {
        if let Err(error) = self.flush_files(encoded) {
            for entry in encoded {
                self.pend(&entry.file, &mut entry.file.inner.lock());
            }
            return Err(error);
        }
        self.env.failpoint("cache.after_fdatasync_before_commit");
        {
            let mut meta = self.meta.lock();
            meta.flush()?;
            let taken = self.slots.take_taken();
            let db = meta.write()?;
            for slot in taken {
                db.prepare_cached("DELETE FROM free_slots WHERE slot=?1")?.execute([slot as i64])?;
            }
            db::put_number(db, "replay_lsn", place.lsn)?;
            db::put_number(db, "replay_at", place.at)?;
            self.save_numbers(&mut meta)?;
            meta.commit()?;
            if self.reserve.is_tight() {
                // It must not grow into what the reserve has left for the end, nor let others have the room it has got.
                self.empty_wal(batch, "RESTART")?;
            } else if self.wal_bytes(batch)? > batch.wal_max {
                self.empty_wal(batch, "TRUNCATE")?;
            }
        }
        self.env.failpoint("cache.after_commit_before_trim");
        self.sync_wal(batch)
    }

    fn save_numbers(&self, meta: &mut Meta) -> Result<(), CacheError> {
        let numbers = [
            ("meta_lsn", meta.lsn),
            ("epoch", meta.epoch),
            ("resolved", meta.resolved),
            ("next_inode", meta.next_inode),
            ("next_cookie", meta.next_cookie),
            ("cuts", Self::load_u64(&self.seal.cuts)),
        ];
        let db = meta.write()?;
        for (key, value) in numbers {
            db::put_number(db, key, value)?;
        }
        for (key, value) in NEXT_SLOTS.into_iter().zip(self.slots.next()) {
            db::put_number(db, key, value)?;
        }
        let mut replies = self.replies.lock();
        if std::mem::take(&mut replies.changed) {
            let mut w = Writer::default();
            for id in &replies.order {
                if let Some(reply) = replies.by_id.get(id) {
                    encode_reply(&mut w, *id, *reply);
                }
            }
            db::put_state(db, "replies", Some(&w.0))?;
        }
        Ok(())
    }

    /// Begins the batch with the files that are pending: they may leave memory before it is applied.
    pub(super) fn begin_batch(&self, begun: &mut Begun) {
        self.encode_pending(&mut self.meta.lock(), begun.flush, &mut begun.encoded);
    }

    fn encode_pending(&self, meta: &mut Meta, flush: u64, encoded: &mut Vec<Encoded>) {
        let files = std::mem::take(&mut *self.pending_files.lock());
        for file in files {
            // A file left out would not be on the list of any later batch.
            let entry = self.encode(meta, file, flush).unwrap_or_else(|error| die("meta.db does not take the state of a file", &error));
            if entry.unflushed || entry.syncing || !entry.stale.is_empty() {
                encoded.push(entry);
            }
        }
    }

    fn encode(&self, meta: &mut Meta, file: Arc<DataFile>, flush: u64) -> Result<Encoded, CacheError> {
        let mut content = file.inner.lock();
        content.pending = false;
        let flushing = std::mem::take(&mut content.unflushed);
        let unflushed = !flushing.is_empty();
        if unflushed {
            content.flushing.push((flush, flushing));
        }
        let (slot, stale, moves) = (content.slot, content.reclaimable(), content.moves);
        let unsynced = std::mem::take(&mut content.unsynced);
        let syncing = !content.dead && !unsynced.is_empty();
        if !content.dead {
            if syncing {
                content.syncing.push((flush, unsynced));
            }
            let (ino, size) = (file.ino, content.size);
            let db = meta.write()?;
            db::put_file(db, ino, &content.encode())?;
            for slot in std::mem::take(&mut content.left) {
                db::put_free_slot(db, slot)?;
                self.slots.untake(slot);
            }
            for range in std::mem::take(&mut content.extents.touched).iter() {
                db::drop_extents(db, ino, range.start, range.end)?;
                for extent in content.extents.starting_in(range) {
                    db::put_extent(db, ino, extent)?;
                }
            }
            meta.amend(ino, |row| row.row.attr.size = size)?;
        }
        drop(content);
        Ok(Encoded { file, slot, unflushed, syncing, stale, moves })
    }

    fn flush_files(&self, encoded: &[Encoded]) -> Result<(), CacheError> {
        let mut files: BTreeMap<(usize, u64), Vec<(u64, &DataFile)>> = BTreeMap::new();
        for entry in encoded.iter().filter(|entry| entry.unflushed) {
            if let Some(slot) = entry.slot {
                files.entry(slots::file_of(slot)).or_default().push((slot, &entry.file));
            }
        }
        if files.len() > FEW_FILES {
            let all: Vec<_> = files.into_values().flatten().collect();
            // By a descriptor as old as the cache: one that is opened now would not be told of errors that another's syncfs has seen.
            return self.flush_together(&all, Synced::DataFiles, || Ok(nix::unistd::syncfs(&*self.lock)?));
        }
        for together in files.values() {
            match together[..] {
                [(slot, file)] if !slots::is_shared(slot) => self.flush_file(file, Some(slot))?,
                [(slot, _), ..] => {
                    let data = self.slots.file(slot)?;
                    self.flush_together(together, Synced::Slot(slot), || data.sync_data())?;
                }
                [] => {}
            }
        }
        if files.is_empty() || self.options.no_sync { Ok(()) } else { self.slots.sync_entries() }
    }

    // One flush of many files: when it fails, any of them may have lost what it had.
    fn flush_together(
        &self,
        files: &[(u64, &DataFile)],
        what: Synced,
        sync: impl FnOnce() -> std::io::Result<()>,
    ) -> Result<(), CacheError> {
        for (_, file) in files {
            self.redo(file)?;
        }
        self.disk.sync(what, sync).map_err(|error| {
            self.flush_failed(files.iter().map(|(_, file)| *file), &error);
            CacheError::io("data files")(error)
        })
    }

    fn wal_bytes(&self, batch: &Batch) -> Result<u64, CacheError> {
        Ok(std::fs::metadata(&batch.wal_path).map_err(CacheError::io("meta.db-wal"))?.len())
    }

    // Under the metadata mutex, between two transactions: nobody reads or writes meta.db.
    fn empty_wal(&self, batch: &mut Batch, how: &str) -> Result<(), CacheError> {
        self.flush_wal(batch)?;
        self.copy_wal(batch, how);
        Ok(())
    }

    fn flush_wal(&self, batch: &mut Batch) -> Result<(), CacheError> {
        if batch.wal.is_none() {
            batch.wal = Some(File::open(&batch.wal_path).map_err(CacheError::io("meta.db-wal"))?);
            File::open(&self.dir).and_then(|dir| dir.sync_all()).map_err(CacheError::io("cache directory"))?;
        }
        let Some(wal) = &batch.wal else { return Ok(()) };
        // After a failed flush the next one may succeed without the lost pages: nothing may be trimmed on its word.
        self.disk.sync(Synced::Wal, || wal.sync_data()).unwrap_or_else(|error| {
            self.note_failed_flush();
            die("meta.db-wal cannot be flushed", &error)
        });
        Ok(())
    }

    // Gives the write-ahead log's room back: what is in it is durable already. A flush is a part of that, and what is true of others is of
    // this one. On a full disk the log goes on growing, and the next batch tries again.
    fn copy_wal(&self, batch: &Batch, how: &str) {
        let copied = db::checkpoint(&batch.checkpointer, how, &self.disk).unwrap_or_else(|error| {
            self.note_failed_flush();
            die("meta.db cannot be flushed", &chain(&error))
        });
        if !copied {
            tracing::warn!("the cache's disk has no room for what meta.db has in its log");
        }
    }

    fn sync_wal(&self, batch: &mut Batch) -> Result<(), CacheError> {
        self.flush_wal(batch)?;
        // No other transaction can be committed meanwhile: the whole of it can be copied, and the next writer begins it anew unless it has
        // begun already.
        if self.wal_bytes(batch)? > WAL_BYTES {
            self.copy_wal(batch, "PASSIVE");
        }
        Ok(())
    }

    // Truncated, punched and evicted space, now that its record is durable. Frozen pages are spared.
    fn reclaim(&self, encoded: Vec<Encoded>) -> Result<(), CacheError> {
        for Encoded { file, slot, stale, moves, .. } in encoded {
            let Some(slot) = slot.filter(|_| !stale.is_empty()) else { continue };
            let mut content = file.inner.lock();
            if content.dead || content.slot != Some(slot) {
                continue;
            }
            // A page that was written since and given up again was perhaps fsynced between, and the record that gave it up is not durable.
            if content.moves != moves {
                self.pend(&file, &mut content);
                continue;
            }
            let data = self.slots.file(slot)?;
            for range in common(&content.reclaimable(), &stale).iter() {
                data.punch(&range)?;
                content.stale.remove(range);
            }
        }
        Ok(())
    }

    /// Lets files go that nobody uses and whose state is in meta.db: after a batch, and when reads have brought many here.
    pub(super) fn cool(&self) {
        let (mut files, hot) = (self.files.lock(), self.options.hot_inodes);
        // A file takes several times what its row takes; but what a seal asks for stays while that is not very much.
        if files.len() > hot / 4 {
            let few = files.len() <= hot;
            let writable: HashSet<Ino> = self.writable_open().into_iter().collect();
            files.retain(|ino, file| !goes(file, few, writable.contains(ino)));
        }
        // What has to stay does not make every further one look through all.
        self.cool_at.store(files.len().max(hot / 2) + hot / 8 + 1, Ordering::Relaxed);
    }

    /// Lets these go, when there are many in memory.
    pub(super) fn let_go(&self, inos: &[Ino]) {
        let mut files = self.files.lock();
        if files.len() <= self.options.hot_inodes / 4 {
            return;
        }
        let writable: HashSet<Ino> = self.writable_open().into_iter().collect();
        for ino in inos {
            if files.get(ino).is_some_and(|file| goes(file, false, writable.contains(ino))) {
                files.remove(ino);
            }
        }
    }
}

/// Whether a file may leave memory. What the kernel may still have sent of one that is open for writing is known here only.
fn goes(file: &Arc<DataFile>, few: bool, writable: bool) -> bool {
    Arc::strong_count(file) == 1
        && file.inner.try_lock().is_some_and(|content| {
            let wanted = content.is_changed() && (few || writable) || few && content.frozen.is_some();
            !wanted && !content.stays()
        })
}
