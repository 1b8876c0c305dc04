//! Snapshots and pins: claims in the control chain. A snapshot is a name of a full commit; making one costs two or three requests, whatever
//! the size of the volume.

use super::{Entry, What};
use crate::log::control::{Chain, Refused, State};
use crate::log::{LogError, Reader};
use crate::policy::retention::{Period, Rules, surplus};
use crate::rpc::control_record::Kind as Control;
use crate::rpc::{Claim, Release};
use crate::types::{Fault, FaultKind, Seq, UnixNanos, nearest};

/// The kind of claim that a snapshot is.
pub const SNAPSHOT: &str = "snapshot";
/// The kind of claim that a pin is.
pub const PIN: &str = "pin";
/// What the reason of a schedule's snapshot begins with.
const SCHEDULE: &str = "schedule ";
/// What the reason of a snapshot begins with that a claim of Kubernetes was cut to; the claim's uid follows.
const CLAIM: &str = "claim ";
/// Longest name, in bytes.
const NAME_MAX: usize = 128;
/// So far back a full commit is looked for.
const BACK: u64 = 4096;

/// A named commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Its name.
    pub name: String,
    /// The number of its claim.
    pub claim: u64,
    /// The commit.
    pub seq: Seq,
    /// The schedule that made it.
    pub schedule: Option<String>,
    /// The claim of Kubernetes that it was made of.
    pub of_claim: Option<String>,
}

/// Why a text is no snapshot's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` cannot be the name of a snapshot: a name begins with a letter, has letters, digits, `.`, `_` and `-`, 128 at most, and is not `now`, `today` or `yesterday`"
)]
pub struct NameError(String);

/// Whether a text can be the name of a snapshot: nothing that `--at` understands in another way.
///
/// # Errors
/// It cannot.
pub fn check_name(name: &str) -> Result<(), NameError> {
    let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    let word = matches!(name, "now" | "today" | "yesterday");
    let begins = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic());
    if plain && begins && !word && name.len() <= NAME_MAX { Ok(()) } else { Err(NameError(name.escape_debug().to_string())) }
}

/// The snapshots of a volume, by commit.
#[must_use]
pub fn snapshots(state: &State) -> Vec<Snapshot> {
    let ours = state.claims.iter().filter(|(_, claim)| claim.kind == SNAPSHOT);
    let mut found: Vec<Snapshot> = ours
        .map(|(number, claim)| Snapshot {
            name: claim.name.clone(),
            claim: *number,
            seq: claim.seq,
            schedule: schedule_of(claim).map(str::to_owned),
            of_claim: claim.reason.strip_prefix(CLAIM).map(str::to_owned),
        })
        .collect();
    found.sort_by_key(|snapshot| (snapshot.seq, snapshot.claim));
    found
}

fn schedule_of(claim: &Claim) -> Option<&str> {
    (claim.kind == SNAPSHOT).then(|| claim.reason.strip_prefix(SCHEDULE))?
}

/// The snapshot of a name.
///
/// # Errors
/// [`FaultKind::NotFound`], with the nearest name there is.
pub fn find(state: &State, name: &str) -> Result<Snapshot, Fault> {
    let all = snapshots(state);
    if let Some(found) = all.iter().find(|snapshot| snapshot.name == name) {
        return Ok(found.clone());
    }
    let near = nearest(name, all.iter().map(|snapshot| snapshot.name.as_str()));
    let why = near.map_or_else(
        || "; `holdfast snapshot list` has all, and it is no time either".to_owned(),
        |near| format!("; did you mean `{near}`?"),
    );
    Err(Fault::new(FaultKind::NotFound, format!("there is no snapshot `{}`{why}", name.escape_debug())))
}

/// Claims that end at `now`: those whose time is over, and snapshots that the rules' `last` does not keep.
#[must_use]
pub fn ending(state: &State, rules: Option<&Rules>, now: UnixNanos) -> Vec<u64> {
    let mut over = state.expired(now);
    if let Some(rules) = rules {
        let made: Vec<(&str, UnixNanos, u64)> = state
            .claims
            .iter()
            // Claims are numbered as they were made.
            .filter_map(|(number, claim)| Some((schedule_of(claim)?, UnixNanos::try_from(*number).unwrap_or(UnixNanos::MAX), *number)))
            .collect();
        over.extend(surplus(rules, &made));
    }
    over.sort_unstable();
    over.dedup();
    over
}

/// The name of the snapshot that is due, and its schedule: none of this period is there.
#[must_use]
pub fn due(state: &State, period: Option<Period>, rules: &Rules, now: UnixNanos) -> Option<(String, &'static str)> {
    let period = period?;
    let name = format!("{}-{}", period.word(), rules.label(period, now));
    let there = state.claims.values().any(|claim| claim.kind == SNAPSHOT && claim.name == name);
    (!there).then_some((name, period.word()))
}

/// What to claim.
#[derive(Debug, Clone, Copy)]
pub struct Naming<'a> {
    /// The name.
    pub name: &'a str,
    /// The commit; it must be a full one.
    pub seq: Seq,
    /// Who wants it.
    pub wanted: Wanted<'a>,
}

/// Who wants a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted<'a> {
    /// A person.
    Command,
    /// This schedule.
    Schedule(&'a str),
    /// Kubernetes, of the volume as this claim has it.
    Claim(&'a str),
}

/// Names a commit. Gives the number of the claim.
///
/// # Errors
/// [`FaultKind::Exists`]: there is one of that name; [`FaultKind::Stale`]: the commit was retired; the store's faults.
pub async fn create(reader: &Reader, naming: Naming<'_>, author: &str, now: UnixNanos) -> Result<u64, Fault> {
    let Naming { name, seq, wanted } = naming;
    check_name(name).map_err(|error| Fault::new(FaultKind::Invalid, error.to_string()))?;
    let reason = match wanted {
        Wanted::Command => String::new(),
        Wanted::Schedule(schedule) => format!("{SCHEDULE}{schedule}"),
        Wanted::Claim(uid) => format!("{CLAIM}{uid}"),
    };
    let claim = Claim { seq, kind: SNAPSHOT.to_owned(), name: name.to_owned(), reason, expires: 0 };
    let decide = |state: &State| match snapshots(state).iter().any(|snapshot| snapshot.name == name) {
        true => Err(Refused::Taken(name.to_owned())),
        false => Ok(Control::Claim(claim.clone())),
    };
    let mut chain = Chain::read(reader.site().clone()).await?;
    chain.append(author, now, &decide).await.map_err(refusal)
}

/// Pins a commit: it stays until the pin is taken out, or `expires` (0: never). Gives the number of the claim.
///
/// # Errors
/// [`FaultKind::Stale`]: the commit was retired; the store's faults.
pub async fn pin(reader: &Reader, seq: Seq, reason: &str, expires: UnixNanos, author: &str, now: UnixNanos) -> Result<u64, Fault> {
    let claim = Claim { seq, kind: PIN.to_owned(), name: String::new(), reason: reason.to_owned(), expires };
    let mut chain = Chain::read(reader.site().clone()).await?;
    chain.append(author, now, &|_| Ok(Control::Claim(claim.clone()))).await.map_err(refusal)
}

/// Takes a snapshot's or pin's claim out; the commit goes when the rules say so.
///
/// # Errors
/// [`FaultKind::NotFound`]: it is not there any more; the store's faults.
pub async fn unclaim(reader: &Reader, claim: u64, author: &str, now: UnixNanos) -> Result<(), Fault> {
    let mut chain = Chain::read(reader.site().clone()).await?;
    let ours = |state: &State| match state.claims.get(&claim) {
        Some(found) if found.kind == SNAPSHOT || found.kind == PIN => Ok(Control::Release(Release { claim })),
        _ => Err(Refused::NoClaim(claim)),
    };
    chain.append(author, now, &ours).await.map(drop).map_err(refusal)
}

/// The newest commit that shows every tier at one instant.
///
/// # Errors
/// [`FaultKind::NotFound`]: there is none near the end of the log.
pub async fn newest_full(reader: &Reader) -> Result<Entry, Fault> {
    let newest = super::newest(reader).await?;
    for seq in (newest.seq.saturating_sub(BACK).max(1)..=newest.seq).rev() {
        if let Some(entry) = super::entry(reader, seq).await?
            && matches!(entry.what, What::Commit { full: true, .. })
        {
            return Ok(entry);
        }
    }
    let why = format!("none of the last {BACK} commits shows every tier at one instant: `holdfast flush` makes one that does");
    Err(Fault::new(FaultKind::NotFound, why))
}

fn refusal(error: LogError) -> Fault {
    match error {
        LogError::Control(Refused::Taken(name)) => Fault::new(FaultKind::Exists, format!("there is a snapshot `{name}` already")),
        LogError::Control(Refused::Retired(seq)) => Fault::new(
            FaultKind::Stale,
            format!("commit {seq} was retired and cannot be kept any more; `holdfast history` has those that can"),
        ),
        LogError::Control(Refused::NoClaim(claim)) => {
            Fault::new(FaultKind::NotFound, format!("there is no snapshot or pin {claim} any more"))
        }
        error => error.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(names: &[(&str, Seq, &str)]) -> State {
        let mut state = State::default();
        for (number, (name, seq, reason)) in (1..).zip(names) {
            let claim = Claim { seq: *seq, kind: SNAPSHOT.into(), name: (*name).into(), reason: (*reason).into(), expires: 0 };
            state.claims.insert(number, claim);
        }
        state
    }

    #[test]
    fn names_are_checked_and_the_nearest_is_told() {
        for name in ["a", "before-upgrade", "v1.2_x", "daily-2026-11-20"] {
            check_name(name).unwrap();
        }
        for name in ["", "1", "2026-11-20", "10:00", "now", "yesterday", "a b", "a/b", "-a", "ä", &"a".repeat(129)] {
            assert!(check_name(name).is_err(), "{name}");
        }
        let state = state(&[("before-upgrade", 3, ""), ("release", 5, "")]);
        assert_eq!(find(&state, "release").map(|found| found.seq).unwrap(), 5);
        let said = |name| find(&state, name).unwrap_err().to_string();
        assert!(said("before-upgrad").contains("no snapshot `before-upgrad`; did you mean `before-upgrade`?"), "{}", said("before-upgrad"));
        assert!(said("completely-else").contains("`holdfast snapshot list` has all"), "{}", said("completely-else"));
    }

    #[test]
    fn last_ends_old_snapshots_of_a_schedule_and_no_others() {
        let state =
            state(&[("x", 1, ""), ("daily-1", 1, "schedule daily"), ("daily-2", 2, "schedule daily"), ("daily-3", 3, "schedule daily")]);
        let rules = |text| Rules::parse(text).unwrap();
        assert_eq!(ending(&state, Some(&rules("last=2")), 0), [2]);
        assert_eq!(ending(&state, Some(&rules("daily=1")), 0), [0; 0]);
        assert_eq!(ending(&state, None, 0), [0; 0]);
        // 2026-11-20T12:00:00Z.
        let now = 1_795_176_000_000_000_000;
        let nightly = rules("nightly-3");
        assert_eq!(due(&state, nightly.snapshot, &nightly, now), Some(("daily-2026-11-20".to_owned(), "daily")));
        let mut made = state.clone();
        made.claims.insert(9, Claim { kind: SNAPSHOT.into(), name: "daily-2026-11-20".into(), ..Claim::default() });
        assert_eq!(due(&made, nightly.snapshot, &nightly, now), None);
    }
}
