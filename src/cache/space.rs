//! Totals and limits.

use super::file::{Content, Told};
use super::types::CacheError;
use crate::env::Env;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

/// Sums over all files, hot or not.
#[derive(Debug, Default)]
pub(super) struct Totals {
    /// Bytes of present pages.
    pub(super) cached: AtomicU64,
    /// Bytes of dirty and frozen pages, an overwritten frozen page twice, as it is there twice. Without `Local` ones
    /// and those of inodes without a name.
    pub(super) dirty: AtomicU64,
    /// The bytes of those others, which no commit takes.
    pub(super) local: AtomicU64,
    /// About the bytes of `meta.db` that rows in no commit take.
    pub(super) rows: AtomicU64,
    /// Those of the seal under way.
    pub(super) rows_frozen: AtomicU64,
    /// Sum of the sizes.
    pub(super) bytes: AtomicU64,
    /// When the oldest change since the last flip was made, and the oldest of those in the seal under way, in nanoseconds of the
    /// monotonic clock: an age must not depend on a clock that may be set; 0: none.
    pub(super) oldest: AtomicI64,
    pub(super) oldest_frozen: AtomicI64,
    /// Something was dirty when the process began, and is: nobody knows since when.
    pub(super) inherited: AtomicBool,
}

fn shift(total: &AtomicU64, old: u64, new: u64) {
    if new != old {
        total.fetch_add(new.wrapping_sub(old), Ordering::Relaxed);
    }
}

impl Totals {
    pub(super) fn tell(&self, content: &mut Content) {
        let dirty = content.dirty.bytes() + content.frozen.as_ref().map_or(0, |frozen| frozen.dirty.bytes());
        let (dirty, local) = if content.local || content.unnamed { (0, dirty) } else { (dirty, 0) };
        let now = if content.dead {
            Told { present: 0, dirty: 0, local: 0, size: 0 }
        } else {
            Told { present: content.present.bytes(), dirty, local, size: content.size }
        };
        let old = std::mem::replace(&mut content.told, now);
        shift(&self.cached, old.present, now.present);
        shift(&self.dirty, old.dirty, now.dirty);
        shift(&self.local, old.local, now.local);
        shift(&self.bytes, old.size, now.size);
    }

    /// What stays behind at a flip is as old as before it.
    pub(super) fn stays_old(&self) {
        let frozen = self.oldest_frozen.load(Ordering::SeqCst);
        if frozen != 0 {
            self.oldest.store(frozen, Ordering::SeqCst);
        }
    }

    /// A change was made. Whether it is the first since the last seal.
    #[must_use]
    pub(super) fn changed(&self, env: &Env) -> bool {
        if self.oldest.load(Ordering::Relaxed) != 0 {
            return false;
        }
        let now = i64::try_from(env.monotonic().as_nanos()).unwrap_or(i64::MAX).max(1);
        self.oldest.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Something was changed before this process began.
    pub(super) fn inherit(&self, env: &Env) {
        let _ = self.changed(env);
        self.inherited.store(true, Ordering::SeqCst);
    }
}

impl super::Cache {
    /// Bytes in no commit, and those that they cost (protocol.md 7.6): dirty and frozen pages that are not `Local`, and rows of the
    /// metadata. The mutation log is not among them: a file of a fixed size that was written when the cache was made.
    #[must_use]
    pub fn dirty_bytes(&self) -> u64 {
        let rows = self.totals.rows.load(Ordering::Relaxed) + self.totals.rows_frozen.load(Ordering::Relaxed);
        self.dirty_content() + rows
    }

    /// Bytes of dirty and frozen pages that are not `Local`.
    #[must_use]
    pub fn dirty_content(&self) -> u64 {
        self.totals.dirty.load(Ordering::Relaxed)
    }

    /// Bytes of data that cannot be evicted: in no commit yet, or never in one.
    #[must_use]
    pub fn pinned_bytes(&self) -> u64 {
        self.dirty_content() + self.totals.local.load(Ordering::Relaxed)
    }

    /// When the oldest change that is in no commit was made, by the monotonic clock of this process.
    #[must_use]
    pub fn oldest_dirty(&self) -> Option<Duration> {
        let live = self.totals.oldest.load(Ordering::Relaxed);
        let frozen = self.totals.oldest_frozen.load(Ordering::Relaxed);
        [live, frozen].into_iter().filter(|at| *at != 0).min().map(|at| Duration::from_nanos(at.unsigned_abs()))
    }

    /// Refuses what would make the volume larger than its limit.
    pub(super) fn check_growth(&self, more: u64) -> Result<(), CacheError> {
        let bytes = self.totals.bytes.load(Ordering::Relaxed);
        if more > 0 && bytes.saturating_add(more) > self.options.bytes_max {
            return Err(CacheError::NoSpace("bytes"));
        }
        Ok(())
    }
}
