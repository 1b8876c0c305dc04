//! When a `scheduled` rule fires next, as the answers of `policy` show it.

use crate::cli::at;
use crate::policy::Tier;
use crate::types::UnixNanos;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::{Serialize, Serializer};
use std::fmt;

/// So many of its times are shown.
const SHOWN: usize = 3;

/// The next times of a tier; empty where it has none.
pub(super) struct Next {
    times: Vec<Timestamp>,
    zone: TimeZone,
}

impl Next {
    pub(super) fn of(tier: &Tier, now: UnixNanos) -> Self {
        match tier {
            Tier::Scheduled(schedule) => {
                let times = schedule.upcoming(now, SHOWN).into_iter().map(at::timestamp).collect();
                Self { times, zone: schedule.zone().clone() }
            }
            Tier::Strict { .. } | Tier::Continuous { .. } | Tier::Debounced { .. } | Tier::Local => {
                Self { times: Vec::new(), zone: TimeZone::UTC }
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.times.is_empty()
    }
}

impl fmt::Display for Next {
    /// In the schedule's own zone.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let times: Vec<String> = self.times.iter().map(|time| at::show(*time, &self.zone)).collect();
        f.write_str(&times.join(", "))
    }
}

impl Serialize for Next {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.times.serialize(serializer)
    }
}
