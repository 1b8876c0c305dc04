//! The limits of a volume, and what is done at them (protocol.md 7.5): WRITEs are delayed, what can be refused is refused.

use super::late::{Late, LateProgress};
use super::ops::{Admission, Answer, Gate, PosixError};
use super::strict::Strict;
use crate::cache::{Cache, Change, Space};
use crate::policy::Policy;
use crate::types::{Domain, Ino, Seq};
use crate::writeback::Classifier;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;

/// From this share of the dirty limit on, WRITEs are slowed (thousandths).
const SLOW_PERMILLE: u64 = 600;
/// The longest delay of one WRITE: short, because every close of a descriptor of a dirty file waits for it, in forked children too.
const DELAY_MAX: Duration = Duration::from_millis(50);

/// Sizes in bytes.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// Data kept here, dirty and clean.
    pub cache_max: u64,
    /// Bytes in no commit before new work is refused.
    pub dirty_max: u64,
    /// What `statfs` calls the size of the volume, and where creates and growth end.
    pub capacity: Option<u64>,
}

/// The gate of a live volume.
#[derive(Debug)]
pub(super) struct Limits {
    cache: Arc<Cache>,
    late: LateProgress,
    sizes: Sizes,
    quarantined: bool,
    /// Where anything is `strict`.
    strict: Option<Strict>,
    /// Asked by those who ask for the state of a file, one after the other.
    classifier: Mutex<Classifier>,
}

impl Limits {
    /// Of the volume with this cache. `quarantined`: its requests have crashed drivers, and no change is let in that can be refused.
    pub(super) fn of(
        cache: &Arc<Cache>,
        late: &Arc<Late>,
        sizes: Sizes,
        quarantined: bool,
        strict: Option<Strict>,
        policy: &Policy,
    ) -> Arc<Self> {
        let classifier = Mutex::new(Classifier::new(policy.clone()));
        Arc::new(Self { cache: Arc::clone(cache), late: LateProgress(Arc::clone(late)), sizes, quarantined, strict, classifier })
    }

    /// Whether new work is refused.
    fn is_full(&self) -> bool {
        self.full_permille() >= 1000 || self.cache.disk_is_full()
    }

    /// How near a limit is: what is in no commit to its own, and with what never will be in one (`local`) to the cache's, since
    /// neither can be evicted (protocol.md 7.6).
    fn full_permille(&self) -> u64 {
        let permille = |bytes: u64, max: u64| bytes.saturating_mul(1000) / max.max(1);
        permille(self.cache.dirty_bytes(), self.sizes.dirty_max).max(permille(self.cache.pinned_bytes(), self.sizes.cache_max))
    }
}

impl Gate for Limits {
    fn admit(&self, what: Admission) -> Result<(), PosixError> {
        match what {
            // Like a change of mode or owner it is let in wherever its row has room.
            Admission::Attribute if self.cache.disk_is_full() => Err(PosixError::NoSpace),
            Admission::Attribute => Ok(()),
            Admission::Sync if self.late.is_over() => Err(PosixError::Io),
            // A success would be no lie: fsync makes bytes durable here whatever the store does.
            Admission::Sync => Ok(()),
            Admission::Create | Admission::OpenForWriting | Admission::Grow if self.late.is_over() || self.quarantined => {
                Err(PosixError::ReadOnly)
            }
            Admission::Create | Admission::OpenForWriting | Admission::Grow if self.is_full() => Err(PosixError::NoSpace),
            Admission::Create | Admission::OpenForWriting | Admission::Grow => Ok(()),
        }
    }

    fn refuses_changes(&self) -> bool {
        self.quarantined
    }

    fn after_commit(&self, ino: Ino, answer: Answer) {
        match &self.strict {
            Some(strict) => strict.after_commit(ino, answer),
            None => answer(Ok(())),
        }
    }

    fn is_closing(&self) -> bool {
        self.late.is_cancelled()
    }

    fn delay(&self) -> Option<Duration> {
        delay(self.full_permille())
    }

    fn is_local(&self, ino: Ino) -> bool {
        let mut classifier = self.classifier.lock();
        loop {
            classifier.begin();
            let domain = self.cache.view(|view| classifier.classify(view, &Change::Inode(ino)));
            // What lies beside a tag file that nobody has read counted as `local`.
            if !classifier.read_tags(&self.cache) {
                return domain == Domain::Local;
            }
        }
    }

    fn last_commit(&self) -> Option<Seq> {
        self.late.last_commit()
    }

    fn space(&self, cache: Space) -> Space {
        Space { bytes_max: self.sizes.capacity.unwrap_or(cache.bytes_max), ..cache }
    }
}

/// None below the mark, then growing to the longest at the limit.
fn delay(full_permille: u64) -> Option<Duration> {
    let over = full_permille.checked_sub(SLOW_PERMILLE).filter(|over| *over > 0)?;
    let share = over.min(1000 - SLOW_PERMILLE);
    Some(DELAY_MAX.mul_f64(share as f64 / (1000 - SLOW_PERMILLE) as f64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::{CacheError, CacheOptions, CacheOrigin, NewInode, SavedReply, Update};
    use crate::env::Env;
    use crate::types::{CacheId, Identity, Incarnation, ROOT, StoreId};

    #[test]
    fn local_bytes_count_against_the_limit_of_the_cache() {
        let dir = tempfile::tempdir().unwrap();
        let origin = CacheOrigin {
            store_id: StoreId([1; 16]),
            incarnation: Incarnation([2; 16]),
            identity: Identity::parse("test").unwrap(),
            cache_id: CacheId([3; 16]),
        };
        let mut options = CacheOptions::new(dir.path().join("cache"));
        (options.log_bytes, options.any_file_system, options.no_sync) = (4 << 20, true, true);
        let cache = Cache::create(Env::real(), options, &origin).unwrap();
        cache.set_epoch(1).unwrap();
        let new = NewInode { mode: libc::S_IFREG | 0o600, ..NewInode::default() };
        let make = |update: &mut Update<'_>| -> Result<(u64, SavedReply), CacheError> {
            let ino = update.new_inode(&new)?.ino;
            update.set_name(ROOT, b"f", ino)?;
            Ok((ino, SavedReply::Empty))
        };
        let ino = cache.update(None, make).unwrap();
        cache.write(None, ino, 0, &[1; 100_000]).unwrap();
        let seal = cache.seal(&mut |_, _| Domain::Local).unwrap();
        cache.abandon(seal).unwrap();
        assert_eq!(cache.dirty_content(), 0, "no commit will take it");
        let sizes = |cache_max| Sizes { cache_max, dirty_max: cache_max / 2, capacity: None };
        let limits = |cache_max| Limits::of(&cache, &Arc::default(), sizes(cache_max), false, None, &Policy::built_in());
        assert_eq!(limits(1 << 20).admit(Admission::Create), Ok(()));
        assert_eq!(limits(100_000).admit(Admission::Create), Err(PosixError::NoSpace));
        assert_eq!(limits(100_000).admit(Admission::Sync), Ok(()));
        assert!(limits(100_000).delay().is_some());
    }

    #[test]
    fn writes_are_slowed_only_near_the_limit_and_never_for_long() {
        assert_eq!(delay(0), None);
        assert_eq!(delay(600), None);
        assert!(delay(700) < delay(900));
        assert_eq!(delay(1000), Some(DELAY_MAX));
        assert_eq!(delay(99_999), Some(DELAY_MAX));
    }
}
