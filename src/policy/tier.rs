//! The tiers and their parameters.

use super::duration::show_duration;
use crate::types::Domain;
use std::fmt;
use std::time::Duration;

/// How soon the changes of a path must be in a commit.
///
/// The grammar knows `strict`, `debounced` and `scheduled` too, and this version refuses them when a policy is read: a policy
/// must never promise what the writer does not do.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Tier {
    /// At most `lag` after a write, whether the file is closed or not.
    Continuous {
        /// The longest time between a write and its commit.
        lag: Duration,
    },
    /// Never: it is gone with the cache.
    Local,
}

impl Tier {
    /// What everything has unless said otherwise.
    pub const DEFAULT: Self = Self::Continuous { lag: Duration::from_secs(1) };
    /// The shortest lag.
    pub const LAG_MIN: Duration = Duration::from_millis(100);
    /// The longest lag.
    pub const LAG_MAX: Duration = Duration::from_hours(24);

    /// The domain whose paths are captured at one cut.
    #[must_use]
    pub fn domain(&self) -> Domain {
        match self {
            Self::Continuous { .. } => Domain::Continuous,
            Self::Local => Domain::Local,
        }
    }

    /// The lag, when there is one.
    #[must_use]
    pub fn lag(&self) -> Option<Duration> {
        match self {
            Self::Continuous { lag } => Some(*lag),
            Self::Local => None,
        }
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Continuous { lag } => write!(f, "continuous {}", show_duration(*lag)),
            Self::Local => f.write_str("local"),
        }
    }
}
