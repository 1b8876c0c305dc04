//! Durations with units, as a person writes them: `500ms`, `1s`, `5min`, `24h`, `7d`.

use std::time::Duration;

// Largest first: `show_duration` takes the largest that divides.
const UNITS: &[(&str, u64)] = &[("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1_000), ("ms", 1)];

/// What is allowed, for messages.
pub(crate) const ALLOWED: &str = "a whole number and ms, s, min, h or d, such as `1s` or `5min`";

/// A whole number and a unit. `None`: anything else, or too large.
#[must_use]
pub fn parse_duration(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at_checked(digits)?;
    let unit = if unit == "m" { "min" } else { unit };
    let (_, millis) = UNITS.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*millis).map(Duration::from_millis)
}

/// The shortest form that [`parse_duration`] reads back (whole milliseconds).
#[must_use]
pub fn show_duration(duration: Duration) -> String {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let unit = UNITS.iter().find(|(_, unit)| millis >= *unit && millis.is_multiple_of(*unit));
    unit.map_or_else(|| format!("{millis}ms"), |(name, unit)| format!("{}{name}", millis / unit))
}
