//! The choice itself.

use super::{Last, Period, Reason, Rules, zoned};
use crate::types::{Seq, UnixNanos};
use std::collections::BTreeMap;

/// Files that must go at once to count as a mass delete: a handful is nothing to guard.
const FILES_MIN: u64 = 16;
/// The same for bytes: a database that truncates its journal deletes nothing.
const BYTES_MIN: u64 = 16 << 20;

/// A commit as the rules see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// Its number.
    pub seq: Seq,
    /// The instant it shows, by its writer's clock.
    pub cut: UnixNanos,
    /// When it was stored, by the store's clock.
    pub stored: UnixNanos,
    /// Every tier at one instant.
    pub full: bool,
    /// Files, directories and others in it.
    pub inodes: u64,
    /// Bytes of its files.
    pub bytes: u64,
}

/// The commits that the rules keep, each with every reason. `moments`: all there are, by number. `now`: the store's clock.
#[must_use]
pub fn choose(rules: &Rules, moments: &[Moment], now: UnixNanos) -> BTreeMap<Seq, Vec<Reason>> {
    let mut kept: BTreeMap<Seq, Vec<Reason>> = BTreeMap::new();
    for moment in moments {
        if now.saturating_sub(moment.stored) < nanos(rules.keep_all) {
            kept.entry(moment.seq).or_default().push(Reason::KeepAll);
        }
    }
    let mut time = UnixNanos::MIN;
    let timed = moments.iter().map(|moment| {
        time = time.max(moment.cut.min(moment.stored));
        (moment, time)
    });
    let mut candidates: Vec<(&Moment, UnixNanos)> = timed.collect();
    if candidates.iter().any(|(moment, _)| moment.full) {
        candidates.retain(|(moment, _)| moment.full);
    }
    candidates.reverse();
    by_period(rules, &candidates, &mut kept);
    for (moment, _) in candidates.iter().take(rules.min_keep) {
        let reasons = kept.entry(moment.seq).or_default();
        if reasons.is_empty() {
            reasons.push(Reason::MinKeep);
        }
    }
    for seq in before_deletes(rules, moments, now) {
        kept.entry(seq).or_default().push(Reason::BeforeDelete);
    }
    kept
}

/// restic's loop: newest first; a rule with some of its count left keeps a commit whose period is another than the one it kept before, and
/// the oldest commit in any case.
fn by_period(rules: &Rules, candidates: &[(&Moment, UnixNanos)], kept: &mut BTreeMap<Seq, Vec<Reason>>) {
    let mut left: Vec<(Period, usize, Option<i64>)> = rules.periods.iter().map(|(period, count)| (*period, *count, None)).collect();
    let mut last = match rules.last {
        Some(Last::Commits(count)) => count,
        Some(Last::Snapshots(_)) | None => 0,
    };
    let newest = candidates.first().map(|(_, time)| zoned(*time, &rules.zone));
    let since = rules
        .within
        .zip(newest)
        .map(|(within, newest)| newest.checked_sub(within.0).map_or(i128::MIN, |at| at.timestamp().as_nanosecond()));
    for (nr, (moment, time)) in candidates.iter().enumerate() {
        let mut reasons = Vec::new();
        if last > 0 {
            reasons.push(Reason::Last);
            last -= 1;
        }
        let at = if left.iter().any(|(_, count, _)| *count > 0) { Some(zoned(*time, &rules.zone)) } else { None };
        for (period, count, before) in left.iter_mut().filter(|(_, count, _)| *count > 0) {
            let Some(key) = at.as_ref().map(|at| period.key(at)) else { continue };
            let same = *before == Some(key);
            if !same || nr + 1 == candidates.len() {
                reasons.push(Reason::Newest { period: *period, oldest: same });
                *before = Some(key);
                *count = if *count == usize::MAX { usize::MAX } else { *count - 1 };
            }
        }
        if since.is_some_and(|since| i128::from(*time) > since) {
            reasons.push(Reason::Within);
        }
        if !reasons.is_empty() {
            kept.entry(moment.seq).or_default().extend(reasons);
        }
    }
}

/// The last commit before each fall of the files, or the bytes, to less than half: of the greatest since the fall before.
fn before_deletes(rules: &Rules, moments: &[Moment], now: UnixNanos) -> Vec<Seq> {
    let mut found = Vec::new();
    type Size = fn(&Moment) -> u64;
    for (of, least) in [((|moment| moment.inodes) as Size, FILES_MIN), (|moment| moment.bytes, BYTES_MIN)] {
        let mut peak: Option<&Moment> = None;
        for moment in moments {
            match peak {
                Some(high) if of(moment) >= of(high) => peak = Some(moment),
                Some(high) if of(moment) * 2 < of(high) && of(high) - of(moment) >= least => {
                    if now.saturating_sub(moment.stored) < nanos(rules.before_delete) {
                        found.push(high.seq);
                    }
                    peak = Some(moment);
                }
                Some(_) => {}
                None => peak = Some(moment),
            }
        }
    }
    found
}

/// Of the snapshots of each schedule, by schedule and time, those that `last` does not keep.
#[must_use]
pub fn surplus<'a, T: Copy>(rules: &Rules, snapshots: &[(&'a str, UnixNanos, T)]) -> Vec<T> {
    let Some(Last::Snapshots(count)) = rules.last else { return Vec::new() };
    let mut by_schedule: BTreeMap<&'a str, Vec<(UnixNanos, T)>> = BTreeMap::new();
    for (schedule, made, what) in snapshots {
        by_schedule.entry(schedule).or_default().push((*made, *what));
    }
    let mut surplus = Vec::new();
    for made in by_schedule.values_mut() {
        made.sort_by_key(|(time, _)| std::cmp::Reverse(*time));
        surplus.extend(made.iter().skip(count).map(|(_, what)| *what));
    }
    surplus
}

fn nanos(duration: std::time::Duration) -> UnixNanos {
    UnixNanos::try_from(duration.as_nanos()).unwrap_or(UnixNanos::MAX)
}
