//! What a policy would do with a tree: counted entry by entry by whoever walks it.

use super::{Policy, Standing, Tier};

/// Counts by rule. Make one from a policy, [`Estimate::add`] every entry, read [`Estimate::rules`].
#[derive(Debug)]
pub struct Estimate {
    policy: Policy,
    counts: Vec<(u64, u64)>,
}

/// What one rule decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleEstimate {
    /// The rule's line in the policy.
    pub line: usize,
    /// The rule as written.
    pub rule: String,
    /// Its tier.
    pub tier: Tier,
    /// Regular files, links and special files.
    pub files: u64,
    /// Bytes of the regular files.
    pub bytes: u64,
}

impl Estimate {
    /// Nothing counted yet.
    #[must_use]
    pub fn new(policy: Policy) -> Self {
        let counts = vec![(0, 0); policy.rules().count()];
        Self { policy, counts }
    }

    /// Counts one entry that is not a directory.
    pub fn add(&mut self, standing: Standing, bytes: u64) {
        if let Some((files, sum)) = self.counts.get_mut(standing.0) {
            *files += 1;
            *sum += bytes;
        }
    }

    /// Every rule with what it decides, in order; also those that decide nothing.
    #[must_use]
    pub fn rules(&self) -> Vec<RuleEstimate> {
        let counted = self.policy.rules().zip(&self.counts);
        counted
            .map(|((line, rule, tier), (files, bytes))| RuleEstimate {
                line,
                rule: rule.to_owned(),
                tier: tier.clone(),
                files: *files,
                bytes: *bytes,
            })
            .collect()
    }

    /// Most commits a day if something in a captured tier changes all the time: those of the tier in use that asks for most.
    #[must_use]
    pub fn commits_per_day_max(&self) -> u64 {
        let in_use = self.policy.rules().zip(&self.counts).filter(|(_, (files, _))| *files > 0);
        in_use.map(|((_, _, tier), _)| tier.commits_per_day_max()).max().unwrap_or(0)
    }
}
