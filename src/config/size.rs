//! Sizes with units: `10GiB`, `500 MB`, `20%`.

const UNITS: &[(&str, u64)] = &[
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
];

/// A limit: bytes, or a share of the disk it lies on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SizeLimit {
    /// So many bytes.
    Bytes(u64),
    /// So many hundredths of the disk, 1 to 100.
    Percent(u8),
}

impl SizeLimit {
    /// A size or a percentage.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text.strip_suffix('%') {
            Some(number) => number.trim_end().parse().ok().filter(|percent| (1..=100).contains(percent)).map(Self::Percent),
            None => parse_size(text).map(Self::Bytes),
        }
    }

    /// The limit in bytes on a disk of this size.
    #[must_use]
    pub fn bytes(self, disk: u64) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Percent(percent) => disk / 100 * u64::from(percent),
        }
    }

    /// A cache's limit when none is given: 10 GiB or 20 % of the disk, whichever is less.
    #[must_use]
    pub fn default_cache(disk: u64) -> u64 {
        (10 << 30).min(Self::Percent(20).bytes(disk))
    }
}

/// A whole number and a unit. `None`: anything else, 0, or too large.
#[must_use]
pub fn parse_size(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at_checked(digits)?;
    let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit.trim_start())?;
    number.parse::<u64>().ok()?.checked_mul(*factor).filter(|bytes| *bytes > 0)
}

/// A size for people: three digits and a binary unit.
#[must_use]
#[allow(clippy::cast_precision_loss, reason = "three digits are shown")]
pub fn show_size(bytes: u64) -> String {
    let unit = [("TiB", 1u64 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)].into_iter().find(|(_, unit)| bytes >= *unit);
    let Some((name, unit)) = unit else { return format!("{bytes} B") };
    let number = bytes as f64 / unit as f64;
    let digits = if number < 9.995 { 2 } else { usize::from(number < 99.95) };
    format!("{number:.digits$} {name}")
}
