//! Sets of pages with their bytes counted, and a file's stored extents.

use super::types::LocalExtent;
use crate::types::{ByteRange, PAGE, RangeSet};
use std::collections::BTreeMap;

pub(super) fn floor(at: u64) -> u64 {
    at & !(PAGE - 1)
}

pub(super) fn ceil(at: u64) -> u64 {
    floor(at.saturating_add(PAGE - 1))
}

/// The whole pages that `range` touches.
pub(super) fn outward(range: &ByteRange) -> ByteRange {
    if range.is_empty() { range.start..range.start } else { floor(range.start)..ceil(range.end) }
}

/// The whole pages inside `range`.
pub(super) fn inward(range: &ByteRange) -> ByteRange {
    let (start, end) = (ceil(range.start), floor(range.end));
    start..end.max(start)
}

/// A set of ranges that knows its bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Pages {
    set: RangeSet,
    bytes: u64,
}

impl Pages {
    pub(super) fn set(&self) -> &RangeSet {
        &self.set
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    pub(super) fn insert(&mut self, range: ByteRange) {
        if range.is_empty() {
            return;
        }
        let held: u64 = self.set.within(range.clone()).map(|part| part.end - part.start).sum();
        self.bytes += range.end - range.start - held;
        self.set.insert(range);
    }

    pub(super) fn remove(&mut self, range: ByteRange) {
        let held: u64 = self.set.within(range.clone()).map(|part| part.end - part.start).sum();
        if held > 0 {
            self.bytes -= held;
            self.set.remove(range);
        }
    }

    pub(super) fn remove_all(&mut self, other: &RangeSet) {
        for range in other.iter() {
            self.remove(range);
        }
    }
}

impl From<RangeSet> for Pages {
    fn from(set: RangeSet) -> Self {
        let bytes = set.len();
        Self { set, bytes }
    }
}

/// The parts of `set` inside `range`, as a set.
pub(super) fn clipped(set: &RangeSet, range: ByteRange) -> RangeSet {
    set.within(range).collect()
}

/// What both sets have.
pub(super) fn common(set: &RangeSet, other: &RangeSet) -> RangeSet {
    other.iter().flat_map(|range| set.within(range)).collect()
}

/// `set` without `other`.
pub(super) fn without(set: &RangeSet, other: &RangeSet) -> RangeSet {
    set.iter().flat_map(|range| other.gaps(range)).collect()
}

/// A file's stored extents by offset, not overlapping, each beginning at a page: no page has bytes of two.
#[derive(Debug, Clone, Default)]
pub(super) struct Extents {
    // Boxed: a node of the tree has room for eleven, and most files have one.
    map: BTreeMap<u64, Box<LocalExtent>>,
    /// Offsets whose rows in `meta.db` are out of date.
    pub(super) touched: RangeSet,
}

impl Extents {
    pub(super) fn from_rows(rows: Vec<LocalExtent>) -> Self {
        Self { map: rows.into_iter().map(|e| (e.offset, Box::new(e))).collect(), touched: RangeSet::new() }
    }

    /// The extents that overlap `range`, whole.
    pub(super) fn over(&self, range: ByteRange) -> impl Iterator<Item = &LocalExtent> + '_ {
        let first = self.map.range(..=range.start).next_back().map(|(_, e)| &**e).filter(|e| e.range().end > range.start);
        let from = range.start.saturating_add(1).min(range.end);
        first.filter(|_| !range.is_empty()).into_iter().chain(self.map.range(from..range.end).map(|(_, e)| &**e))
    }

    /// The parts of extents inside `range`.
    pub(super) fn within(&self, range: ByteRange) -> impl Iterator<Item = LocalExtent> + '_ {
        self.over(range.clone()).filter_map(move |e| e.clip(&range))
    }

    /// Takes the stored bytes of `range` away.
    pub(super) fn clear(&mut self, range: ByteRange) {
        let hit: Vec<LocalExtent> = self.over(range.clone()).copied().collect();
        for e in hit {
            self.map.remove(&e.offset);
            self.touched.insert(e.offset..e.offset + 1);
            if let Some(before) = e.clip(&(0..range.start)) {
                self.map.insert(before.offset, Box::new(before));
            }
            if let Some(after) = e.clip(&(range.end..u64::MAX)) {
                self.map.insert(after.offset, Box::new(after));
                self.touched.insert(after.offset..after.offset + 1);
            }
        }
    }

    /// Puts an extent over what it overlaps.
    pub(super) fn put(&mut self, extent: LocalExtent) {
        // The rest of its last page is zeros: nothing of an older extent may show there.
        self.clear(outward(&extent.range()));
        self.touched.insert(extent.offset..extent.offset + 1);
        self.map.insert(extent.offset, Box::new(extent));
    }

    /// Those that begin inside `range`.
    pub(super) fn starting_in(&self, range: ByteRange) -> impl Iterator<Item = &LocalExtent> + '_ {
        self.map.range(range).map(|(_, e)| &**e)
    }
}
