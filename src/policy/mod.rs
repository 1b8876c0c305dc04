//! Which tier a path has, with the reason: pure answers from a policy's text.
//!
//! A policy is a list of rules, one a line; `#` begins a comment line:
//!
//! ```text
//! # PATTERN      TIER        [parameters with units]
//! /scratch/      local
//! /ledger/       strict
//! My\ Music/     continuous  lag=10s
//! /config/       debounced   quiet=5s max=5min
//! /media/        scheduled   0 4 * * * zone=Europe/Berlin
//! @cachedir-tag  local
//! *              continuous  1s
//! ```
//!
//! A pattern is one gitignore pattern without `!`, matched from the volume's root; a blank in it is written `\ `. Each pattern is
//! matched alone against the path and each of its parents, and **the first rule of the list that matches any of them decides**
//! (protocol.md 5.5): a rule for a directory holds for all below it unless an earlier rule says otherwise. The last line is
//! `* TIER`, so every path has a tier. `@cachedir-tag` is the one pattern that is not about names: a directory that holds a
//! valid `CACHEDIR.TAG` file. (A directory really called that is written `\@cachedir-tag`.)
//!
//! Who walks a tree carries a [`Standing`] from directory to entry, so that a path costs one match per rule and not one per
//! rule and parent.

mod duration;
mod estimate;
mod parse;
pub mod preset;
pub mod retention;
mod rule;
mod schedule;
#[cfg(test)]
mod tests;
mod tier;
mod warn;

pub use duration::{parse_duration, show_duration};
pub use estimate::{Estimate, RuleEstimate};
pub use parse::PolicyError;
pub use schedule::Schedule;
pub use tier::Tier;

use rule::Rule;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// The policy without which a volume is mounted: safe before thrifty. No guess by name may lose a database.
pub const BUILT_IN: &str = "@cachedir-tag local\n* continuous 1s\n";

/// The name of the file that marks a directory as a cache.
pub const CACHEDIR_TAG: &[u8] = b"CACHEDIR.TAG";

const CACHEDIR_SIGNATURE: &[u8] = b"Signature: 8a477f597d28d172789f06886806bc55";

/// Bytes at the start of a `CACHEDIR.TAG` file that [`is_cachedir_tag`] needs to see.
pub const CACHEDIR_SIGNATURE_LEN: usize = CACHEDIR_SIGNATURE.len();

/// Whether a regular file called [`CACHEDIR_TAG`] that begins with these bytes is a valid tag (bford.info/cachedir).
#[must_use]
pub fn is_cachedir_tag(first_bytes: &[u8]) -> bool {
    first_bytes.starts_with(CACHEDIR_SIGNATURE)
}

/// A checked list of rules. Cheap to clone.
#[derive(Clone)]
pub struct Policy {
    rules: Arc<[Rule]>,
    text: Arc<str>,
}

/// The rule that decided for a directory or file, to be carried to what is below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Standing(usize);

/// Which rule decided, and about which part of the path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explained {
    /// The rule's line in the policy, from 1.
    pub line: usize,
    /// The rule as written.
    pub rule: String,
    /// The answer.
    pub tier: Tier,
    /// The path itself, or the parent of it, that the rule matched; empty: the volume's root.
    pub matched: Vec<u8>,
}

impl Policy {
    /// Checks and takes a policy's text.
    ///
    /// # Errors
    /// Line, what is wrong, and what is allowed there.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        Ok(Self { rules: parse::rules(text)?.into(), text: text.into() })
    }

    /// [`BUILT_IN`], parsed.
    #[must_use]
    pub fn built_in() -> Self {
        Self { rules: parse::built_in().into(), text: BUILT_IN.into() }
    }

    /// The text as given: what a commit records.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The volume's root: it has the last rule.
    #[must_use]
    pub fn root(&self) -> Standing {
        Standing(self.rules.len().saturating_sub(1))
    }

    /// The standing of an entry of a directory. `path` is the entry's whole path from the root, without a leading `/`; `tagged`
    /// is asked only when it matters: whether this directory holds a valid `CACHEDIR.TAG`.
    #[must_use]
    pub fn enter(&self, parent: Standing, path: &[u8], is_dir: bool, tagged: impl FnOnce() -> bool) -> Standing {
        let mut tagged = Some(tagged);
        // Only a rule before the parent's can change anything: the parent's rule holds for all below it.
        for (number, rule) in self.rules.iter().enumerate().take(parent.0) {
            let matches = match &rule.pattern {
                rule::Pattern::Glob(glob) => glob.matches(path, is_dir),
                rule::Pattern::CachedirTag => is_dir && tagged.take().is_some_and(|ask| ask()),
                rule::Pattern::Everything => true,
            };
            if matches {
                return Standing(number);
            }
        }
        parent
    }

    /// The tier of a standing.
    #[must_use]
    pub fn tier(&self, standing: Standing) -> &Tier {
        self.rules.get(standing.0).map_or(&Tier::DEFAULT, |rule| &rule.tier)
    }

    /// The tier of a path by itself; `tagged` answers for each parent directory (and the path, if it is one).
    #[must_use]
    pub fn tier_of(&self, path: &[u8], is_dir: bool, tagged: &mut dyn FnMut(&[u8]) -> bool) -> &Tier {
        self.tier(self.walk(path, is_dir, tagged).0)
    }

    /// The rule that decided for a path.
    #[must_use]
    pub fn explain(&self, path: &[u8], is_dir: bool, tagged: &mut dyn FnMut(&[u8]) -> bool) -> Explained {
        let (standing, matched) = self.walk(path, is_dir, tagged);
        let (line, rule) = self.rule(standing);
        Explained { line, rule: rule.to_owned(), tier: self.tier(standing).clone(), matched: matched.to_vec() }
    }

    /// Line (from 1) and text of the rule behind a standing.
    #[must_use]
    pub fn rule(&self, standing: Standing) -> (usize, &str) {
        self.rules.get(standing.0).map_or((0, ""), |rule| (rule.line, &rule.text))
    }

    /// Every rule's line, text and tier, in order.
    pub fn rules(&self) -> impl Iterator<Item = (usize, &str, &Tier)> {
        self.rules.iter().map(|rule| (rule.line, rule.text.as_str(), &rule.tier))
    }

    /// Whether a `CACHEDIR.TAG` can change an answer: who walks need not read such files otherwise.
    #[must_use]
    pub fn needs_tags(&self) -> bool {
        self.rules.iter().any(|rule| matches!(rule.pattern, rule::Pattern::CachedirTag))
    }

    /// How old a change of the most urgent tier may become; what nobody changes in time is not asked.
    #[must_use]
    pub fn lag(&self) -> Duration {
        let urgent = self.rules.iter().filter(|rule| !matches!(rule.tier, Tier::Debounced { .. })).filter_map(|rule| rule.tier.lag()).min();
        urgent.or_else(|| self.rules.iter().filter_map(|rule| rule.tier.lag()).min()).unwrap_or(Tier::LAG)
    }

    /// The shortest lag of the `continuous` rules.
    #[must_use]
    pub fn continuous_lag(&self) -> Option<Duration> {
        self.rules.iter().filter(|rule| matches!(rule.tier, Tier::Continuous { .. })).filter_map(|rule| rule.tier.lag()).min()
    }

    /// Whether some paths have another time than those of a `continuous` tier: then who waits must know which paths changed.
    #[must_use]
    pub fn has_times(&self) -> bool {
        self.rules.iter().any(|rule| matches!(rule.tier, Tier::Strict { .. } | Tier::Debounced { .. } | Tier::Scheduled(_)))
    }

    /// The times of the `scheduled` rules, each once.
    #[must_use]
    pub fn schedules(&self) -> BTreeSet<Schedule> {
        let times = self.rules.iter().filter_map(|rule| match &rule.tier {
            Tier::Scheduled(schedule) => Some(schedule.clone()),
            Tier::Strict { .. } | Tier::Continuous { .. } | Tier::Debounced { .. } | Tier::Local => None,
        });
        times.collect()
    }

    /// Whether any path is `strict`.
    #[must_use]
    pub fn has_strict(&self) -> bool {
        self.rules.iter().any(|rule| matches!(rule.tier, Tier::Strict { .. }))
    }

    /// How long an fsync of this path waits for its commit; `None`: it does not. A directory's concerns the names in it: it waits too
    /// when something below the directory may be `strict`. No CACHEDIR.TAG is looked at: who may be `strict` by one waits.
    #[must_use]
    pub fn sync_wait(&self, path: &[u8], is_dir: bool) -> Option<Duration> {
        let wait = |tier: &Tier| match tier {
            Tier::Strict { wait } => Some(*wait),
            Tier::Continuous { .. } | Tier::Debounced { .. } | Tier::Scheduled(_) | Tier::Local => None,
        };
        self.possible(path, is_dir).filter_map(wait).max()
    }

    /// Whether this path, or something below it if it is a directory, may be `scheduled`. Errs on the side of yes.
    #[must_use]
    pub fn may_be_scheduled(&self, path: &[u8], is_dir: bool) -> bool {
        self.possible(path, is_dir).any(|tier| matches!(tier, Tier::Scheduled(_)))
    }

    /// Whether what is `scheduled` can be told by names alone. A CACHEDIR.TAG comes and goes without any name below its directory changing.
    #[must_use]
    pub fn schedules_by_name(&self) -> bool {
        let by_tag = |rule: &Rule| matches!((&rule.pattern, &rule.tier), (rule::Pattern::CachedirTag, Tier::Scheduled(_)));
        !self.schedules().is_empty() && !self.rules.iter().any(by_tag)
    }

    /// The tiers that a path, or something below it, may have.
    fn possible<'p>(&'p self, path: &'p [u8], is_dir: bool) -> impl Iterator<Item = &'p Tier> {
        let (untagged, tagged) = (self.walk(path, is_dir, &mut |_| false).0, self.walk(path, is_dir, &mut |_| true).0);
        let below = self.rules.iter().take(if is_dir { untagged.0 } else { 0 }).filter(move |rule| rule.may_match_below(path));
        let own = [untagged, tagged].into_iter().map(|standing| self.tier(standing));
        own.chain(below.map(|rule| &rule.tier))
    }

    fn walk<'p>(&self, path: &'p [u8], is_dir: bool, tagged: &mut dyn FnMut(&[u8]) -> bool) -> (Standing, &'p [u8]) {
        let (mut standing, mut matched): (Standing, &[u8]) = (self.root(), b"");
        let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at).chain([path.len()]);
        for end in ends {
            let part = path.get(..end).unwrap_or(path);
            if part.is_empty() {
                continue;
            }
            let next = self.enter(standing, part, is_dir || end < path.len(), || tagged(part));
            // The last rule is `*`: of the path itself, whatever the parents are.
            if next != standing || next == self.root() {
                (standing, matched) = (next, part);
            }
        }
        (standing, matched)
    }
}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Policy").field(&self.text).finish()
    }
}

impl PartialEq for Policy {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Policy {}
