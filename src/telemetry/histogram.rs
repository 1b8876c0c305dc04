//! How long things take, as counts of powers of four microseconds: recording is two additions without a lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Buckets with an upper bound: 1 us, 4 us, 16 us .. 67 s. One more has the rest.
const BOUNDED: usize = 14;

/// Durations, counted by their size. Cheap to clone; clones count together.
#[derive(Debug, Clone, Default)]
pub struct Histogram(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    buckets: [AtomicU64; BOUNDED + 1],
    nanoseconds: AtomicU64,
}

impl Histogram {
    /// Counts one.
    pub fn record(&self, took: Duration) {
        let nanoseconds = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        // The least n with 1000 * 4^n >= nanoseconds.
        let steps = u64::BITS - (nanoseconds.saturating_sub(1) / 1000).leading_zeros();
        let bucket = (steps.div_ceil(2) as usize).min(BOUNDED);
        self.0.buckets[bucket].fetch_add(1, Relaxed);
        self.0.nanoseconds.fetch_add(nanoseconds, Relaxed);
    }

    /// How many were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.buckets.iter().map(|bucket| bucket.load(Relaxed)).sum()
    }

    /// All durations added up.
    #[must_use]
    pub fn sum(&self) -> Duration {
        Duration::from_nanos(self.0.nanoseconds.load(Relaxed))
    }

    /// For each upper bound, how many took at most that long.
    pub(super) fn cumulative(&self) -> impl Iterator<Item = (Duration, u64)> {
        let bounds = (0..BOUNDED).map(|n| Duration::from_micros(1 << (2 * n)));
        bounds.zip(&self.0.buckets).scan(0, |sum, (bound, bucket)| {
            *sum += bucket.load(Relaxed);
            Some((bound, *sum))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_duration_is_counted_at_the_least_bound_that_it_fits() {
        for (took, bound) in [
            (Duration::ZERO, Some(1)),
            (Duration::from_nanos(1000), Some(1)),
            (Duration::from_nanos(1001), Some(4)),
            (Duration::from_micros(4), Some(4)),
            (Duration::from_micros(5), Some(16)),
            (Duration::from_millis(1), Some(1024)),
            (Duration::from_secs(60), Some(1 << 26)),
            (Duration::from_secs(3600), None),
            (Duration::MAX, None),
        ] {
            let histogram = Histogram::default();
            histogram.record(took);
            let first = histogram.cumulative().find(|(_, count)| *count == 1).map(|(bound, _)| bound.as_micros());
            assert_eq!((first, histogram.count()), (bound, 1), "{took:?}");
        }
    }
}
