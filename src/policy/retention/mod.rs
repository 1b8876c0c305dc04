//! Which commits stay: restic's rules over the commits of a log, newest first. Pure: `now` is an argument, the zone stands in the rules.
//!
//! ```text
//! keep_all=24h hourly=24 daily=7 weekly=4 monthly=12 yearly=3 last=3 within=7d min_keep=3 zone=Europe/Berlin
//! ```
//! * Every commit stored within `keep_all` stays, by the store's clock.
//! * A period keeps the newest commit of each of the newest N hours, days, ISO weeks, months or years that have one; while fewer than N have
//!   one, the oldest commit of all stays too (restic's rule). So an idle volume keeps by count.
//! * `within` keeps what is at most so much older than the newest commit, not than now.
//! * `last=N` keeps the newest N snapshots of each schedule, `last=commits:N` the newest N commits.
//! * `min_keep` stays whatever the rules say. So does, for `before_delete`, the last commit before more than half of the files or bytes went.
//!
//! Commits are ordered by number alone: their times are forced to grow with it, and none counts as later than the store had it. Only full
//! commits are thinned by period; where there is none, all are.

mod choose;
mod rules;
#[cfg(test)]
mod tests;

pub use choose::{Moment, choose, surplus};
pub use rules::{DEFAULT_PROFILE, Last, PROFILES, Profile, RulesError};

use jiff::tz::TimeZone;
use jiff::{Span, Timestamp, Zoned};
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// A stretch of the calendar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Period {
    /// An hour of a day.
    Hourly,
    /// A day.
    Daily,
    /// An ISO week, from Monday on.
    Weekly,
    /// A month.
    Monthly,
    /// A year.
    Yearly,
}

impl Period {
    /// All, the shortest first.
    pub const ALL: [Self; 5] = [Self::Hourly, Self::Daily, Self::Weekly, Self::Monthly, Self::Yearly];

    /// As in rules.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Hourly => "hourly",
            Self::Daily => "daily",
            Self::Weekly => "weekly",
            Self::Monthly => "monthly",
            Self::Yearly => "yearly",
        }
    }

    /// The same number for two instants of one period, as restic counts them.
    #[must_use]
    pub fn key(self, at: &Zoned) -> i64 {
        let (year, month, day) = (i64::from(at.year()), i64::from(at.month()), i64::from(at.day()));
        match self {
            Self::Hourly => ((year * 100 + month) * 100 + day) * 100 + i64::from(at.hour()),
            Self::Daily => (year * 100 + month) * 100 + day,
            Self::Weekly => {
                let week = at.date().iso_week_date();
                i64::from(week.year()) * 100 + i64::from(week.week())
            }
            Self::Monthly => year * 100 + month,
            Self::Yearly => year,
        }
    }

    /// The period of an instant as it stands in the name of a snapshot: `2026-11-20`, `2026-W47`.
    #[must_use]
    pub fn label(self, at: &Zoned) -> String {
        match self {
            Self::Hourly => at.strftime("%Y-%m-%dT%H").to_string(),
            Self::Daily => at.strftime("%Y-%m-%d").to_string(),
            Self::Weekly => at.strftime("%G-W%V").to_string(),
            Self::Monthly => at.strftime("%Y-%m").to_string(),
            Self::Yearly => at.strftime("%Y").to_string(),
        }
    }
}

/// What a person wants to keep.
#[derive(Debug, Clone, PartialEq)]
pub struct Rules {
    /// The dense window: every commit stored since.
    pub keep_all: Duration,
    /// `last`.
    pub last: Option<Last>,
    /// How many of each period; `usize::MAX`: all.
    pub periods: BTreeMap<Period, usize>,
    /// At most so much older than the newest commit.
    pub within: Option<Within>,
    /// At least so many commits stay.
    pub min_keep: usize,
    /// How long the last commit before a mass delete stays.
    pub before_delete: Duration,
    /// How long the commit before an `open` that no `close` precedes waits for the branch of the fenced epoch.
    pub branches: Duration,
    /// Whose calendar.
    pub zone: TimeZone,
    /// A janitor makes a snapshot in each of these.
    pub snapshot: Option<Period>,
}

impl Rules {
    /// The period of an instant, in the rules' zone, as it stands in the name of a snapshot.
    #[must_use]
    pub fn label(&self, period: Period, nanos: i64) -> String {
        period.label(&zoned(nanos, &self.zone))
    }
}

/// A span of the calendar, in years, months, weeks, days and hours.
#[derive(Debug, Clone, Copy)]
pub struct Within(pub(crate) Span);

impl PartialEq for Within {
    fn eq(&self, other: &Self) -> bool {
        self.0.fieldwise() == other.0.fieldwise()
    }
}

impl fmt::Display for Within {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&format!("{:#}", self.0).replace(' ', ""))
    }
}

/// Why the rules keep a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// It is within the dense window.
    KeepAll,
    /// It is one of the newest so many commits.
    Last,
    /// It is the newest of a period, or (`oldest`) the oldest of all while there are fewer periods than were asked for.
    Newest {
        /// Of which.
        period: Period,
        /// By restic's rule of the oldest.
        oldest: bool,
    },
    /// It is within a span before the newest commit.
    Within,
    /// So few may not be left.
    MinKeep,
    /// More than half of the files or bytes went after it.
    BeforeDelete,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KeepAll => f.write_str("keep_all"),
            Self::Last => f.write_str("last"),
            Self::Newest { period, oldest: false } => f.write_str(period.word()),
            Self::Newest { period, oldest: true } => write!(f, "oldest {}", period.word()),
            Self::Within => f.write_str("within"),
            Self::MinKeep => f.write_str("min_keep"),
            Self::BeforeDelete => f.write_str("before a mass delete"),
        }
    }
}

/// Nanoseconds since 1970 in a zone; what lies outside the calendar is moved to its end.
fn zoned(nanos: i64, zone: &TimeZone) -> Zoned {
    Timestamp::from_nanosecond(i128::from(nanos)).unwrap_or(Timestamp::MAX).to_zoned(zone.clone())
}
