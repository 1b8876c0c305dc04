//! Byte ranges and sets of them.

use std::collections::BTreeMap;

/// `start <= x < end`. Empty when `start == end`; `start <= end` always.
pub type ByteRange = std::ops::Range<u64>;

/// A set of bytes as disjoint, non-touching, non-empty ranges in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RangeSet {
    // start -> end
    ranges: BTreeMap<u64, u64>,
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
        let (mut start, mut end) = (range.start, range.end);
        if let Some((&s, &e)) = self.ranges.range(..=start).next_back()
            && e >= start
        {
            if e >= end {
                return;
            }
            start = s;
        }
        while let Some((&s, &e)) = self.ranges.range(start..=end).next() {
            end = end.max(e);
            self.ranges.remove(&s);
        }
        self.ranges.insert(start, end);
    }

    /// Takes a range out.
    pub fn remove(&mut self, range: ByteRange) {
        if range.is_empty() {
            return;
        }
        if let Some((&s, &e)) = self.ranges.range(..range.start).next_back()
            && e > range.start
        {
            self.ranges.insert(s, range.start);
            if e > range.end {
                self.ranges.insert(range.end, e);
                return;
            }
        }
        while let Some((&s, &e)) = self.ranges.range(range.start..range.end).next() {
            self.ranges.remove(&s);
            if e > range.end {
                self.ranges.insert(range.end, e);
            }
        }
    }

    /// Whether every byte of `range` is in the set.
    #[must_use]
    pub fn contains(&self, range: ByteRange) -> bool {
        range.is_empty() || self.ranges.range(..=range.start).next_back().is_some_and(|(_, &e)| e >= range.end)
    }

    /// Whether any byte of `range` is in the set.
    #[must_use]
    pub fn overlaps(&self, range: ByteRange) -> bool {
        self.within(range).next().is_some()
    }

    /// The parts of the set inside `range`, in order.
    pub fn within(&self, range: ByteRange) -> impl Iterator<Item = ByteRange> + '_ {
        let first = self.ranges.range(..=range.start).next_back().filter(|(_, e)| **e > range.start).map(|(s, e)| (*s, *e));
        let from = if range.is_empty() { range.end } else { range.start + 1 };
        let rest = self.ranges.range(from..range.end.max(from)).map(|(s, e)| (*s, *e));
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
        self.ranges.iter().map(|(s, e)| *s..*e)
    }

    /// Bytes in the set.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.ranges.iter().map(|(s, e)| e - s).sum()
    }

    /// Whether the set is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Number of ranges.
    #[must_use]
    pub fn count(&self) -> usize {
        self.ranges.len()
    }

    /// The end of the last range, if any.
    #[must_use]
    pub fn end(&self) -> Option<u64> {
        self.ranges.last_key_value().map(|(_, e)| *e)
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
        }
    }
}
