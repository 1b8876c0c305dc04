//! Golden series of `research` and restic's own cases, then any series against a plain reference.

use super::*;
use crate::types::{Seq, UnixNanos};
use proptest::prelude::*;
use std::collections::BTreeSet;

const SECOND: i64 = 1_000_000_000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;

fn nanos(text: &str) -> UnixNanos {
    i64::try_from(text.parse::<Timestamp>().unwrap().as_nanosecond()).unwrap()
}

fn moment(seq: Seq, time: UnixNanos) -> Moment {
    Moment { seq, cut: time, stored: time, full: true, inodes: 100, bytes: 1000 }
}

/// So many commits, a `step` apart, the last at `end`.
fn series(count: i64, step: i64, end: UnixNanos) -> Vec<Moment> {
    (0..count).map(|n| moment(n.unsigned_abs() + 1, end - (count - 1 - n) * step)).collect()
}

fn rules(text: &str) -> Rules {
    Rules::parse(&format!("{text} min_keep=0")).unwrap()
}

fn kept(text: &str, moments: &[Moment]) -> Vec<Seq> {
    let now = moments.iter().map(|moment| moment.stored).max().unwrap_or(0);
    choose(&rules(text), moments, now).into_keys().collect()
}

#[test]
fn commit_a_minute_for_thirty_days_keeps_twenty_nine() {
    let moments = series(30 * 24 * 60, MINUTE, nanos("2026-11-20T12:00:30Z"));
    let seqs = kept("keep_all=0s hourly=24 daily=7", &moments);
    assert_eq!(seqs.len(), 29);
    let oldest = moments.iter().find(|moment| moment.seq == seqs[0]).unwrap();
    assert_eq!(zoned(oldest.cut, &TimeZone::UTC).strftime("%Y-%m-%dT%H:%M").to_string(), "2026-11-14T23:59");
    assert_eq!(kept("keep_all=0s hourly=24 daily=7 weekly=4 monthly=6", &moments).len(), 33, "the first of all is the oldest monthly");
    assert_eq!(kept("hourly=24 daily=7", &moments).len(), 1440 + 5, "the dense window keeps its own");
}

#[test]
fn idle_volume_keeps_by_count() {
    let mut moments = series(240, HOUR, nanos("2026-10-10T23:30:00Z"));
    moments.push(moment(241, nanos("2026-11-20T12:00:00Z")));
    assert_eq!(kept("keep_all=0s hourly=24 daily=7", &moments).len(), 29);
    assert_eq!(kept("keep_all=0s daily=7", &series(3, HOUR, nanos("2026-11-20T12:00:00Z"))), [1, 3], "the newest and the oldest");
}

#[test]
fn late_junk_cannot_push_good_commits_out_of_within() {
    let end = nanos("2026-11-20T12:30:00Z");
    let mut moments: Vec<Moment> = Vec::new();
    for n in 0..336 {
        moments.push(moment(2 * n + 1, end - (335 - i64::try_from(n).unwrap()) * HOUR));
        moments.push(moment(2 * n + 2, end - (335 - i64::try_from(n).unwrap()) * HOUR + 29 * MINUTE));
    }
    let good = |seqs: Vec<Seq>| seqs.iter().filter(|seq| **seq % 2 == 1).count();
    assert_eq!(good(kept("keep_all=0s hourly=24 daily=7", &moments)), 0, "what `within` is for");
    assert_eq!(good(kept("keep_all=0s within=7d", &moments)), 168);
    // A clock a year ahead moves nothing: no commit is later than the store had it.
    let mut ahead = moments.clone();
    ahead.last_mut().unwrap().cut += 365 * DAY;
    assert_eq!(good(kept("keep_all=0s within=7d", &ahead)), 168);
}

#[test]
fn periods_are_those_of_the_zone() {
    // Half past eleven in the evening in Berlin is one day, half past midnight the next; both are one day in UTC.
    let moments =
        [moment(1, nanos("2026-11-19T22:30:00Z")), moment(2, nanos("2026-11-19T23:30:00Z")), moment(3, nanos("2026-11-20T10:00:00Z"))];
    assert_eq!(kept("keep_all=0s daily=2", &moments), [2, 3]);
    assert_eq!(kept("keep_all=0s daily=2 zone=Europe/Berlin", &moments), [1, 3]);
    // 2026-12-31 and 2027-01-01 are one ISO week; 2024-01-01 and 2024-12-30 are not.
    let weeks = [
        moment(1, nanos("2024-01-01T00:00:00Z")),
        moment(2, nanos("2024-12-30T00:00:00Z")),
        moment(3, nanos("2026-12-31T00:00:00Z")),
        moment(4, nanos("2027-01-01T00:00:00Z")),
    ];
    assert_eq!(kept("keep_all=0s weekly=3", &weeks), [1, 2, 4]);
    assert_eq!(kept("keep_all=0s weekly=2", &weeks), [2, 4]);
}

#[test]
fn partial_commits_are_kept_by_the_dense_window_alone() {
    let mut moments = series(48, HOUR, nanos("2026-11-20T12:00:00Z"));
    moments.iter_mut().skip(1).step_by(2).for_each(|moment| moment.full = false);
    assert!(kept("keep_all=0s hourly=6", &moments).iter().all(|seq| *seq == 48 || seq % 2 == 1));
    assert_eq!(kept("keep_all=5h hourly=1", &moments), [44, 45, 46, 47, 48]);
    moments.iter_mut().for_each(|moment| moment.full = false);
    assert_eq!(kept("keep_all=0s hourly=6", &moments).len(), 6, "better than none");
}

#[test]
fn last_before_a_mass_delete_stays_for_its_time() {
    let mut moments = series(30, HOUR, nanos("2026-11-20T12:00:00Z"));
    // 100 files go bit by bit: 100, 80, 60, 40 left; the last with all of them is commit 10.
    for (n, left) in [(10, 80), (11, 60), (12, 40)] {
        moments.iter_mut().skip(n).for_each(|moment| moment.inodes = left);
    }
    let guarded = |text: &str, now: UnixNanos| {
        let kept = choose(&rules(text), &moments, now);
        kept.iter().find(|(_, reasons)| reasons.contains(&Reason::BeforeDelete)).map(|(seq, _)| *seq)
    };
    let now = moments[29].stored;
    assert_eq!(guarded("keep_all=0s last=commits:1", now), Some(10));
    assert_eq!(guarded("keep_all=0s last=commits:1", now + 31 * DAY), None);
    assert_eq!(guarded("keep_all=0s last=commits:1 before_delete=60d", now + 31 * DAY), Some(10));
    moments.iter_mut().for_each(|moment| moment.inodes /= 5);
    assert_eq!(
        choose(&rules("last=commits:1"), &moments, now).values().flatten().filter(|reason| **reason == Reason::BeforeDelete).count(),
        0,
        "a dozen files"
    );
}

#[test]
fn min_keep_is_a_floor() {
    let moments = series(20, HOUR, nanos("2026-11-20T12:00:00Z"));
    let rules = Rules::parse("keep_all=0s yearly=1 min_keep=5").unwrap();
    let kept = choose(&rules, &moments, moments[19].stored);
    assert_eq!(
        kept.into_iter().map(|(seq, reasons)| (seq, reasons[0])).collect::<Vec<_>>(),
        [
            (16, Reason::MinKeep),
            (17, Reason::MinKeep),
            (18, Reason::MinKeep),
            (19, Reason::MinKeep),
            (20, Reason::Newest { period: Period::Yearly, oldest: false }),
        ]
    );
}

#[test]
fn last_keeps_snapshots_of_each_schedule() {
    let made = [("daily", 1, 10), ("daily", 3, 12), ("weekly", 1, 20), ("daily", 2, 11), ("daily", 4, 13)];
    let mut gone = surplus(&rules("last=2"), &made);
    gone.sort_unstable();
    assert_eq!(gone, [10, 11]);
    assert_eq!(surplus(&rules("last=commits:1"), &made), Vec::<i32>::new());
    assert_eq!(surplus(&rules("daily=1"), &made), Vec::<i32>::new());
}

#[test]
fn texts_are_read_and_shown() {
    for profile in PROFILES {
        Rules::parse(profile.name).unwrap();
    }
    for text in [
        "hourly=24 daily=7",
        "keep_all=2h",
        "within=1y6mo3d2h",
        "last=3,daily=all",
        "nightly-3 last=5 zone=Europe/Berlin",
        "7-days min_keep=9",
    ] {
        let rules = Rules::parse(text).unwrap();
        assert_eq!(Rules::parse(&rules.to_string()), Ok(rules.clone()), "{text}: {rules}");
    }
    assert_eq!(Rules::parse("nightly-3 last=5").unwrap().last, Some(Last::Snapshots(5)));
    for (text, says) in [
        ("", "no rule says what to keep"),
        ("min_keep=3", "no rule says what to keep"),
        ("nightly", "`nightly` is no rule of retention and no profile; rules are keep_all"),
        ("minutely=3", "`minutely` is no rule"),
        ("daily=7 daily=8", "`daily` stands there twice"),
        ("daily=0", "`daily=0` is not right; allowed: a whole number from 1 on, or `all`"),
        ("daily=-1", "`daily=-1` is not right"),
        ("within=5min", "`within=5min` is not right; allowed: years"),
        ("within=", "`within=` is not right"),
        ("keep_all=1", "`keep_all=1` is not right; allowed: a whole number and ms"),
        ("last=snapshots:3", "`last=snapshots:3` is not right"),
        ("daily=7 zone=Mars/Base", "`zone=Mars/Base` is not right"),
        ("snapshot=nightly last=3", "`snapshot=nightly` is not right"),
    ] {
        let error = Rules::parse(text).unwrap_err().to_string();
        assert!(error.contains(says), "{text}: {error}");
    }
}

/// The same, said in another way: for each period the newest of each group, the newest groups first; the oldest of all while groups are few.
fn reference(rules: &Rules, moments: &[Moment], now: UnixNanos) -> BTreeSet<Seq> {
    let mut times = Vec::new();
    for (n, moment) in moments.iter().enumerate() {
        let before = moments[..n].iter().map(|moment| moment.cut.min(moment.stored)).max();
        times.push((moment, before.unwrap_or(i64::MIN).max(moment.cut.min(moment.stored))));
    }
    let mut kept: BTreeSet<Seq> =
        times.iter().filter(|(moment, _)| now - moment.stored < in_nanos(rules.keep_all)).map(|(moment, _)| moment.seq).collect();
    let some_full = moments.iter().any(|moment| moment.full);
    let candidates: Vec<(&Moment, i64)> = times.into_iter().filter(|(moment, _)| moment.full || !some_full).collect();
    for (period, count) in &rules.periods {
        let mut groups: BTreeMap<i64, Seq> = BTreeMap::new();
        for (moment, time) in &candidates {
            let greatest = groups.entry(period.key(&zoned(*time, &rules.zone))).or_default();
            *greatest = (*greatest).max(moment.seq);
        }
        if groups.len() < *count {
            kept.extend(candidates.first().map(|(moment, _)| moment.seq));
        }
        kept.extend(groups.values().rev().take(*count));
    }
    if let Some(Last::Commits(count)) = rules.last {
        kept.extend(candidates.iter().rev().take(count).map(|(moment, _)| moment.seq));
    }
    if let (Some(within), Some((_, newest))) = (rules.within, candidates.last()) {
        let since = zoned(*newest, &rules.zone).checked_sub(within.0).unwrap().timestamp();
        kept.extend(candidates.iter().filter(|(_, time)| i128::from(*time) > since.as_nanosecond()).map(|(moment, _)| moment.seq));
    }
    kept.extend(candidates.iter().rev().take(rules.min_keep).map(|(moment, _)| moment.seq));
    kept
}

fn in_nanos(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap()
}

fn any_rules() -> impl Strategy<Value = Rules> {
    let text = (
        0u64..50,
        0usize..4,
        proptest::collection::btree_map(0usize..5, 1usize..6, 0..4),
        proptest::option::of(1u32..40),
        0usize..4,
        prop::bool::ANY,
    );
    text.prop_map(|(keep_all, last, periods, within, min_keep, berlin)| {
        let mut text = format!("keep_all={keep_all}h min_keep={min_keep}");
        if last > 0 {
            text += &format!(" last=commits:{last}");
        }
        for (period, count) in periods {
            text += &format!(" {}={count}", Period::ALL[period].word());
        }
        if let Some(days) = within {
            text += &format!(" within={days}d");
        }
        if berlin {
            text += " zone=Europe/Berlin";
        }
        Rules::parse(&text).unwrap()
    })
}

proptest! {
    #[test]
    fn any_series_is_kept_as_the_reference_says(
        rules in any_rules(),
        steps in proptest::collection::vec((0i64..200, -300i64..300, prop::bool::weighted(0.8)), 0..60),
    ) {
        // Around the end of summer time, across a new year.
        let mut stored = nanos("2026-10-24T20:00:00Z");
        let mut moments = Vec::new();
        for (n, (step, wrong, full)) in steps.into_iter().enumerate() {
            stored += step * step * MINUTE;
            let cut = stored + wrong * MINUTE;
            moments.push(Moment { seq: n as Seq + 1, cut, stored, full, inodes: 1, bytes: 1 });
        }
        let now = stored + HOUR;
        let chosen: BTreeSet<Seq> = choose(&rules, &moments, now).into_keys().collect();
        prop_assert_eq!(&chosen, &reference(&rules, &moments, now));
        // What is dropped once is not needed later: thinning what was thinned keeps the same.
        let left: Vec<Moment> = moments.iter().filter(|moment| chosen.contains(&moment.seq)).copied().collect();
        let again: BTreeSet<Seq> = choose(&rules, &left, now).into_keys().collect();
        if rules.within.is_none() {
            prop_assert!(again.is_subset(&chosen));
        }
    }
}
