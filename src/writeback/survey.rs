//! How long each tier has been dirty, looked up between seals where a policy has tiers with times of their own: each path that was touched
//! since the last look is asked for its tier of now (protocol.md 5.5: never stored).
//!
//! Times are those of the looks: a change counts as old as the look before it where its age matters, as new as the look that saw it where
//! its quiet matters.

use super::domain::Classifier;
use super::plan::{DirtyTier, Timing};
use crate::cache::{Cache, CacheError, Change};
use crate::policy::Tier;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Of more files that are open for writing it is not asked which tiers they have.
const OPEN_MAX: usize = 1024;

/// What is known of the tiers between two seals. Instants are of the monotonic clock.
#[derive(Debug)]
pub(super) struct Survey {
    /// Something may be dirty that nobody looked at: it counts as `continuous`.
    unknown: bool,
    looked: Duration,
    /// Oldest and newest change of each.
    dirty: BTreeMap<Pace, (Duration, Duration)>,
    /// Those of the files open for writing.
    open: BTreeSet<Pace>,
}

/// The times of a tier, as the policy has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Pace {
    Strict,
    Continuous,
    Debounced { quiet: Duration, max: Duration },
}

/// What follows for the loop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Surveyed {
    /// The tiers with something dirty.
    pub(super) dirty: Vec<DirtyTier>,
    /// How long what the kernel holds of files open for writing may stay there; `None`: none of them is in any commit.
    pub(super) kernel_within: Option<Duration>,
    /// How old the oldest change may become.
    pub(super) at_most: Duration,
    /// When to look again at the latest.
    pub(super) again: Duration,
}

impl Surveyed {
    /// Where everything dirty is `continuous`.
    pub(super) fn continuous(oldest: Option<Duration>, lag: Duration) -> Self {
        let dirty = oldest.map(|oldest| DirtyTier { timing: Timing::Within(lag), oldest, newest: oldest });
        Self { dirty: dirty.into_iter().collect(), kernel_within: Some(lag), at_most: lag, again: lag / 2 }
    }
}

impl Survey {
    /// At the start: what the cache brought along is unknown.
    pub(super) fn new(cache: &Cache, now: Duration) -> Self {
        cache.watch_touched();
        Self { unknown: true, looked: now, dirty: BTreeMap::new(), open: BTreeSet::new() }
    }

    /// Right before a seal: what was touched so far will be in it.
    pub(super) fn sealing(&mut self, cache: &Cache, now: Duration) {
        drop(cache.take_touched());
        (self.looked, self.dirty) = (now, BTreeMap::new());
    }

    /// After a seal. `rest`: something of it is still to be committed.
    pub(super) fn sealed(&mut self, rest: bool) {
        self.unknown = rest;
    }

    /// Looks at what was touched. May wait for the disk.
    ///
    /// # Errors
    /// Only when meta.db fails.
    pub(super) fn look(mut self, cache: &Cache, classifier: &mut Classifier, now: Duration) -> Result<Self, CacheError> {
        let touched = cache.take_touched();
        self.unknown |= touched.overflow;
        let before = cache.oldest_dirty().map_or(self.looked, |oldest| oldest.max(self.looked));
        let mut open = cache.writable_open();
        let all_open = open.len() <= OPEN_MAX;
        open.truncate(OPEN_MAX);
        loop {
            classifier.begin();
            for pace in paces(cache, classifier, touched.changes.iter().cloned())? {
                let (oldest, newest) = self.dirty.entry(pace).or_insert((before, now));
                (*oldest, *newest) = ((*oldest).min(before), now);
            }
            self.open = paces(cache, classifier, open.iter().map(|ino| Change::Inode(*ino)))?;
            if !all_open {
                self.open.insert(Pace::Continuous);
            }
            // What lies beside a tag file that nobody has read counted as `local`.
            if !classifier.read_tags(cache) {
                break;
            }
        }
        self.looked = now;
        Ok(self)
    }

    /// What follows. `lag`: of `continuous`, now; `floor`: no tier that can wait is due sooner than so long after its newest change.
    pub(super) fn says(&self, oldest_dirty: Option<Duration>, lag: Duration, floor: Duration, now: Duration) -> Surveyed {
        let age = |at: Duration| now.saturating_sub(at);
        let in_force = |pace: &Pace| match *pace {
            Pace::Strict => Timing::Within(Tier::LAG),
            Pace::Continuous => Timing::Within(lag),
            Pace::Debounced { quiet, max } => Timing::Quiet { quiet: quiet.max(floor), max: max.max(floor) },
        };
        let known = self.dirty.iter().map(|(pace, (oldest, newest))| (in_force(pace), age(*oldest), age(*newest)));
        let mut dirty: Vec<DirtyTier> = known.map(|(timing, oldest, newest)| DirtyTier { timing, oldest, newest }).collect();
        // With only `local` paths dirty a seal finds nothing, and then it is told when something changes.
        if let Some(oldest) = oldest_dirty.filter(|_| self.unknown || dirty.is_empty()) {
            dirty.push(DirtyTier { timing: Timing::Within(lag), oldest: age(oldest), newest: age(oldest) });
        }
        if oldest_dirty.is_none() {
            dirty.clear();
        }
        let shortest = dirty.iter().map(|tier| match tier.timing {
            Timing::Within(lag) => lag / 2,
            Timing::Quiet { quiet, .. } => quiet / 4,
        });
        Surveyed {
            kernel_within: self.open.iter().map(|pace| in_force(pace).at_most()).min(),
            at_most: dirty.iter().map(|tier| tier.timing.at_most()).max().unwrap_or(lag),
            again: shortest.min().unwrap_or(lag / 2),
            dirty,
        }
    }
}

/// Which times the tiers of these changes have.
fn paces(cache: &Cache, classifier: &mut Classifier, changes: impl Iterator<Item = Change>) -> Result<BTreeSet<Pace>, CacheError> {
    let mut paces = BTreeSet::new();
    for change in changes {
        let tier = cache.view(|view| classifier.tier(view, &change))?;
        paces.extend(tier.and_then(|tier| match tier {
            Tier::Strict { .. } => Some(Pace::Strict),
            Tier::Continuous { .. } => Some(Pace::Continuous),
            Tier::Debounced { quiet, max } => Some(Pace::Debounced { quiet, max }),
            Tier::Local => None,
        }));
    }
    Ok(paces)
}
