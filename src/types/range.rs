//! Byte ranges and sets of them.

use std::collections::BTreeMap;
use std::num::NonZeroU64;

/// `start <= x < end`. Empty when `start == end`; `start <= end` always.
pub type ByteRange = std::ops::Range<u64>;

/// A set of bytes as disjoint, non-touching, non-empty ranges in order. Most sets have one range at the most: it needs no memory of its own.
/// Sixteen bytes: a cache has a dozen sets for each file in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RangeSet {
    ranges: Ranges,
}

#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::box_collection, reason = "a pointer fits beside the two numbers, a map does not")]
enum Ranges {
    /// The one range, from start to end.
    One(u64, NonZeroU64),
    /// start -> end; two at least. None: the empty set.
    Many(Option<Box<BTreeMap<u64, u64>>>),
}

impl Ranges {
    /// One range, or none when it is empty.
    fn one(start: u64, end: u64) -> Self {
        NonZeroU64::new(end).filter(|end| start < end.get()).map_or(Self::Many(None), |end| Self::One(start, end))
    }

    fn two(first: (u64, u64), second: (u64, u64)) -> Self {
        Self::Many(Some(Box::new(BTreeMap::from([first, second]))))
    }
}

impl Default for RangeSet {
    fn default() -> Self {
        Self { ranges: Ranges::Many(None) }
    }
}

impl RangeSet {
    /// The empty set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a range; an empty one changes nothing.
    pub fn insert(&mut self, range: ByteRange) {
        if range.is_empty() {
            return;
        }
        match &mut self.ranges {
            Ranges::Many(None) => self.ranges = Ranges::one(range.start, range.end),
            Ranges::One(start, end) => {
                let (start, end) = (*start, end.get());
                self.ranges = if range.start <= end && start <= range.end {
                    Ranges::one(start.min(range.start), end.max(range.end))
                } else {
                    Ranges::two((start, end), (range.start, range.end))
                };
            }
            Ranges::Many(Some(many)) => {
                insert(many, range);
                self.settle();
            }
        }
    }

    /// Takes a range out.
    pub fn remove(&mut self, range: ByteRange) {
        if range.is_empty() {
            return;
        }
        match &mut self.ranges {
            Ranges::Many(None) => {}
            Ranges::One(start, end) => {
                let (start, end) = (*start, end.get());
                if range.start < end && start < range.end {
                    self.ranges = match (start < range.start, range.end < end) {
                        (true, true) => Ranges::two((start, range.start), (range.end, end)),
                        (true, false) => Ranges::one(start, range.start),
                        (false, true) => Ranges::one(range.end, end),
                        (false, false) => Ranges::Many(None),
                    };
                }
            }
            Ranges::Many(Some(many)) => {
                remove(many, &range);
                self.settle();
            }
        }
    }

    fn settle(&mut self) {
        if let Ranges::Many(Some(many)) = &self.ranges
            && many.len() < 2
        {
            self.ranges = many.first_key_value().map_or(Ranges::Many(None), |(start, end)| Ranges::one(*start, *end));
        }
    }

    /// The ranges that begin within `starts`, in order.
    fn starting(&self, starts: ByteRange) -> impl DoubleEndedIterator<Item = (u64, u64)> + '_ {
        let (one, many) = match &self.ranges {
            Ranges::One(start, end) => (Some((*start, end.get())).filter(|_| starts.contains(start)), None),
            Ranges::Many(many) => (None, many.as_ref().map(|many| many.range(starts).map(|(start, end)| (*start, *end)))),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }

    /// The last range that begins at `at` or before.
    fn before(&self, at: u64) -> Option<(u64, u64)> {
        match &self.ranges {
            Ranges::One(start, end) => Some((*start, end.get())).filter(|_| *start <= at),
            Ranges::Many(many) => many.as_ref()?.range(..=at).next_back().map(|(start, end)| (*start, *end)),
        }
    }

    /// Whether every byte of `range` is in the set.
    #[must_use]
    pub fn contains(&self, range: ByteRange) -> bool {
        range.is_empty() || self.before(range.start).is_some_and(|(_, end)| end >= range.end)
    }

    /// Whether any byte of `range` is in the set.
    #[must_use]
    pub fn overlaps(&self, range: ByteRange) -> bool {
        self.within(range).next().is_some()
    }

    /// The parts of the set inside `range`, in order.
    pub fn within(&self, range: ByteRange) -> impl Iterator<Item = ByteRange> + '_ {
        let first = self.before(range.start).filter(|(_, end)| *end > range.start);
        let from = if range.is_empty() { range.end } else { range.start + 1 };
        let rest = self.starting(from..range.end.max(from));
        first.into_iter().chain(rest).map(move |(s, e)| s.max(range.start)..e.min(range.end)).filter(|part| part.start < part.end)
    }

    /// The parts of `range` that are not in the set, in order.
    #[must_use]
    pub fn gaps(&self, range: ByteRange) -> Vec<ByteRange> {
        let mut gaps = Vec::new();
        let mut at = range.start;
        for part in self.within(range.clone()) {
            if part.start > at {
                gaps.push(at..part.start);
            }
            at = part.end;
        }
        if at < range.end {
            gaps.push(at..range.end);
        }
        gaps
    }

    /// All ranges in order.
    pub fn iter(&self) -> impl Iterator<Item = ByteRange> + '_ {
        self.starting(0..u64::MAX).map(|(start, end)| start..end)
    }

    /// Bytes in the set.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.iter().map(|range| range.end - range.start).sum()
    }

    /// Whether the set is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        matches!(&self.ranges, Ranges::Many(None))
    }

    /// Number of ranges.
    #[must_use]
    pub fn count(&self) -> usize {
        match &self.ranges {
            Ranges::One(..) => 1,
            Ranges::Many(many) => many.as_ref().map_or(0, |many| many.len()),
        }
    }

    /// The end of the last range, if any.
    #[must_use]
    pub fn end(&self) -> Option<u64> {
        self.starting(0..u64::MAX).next_back().map(|(_, end)| end)
    }
}

fn insert(many: &mut BTreeMap<u64, u64>, range: ByteRange) {
    let (mut start, mut end) = (range.start, range.end);
    if let Some((&s, &e)) = many.range(..=start).next_back()
        && e >= start
    {
        if e >= end {
            return;
        }
        start = s;
    }
    while let Some((&s, &e)) = many.range(start..=end).next() {
        end = end.max(e);
        many.remove(&s);
    }
    many.insert(start, end);
}

fn remove(many: &mut BTreeMap<u64, u64>, range: &ByteRange) {
    if let Some((&s, &e)) = many.range(..range.start).next_back()
        && e > range.start
    {
        many.insert(s, range.start);
        if e > range.end {
            many.insert(range.end, e);
            return;
        }
    }
    while let Some((&s, &e)) = many.range(range.start..range.end).next() {
        many.remove(&s);
        if e > range.end {
            many.insert(range.end, e);
        }
    }
}

impl FromIterator<ByteRange> for RangeSet {
    fn from_iter<T: IntoIterator<Item = ByteRange>>(ranges: T) -> Self {
        let mut set = Self::new();
        for range in ranges {
            set.insert(range);
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_set_is_two_numbers_large() {
        assert_eq!(size_of::<RangeSet>(), 16);
    }

    proptest! {
        #[test]
        fn range_set_equals_a_set_of_bytes(ops in proptest::collection::vec((any::<bool>(), 0u64..64, 0u64..24), 1..60), probe in (0u64..64, 0u64..24)) {
            let mut set = RangeSet::new();
            let mut bytes = [false; 128];
            for (add, start, len) in ops {
                if add { set.insert(start..start + len) } else { set.remove(start..start + len) }
                bytes[start as usize..(start + len) as usize].fill(add);
            }
            let listed: Vec<u64> = set.iter().flatten().collect();
            let want: Vec<u64> = (0..128).filter(|i| bytes[*i as usize]).collect();
            prop_assert_eq!(&listed, &want);
            prop_assert_eq!(set.len() as usize, want.len());
            let range = probe.0..probe.0 + probe.1;
            prop_assert_eq!(set.contains(range.clone()), range.clone().all(|i| bytes[i as usize]));
            prop_assert_eq!(set.overlaps(range.clone()), range.clone().any(|i| bytes[i as usize]));
            let gaps: Vec<u64> = set.gaps(range.clone()).into_iter().flatten().collect();
            prop_assert_eq!(gaps, range.clone().filter(|i| !bytes[*i as usize]).collect::<Vec<_>>());
            let ends: Vec<_> = set.iter().collect();
            prop_assert!(ends.windows(2).all(|w| w[0].end < w[1].start));
            prop_assert_eq!(set.end(), ends.last().map(|range| range.end));
            prop_assert_eq!((set.count(), set.is_empty()), (ends.len(), ends.is_empty()));
            // The same bytes are the same set, whatever it was before.
            prop_assert_eq!(ends.into_iter().collect::<RangeSet>(), set);
        }
    }
}
