//! The state of one regular file's content: which pages are here, which are in no commit, which are frozen for a seal.
//!
//! A page is *present* (the data file holds its truth, clean or dirty), *absent* (an extent covers it and the data file does not
//! count) or a *hole* (neither: zeros). What the data file holds elsewhere, and above the size, has no meaning: holes are never read
//! from it, and whoever grows the size writes the zeros between. So a truncate or punch needs no I/O to be true, and the space is
//! given back later, when the record that freed it is durable.

use super::codec::{Reader, Writer};
use super::db::FileRow;
use super::effect::Effect;
use super::frozen::Frozen;
use super::pages::{Extents, Pages, ceil, clipped, common, floor, inward, outward, without};
use super::types::LocalExtent;
use crate::types::{ByteRange, Ino, PAGE, RangeSet};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A file, hot.
#[derive(Debug)]
pub(super) struct DataFile {
    pub(super) ino: Ino,
    pub(super) inner: Arc<Mutex<Content>>,
    /// Serializes flushes of the data file; taken before `inner`.
    pub(super) flushing: Mutex<()>,
    /// `Content::size`, readable without the lock.
    pub(super) size: AtomicU64,
}

/// Bytes of one file as the cache's totals know them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) present: u64,
    pub(super) dirty: u64,
    pub(super) local: u64,
    pub(super) size: u64,
}

/// See the module's head.
#[derive(Debug, Default)]
pub(super) struct Content {
    pub(super) size: u64,
    pub(super) slot: Option<u64>,
    /// Given to it, and said by no record yet: the operation that asked for it failed.
    pub(super) spare: Option<u64>,
    /// Slots that it moved out of, and that `meta.db` gives it still.
    pub(super) left: Vec<u64>,
    pub(super) present: Pages,
    pub(super) dirty: Pages,
    /// Bytes that became holes since the last commit.
    pub(super) cleared: RangeSet,
    /// Ranges whose extents no commit of this file has named.
    pub(super) shared: RangeSet,
    /// The size changed since the last commit.
    pub(super) resized: bool,
    pub(super) extents: Extents,
    /// Clean pages of an earlier boot that ended without order: to be checked against their extent before use.
    pub(super) suspect: RangeSet,
    /// The unclean boots counted when its clean pages were last known to be good.
    pub(super) boots: u64,

    /// Dirty pages not flushed since they were written.
    pub(super) unsynced: RangeSet,
    /// Those that a flush under way will cover, by its number: not durable before it ends.
    pub(super) syncing: Vec<(u64, RangeSet)>,
    /// Pages of the data file, also clean ones and those that the log has, not flushed since they were written there.
    pub(super) unflushed: RangeSet,
    /// Those that a batch's flush under way will cover, by its number.
    pub(super) flushing: Vec<(u64, RangeSet)>,
    /// No fsync has logged the size since it changed.
    pub(super) size_unsynced: bool,
    /// The size of the last FSYNC.
    pub(super) synced_size: u64,
    /// No seal will cut the file below this.
    pub(super) settled: u64,
    /// Bytes written above `settled`: for the prefix rule.
    pub(super) appended: RangeSet,
    /// Pages of the data file that hold space and no truth.
    pub(super) stale: RangeSet,
    /// Pages that were in no commit, and whose bytes are gone.
    pub(super) spoiled: RangeSet,
    pub(super) frozen: Option<Box<Frozen>>,
    /// The seal that froze it last.
    pub(super) frozen_for: u64,
    /// The epoch in which it was last put on the list of changed files.
    pub(super) listed: u64,
    /// Bytes that the cache's disk refused, or lost.
    pub(super) error: Option<(i32, RangeSet)>,
    /// Pages of a flush that failed: to be written once more before the next one.
    pub(super) redo: RangeSet,
    /// The newest record applied to it.
    pub(super) lsn: u64,
    /// It is on the list of files to be encoded at the next batch.
    pub(super) pending: bool,
    /// Counts what takes truth away from present pages: a read without the lock looks whether it stayed the same.
    pub(super) moves: u64,
    /// Its inode is gone.
    pub(super) dead: bool,
    /// Classified as in no tier that is captured.
    pub(super) local: bool,
    /// Its inode has no name: no commit takes it.
    pub(super) unnamed: bool,
    pub(super) used: i64,
    pub(super) told: Told,

    /// Recovery after a loss of power only: pages dirtied by writes that nothing has flushed.
    pub(super) unproven: RangeSet,
    /// Recovery only: the size that is proven.
    pub(super) proven_size: u64,
}

impl DataFile {
    pub(super) fn new(ino: Ino, content: Content) -> Self {
        Self { ino, size: AtomicU64::new(content.size), inner: Arc::new(Mutex::new(content)), flushing: Mutex::new(()) }
    }

    pub(super) fn size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    pub(super) fn show_size(&self, content: &Content) {
        self.size.store(content.size, Ordering::Release);
    }
}

impl Content {
    /// Dirty pages that are not durable.
    pub(super) fn volatile(&self) -> RangeSet {
        let all: RangeSet = self.unsynced.iter().chain(self.syncing.iter().flat_map(|(_, set)| set.iter())).collect();
        common(self.present.set(), &all)
    }

    /// A flush ended: what it covers is durable, or not after all.
    pub(super) fn synced(&mut self, flush: u64, done: bool) {
        for (under_way, not_yet) in [(&mut self.syncing, &mut self.unsynced), (&mut self.flushing, &mut self.unflushed)] {
            if let Some(at) = under_way.iter().position(|(number, _)| *number == flush) {
                let (_, set) = under_way.swap_remove(at);
                if !done {
                    set.iter().for_each(|range| not_yet.insert(range));
                }
            }
        }
    }

    /// A flush failed. The kernel may count the pages as clean from here on, and a later flush succeed without them: the next flush
    /// writes first what the page cache still has of them, those too that the log has as yet, and fsync reports what nothing else has
    /// until it is written anew.
    pub(super) fn flush_failed(&mut self, errno: i32) {
        for range in self.unflushed.iter().chain(self.flushing.iter().flat_map(|(_, set)| set.iter())) {
            self.redo.insert(range);
        }
        let lost = self.volatile();
        if lost.is_empty() {
            return;
        }
        let error = self.error.get_or_insert((errno, RangeSet::new()));
        error.0 = errno;
        lost.iter().for_each(|range| error.1.insert(range));
    }

    /// What was lost of these pages does not matter any more.
    pub(super) fn replaced(&mut self, pages: ByteRange) {
        if let Some((_, lost)) = &mut self.error {
            lost.remove(pages);
            if lost.is_empty() {
                self.error = None;
            }
        }
    }

    /// Whether it holds what `meta.db` does not.
    pub(super) fn stays(&self) -> bool {
        // Frozen and not changed since: what `meta.db` has freezes to the same.
        let frozen = self.frozen.is_some() && self.is_changed();
        self.pending
            || !self.redo.is_empty()
            || frozen
            || self.error.is_some()
            || !self.spoiled.is_empty()
            || self.spare.is_some()
            || self.local
            || self.unnamed
    }

    /// Whether anything of it is in no commit and in no seal.
    pub(super) fn is_changed(&self) -> bool {
        self.resized || !self.dirty.is_empty() || !self.cleared.is_empty() || !self.shared.is_empty()
    }

    /// Parts of `range` that are committed and not here, as whole pages.
    pub(super) fn absent(&self, range: ByteRange) -> Vec<ByteRange> {
        let pages = outward(&range);
        let mut absent = RangeSet::new();
        for gap in self.present.set().gaps(pages) {
            for extent in self.extents.within(gap) {
                absent.insert(outward(&extent.range()));
            }
        }
        absent.iter().collect()
    }

    /// Pages that a write of `range` leaves in part as they were, and that must therefore be here first.
    pub(super) fn needed(&self, range: &ByteRange) -> Vec<ByteRange> {
        let mut edges = Vec::new();
        for (at, partial) in [(floor(range.start), !range.start.is_multiple_of(PAGE)), (floor(range.end), !range.end.is_multiple_of(PAGE))]
        {
            let page = at..at + PAGE;
            if !partial || self.present.set().contains(page.clone()) || edges.contains(&page) {
                continue;
            }
            if self.extents.within(page.clone()).any(|e| e.offset < range.start || e.range().end > range.end) {
                edges.push(page);
            }
        }
        edges
    }

    /// Bytes of the tail page that must become zeros when the size grows to `size`.
    pub(super) fn gap(&self, size: u64) -> ByteRange {
        let end = ceil(self.size).min(size);
        let page = floor(self.size)..ceil(self.size);
        if end > self.size && self.present.set().contains(page) { self.size..end } else { self.size..self.size }
    }

    pub(super) fn dirtied(&mut self, pages: ByteRange) {
        self.dirty.insert(pages.clone());
        self.suspect.remove(pages.clone());
        self.spoiled.remove(pages.clone());
        self.shared.remove(pages);
    }

    /// `range` was written.
    fn wrote(&mut self, range: &ByteRange) {
        self.filled(range);
        if range.end > self.size {
            self.size = range.end;
            self.resized = true;
            self.size_unsynced = true;
        }
        self.appended.insert(range.start.max(self.settled)..range.end.max(self.settled));
    }

    fn filled(&mut self, range: &ByteRange) {
        let pages = outward(range);
        self.present.insert(pages.clone());
        self.dirtied(pages.clone());
        self.unsynced.insert(pages.clone());
        self.stale.remove(pages.clone());
        self.unflushed.insert(pages);
    }

    // Its first place, or one that it was copied to.
    fn take_slot(&mut self, slot: u64) {
        if let Some(old) = self.slot.replace(slot).filter(|old| *old != slot) {
            self.left.push(old);
            self.moves += 1;
            self.stale = RangeSet::new();
            self.all_unflushed();
        }
        self.spare = None;
    }

    /// Nothing is known of a flush of the place where its bytes are: what is read from there, frozen pages too.
    pub(super) fn all_unflushed(&mut self) {
        let frozen = self.frozen.as_ref().map(|frozen| frozen.dirty.set().iter().collect::<Vec<_>>()).unwrap_or_default();
        self.unflushed = self.present.set().iter().chain(frozen).collect();
    }

    /// Carries out what a record says of the content.
    pub(super) fn apply(&mut self, effect: &Effect) {
        match effect {
            Effect::Slot { slot, .. } => self.take_slot(*slot),
            Effect::Dirtied { range, .. } => {
                // In a replay the page may be absent: it had been evicted and fetched again, which no record says. Then it is as it was
                // committed, and is fetched once more; dirty, its place in the data file would be committed, which may be given back.
                for held in clipped(self.present.set(), range.clone()).iter() {
                    self.dirtied(held.clone());
                    self.unflushed.insert(held.clone());
                    self.unsynced.insert(held);
                }
            }
            Effect::Wrote { range, .. } => self.wrote(range),
            Effect::Zeroed { range, .. } => self.filled(range),
            Effect::Size { size, .. } => self.resize(*size),
            Effect::Punched { range, .. } => self.punch(range.clone()),
            Effect::Evicted { ranges, .. } => self.evict(ranges),
            Effect::Shared { size, extents, .. } => self.share(extents, *size),
            _ => {}
        }
    }

    /// Whole pages lose their content.
    pub(super) fn punch(&mut self, pages: ByteRange) {
        let held = clipped(self.present.set(), pages.clone());
        for part in held.iter() {
            self.stale.insert(part);
        }
        self.moves += 1;
        self.present.remove(pages.clone());
        self.dirty.remove(pages.clone());
        self.shared.remove(pages.clone());
        self.suspect.remove(pages.clone());
        self.unsynced.remove(pages.clone());
        self.unproven.remove(pages.clone());
        self.spoiled.remove(pages.clone());
        self.extents.clear(pages.clone());
        self.cleared.insert(pages.clone());
        self.replaced(pages);
    }

    /// Cuts or extends. Zeros of the gap are written by the caller before.
    pub(super) fn resize(&mut self, size: u64) {
        if size < self.size {
            let above = ceil(size)..ceil(self.size).max(ceil(size));
            self.punch(above);
            self.extents.clear(size..u64::MAX);
            self.cleared.insert(size..self.size);
            self.appended.remove(size..u64::MAX);
            self.synced_size = self.synced_size.min(size);
            self.settled = self.settled.min(size);
            self.proven_size = self.proven_size.min(size);
        } else {
            self.proven_size = size;
        }
        // A write that failed above the end never grew the file: who cuts it there has given those bytes up.
        self.replaced(ceil(size)..u64::MAX);
        self.resized |= self.size != size;
        self.size_unsynced |= self.size != size;
        self.size = size;
    }

    /// Clean pages leave.
    pub(super) fn evict(&mut self, ranges: &RangeSet) {
        self.moves += 1;
        self.present.remove_all(ranges);
        for range in ranges.iter() {
            self.suspect.remove(range.clone());
            self.stale.insert(range);
        }
    }

    /// Stored extents of another file stand here now.
    pub(super) fn share(&mut self, extents: &[LocalExtent], size: u64) {
        for extent in extents {
            let pages = outward(&extent.range());
            self.punch(pages.clone());
            self.extents.put(*extent);
            self.shared.insert(pages);
            let range = extent.range();
            self.appended.insert(range.start.max(self.settled)..range.end.max(self.settled));
        }
        if size > self.size {
            self.size = size;
            self.proven_size = size;
            self.resized = true;
            self.size_unsynced = true;
        }
    }

    /// Clean committed pages: what may be dropped.
    pub(super) fn evictable(&self) -> RangeSet {
        let clean = without(self.present.set(), self.dirty.set());
        match &self.frozen {
            Some(frozen) => without(&clean, frozen.dirty.set()),
            None => clean,
        }
        .iter()
        .flat_map(|range| self.extents.within(range).map(|e| inward(&(e.offset..ceil(e.range().end)))).collect::<Vec<_>>())
        .collect()
    }

    /// What of the data file may be given back.
    pub(super) fn reclaimable(&self) -> RangeSet {
        match &self.frozen {
            Some(frozen) => without(&self.stale, &without(frozen.dirty.set(), &frozen.copied)),
            None => self.stale.clone(),
        }
    }

    /// The row for `meta.db`: a frozen change is a change, since a seal does not outlive the process.
    pub(super) fn encode(&self) -> FileRow {
        let mut dirty = self.dirty.set().clone();
        let mut cleared = self.cleared.clone();
        let mut shared = self.shared.clone();
        let mut resized = self.resized;
        if let Some(frozen) = &self.frozen {
            // As by `thaw`.
            common(&without(self.present.set(), &self.shared), frozen.dirty.set()).iter().for_each(|part| dirty.insert(part));
            frozen.cleared.iter().for_each(|range| cleared.insert(range));
            for range in frozen.shared.iter() {
                dirty.gaps(range).into_iter().for_each(|gap| shared.insert(gap));
            }
            resized |= frozen.resized;
        }
        let mut w = Writer::default();
        w.u64(u64::from(resized));
        for set in [self.present.set(), &dirty, &cleared, &shared, &self.stale] {
            w.ranges(set);
        }
        // Mostly there is neither; a version that does not know them reads past them.
        let settled = self.settled.max(self.synced_size);
        if !self.spoiled.is_empty() || settled < self.size {
            w.ranges(&self.spoiled);
        }
        if settled < self.size {
            w.u64(settled);
            // By bytes: a page that came in part has no more than that.
            w.ranges(&self.appended);
        }
        let changed = resized || !dirty.is_empty() || !cleared.is_empty() || !shared.is_empty();
        FileRow {
            slot: self.slot,
            lsn: self.lsn,
            boots: self.boots,
            changed,
            used: self.used,
            present: self.present.bytes(),
            dirty: dirty.len(),
            pages: w.0,
        }
    }

    /// From its row; `boots`: the unclean boots so far.
    pub(super) fn decode(row: &FileRow, size: u64, extents: Vec<LocalExtent>, boots: u64) -> Option<Self> {
        let mut r = Reader(&row.pages);
        let resized = r.u64()? != 0;
        let (present, dirty, cleared, shared, stale) = (r.ranges()?, r.ranges()?, r.ranges()?, r.ranges()?, r.ranges()?);
        let spoiled = r.ranges().unwrap_or_default();
        let settled = r.u64().unwrap_or(size).min(size);
        let appended = r.ranges().unwrap_or_default();
        let suspect = if row.boots < boots { without(&present, &dirty) } else { RangeSet::new() };
        let boots = if suspect.is_empty() { boots } else { row.boots };
        let told = Told { present: present.len(), dirty: dirty.len(), local: 0, size };
        Some(Self {
            size,
            slot: row.slot,
            unsynced: RangeSet::new(),
            present: present.into(),
            dirty: dirty.into(),
            cleared,
            shared,
            stale,
            spoiled,
            resized,
            suspect,
            boots,
            told,
            extents: Extents::from_rows(extents),
            synced_size: settled,
            settled,
            appended,
            lsn: row.lsn,
            used: row.used,
            proven_size: size,
            ..Self::default()
        })
    }
}
