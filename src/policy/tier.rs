//! The tiers and their parameters.

use super::duration::show_duration;
use super::schedule::Schedule;
use crate::types::Domain;
use std::fmt;
use std::time::Duration;

/// How soon the changes of a path must be in a commit.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Tier {
    /// fsync and O_SYNC writes return after the commit that holds them; without them as `continuous` with its usual lag.
    Strict {
        /// How long such an fsync waits before it ends with EIO; the change stays and is committed later.
        wait: Duration,
    },
    /// At most `lag` after a write, whether the file is closed or not.
    Continuous {
        /// The longest time between a write and its commit.
        lag: Duration,
    },
    /// When nothing in the tier changed for `quiet`, at the latest `max` after its oldest change.
    Debounced {
        /// How long nothing may have changed.
        quiet: Duration,
        /// The longest time between a write and its commit.
        max: Duration,
    },
    /// At set times; when one was missed, soon after.
    Scheduled(Schedule),
    /// Never: it is gone with the cache.
    Local,
}

impl Tier {
    /// What everything has unless said otherwise.
    pub const DEFAULT: Self = Self::Continuous { lag: Self::LAG };
    /// The lag unless said otherwise, and of what is `strict` and nobody fsyncs.
    pub const LAG: Duration = Duration::from_secs(1);
    /// The shortest lag, and the shortest of all other parameters.
    pub const LAG_MIN: Duration = Duration::from_millis(100);
    /// The longest lag, and the longest of all other parameters.
    pub const LAG_MAX: Duration = Duration::from_hours(24);
    /// How long an fsync of a `strict` file waits unless said otherwise.
    pub const WAIT: Duration = Duration::from_secs(30);
    /// `quiet` of `debounced` unless said otherwise.
    pub const QUIET: Duration = Duration::from_secs(5);
    /// `max` of `debounced` unless said otherwise.
    pub const MAX: Duration = Duration::from_mins(5);

    /// The domain whose paths are captured at one cut.
    #[must_use]
    pub fn domain(&self) -> Domain {
        match self {
            Self::Strict { .. } => Domain::Strict,
            Self::Continuous { .. } => Domain::Continuous,
            Self::Debounced { .. } => Domain::Debounced,
            Self::Scheduled(_) => Domain::Scheduled,
            Self::Local => Domain::Local,
        }
    }

    /// The shortest time between two commits that its writes alone make due; `None`: they make none due, or only at set times.
    #[must_use]
    pub fn lag(&self) -> Option<Duration> {
        match self {
            Self::Strict { .. } => Some(Self::LAG),
            Self::Continuous { lag } => Some(*lag),
            Self::Debounced { quiet, .. } => Some(*quiet),
            Self::Scheduled(_) | Self::Local => None,
        }
    }

    /// Most commits a day that its writes alone make due.
    #[must_use]
    pub fn commits_per_day_max(&self) -> u64 {
        let day = Duration::from_hours(24).as_millis();
        match (self, self.lag()) {
            (Self::Scheduled(schedule), _) => schedule.most_in_a_day(),
            (_, Some(lag)) => u64::try_from(day / lag.as_millis().max(1)).unwrap_or(u64::MAX),
            (_, None) => 0,
        }
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Strict { wait } => write!(f, "strict wait={}", show_duration(*wait)),
            Self::Continuous { lag } => write!(f, "continuous {}", show_duration(*lag)),
            Self::Debounced { quiet, max } => write!(f, "debounced quiet={} max={}", show_duration(*quiet), show_duration(*max)),
            Self::Scheduled(schedule) => write!(f, "scheduled {schedule}"),
            Self::Local => f.write_str("local"),
        }
    }
}
