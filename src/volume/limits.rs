//! The limits of a volume, and what is done at them (protocol.md 7.5): WRITEs are delayed, what can be refused is refused.

use super::late::LateProgress;
use super::ops::{Admission, Gate, PosixError};
use crate::cache::{Cache, Space};
use std::sync::Arc;
use std::time::Duration;

/// From this share of the dirty limit on, WRITEs are slowed (thousandths).
const SLOW_PERMILLE: u64 = 600;
/// The longest delay of one WRITE: short, because every close of a descriptor of a dirty file waits for it, in forked children too.
const DELAY_MAX: Duration = Duration::from_millis(50);

/// Sizes in bytes.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// Data kept here, dirty and clean.
    pub cache_max: u64,
    /// Bytes in no commit before new work is refused.
    pub dirty_max: u64,
    /// What `statfs` calls the size of the volume, and where creates and growth end.
    pub capacity: Option<u64>,
}

/// The gate of a live volume.
#[derive(Debug)]
pub(super) struct Limits {
    pub(super) cache: Arc<Cache>,
    pub(super) late: LateProgress,
    pub(super) sizes: Sizes,
}

impl Limits {
    fn dirty_permille(&self) -> u64 {
        self.cache.dirty_bytes().saturating_mul(1000) / self.sizes.dirty_max.max(1)
    }
}

impl Gate for Limits {
    fn admit(&self, what: Admission) -> Result<(), PosixError> {
        if self.late.is_over() {
            return Err(if what == Admission::Sync { PosixError::Io } else { PosixError::ReadOnly });
        }
        match what {
            // A success would be no lie: fsync makes bytes durable here whatever the store does.
            Admission::Sync => Ok(()),
            Admission::Create | Admission::OpenForWriting | Admission::Grow if self.dirty_permille() >= 1000 => Err(PosixError::NoSpace),
            Admission::Create | Admission::OpenForWriting | Admission::Grow => Ok(()),
        }
    }

    fn is_closing(&self) -> bool {
        self.late.is_cancelled()
    }

    fn delay(&self) -> Option<Duration> {
        delay(self.dirty_permille())
    }

    fn space(&self, cache: Space) -> Space {
        Space { bytes_max: self.sizes.capacity.unwrap_or(cache.bytes_max), ..cache }
    }
}

/// None below the mark, then growing to the longest at the limit.
fn delay(dirty_permille: u64) -> Option<Duration> {
    let over = dirty_permille.checked_sub(SLOW_PERMILLE).filter(|over| *over > 0)?;
    let share = over.min(1000 - SLOW_PERMILLE);
    Some(DELAY_MAX.mul_f64(share as f64 / (1000 - SLOW_PERMILLE) as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_are_slowed_only_near_the_limit_and_never_for_long() {
        assert_eq!(delay(0), None);
        assert_eq!(delay(600), None);
        assert!(delay(700) < delay(900));
        assert_eq!(delay(1000), Some(DELAY_MAX));
        assert_eq!(delay(99_999), Some(DELAY_MAX));
    }
}
