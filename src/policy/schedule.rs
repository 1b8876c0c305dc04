//! The times of the tier `scheduled`: five fields of cron, read in a time zone.
//!
//! Fields are minute, hour, day of the month, month and day of the week: `*`, numbers, names of months and weekdays, lists, ranges and steps.
//! When both days are restricted, either makes it a day (as in every cron). Where clocks are set forward, a time that does not come fires when
//! they are; where they are set back, a time that comes twice fires the first time only, and what has a `*` in minute or hour both times.

use crate::types::UnixNanos;
use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

const DAY: UnixNanos = 24 * 60 * 60 * 1_000_000_000;

/// Times that have a name.
const NAMED: &[(&str, &str)] = &[
    ("@hourly", "0 * * * *"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@weekly", "0 0 * * 0"),
    ("@monthly", "0 0 1 * *"),
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
];

/// What is allowed, for messages.
pub(super) const ALLOWED: &str =
    "`scheduled MINUTE HOUR DAY MONTH WEEKDAY [zone=UTC]` such as `scheduled 0 4 * * *`, or @hourly, @daily, @weekly, @monthly, @yearly";

/// Set times: which ones, and whose clock. Cheap to clone; equal when written alike.
#[derive(Clone)]
pub struct Schedule(Arc<Times>);

struct Times {
    text: String,
    zone_name: String,
    zone: TimeZone,
    cron: Cron,
}

impl Schedule {
    /// Takes the words behind `scheduled`, in their order; `zone=` may stand anywhere, and is UTC when it does not.
    ///
    /// # Errors
    /// What is wrong, and what is allowed there.
    pub(super) fn parse(words: &[&str]) -> Result<Self, (String, String)> {
        let refuse = |what: String| (what, ALLOWED.to_owned());
        let (zones, fields): (Vec<&str>, Vec<&str>) = words.iter().partition(|word| word.starts_with("zone="));
        if let Some(other) = fields.iter().find(|word| word.contains('=')) {
            return Err(refuse(format!("`{}` is no parameter of scheduled", other.escape_debug())));
        }
        let zone_name = match zones.as_slice() {
            [] => "UTC",
            [zone] => zone.trim_start_matches("zone="),
            [_, second, ..] => return Err(refuse(format!("`{}`: the time zone stands there twice", second.escape_debug()))),
        };
        let zone = TimeZone::get(zone_name).map_err(|_| {
            let what = format!("`{}` is no time zone that is known here", zone_name.escape_debug());
            (what, "a name of the IANA database, such as `Europe/Berlin` or `UTC`".to_owned())
        })?;
        let text = fields.join(" ");
        let five = match fields.as_slice() {
            [name] if name.starts_with('@') => NAMED.iter().find(|(known, _)| known == name).map(|(_, five)| *five),
            [_, _, _, _, _] => fields.iter().enumerate().all(|(at, field)| is_plain(at, field)).then_some(text.as_str()),
            _ => None,
        };
        let five = five.ok_or_else(|| refuse(format!("`{}` is no schedule", text.escape_debug())))?;
        let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
        let cron = parser.parse(five).map_err(|error| refuse(format!("`{text}` is no schedule: {error}")))?;
        let schedule = Self(Arc::new(Times { text, zone_name: zone_name.to_owned(), zone, cron }));
        // Whether there is any does not depend on the year: days come again.
        if schedule.next_after(0).is_none() {
            return Err(refuse(format!("`{}` never comes: no month that it names has such a day", schedule.0.text)));
        }
        Ok(schedule)
    }

    /// The first of its times after an instant of the wall clock. `None`: behind the end of the calendar.
    #[must_use]
    pub fn next_after(&self, after: UnixNanos) -> Option<UnixNanos> {
        let after = Timestamp::from_nanosecond(i128::from(after)).ok()?.to_zoned(self.0.zone.clone());
        let next = self.0.cron.find_next_occurrence(&after, false).ok()?;
        // The crate looks at whole seconds.
        next.timestamp().as_second().checked_mul(1_000_000_000)
    }

    /// Its first times after an instant.
    #[must_use]
    pub fn upcoming(&self, after: UnixNanos, count: usize) -> Vec<UnixNanos> {
        std::iter::successors(self.next_after(after), |time| self.next_after(*time)).take(count).collect()
    }

    /// Most of its times that 24 hours have, in the week that begins with its first one.
    #[must_use]
    pub(super) fn most_in_a_day(&self) -> u64 {
        let Some(first) = self.next_after(0) else { return 0 };
        let week = std::iter::successors(Some(first), |time| self.next_after(*time)).take_while(|time| *time < first + 7 * DAY);
        let times: Vec<UnixNanos> = week.collect();
        let until = |at: UnixNanos| times.partition_point(|time| *time < at + DAY);
        times.iter().enumerate().map(|(number, at)| until(*at) - number).max().unwrap_or(0) as u64
    }

    /// The time zone by name.
    #[must_use]
    pub fn zone(&self) -> &TimeZone {
        &self.0.zone
    }
}

/// What every cron knows, without what only the crate does (`L`, `W`, `#`, `?`, `+`).
fn is_plain(at: usize, field: &str) -> bool {
    let named = |part: &str| at >= 3 && part.len() == 3 && part.bytes().all(|byte| byte.is_ascii_alphabetic());
    let number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    field.split([',', '-', '/']).all(|part| part == "*" || number(part) || named(part))
}

impl fmt::Display for Schedule {
    /// With its zone, also where it was not said.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} zone={}", self.0.text, self.0.zone_name)
    }
}

impl fmt::Debug for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Schedule({self})")
    }
}

impl Schedule {
    fn key(&self) -> (&str, &str) {
        (&self.0.text, &self.0.zone_name)
    }
}

impl PartialEq for Schedule {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Schedule {}

impl PartialOrd for Schedule {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Schedule {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}

impl Hash for Schedule {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key().hash(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn schedule(text: &str) -> Schedule {
        Schedule::parse(&text.split(' ').collect::<Vec<_>>()).unwrap()
    }

    fn at(text: &str) -> UnixNanos {
        i64::try_from(text.parse::<Timestamp>().unwrap().as_nanosecond()).unwrap()
    }

    fn told(times: &[UnixNanos]) -> Vec<String> {
        times.iter().map(|time| Timestamp::from_nanosecond(i128::from(*time)).unwrap().to_string()).collect()
    }

    #[test]
    fn times_are_those_of_the_zone() {
        let table = [
            ("0 4 * * *", "2026-11-20T04:00:00Z", ["2026-11-21T04:00:00Z", "2026-11-22T04:00:00Z"]),
            ("0 4 * * *", "2026-11-20T03:59:59.999999999Z", ["2026-11-20T04:00:00Z", "2026-11-21T04:00:00Z"]),
            ("0 4 * * * zone=Europe/Berlin", "2026-11-20T03:00:00Z", ["2026-11-21T03:00:00Z", "2026-11-22T03:00:00Z"]),
            ("zone=Asia/Kathmandu @daily", "2026-11-20T00:00:00Z", ["2026-11-20T18:15:00Z", "2026-11-21T18:15:00Z"]),
            ("*/20 22-23 * * 1-5", "2026-11-20T23:30:00Z", ["2026-11-20T23:40:00Z", "2026-11-23T22:00:00Z"]),
            ("0 0 13 * FRI", "2026-11-11T00:00:00Z", ["2026-11-13T00:00:00Z", "2026-11-20T00:00:00Z"]),
            ("0 0 29 feb *", "2026-11-20T00:00:00Z", ["2028-02-29T00:00:00Z", "2032-02-29T00:00:00Z"]),
            ("@weekly", "2026-11-20T00:00:00Z", ["2026-11-22T00:00:00Z", "2026-11-29T00:00:00Z"]),
        ];
        for (text, after, want) in table {
            assert_eq!(told(&schedule(text).upcoming(at(after), 2)), want, "{text}");
        }
    }

    #[test]
    fn clocks_set_forward_skip_nothing() {
        // 02:00 to 03:00 did not come on 2026-03-29.
        let nightly = schedule("30 2 * * * zone=Europe/Berlin").upcoming(at("2026-03-28T00:00:00Z"), 3);
        assert_eq!(told(&nightly), ["2026-03-28T01:30:00Z", "2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"]);
        let hourly = schedule("@hourly zone=Europe/Berlin").upcoming(at("2026-03-29T00:00:00Z"), 2);
        assert_eq!(told(&hourly), ["2026-03-29T01:00:00Z", "2026-03-29T02:00:00Z"]);
    }

    #[test]
    fn clocks_set_back_repeat_what_is_every_hour_and_no_other() {
        // 02:00 to 03:00 came twice on 2026-10-25.
        let nightly = schedule("30 2 * * * zone=Europe/Berlin").upcoming(at("2026-10-24T12:00:00Z"), 2);
        assert_eq!(told(&nightly), ["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]);
        let hourly = schedule("30 * * * * zone=Europe/Berlin").upcoming(at("2026-10-25T00:00:00Z"), 3);
        assert_eq!(told(&hourly), ["2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z", "2026-10-25T02:30:00Z"]);
    }

    #[test]
    fn every_day_of_the_year_has_one_nightly_time() {
        for zone in ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Africa/Cairo", "UTC"] {
            for minute in ["0", "15", "59"] {
                let nightly = schedule(&format!("{minute} 2 * * * zone={zone}"));
                let times = nightly.upcoming(at("2026-01-01T20:00:00Z"), 730);
                let days =
                    times.iter().map(|time| Timestamp::from_nanosecond(i128::from(*time)).unwrap().to_zoned(nightly.zone().clone()).date());
                let days: BTreeSet<_> = days.collect();
                let (first, last) = (days.first().unwrap(), days.last().unwrap());
                assert_eq!((days.len(), (*last - *first).get_days()), (730, 729), "{zone} {minute}");
            }
        }
    }

    #[test]
    fn most_in_a_day_counts_a_week() {
        for (text, most) in [("0 4 * * *", 1), ("0 4,5 * * *", 2), ("@hourly", 24), ("* * * * *", 1440), ("0 4 * * 1", 1), ("@yearly", 1)] {
            assert_eq!(schedule(text).most_in_a_day(), most, "{text}");
        }
    }

    proptest! {
        // Minute by minute, what the definition of the fields says.
        #[test]
        fn next_equals_a_second_implementation(minutes in 0i64..59, step in 1i64..59, hour in 0i64..24, day in 1i64..29, after in 0i64..50_000) {
            let schedule = schedule(&format!("{minutes}/{step} {hour} {day} * *").replace('/', "-59/"));
            let after = after * 60_000_000_000;
            let matches = |time: &UnixNanos| {
                let civil = Timestamp::from_nanosecond(i128::from(*time)).unwrap().to_zoned(TimeZone::UTC);
                let minute = i64::from(civil.minute());
                minute >= minutes && (minute - minutes) % step == 0 && i64::from(civil.hour()) == hour && i64::from(civil.day()) == day
            };
            let next = (1..=32 * 24 * 60).map(|n| after + n * 60_000_000_000).find(matches);
            prop_assert_eq!(schedule.next_after(after), next);
        }
    }
}
