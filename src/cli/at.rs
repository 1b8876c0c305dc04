//! `--at`: which instant or commit a person means. Pure: the text, now and the zone decide.
//!
//! | text | means |
//! |---|---|
//! | `1234` | commit 1234 |
//! | `2026-11-20T10:00:00Z`, `2026-11-20T10:00+01:00` | that instant (RFC 3339) |
//! | `2026-11-20 10:00`, `2026-11-20T10:00:30` | in the local zone |
//! | `2026-11-20` | the first instant of that day in the local zone |
//! | `10:00`, `10:00:30` | the last time it was ten o'clock: today, or yesterday when it is not yet |
//! | `yesterday` | this time of day, a day of the calendar ago |
//! | `today 10:00`, `yesterday 10:00` | that time on that day |
//! | `2h ago`, `90s ago`, `3 days ago`, `1 week ago` | so long before now |
//! | `now` | now |
//! | `before-upgrade` | the snapshot of that name |
//!
//! An instant that has not come yet is refused: there is no commit to give, and it is mostly a slip in the date. Where a clock
//! was set back, an hour that came twice means its first time; an hour that was skipped means one hour later.

use crate::history::snapshot::check_name;
use crate::types::Seq;
use jiff::civil::{DateTime, Time};
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp, Zoned};
use serde::Serialize;

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum At {
    /// A commit by number.
    Seq(Seq),
    /// The commit of a snapshot.
    Name(String),
    /// The newest commit whose cut is not after this instant.
    Time(Timestamp),
}

/// Why a text is no `--at`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` {why}; allowed: {ALLOWED}")]
pub struct AtError {
    text: String,
    why: String,
}

const ALLOWED: &str =
    "a commit's number, an RFC 3339 time, `2026-11-20 10:00`, `10:00`, `yesterday`, `yesterday 10:00`, `2h ago`, a snapshot's name";

/// Reads what a person wrote.
///
/// # Errors
/// It is none of the forms, or lies in the future.
pub fn parse(text: &str, now: &Zoned) -> Result<At, AtError> {
    let refuse = |why: String| AtError { text: text.escape_debug().to_string(), why };
    let text = text.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return match text.parse() {
            Ok(seq) if seq > 0 => Ok(At::Seq(seq)),
            _ => Err(refuse("is no commit's number".to_owned())),
        };
    }
    let Some(time) = instant(text, now) else {
        return if check_name(text).is_ok() { Ok(At::Name(text.to_owned())) } else { Err(refuse("is no time".to_owned())) };
    };
    if time > now.timestamp() {
        return Err(refuse(format!("is {}, which has not come yet", show(time, now.time_zone()))));
    }
    Ok(At::Time(time))
}

fn instant(text: &str, now: &Zoned) -> Option<Timestamp> {
    let zoned = |at: DateTime| at.to_zoned(now.time_zone().clone()).ok().map(|zoned| zoned.timestamp());
    if let Ok(time) = text.parse::<Timestamp>() {
        return Some(time);
    }
    if let Some(time) = time_of_day(text) {
        let today = zoned(now.date().to_datetime(time))?;
        return if today <= now.timestamp() { Some(today) } else { zoned(now.date().yesterday().ok()?.to_datetime(time)) };
    }
    let (day, rest) = text.split_once(char::is_whitespace).map_or((text, None), |(day, rest)| (day, Some(rest.trim())));
    let date = match day {
        "now" if rest.is_none() => return Some(now.timestamp()),
        "today" => Some(now.date()),
        "yesterday" => Some(now.date().yesterday().ok()?),
        _ => None,
    };
    match (date, rest) {
        (Some(date), None) if day == "yesterday" => zoned(date.to_datetime(now.time())),
        (Some(_), None) => None,
        (Some(date), Some(rest)) => zoned(date.to_datetime(time_of_day(rest)?)),
        (None, Some(_)) if text.ends_with("ago") => {
            let span: Span = text.parse().ok()?;
            // `ago` makes it negative; `-2h ago` would not be.
            if span.is_positive() { None } else { now.checked_add(span).ok().map(|at| at.timestamp()) }
        }
        (None, _) => local(text).and_then(zoned),
    }
}

/// Hours and minutes, seconds if wanted: `10:00`. (jiff alone would take `10` and `1000` as well.)
fn time_of_day(text: &str) -> Option<Time> {
    let digits = |part: &str| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_digit());
    let parts: Vec<&str> = text.split(':').collect();
    let padded = if text.find(':') == Some(1) { format!("0{text}") } else { text.to_owned() };
    let whole = (2..=3).contains(&parts.len()) && padded.split(':').all(digits);
    if whole { padded.parse().ok() } else { None }
}

/// A date, or a date and a time, without a zone.
fn local(text: &str) -> Option<DateTime> {
    // A zone in brackets or a week date would be read past silently.
    let plain = text.bytes().all(|byte| byte.is_ascii_digit() || b"-:. T".contains(&byte));
    if plain && text.len() >= "2026-11-20".len() { text.parse().ok() } else { None }
}

/// An instant as it is shown to people: local time with its offset and zone.
#[must_use]
pub fn show(time: Timestamp, zone: &TimeZone) -> String {
    let zoned = time.to_zoned(zone.clone());
    let shown = zoned.strftime("%Y-%m-%d %H:%M:%S %:z").to_string();
    match zone.iana_name() {
        Some(name) if name != "UTC" => format!("{shown} ({name})"),
        _ => shown,
    }
}

/// A duration for people: its two largest units.
#[must_use]
pub fn show_age(seconds: u64) -> String {
    let units = [("d", 86_400), ("h", 3600), ("min", 60), ("s", 1)];
    let Some(first) = units.iter().position(|(_, unit)| seconds >= *unit) else { return "0 s".to_owned() };
    let mut left = seconds;
    let mut parts = Vec::new();
    for (name, unit) in units.iter().skip(first).take(2) {
        if left / unit > 0 {
            parts.push(format!("{} {name}", left / unit));
        }
        left %= unit;
    }
    parts.join(" ")
}

/// Nanoseconds since 1970 as an instant; what lies outside the calendar is moved to its end.
#[must_use]
pub fn timestamp(nanos: i64) -> Timestamp {
    Timestamp::from_nanosecond(i128::from(nanos)).unwrap_or(Timestamp::MAX)
}

/// Now, in the local zone.
#[must_use]
pub fn now(nanos: i64) -> Zoned {
    timestamp(nanos).to_zoned(TimeZone::system())
}

/// What `--at` was resolved to, as it is printed before the answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Resolved {
    /// The instant asked for, RFC 3339, or the snapshot; absent when a number was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub asked: Option<String>,
    /// The commit that is shown.
    pub commit: Seq,
    /// The commit's cut, RFC 3339.
    pub cut: String,
    /// It shows every tier at that instant.
    pub full: bool,
}

impl Resolved {
    /// From the request and the commit that was found for it.
    #[must_use]
    pub fn new(asked: Option<At>, commit: Seq, cut: Timestamp, full: bool) -> Self {
        let asked = match asked {
            Some(At::Time(time)) => Some(time.to_string()),
            Some(At::Name(name)) => Some(name),
            Some(At::Seq(_)) | None => None,
        };
        Self { asked, commit, cut: cut.to_string(), full }
    }

    /// One line for people, on standard error so that it never mixes with a file's content.
    #[must_use]
    pub fn line(&self, zone: &TimeZone) -> String {
        let shown = |text: &str| text.parse().map_or_else(|_| text.to_owned(), |time| show(time, zone));
        let asked = self.asked.as_deref().map_or_else(String::new, |asked| format!("at {}: ", shown(asked)));
        let partial = if self.full { "" } else { ", not all tiers" };
        format!("{asked}commit {} of {}{partial}", self.commit, shown(&self.cut))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str, now: &str) -> Result<String, String> {
        match parse(text, &now.parse().unwrap()) {
            Ok(At::Seq(seq)) => Ok(format!("#{seq}")),
            Ok(At::Name(name)) => Ok(format!("@{name}")),
            Ok(At::Time(time)) => Ok(time.to_string()),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn forms_of_the_table() {
        let now = "2026-11-20T15:30:20+01:00[Europe/Berlin]";
        for (text, expected) in [
            ("1234", "#1234"),
            ("before-upgrade", "@before-upgrade"),
            ("2026-11-20T10:00:00Z", "2026-11-20T10:00:00Z"),
            ("2026-11-20T10:00+01:00", "2026-11-20T09:00:00Z"),
            ("2026-11-20 10:00", "2026-11-20T09:00:00Z"),
            ("2026-07-20T10:00:30", "2026-07-20T08:00:30Z"),
            ("2026-11-20", "2026-11-19T23:00:00Z"),
            ("10:00", "2026-11-20T09:00:00Z"),
            ("9:05:07", "2026-11-20T08:05:07Z"),
            ("16:00", "2026-11-19T15:00:00Z"),
            ("yesterday", "2026-11-19T14:30:20Z"),
            ("yesterday 10:00", "2026-11-19T09:00:00Z"),
            ("today 10:00", "2026-11-20T09:00:00Z"),
            ("2h ago", "2026-11-20T12:30:20Z"),
            ("90s ago", "2026-11-20T14:28:50Z"),
            ("3 days ago", "2026-11-17T14:30:20Z"),
            ("1 week ago", "2026-11-13T14:30:20Z"),
            ("1h 30m ago", "2026-11-20T13:00:20Z"),
            (" now ", "2026-11-20T14:30:20Z"),
        ] {
            assert_eq!(at(text, now), Ok(expected.to_owned()), "{text}");
        }
    }

    #[test]
    fn clock_changes_follow_the_calendar() {
        // Summer time ended on 2026-10-25 at 03:00 -> 02:00.
        let after = "2026-10-25T12:00:00+01:00[Europe/Berlin]";
        assert_eq!(at("2:30", after).unwrap(), "2026-10-25T00:30:00Z", "the first of the two");
        assert_eq!(at("yesterday", after).unwrap(), "2026-10-24T10:00:00Z", "the same time of day, 25 hours ago");
        assert_eq!(at("24h ago", after).unwrap(), "2026-10-24T11:00:00Z");
        // It begins on 2026-03-29 at 02:00 -> 03:00.
        assert_eq!(at("2:30", "2026-03-29T12:00:00+02:00[Europe/Berlin]").unwrap(), "2026-03-29T01:30:00Z", "skipped: an hour later");
    }

    #[test]
    fn everything_else_is_refused_with_what_is_allowed() {
        let now = "2026-11-20T15:30:20+00:00[UTC]";
        for text in [
            "",
            "0",
            "99999999999999999999999",
            "today",
            "25:00",
            "10:0",
            "1:2:3:4",
            "2026-13-01",
            "2026-11",
            "2h",
            "-2h ago",
            "2 ago",
            "now 10:00",
            "yesterday noon",
            "2026-W47-5",
            "2026-11-20T10:00[Europe/Berlin",
        ] {
            let error = at(text, now).expect_err(text);
            assert!(error.starts_with(&format!("`{text}` is no ")) && error.contains("allowed: a commit's number"), "{text}: {error}");
        }
        let future = at("2027-01-01 10:00", now).unwrap_err();
        assert!(future.starts_with("`2027-01-01 10:00` is 2027-01-01 10:00:00 +00:00, which has not come yet;"), "{future}");
    }

    #[test]
    fn resolved_shows_instant_and_commit_in_the_local_zone() {
        let zone = TimeZone::get("Europe/Berlin").unwrap();
        let asked = At::Time("2026-11-20T09:00:00Z".parse().unwrap());
        let resolved = Resolved::new(Some(asked), 17, "2026-11-20T08:59:59Z".parse().unwrap(), true);
        assert_eq!(
            resolved.line(&zone),
            "at 2026-11-20 10:00:00 +01:00 (Europe/Berlin): commit 17 of 2026-11-20 09:59:59 +01:00 (Europe/Berlin)"
        );
        assert_eq!(
            Resolved::new(Some(At::Seq(17)), 17, Timestamp::UNIX_EPOCH, false).line(&TimeZone::UTC),
            "commit 17 of 1970-01-01 00:00:00 +00:00, not all tiers"
        );
    }

    #[test]
    fn ages_have_two_units() {
        let shown: Vec<String> = [0, 59, 60, 3599, 3600, 86_400 + 60, 90_061].into_iter().map(show_age).collect();
        assert_eq!(shown, ["0 s", "59 s", "1 min", "59 min 59 s", "1 h", "1 d", "1 d 1 h"]);
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_an_instant_that_has_come_or_an_error(text in "(?s)([0-9a-zA-Z:+. -]|\\PC){0,24}", number in 0u64..200_000, unit in "(s|m|h|d|days|weeks|months|years)") {
            let now: Zoned = "2026-11-20T15:30:20+01:00[Europe/Berlin]".parse().unwrap();
            for text in [text, format!("{number}{unit} ago"), format!("{number}:{number}"), format!("2026-{number}-20")] {
                if let Ok(At::Time(time)) = parse(&text, &now) {
                    proptest::prop_assert!(time <= now.timestamp());
                    // What is shown can be typed back.
                    proptest::prop_assert!(parse(&time.to_string(), &now) == Ok(At::Time(time)));
                }
            }
        }
    }
}
