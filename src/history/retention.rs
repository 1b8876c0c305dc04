//! What the rules keep of a volume and what would go: a plan, with a name by which it can be carried out as it was shown.

use super::snapshot;
use super::survey::{Scope, survey};
use crate::log::Reader;
use crate::log::control::Chain;
use crate::log::plan::{self, What, Why};
use crate::policy::retention::Rules;
use crate::rpc::Claim;
use crate::store::Objects;
use crate::types::{Fault, Seq, UnixNanos};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// What a plan was made from: the control chain to this record, the log to this number, these rules, this time. It is not carried out on
/// another chain or by other rules; commits that came later are kept in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlanId {
    /// The last control record.
    pub control: u64,
    /// The last record of the log.
    pub newest: Seq,
    /// The store's clock, in seconds since 1970.
    pub seconds: i64,
    /// Of the rules' text.
    pub rules: u32,
}

impl PlanId {
    /// Of the rules' text: 32 bits, to notice other rules.
    #[must_use]
    pub fn fingerprint(rules: &Rules) -> u32 {
        crc32fast::hash(rules.to_string().as_bytes())
    }

    /// The store's clock of the plan.
    #[must_use]
    pub fn now(&self) -> UnixNanos {
        self.seconds.saturating_mul(1_000_000_000)
    }
}

impl fmt::Display for PlanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}-{:08x}", self.control, self.newest, self.seconds, self.rules)
    }
}

impl FromStr for PlanId {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WHY: &str = "a plan's name is what `holdfast retention plan` printed, such as `12-3456-1763640000-1a2b3c4d`";
        let parts: Vec<&str> = text.split('-').collect();
        let [control, newest, seconds, rules] = parts[..] else { return Err(WHY) };
        Ok(Self {
            control: control.parse().map_err(|_| WHY)?,
            newest: newest.parse().map_err(|_| WHY)?,
            seconds: seconds.parse().map_err(|_| WHY)?,
            rules: u32::from_str_radix(rules, 16).map_err(|_| WHY)?,
        })
    }
}

/// One commit of a plan.
#[derive(Debug, Clone, PartialEq)]
pub struct Planned {
    /// Its number.
    pub seq: Seq,
    /// The instant that it shows, by its writer's clock.
    pub cut: UnixNanos,
    /// Every tier at one instant.
    pub full: bool,
    /// Why it stays; none: it goes.
    pub why: Vec<Why>,
}

/// What the rules keep, and what would go.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Its name.
    pub id: PlanId,
    /// All commits that are not retired, by number.
    pub commits: Vec<Planned>,
    /// Claims that end: their time is over, or `last` does not keep them.
    pub ending: BTreeMap<u64, Claim>,
    /// The claims that stay.
    pub claims: BTreeMap<u64, Claim>,
}

impl Plan {
    /// Time from the oldest commit that stays to the newest.
    #[must_use]
    pub fn span(&self) -> UnixNanos {
        let mut kept = self.commits.iter().filter(|commit| !commit.why.is_empty()).map(|commit| commit.cut);
        let first = kept.next().unwrap_or(0);
        kept.next_back().map_or(0, |last| last.saturating_sub(first))
    }

    /// How many stay.
    #[must_use]
    pub fn kept(&self) -> usize {
        self.commits.iter().filter(|commit| !commit.why.is_empty()).count()
    }
}

/// Plans. Nothing is changed.
///
/// # Errors
/// The store's faults; damage by name.
pub async fn plan(objects: &Objects, reader: &Reader, rules: &Rules, now: UnixNanos) -> Result<Plan, Fault> {
    // To the second, as in the plan's name: carried out by it, the same commits go.
    let now = now.div_euclid(1_000_000_000) * 1_000_000_000;
    let chain = Chain::read(reader.site().clone()).await?;
    let mut state = chain.state().clone();
    let ending = snapshot::ending(&state, Some(rules), now).into_iter();
    let ending: BTreeMap<u64, Claim> = ending.filter_map(|claim| Some((claim, state.claims.remove(&claim)?))).collect();
    let facts = survey(objects, reader, &state, Scope { upto: None, trees: false, now }).await?.facts;
    let mut kept = plan::keep(&facts, &state, rules, now);
    let live = facts.records.iter().filter(|(seq, _)| !state.retired_seqs.contains(seq));
    let commits = live.filter_map(|(seq, fact)| match fact.what {
        What::Commit { full, .. } => Some(Planned { seq: *seq, cut: fact.cut, full, why: kept.remove(seq).unwrap_or_default() }),
        _ => None,
    });
    let id = PlanId { control: state.number, newest: facts.h, seconds: now / 1_000_000_000, rules: PlanId::fingerprint(rules) };
    Ok(Plan { id, commits: commits.collect(), ending, claims: state.claims })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_is_read_back() {
        let id = PlanId { control: 12, newest: 3456, seconds: 1_763_640_000, rules: 0x1a2b };
        assert_eq!(id.to_string(), "12-3456-1763640000-00001a2b");
        assert_eq!(id.to_string().parse(), Ok(id));
        for text in ["", "12", "12-3456-1763640000", "a-b-c-d", "12-3456-1763640000-00001a2b-1"] {
            assert!(text.parse::<PlanId>().is_err(), "{text}");
        }
    }
}
