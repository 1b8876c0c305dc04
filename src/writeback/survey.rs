//! How long each tier has been dirty, looked up between seals where a policy has tiers with times of their own: each path that was touched
//! since the last look is asked for its tier of now (protocol.md 5.5: never stored).
//!
//! Times are those of the looks: a change counts as old as the look before it where its age matters, as new as the look that saw it where
//! its quiet matters.

use super::commit::Done;
use super::domain::Classifier;
use super::plan::{self, DirtyTier, Timing};
use crate::cache::{Cache, CacheError, Change};
use crate::env::Env;
use crate::policy::{Policy, Schedule, Tier};
use crate::types::UnixNanos;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Of more files that are open for writing it is not asked which tiers they have.
const OPEN_MAX: usize = 1024;

/// What is known of the tiers between two seals. Instants are of the monotonic clock.
#[derive(Debug)]
pub(super) struct Survey {
    /// Something may be dirty that nobody looked at: it counts as `continuous`.
    unknown: bool,
    looked: Now,
    dirty: BTreeMap<Pace, Changes>,
    /// Those of the tier `scheduled` at the last seal.
    sealed: BTreeMap<Pace, Changes>,
    /// Those of the files open for writing.
    open: BTreeSet<Pace>,
    /// What the kernel holds of these may be as old as this.
    asked: Now,
}

/// Both clocks at one instant: ages are monotonic, set times are of the wall clock.
#[derive(Debug, Clone, Copy)]
pub(super) struct Now {
    pub(super) monotonic: Duration,
    pub(super) wall: UnixNanos,
}

impl Now {
    /// The clocks of an environment.
    pub(super) fn of(env: &Env) -> Self {
        Self { monotonic: env.monotonic(), wall: env.now() }
    }
}

/// When something of a tier changed.
#[derive(Debug, Clone, Copy)]
struct Changes {
    oldest: Duration,
    newest: Duration,
    /// The oldest by the wall clock, or later, where that was set back.
    since: UnixNanos,
}

/// The times of a tier, as the policy has them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Pace {
    Strict,
    Continuous,
    Debounced { quiet: Duration, max: Duration },
    Scheduled(Schedule),
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
    /// Nothing of the tier `scheduled` is due.
    pub(super) scheduled_waits: bool,
}

impl Surveyed {
    /// Where everything dirty is `continuous`.
    pub(super) fn continuous(oldest: Option<Duration>, lag: Duration) -> Self {
        let dirty = oldest.map(|oldest| DirtyTier { timing: Timing::Within(lag), oldest, newest: oldest });
        Self { dirty: dirty.into_iter().collect(), kernel_within: Some(lag), at_most: lag, again: lag / 2, scheduled_waits: false }
    }
}

impl Survey {
    /// At the start: what the cache brought along is unknown.
    pub(super) fn new(cache: &Cache, now: Now) -> Self {
        cache.watch_touched();
        Self { unknown: true, looked: now, dirty: BTreeMap::new(), sealed: BTreeMap::new(), open: BTreeSet::new(), asked: now }
    }

    /// Right before a seal: what was touched so far will be in it. `asked`: and what the kernel holds.
    pub(super) fn sealing(&mut self, cache: &Cache, now: Now, asked: bool) {
        drop(cache.take_touched());
        self.looked = now;
        self.sealed = std::mem::take(&mut self.dirty);
        self.sealed.retain(|pace, _| matches!(pace, Pace::Scheduled(_)));
        if asked {
            self.asked = now;
        }
    }

    /// After a seal, with what became of it (`None`: no commit). `rest`: it left something behind that is to be committed.
    pub(super) fn sealed(&mut self, done: Option<&Done>, rest: bool, policy: &Policy) {
        self.unknown = rest || done.is_none_or(|done| done.again);
        let sealed = std::mem::take(&mut self.sealed);
        let waits = done.is_some_and(|done| done.waits);
        if waits && sealed.is_empty() {
            // Touched after the last look: which of them it is nobody knows.
            let Now { monotonic, wall } = self.looked;
            let since = Changes { oldest: monotonic, newest: monotonic, since: wall };
            self.dirty.extend(policy.schedules().into_iter().map(|schedule| (Pace::Scheduled(schedule), since)));
        }
        if waits || done.is_none() {
            self.dirty.extend(sealed);
        }
    }

    /// Looks at what was touched. May wait for the disk.
    ///
    /// # Errors
    /// Only when meta.db fails.
    pub(super) fn look(mut self, cache: &Cache, classifier: &mut Classifier, now: Now) -> Result<Self, CacheError> {
        let touched = cache.take_touched();
        self.unknown |= touched.overflow;
        let before = cache.oldest_dirty().map_or(self.looked.monotonic, |oldest| oldest.max(self.looked.monotonic));
        // From the look before on: a clock that was set forward since then (or a machine that slept) has missed what it jumped over.
        let since = self.looked.wall.saturating_add(nanos(before.saturating_sub(self.looked.monotonic))).min(now.wall);
        // And what is not over yet, since the clock was set back, counts from now.
        self.asked.wall = self.asked.wall.min(now.wall);
        for changes in self.dirty.values_mut() {
            changes.since = changes.since.min(now.wall);
        }
        let mut open = cache.writable_open();
        let all_open = open.len() <= OPEN_MAX;
        open.truncate(OPEN_MAX);
        loop {
            classifier.begin();
            for pace in paces(cache, classifier, touched.changes.iter().cloned())? {
                let changes = self.dirty.entry(pace).or_insert(Changes { oldest: before, newest: now.monotonic, since });
                (changes.oldest, changes.newest) = (changes.oldest.min(before), now.monotonic);
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
    pub(super) fn says(&self, oldest_dirty: Option<Duration>, lag: Duration, floor: Duration, now: Now) -> Surveyed {
        let age = |at: Duration| now.monotonic.saturating_sub(at);
        let in_force = |pace: &Pace, since: UnixNanos| match pace {
            Pace::Strict => Timing::Within(Tier::LAG),
            Pace::Continuous => Timing::Within(lag),
            Pace::Debounced { quiet, max } => Timing::Quiet { quiet: (*quiet).max(floor), max: (*max).max(floor) },
            Pace::Scheduled(schedule) => Timing::In(plan::until_scheduled(|after| schedule.next_after(after), since, now.wall)),
        };
        let known = self.dirty.iter().map(|(pace, changes)| DirtyTier {
            timing: in_force(pace, changes.since),
            oldest: age(changes.oldest),
            newest: age(changes.newest),
        });
        let mut dirty: Vec<DirtyTier> = known.collect();
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
            Timing::In(left) => left,
        });
        let known = self.dirty.iter().map(|(pace, changes)| (pace, changes.since));
        let mut timings = known.chain(self.open.iter().map(|pace| (pace, self.asked.wall))).map(|(pace, since)| in_force(pace, since));
        let due = timings.any(|timing| timing == Timing::In(Duration::ZERO));
        let asked = age(self.asked.monotonic);
        let held = |pace| DirtyTier { timing: in_force(pace, self.asked.wall), oldest: asked, newest: asked }.at_most();
        Surveyed {
            kernel_within: self.open.iter().map(held).min(),
            at_most: dirty.iter().copied().map(DirtyTier::at_most).max().unwrap_or(lag),
            again: shortest.min().unwrap_or(lag / 2),
            scheduled_waits: !due,
            dirty,
        }
    }
}

fn nanos(time: Duration) -> UnixNanos {
    UnixNanos::try_from(time.as_nanos()).unwrap_or(UnixNanos::MAX)
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
            Tier::Scheduled(schedule) => Some(Pace::Scheduled(schedule)),
            Tier::Local => None,
        }));
    }
    Ok(paces)
}
