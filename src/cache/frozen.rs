//! What a file has frozen for a seal: its pages at the flip, while the application goes on to change them.

use super::file::Content;
use super::pages::{Pages, ceil, clipped, floor, without};
use super::types::LocalExtent;
use crate::types::{ByteRange, RangeSet};
use std::collections::BTreeMap;
use std::fs::File;
use std::sync::Arc;

/// What the kernel is known to have sent of a file's bytes at a flip.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sent {
    /// All: nobody has it open for writing.
    All,
    /// All that it had up to this size, before the flip.
    Upto(u64),
    /// Nobody asked.
    Unknown,
}

/// What a file has frozen for a seal.
#[derive(Debug, Default)]
pub(super) struct Frozen {
    pub(super) size: u64,
    /// Pages to be stored, as they were.
    pub(super) dirty: Pages,
    /// Those of them that were overwritten since: their old content is in the shadow file.
    pub(super) copied: RangeSet,
    pub(super) cleared: RangeSet,
    pub(super) shared: RangeSet,
    pub(super) shared_extents: Vec<LocalExtent>,
    pub(super) resized: bool,
    /// The seal's shadow file, once something of this file is in it.
    pub(super) shadow: Option<Arc<File>>,
    /// Where in it: runs of `copied`, by their start, with their end and their place.
    pub(super) places: BTreeMap<u64, (u64, u64)>,
}

impl Frozen {
    /// A run was copied to a place in the shadow file.
    pub(super) fn copy(&mut self, run: ByteRange, place: u64) {
        self.copied.insert(run.clone());
        if let Some((start, (end, before))) = self.places.range_mut(..run.start).next_back()
            && *end == run.start
            && *before + (*end - *start) == place
        {
            *end = run.end;
        } else {
            self.places.insert(run.start, (run.end, place));
        }
    }

    /// The copied parts of `range`, each with its place in the shadow file.
    pub(super) fn copies(&self, range: &ByteRange) -> Vec<(ByteRange, u64)> {
        let first = self.places.range(..=range.start).next_back().map_or(range.start, |(start, _)| *start);
        let runs = self.places.range(first..range.end.max(first));
        let clip = runs.map(|(start, (end, place))| {
            let from = (*start).max(range.start);
            (from..(*end).min(range.end), place + (from - start))
        });
        clip.filter(|(part, _)| part.start < part.end).collect()
    }
}

impl Content {
    /// Freezes what changed. Tells whether bytes stay behind a gap that only the kernel can say is one: however long it is not
    /// asked, no commit takes them (I11), and their age is told.
    pub(super) fn freeze(&mut self, seal: u64, sent: Sent) -> bool {
        let size = self.captured_size(sent);
        let dirty = clipped(self.dirty.set(), 0..ceil(size));
        let rest = if size < self.size { clipped(self.dirty.set(), floor(size)..u64::MAX) } else { RangeSet::new() };
        // What was shared above the captured size is of a later commit, as what was written there.
        let later = if size < self.size { clipped(&self.shared, floor(size)..u64::MAX) } else { RangeSet::new() };
        let shared = std::mem::replace(&mut self.shared, later);
        let mut shared_extents: Vec<LocalExtent> = shared.iter().flat_map(|r| self.extents.within(r).collect::<Vec<_>>()).collect();
        shared_extents.retain_mut(|e| e.clip(&(0..size)).inspect(|clip| *e = *clip).is_some());
        self.dirty = rest.into();
        self.frozen = Some(Box::new(Frozen {
            size,
            dirty: dirty.into(),
            copied: RangeSet::new(),
            cleared: std::mem::take(&mut self.cleared),
            shared,
            shared_extents,
            resized: self.resized,
            shadow: None,
            places: BTreeMap::new(),
        }));
        self.resized = size < self.size;
        self.frozen_for = seal;
        self.settled = size;
        self.appended.remove(0..size);
        sent == Sent::Unknown && size < self.size
    }

    /// Protocol 6.2: an append-only file is a prefix of its writes in every commit.
    pub(super) fn captured_size(&self, sent: Sent) -> u64 {
        let kernel = match sent {
            Sent::All => return self.size,
            Sent::Upto(size) => size,
            Sent::Unknown => 0,
        };
        let base = kernel.max(self.synced_size).max(self.settled);
        if base >= self.size {
            return self.size;
        }
        // The run of written bytes that begins at or before `base`.
        let run = self.appended.within(base.saturating_sub(1)..u64::MAX).next();
        run.filter(|run| run.start <= base).map_or(base, |run| run.end.max(base)).min(self.size)
    }

    /// Undoes a freeze: what was frozen is changed, together with what changed since. Returns the shadow's pages to the disk.
    pub(super) fn thaw(&mut self) {
        let Some(frozen) = self.frozen.take() else { return };
        // What was punched or cut since the freeze is gone, and said so by `cleared`.
        // What took its place by reference is not that, though it may be here by now.
        let live = without(&clipped(self.present.set(), 0..ceil(self.size)), &self.shared);
        for range in frozen.dirty.set().iter() {
            for part in live.within(range) {
                self.dirty.insert(part);
            }
        }
        for range in frozen.cleared.iter() {
            self.cleared.insert(range);
        }
        for range in frozen.shared.iter() {
            for gap in self.dirty.set().gaps(range) {
                self.shared.insert(gap);
            }
        }
        self.resized |= frozen.resized;
    }
}
