//! Data files that do not hold what they must: gone, shorter than their pages, or unreadable. A clean page that reads as another than was
//! written is noticed by a scrub alone (`scrub.rs`), which ends here as well; one that is in no commit has no checksum.
//!
//! A clean page is absent from then on, and is fetched again when somebody wants it. A page that is in no commit is *spoiled*: reading it
//! is EIO and so is fsync, until it is written anew or cut off; commits show it as it was committed before. `status` names it.

use super::Cache;
use super::effect::Effect;
use super::file::{Content, DataFile};
use super::pages::{clipped, floor, outward, without};
use super::put::ReadAt;
use super::slots::{self, Data};
use super::types::CacheError;
use crate::types::{ByteRange, Ino, PAGE, RangeSet};
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Ranges in one record.
const RANGES: usize = 1000;

/// What was found since the cache was opened.
#[derive(Debug, Default)]
pub(super) struct Spoils {
    dropped: AtomicU64,
    files: Mutex<BTreeSet<Ino>>,
}

/// Why bytes could not be read.
#[derive(Debug)]
pub(super) enum Unread {
    /// The data file ends before them.
    Short,
    /// The disk said so.
    Failed(std::io::Error),
}

/// Fills the buffer from a data file that must have the bytes.
pub(super) fn read_present(data: &Data, buffer: &mut [u8], offset: u64) -> Result<(), Unread> {
    let mut done = 0;
    while done < buffer.len() {
        match ReadAt::read_at(data, &mut buffer[done..], offset + done as u64) {
            Ok(0) => return Err(Unread::Short),
            Ok(n) => done += n,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Unread::Failed(error)),
        }
    }
    Ok(())
}

impl Content {
    /// The part of a range that cannot be read.
    pub(super) fn spoiled_in(&self, ino: Ino, range: &ByteRange) -> Result<(), CacheError> {
        match clipped(&self.spoiled, range.clone()).iter().next() {
            Some(part) => Err(CacheError::Spoiled { ino, start: part.start, end: part.end.min(self.size) }),
            None => Ok(()),
        }
    }

    /// Refuses a write that would leave a part of a spoiled page as it is.
    pub(super) fn spoiled_beside(&self, ino: Ino, range: &ByteRange) -> Result<(), CacheError> {
        let pages = outward(range);
        if !self.spoiled.overlaps(pages.clone()) {
            return Ok(());
        }
        for at in [pages.start, pages.end - PAGE] {
            let live = at..(at + PAGE).min(self.size);
            if live.start < range.start || live.end > range.end {
                self.spoiled_in(ino, &(at..at + PAGE))?;
            }
        }
        Ok(())
    }

    fn spoil(&mut self, pages: &RangeSet) {
        self.moves += 1;
        self.present.remove_all(pages);
        self.dirty.remove_all(pages);
        for range in pages.iter() {
            self.unsynced.remove(range.clone());
            self.stale.insert(range.clone());
            self.spoiled.insert(range);
        }
    }

    // Clean pages go, the others are spoiled; how many bytes of each.
    fn give_up(&mut self, pages: &RangeSet) -> (u64, u64) {
        let clean = without(pages, self.dirty.set());
        let dirty = without(pages, &clean);
        self.evict(&clean);
        if !dirty.is_empty() {
            self.spoil(&dirty);
        }
        (clean.len(), dirty.len())
    }
}

impl Cache {
    /// Bytes of clean pages that were dropped since the cache was opened, because its disk no longer had them as they were.
    #[must_use]
    pub fn dropped_bytes(&self) -> u64 {
        self.spoils.dropped.load(Ordering::Relaxed)
    }

    /// Bytes that were in no commit and are gone from the cache's disk, as far as they were met: their files, with the ranges.
    #[must_use]
    pub fn spoiled(&self) -> Vec<(Ino, Vec<ByteRange>)> {
        let files: Vec<Ino> = self.spoils.files.lock().iter().copied().collect();
        let ranges = |ino: Ino| -> Option<Vec<ByteRange>> {
            let file = self.hot_file(ino)?;
            let content = file.inner.lock();
            Some(clipped(&content.spoiled, 0..content.size).iter().collect())
        };
        let found: Vec<_> = files.into_iter().map(|ino| (ino, ranges(ino).unwrap_or_default())).collect();
        let (live, cured): (Vec<_>, Vec<_>) = found.into_iter().partition(|(_, ranges)| !ranges.is_empty());
        let mut files = self.spoils.files.lock();
        files.retain(|ino| !cured.iter().any(|(cured, _)| cured == ino));
        live
    }

    /// Says what was found, and remembers it.
    pub(super) fn tell_spoils(&self, ino: Ino, slot: Option<u64>, pages: &RangeSet, (clean, dirty): (u64, u64), why: &str) {
        self.spoils.dropped.fetch_add(clean, Ordering::Relaxed);
        let file = slot.map(slots::path_of).unwrap_or_default();
        let ranges: Vec<ByteRange> = pages.iter().take(10).collect();
        if clean > 0 {
            tracing::warn!(ino, file = %file.display(), ?ranges, bytes = clean, why, "cached bytes are not what was stored: they are fetched again");
        }
        if dirty > 0 {
            tracing::error!(ino, file = %file.display(), ?ranges, bytes = dirty, why, "bytes that are in no commit are gone from the cache's disk");
            self.spoils.files.lock().insert(ino);
        }
    }

    /// A file as it comes into memory: whether its data file reaches as far as its pages. Later a write may have made it longer.
    pub(super) fn check_length(&self, ino: Ino, content: &mut Content) -> Result<bool, CacheError> {
        if !content.spoiled.is_empty() {
            self.spoils.files.lock().insert(ino);
        }
        let (Some(slot), Some(last)) = (content.slot, content.present.set().iter().last()) else { return Ok(false) };
        let held = self.slots.held(slot, last.end)?;
        if held >= last.end {
            return Ok(false);
        }
        let lost = clipped(content.present.set(), floor(held)..last.end);
        let bytes = content.give_up(&lost);
        self.tell_spoils(ino, Some(slot), &lost, bytes, "the data file ends before them, or is not there");
        Ok(true)
    }

    /// A page that is present could not be read. Afterwards it is absent or spoiled, unless it is here after all.
    ///
    /// # Errors
    /// The disk's, about a page that is in no commit: it may be readable later.
    pub(super) fn unread(&self, file: &Arc<DataFile>, range: &ByteRange, why: Unread) -> Result<(), CacheError> {
        let _permit = self.admit(RANGES as u64 * 12)?;
        // As in an eviction.
        let _batch = self.batch.lock();
        let mut content = file.inner.lock();
        let Some(slot) = content.slot.filter(|_| !content.dead) else { return Ok(()) };
        let mut pages = clipped(content.present.set(), outward(range));
        if matches!(why, Unread::Short) {
            // All that lies behind the end, not only what was asked for.
            let end = content.present.set().iter().last().map_or(0, |last| last.end);
            let held = self.slots.held(slot, end)?;
            pages = clipped(content.present.set(), floor(held)..u64::MAX);
        }
        let mut busy = content.dirty.set().clone();
        content.frozen.iter().flat_map(|frozen| frozen.dirty.set().iter()).for_each(|range| busy.insert(range));
        let clean: RangeSet = without(&pages, &busy).iter().take(RANGES).collect();
        if !clean.is_empty() {
            self.log_content(file, &mut content, None, vec![Effect::Evicted { ino: file.ino, ranges: clean.clone() }]);
        }
        let dirty = without(&pages, &busy.gaps(0..u64::MAX).into_iter().collect());
        match why {
            Unread::Failed(error) if !dirty.is_empty() => return Err(CacheError::io("data file")(error)),
            Unread::Failed(_) => self.tell_spoils(file.ino, Some(slot), &clean, (clean.len(), 0), "the disk cannot read them"),
            Unread::Short => {
                content.spoil(&dirty);
                // What a seal has frozen of them is gone as well, and its commit must not have zeros in their place.
                self.tell_spoils(file.ino, Some(slot), &pages, (clean.len(), dirty.len()), "the data file ends before them");
                self.pend(file, &mut content);
                self.tell(file, &mut content);
            }
        }
        Ok(())
    }
}
