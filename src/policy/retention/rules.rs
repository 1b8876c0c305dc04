//! Rules as text, and the ones that have a name.

use super::{Period, Rules, Within};
use crate::policy::duration::{ALLOWED, parse_duration, show_duration};
use jiff::Span;
use jiff::tz::TimeZone;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

/// What `last` counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Last {
    /// Named snapshots, of each schedule by itself.
    Snapshots(usize),
    /// Commits.
    Commits(usize),
}

/// Rules with a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Profile {
    /// The name.
    pub name: &'static str,
    /// The rules.
    pub text: &'static str,
}

/// All profiles.
pub const PROFILES: &[Profile] = &[
    Profile { name: "24-hourly-7-daily", text: "hourly=24 daily=7" },
    Profile { name: "14-daily", text: "daily=14" },
    Profile { name: "7-days", text: "within=7d" },
    Profile { name: "nightly-3", text: "snapshot=daily last=3" },
    Profile { name: "nightly-10", text: "snapshot=daily last=10" },
];

/// What a plan shows when nobody said what to keep. It is never carried out unsaid.
pub const DEFAULT_PROFILE: &str = "24-hourly-7-daily";

/// Why a text is no rules.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RulesError {
    /// A rule that does not exist.
    #[error("`{0}` is no rule of retention and no profile; rules are keep_all, last, hourly, daily, weekly, monthly, yearly, within, min_keep, before_delete, branches, zone and snapshot, such as `hourly=24 daily=7`; profiles are {profiles}", profiles = profile_names())]
    Unknown(String),
    /// A value that a rule does not take.
    #[error("`{rule}={value}` is not right; allowed: {allowed}")]
    Value {
        /// The rule.
        rule: String,
        /// Its value.
        value: String,
        /// What it takes.
        allowed: String,
    },
    /// A rule that stands there twice.
    #[error("`{0}` stands there twice")]
    Twice(String),
    /// Nothing that keeps anything.
    #[error("no rule says what to keep: give one of keep_all, last, hourly, daily, weekly, monthly, yearly, within")]
    Empty,
}

fn profile_names() -> String {
    PROFILES.iter().map(|profile| profile.name).collect::<Vec<_>>().join(", ")
}

const DAY: Duration = Duration::from_hours(24);
const COUNT: &str = "a whole number from 1 on, or `all`";

impl Rules {
    /// What counts unless it is said otherwise: nothing thinned yet.
    fn unsaid() -> Self {
        Self {
            keep_all: DAY,
            last: None,
            periods: BTreeMap::new(),
            within: None,
            min_keep: 3,
            before_delete: DAY * 30,
            branches: DAY * 7,
            zone: TimeZone::UTC,
            snapshot: None,
        }
    }

    /// Reads rules, `NAME=VALUE` with blanks or commas between; or a profile's name, rules behind it.
    ///
    /// # Errors
    /// What is wrong, and what is allowed there.
    pub fn parse(text: &str) -> Result<Self, RulesError> {
        let mut rules = Self::unsaid();
        let mut words: Vec<&str> = text.split(|c: char| c.is_whitespace() || c == ',').filter(|word| !word.is_empty()).collect();
        if let Some(profile) = words.first().and_then(|first| PROFILES.iter().find(|profile| profile.name == *first)) {
            let said: BTreeSet<&str> = words.iter().filter_map(|word| word.split_once('=')).map(|(name, _)| name).collect();
            // A rule that is given replaces the profile's.
            let own = profile.text.split(' ').filter(|word| !said.contains(word.split('=').next().unwrap_or_default()));
            words = own.chain(words.iter().skip(1).copied()).collect();
        }
        let mut seen = BTreeSet::new();
        for word in words {
            let (name, value) = word.split_once('=').ok_or_else(|| RulesError::Unknown(word.escape_debug().to_string()))?;
            if !seen.insert(name) {
                return Err(RulesError::Twice(name.to_owned()));
            }
            rules.set(name, value)?;
        }
        let keeps = rules.last.is_some() || rules.within.is_some() || !rules.periods.is_empty() || seen.contains("keep_all");
        if keeps { Ok(rules) } else { Err(RulesError::Empty) }
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), RulesError> {
        let refuse = |allowed: &str| RulesError::Value {
            rule: name.to_owned(),
            value: value.escape_debug().to_string(),
            allowed: allowed.to_owned(),
        };
        let duration = || parse_duration(value).ok_or_else(|| refuse(ALLOWED));
        if let Some(period) = Period::ALL.into_iter().find(|period| period.word() == name) {
            self.periods.insert(period, count(value).ok_or_else(|| refuse(COUNT))?);
            return Ok(());
        }
        match name {
            "keep_all" => self.keep_all = duration()?,
            "before_delete" => self.before_delete = duration()?,
            "branches" => self.branches = duration()?,
            "last" => {
                let last = match value.split_once(':') {
                    Some(("commits", n)) => count(n).map(Last::Commits),
                    Some(_) => None,
                    None => count(value).map(Last::Snapshots),
                };
                self.last = Some(last.ok_or_else(|| refuse("a whole number (of snapshots of a schedule), or `commits:` and a number"))?);
            }
            "within" => {
                self.within = Some(within(value).ok_or_else(|| refuse("years, months, weeks, days, hours, such as `7d` or `1y6mo`"))?)
            }
            "min_keep" => self.min_keep = value.parse().map_err(|_| refuse("a whole number"))?,
            "zone" => self.zone = TimeZone::get(value).map_err(|_| refuse("a time zone such as `Europe/Berlin` or `UTC`"))?,
            "snapshot" => {
                let period = Period::ALL.into_iter().find(|period| period.word() == value);
                self.snapshot = Some(period.ok_or_else(|| refuse("hourly, daily, weekly, monthly or yearly"))?);
            }
            _ => return Err(RulesError::Unknown(name.escape_debug().to_string())),
        }
        Ok(())
    }
}

fn count(text: &str) -> Option<usize> {
    if text == "all" { Some(usize::MAX) } else { text.parse().ok().filter(|n| *n > 0) }
}

fn within(text: &str) -> Option<Within> {
    let span: Span = text.parse().ok()?;
    let minutes = span.get_minutes() != 0 || span.get_seconds() != 0;
    let finer = minutes || span.get_milliseconds() != 0 || span.get_microseconds() != 0 || span.get_nanoseconds() != 0;
    (!finer && span.is_positive()).then_some(Within(span))
}

impl fmt::Display for Rules {
    /// All of them, also what was not said: [`Rules::parse`] reads it back.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |n: usize| if n == usize::MAX { "all".to_owned() } else { n.to_string() };
        write!(f, "keep_all={}", show_duration(self.keep_all))?;
        match self.last {
            Some(Last::Snapshots(n)) => write!(f, " last={}", number(n))?,
            Some(Last::Commits(n)) => write!(f, " last=commits:{}", number(n))?,
            None => {}
        }
        for (period, n) in &self.periods {
            write!(f, " {}={}", period.word(), number(*n))?;
        }
        if let Some(within) = &self.within {
            write!(f, " within={within}")?;
        }
        write!(f, " min_keep={}", self.min_keep)?;
        write!(f, " before_delete={} branches={}", show_duration(self.before_delete), show_duration(self.branches))?;
        write!(f, " zone={}", self.zone.iana_name().unwrap_or("UTC"))?;
        if let Some(period) = self.snapshot {
            write!(f, " snapshot={}", period.word())?;
        }
        Ok(())
    }
}
