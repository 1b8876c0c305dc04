//! When to seal, and how to cut what was sealed into packs: pure answers, `now` is an argument.

use crate::types::UnixNanos;
use std::time::Duration;

/// Frames of at most this many plain bytes: what one random read has to fetch at most.
pub(super) const FRAME_BYTES_MAX: u64 = 256 << 10;
/// A pack is closed when it has grown to this many stored bytes.
pub(super) const PACK_BYTES_TARGET: u64 = 12 << 20;
/// Or has so many frames: a pack of tiny files would have more than an object may have (`limits::FRAMES_MAX`) long before. Half of
/// them, because one file's inline frames come all at once.
const PACK_FRAMES: usize = crate::format::limits::FRAMES_MAX / 2;
/// When all that a seal holds is at most this many bytes, it travels inline in the commit: one PUT.
pub(super) const INLINE_BYTES_MAX: u64 = 64 << 10;
/// Commits after the newest checkpoint before the next one is due: bounds what opening reads.
pub(super) const CHECKPOINT_COMMITS: u64 = 128;
/// When a commit is made and less than this is dirty in the tier `scheduled`, rows included, it is in it.
pub(super) const WAITS_FROM: u64 = 8 << 20;
/// Bytes of deltas and inline frames after the newest checkpoint before the next one is due.
pub(super) const CHECKPOINT_BYTES: u64 = 8 << 20;

/// What is known when the loop asks what to do.
#[derive(Debug, Clone, Copy)]
pub(super) struct Situation {
    /// Age of the oldest change that is in no commit; `None`: nothing is dirty here. What the kernel still holds is in
    /// `kernel_may_hold`.
    pub(super) oldest_dirty: Option<Duration>,
    /// A file is open for writing, so the kernel may hold changes that the driver has not seen; since when.
    pub(super) kernel_may_hold: Option<Duration>,
    /// Dirty bytes as a share of the limit, in thousandths.
    pub(super) dirty_permille: u64,
    /// How long until the most urgent of the dirty tiers is due; `None`: none will be.
    pub(super) due: Option<Duration>,
    /// How long what the kernel may hold may stay there.
    pub(super) kernel_within: Duration,
    /// Somebody waits for a full commit (flush, drain).
    pub(super) flush_wanted: bool,
    /// An fsync waits for a commit of what it is about, which is here already.
    pub(super) sync_waits: bool,
    /// The last seal was made without the kernel, so that there is room for what the kernel holds.
    pub(super) relieved: bool,
    /// It had to leave bytes behind a gap that only the kernel can fill, or say that it is one.
    pub(super) left_behind: bool,
    /// None of the tier `scheduled` is due.
    pub(super) scheduled_waits: bool,
}

/// When a tier wants to be in a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Timing {
    /// At most so long after its oldest change.
    Within(Duration),
    /// When nothing changed for `quiet`, at the latest `max` after its oldest change.
    Quiet {
        /// How long nothing may have changed.
        quiet: Duration,
        /// After its oldest change.
        max: Duration,
    },
    /// At set times of the wall clock: in so long, as [`until_scheduled`] says.
    In(Duration),
}

/// A tier with something in no commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DirtyTier {
    /// When it wants to be in one.
    pub(super) timing: Timing,
    /// Age of its oldest change.
    pub(super) oldest: Duration,
    /// Age of its newest change.
    pub(super) newest: Duration,
}

impl DirtyTier {
    /// How old its oldest change may become.
    pub(super) fn at_most(self) -> Duration {
        match self.timing {
            Timing::Within(lag) => lag,
            Timing::Quiet { max, .. } => max,
            Timing::In(left) => self.oldest.saturating_add(left),
        }
    }
}

/// How long until the first of these tiers is due: then all that is dirty is sealed. `None`: there is none.
#[must_use]
pub(super) fn due_in(dirty: impl IntoIterator<Item = DirtyTier>) -> Option<Duration> {
    let due = dirty.into_iter().map(|tier| match tier.timing {
        Timing::Within(lag) => lag.saturating_sub(tier.oldest),
        Timing::Quiet { quiet, max } => quiet.saturating_sub(tier.newest).min(max.saturating_sub(tier.oldest)),
        Timing::In(left) => left,
    });
    due.min()
}

/// How long until what changed at `since` is due by set times: until the first of them after it. What was missed since then, however many,
/// is one that is due now. Both are of the wall clock, which jumps: who asks moves a `since` that is not over yet to now, once.
#[must_use]
pub(super) fn until_scheduled(next_after: impl Fn(UnixNanos) -> Option<UnixNanos>, since: UnixNanos, now: UnixNanos) -> Duration {
    let next = next_after(since).unwrap_or(UnixNanos::MAX);
    Duration::from_nanos(u64::try_from(next.saturating_sub(now)).unwrap_or(0))
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// Nothing until something changes.
    Idle,
    /// Ask again after this long, or when something changes.
    Wait(Duration),
    /// Bring in what the kernel holds, then seal.
    Seal,
    /// Seal at once without the kernel's pages: its WRITEs may be the ones that are being delayed (protocol.md 7.5).
    SealWithoutKernel,
}

/// Above this share of the dirty limit a seal does not wait for its time, in thousandths.
const HIGH_WATER_PERMILLE: u64 = 500;
/// Above this share the kernel's own pages are not asked for.
const AT_LIMIT_PERMILLE: u64 = 900;

/// Decides. A seal that is on its way is not asked about: the loop runs one at a time.
#[must_use]
pub(super) fn next(s: Situation) -> Action {
    let dirty = s.oldest_dirty.is_some();
    // Writers that keep the volume at its limit must not keep a flush waiting for ever, nor bytes behind a gap out of every commit:
    // after a seal without the kernel comes one with it. What comes in then is bounded (the kernel's share), and its WRITEs are delayed,
    // never held.
    if s.dirty_permille >= AT_LIMIT_PERMILLE && dirty && !(s.relieved && (s.flush_wanted || s.left_behind)) {
        return Action::SealWithoutKernel;
    }
    if s.flush_wanted || s.sync_waits || (dirty && s.dirty_permille >= HIGH_WATER_PERMILLE) {
        return Action::Seal;
    }
    let kernel = s.kernel_may_hold.map(|age| s.kernel_within.saturating_sub(age));
    match s.due.into_iter().chain(kernel).min() {
        None => Action::Idle,
        Some(Duration::ZERO) => Action::Seal,
        Some(wait) => Action::Wait(wait),
    }
}

/// Whether a seal of now leaves what is `scheduled` for a later one, if that is worth it (protocol.md 5.1, 5.3).
#[must_use]
pub(super) fn leaves_scheduled(s: Situation) -> bool {
    s.scheduled_waits && !s.flush_wanted && s.dirty_permille < HIGH_WATER_PERMILLE
}

/// With nothing dirty and nothing open for writing, it is looked once more after so long.
pub const QUIET_MAX: Duration = Duration::from_secs(60);

/// With anything dirty, no more time may pass without a request that would meet a successor's record: less than the 30 s of
/// protocol.md 1.10, which the request itself is part of.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(20);

/// When what the kernel holds did not all come in for somebody who waits: asked again after so long,
pub(super) const KERNEL_AGAIN: Duration = Duration::from_secs(1);
/// and so often until that one is told.
pub(super) const KERNEL_TRIES: u32 = 30;

/// Whether a pack of so many stored bytes and frames is to be closed.
#[must_use]
pub(super) fn pack_is_full(bytes: usize, frames: usize) -> bool {
    bytes as u64 >= PACK_BYTES_TARGET || frames >= PACK_FRAMES
}

/// Whether a checkpoint is due after a commit. `every`: after so many commits at the latest.
#[must_use]
pub(super) fn checkpoint_due(commits: u64, bytes: u64, every: u64) -> bool {
    commits >= every || bytes >= CHECKPOINT_BYTES
}

/// How long to leave a failing store alone: doubling from half a second to half a minute.
#[must_use]
pub(super) fn backoff(failures: u32) -> Duration {
    Duration::from_millis(500).saturating_mul(1 << failures.min(6)).min(Duration::from_secs(30))
}

/// Cuts dirty ranges into frames of at most [`FRAME_BYTES_MAX`].
#[must_use]
pub(super) fn frames(dirty: &[crate::types::ByteRange]) -> Vec<crate::types::ByteRange> {
    let mut frames = Vec::new();
    for range in dirty {
        let mut at = range.start;
        while at < range.end {
            let end = range.end.min(at - at % FRAME_BYTES_MAX + FRAME_BYTES_MAX);
            frames.push(at..end);
            at = end;
        }
    }
    frames
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUIET: Situation = Situation {
        oldest_dirty: None,
        kernel_may_hold: None,
        dirty_permille: 0,
        due: None,
        kernel_within: Duration::from_secs(1),
        flush_wanted: false,
        sync_waits: false,
        relieved: false,
        left_behind: false,
        scheduled_waits: false,
    };

    #[test]
    fn decides_by_table() {
        let ms = Duration::from_millis;
        let cases = [
            (QUIET, Action::Idle),
            (Situation { oldest_dirty: Some(ms(200)), due: Some(ms(800)), ..QUIET }, Action::Wait(ms(800))),
            (Situation { oldest_dirty: Some(ms(1000)), due: Some(ms(0)), ..QUIET }, Action::Seal),
            // Only what never is due.
            (Situation { oldest_dirty: Some(ms(1000)), ..QUIET }, Action::Idle),
            (Situation { kernel_may_hold: Some(ms(300)), ..QUIET }, Action::Wait(ms(700))),
            (Situation { kernel_may_hold: Some(ms(1500)), ..QUIET }, Action::Seal),
            (Situation { kernel_may_hold: Some(ms(300)), due: Some(ms(500)), ..QUIET }, Action::Wait(ms(500))),
            (Situation { kernel_may_hold: Some(ms(1500)), kernel_within: ms(9000), ..QUIET }, Action::Wait(ms(7500))),
            (Situation { flush_wanted: true, ..QUIET }, Action::Seal),
            // An fsync that waits is not delayed by any tier's time.
            (Situation { oldest_dirty: Some(ms(1)), due: Some(ms(999)), sync_waits: true, ..QUIET }, Action::Seal),
            (Situation { oldest_dirty: Some(ms(1)), dirty_permille: 950, sync_waits: true, ..QUIET }, Action::SealWithoutKernel),
            // Above the high-water mark every tier is due.
            (Situation { oldest_dirty: Some(ms(1)), due: Some(ms(99_999)), dirty_permille: 500, ..QUIET }, Action::Seal),
            (Situation { oldest_dirty: Some(ms(1)), dirty_permille: 500, ..QUIET }, Action::Seal),
            (Situation { oldest_dirty: Some(ms(1)), dirty_permille: 950, ..QUIET }, Action::SealWithoutKernel),
            (Situation { oldest_dirty: Some(ms(1)), dirty_permille: 950, relieved: true, ..QUIET }, Action::SealWithoutKernel),
            (Situation { oldest_dirty: Some(ms(1)), dirty_permille: 950, flush_wanted: true, ..QUIET }, Action::SealWithoutKernel),
            (Situation { oldest_dirty: Some(ms(1)), dirty_permille: 950, flush_wanted: true, relieved: true, ..QUIET }, Action::Seal),
            (Situation { oldest_dirty: Some(ms(1)), dirty_permille: 950, left_behind: true, relieved: true, ..QUIET }, Action::Seal),
        ];
        for (situation, want) in cases {
            assert_eq!(next(situation), want, "{situation:?}");
        }
    }

    #[test]
    fn scheduled_waits_for_others_only() {
        let waits = Situation { scheduled_waits: true, dirty_permille: 499, ..QUIET };
        assert!(leaves_scheduled(waits) && leaves_scheduled(Situation { sync_waits: true, ..waits }));
        for now in [
            Situation { scheduled_waits: false, ..waits },
            Situation { flush_wanted: true, ..waits },
            Situation { dirty_permille: 500, ..waits },
        ] {
            assert!(!leaves_scheduled(now), "{now:?}");
        }
    }

    #[test]
    fn quiet_begins_anew_with_each_change_and_max_bounds_it() {
        let secs = Duration::from_secs;
        let timing = Timing::Quiet { quiet: secs(5), max: secs(60) };
        let tier = |oldest, newest| DirtyTier { timing, oldest: secs(oldest), newest: secs(newest) };
        for (oldest, newest, due) in [(0, 0, 5), (3, 3, 2), (5, 5, 0), (40, 1, 4), (58, 1, 2), (60, 0, 0), (90, 0, 0)] {
            assert_eq!(due_in([tier(oldest, newest)]), Some(secs(due)), "{oldest} {newest}");
        }
        assert_eq!(due_in([]), None);
        let continuous = DirtyTier { timing: Timing::Within(secs(1)), oldest: Duration::ZERO, newest: Duration::ZERO };
        assert_eq!(due_in([tier(3, 0), continuous]), Some(secs(1)), "the most urgent decides");
        assert_eq!(due_in([tier(60, 0), continuous]), Some(secs(0)));
    }

    proptest::proptest! {
        // Whatever changes when: never sooner than `quiet` after the newest change unless `max` is over, never later than either.
        #[test]
        fn debounced_is_due_as_the_definition_says(
            quiet in 1u64..20, more in 0u64..100, changes in proptest::collection::vec(0u64..40, 1..12),
        ) {
            let max = quiet + more;
            let mut at = 0;
            let times: Vec<u64> = changes.iter().map(|gap| { at += gap; at }).collect();
            let (first, secs) = (times[0], Duration::from_secs);
            let fired = (first..).find(|now| {
                let newest = *times.iter().filter(|time| *time <= now).max().unwrap();
                let timing = Timing::Quiet { quiet: secs(quiet), max: secs(max) };
                due_in([DirtyTier { timing, oldest: secs(now - first), newest: secs(now - newest) }]) == Some(Duration::ZERO)
            }).unwrap();
            let calm = (first..).find(|now| !times.iter().any(|time| time <= now && now - time < quiet)).unwrap();
            proptest::prop_assert_eq!(fired, calm.min(first + max));
        }
    }

    proptest::proptest! {
        // Due when one of the times has come since the change, however many; else in so long as until the first that has not.
        #[test]
        fn scheduled_is_due_as_the_definition_says(
            times in proptest::collection::btree_set(0i64..1000, 0..8), since in 0i64..1000, later in 0i64..500,
        ) {
            let now = since + later;
            let next = |after: i64| times.iter().copied().find(|time| *time > after);
            let want = match times.iter().find(|time| **time > since) {
                Some(time) if *time <= now => Duration::ZERO,
                Some(time) => Duration::from_nanos((time - now).unsigned_abs()),
                None => Duration::from_nanos((i64::MAX - now).unsigned_abs()),
            };
            proptest::prop_assert_eq!(until_scheduled(next, since, now), want);
        }
    }

    #[test]
    fn scheduled_waits_for_its_time_beside_others() {
        let secs = Duration::from_secs;
        let bulk = DirtyTier { timing: Timing::In(secs(3600)), oldest: secs(7200), newest: secs(0) };
        assert_eq!((due_in([bulk]), bulk.at_most()), (Some(secs(3600)), secs(10_800)));
        let continuous = DirtyTier { timing: Timing::Within(secs(1)), oldest: Duration::ZERO, newest: Duration::ZERO };
        assert_eq!(due_in([bulk, continuous]), Some(secs(1)));
    }

    #[test]
    fn pack_ends_by_its_bytes_or_by_its_frames() {
        assert!(!pack_is_full(1 << 20, 4000));
        assert!(pack_is_full(12 << 20, 48));
        let most_inline_of_a_file = crate::format::limits::INLINE_FRAMES_MAX;
        let frames = (1..).find(|frames| pack_is_full(*frames, *frames)).unwrap_or(0);
        assert!(frames + most_inline_of_a_file <= crate::format::limits::FRAMES_MAX, "{frames}");
    }

    #[test]
    fn frames_cover_exactly_and_are_aligned() {
        let frames = frames(&[10..20, FRAME_BYTES_MAX - 5..3 * FRAME_BYTES_MAX + 1]);
        assert_eq!(frames[0], 10..20);
        assert_eq!(frames[1], FRAME_BYTES_MAX - 5..FRAME_BYTES_MAX);
        assert_eq!(frames.last(), Some(&(3 * FRAME_BYTES_MAX..3 * FRAME_BYTES_MAX + 1)));
        assert!(frames.windows(2).skip(1).all(|w| w[0].end == w[1].start));
    }

    #[test]
    fn backoff_grows_to_half_a_minute() {
        assert_eq!(backoff(0), Duration::from_millis(500));
        assert_eq!(backoff(60), Duration::from_secs(30));
    }
}
