//! Clean pages compared with the checksum of their extent, where all of its frame is here and clean. Of the rest of a frame that was cut,
//! or overwritten in part, the checksum says nothing: such bytes are counted.
//!
//! Beside writers: nothing is locked while bytes are read. A clean page changes only after it was marked dirty under its file's lock, so
//! what differs is looked at once more under that lock, with the extent that stands there then. What differs then is dropped like an
//! evicted page (protocol.md 7.4), and fetched again by whoever wants it.

use super::effect::Effect;
use super::file::{Content, DataFile};
use super::pages::{clipped, outward, without};
use super::spoiled::read_present;
use super::types::{CacheError, LocalExtent, Scrubbed};
use super::{Cache, length};
use crate::types::{ByteRange, Ino, RangeSet};
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_64;

/// Room in the log for one record of what is dropped.
const ROOM: u64 = 256;
/// Extents looked at in one step, also those that are not here.
const EXTENTS: usize = 1024;
const WHY: &str = "they are not what the checksum says";

impl Content {
    /// Pages whose truth is an extent: neither dirty nor frozen.
    fn clean(&self, pages: ByteRange) -> RangeSet {
        let clean = without(&clipped(self.present.set(), pages), self.dirty.set());
        match &self.frozen {
            Some(frozen) => without(&clean, frozen.dirty.set()),
            None => clean,
        }
    }

    /// Whether all of an extent's frame is here and clean.
    pub(super) fn is_compared(&self, extent: &LocalExtent) -> bool {
        extent.skip == 0 && extent.length == u64::from(extent.plain_length) && self.is_clean(extent)
    }

    fn is_clean(&self, extent: &LocalExtent) -> bool {
        let pages = outward(&extent.range());
        self.clean(pages.clone()).len() == length(&pages)
    }

    /// Whether this very extent stands there.
    fn has(&self, extent: &LocalExtent) -> bool {
        self.extents.over(extent.range()).next() == Some(extent)
    }

    /// The extents from `from` on, until `most` bytes of them; and where the next ones begin.
    fn step(&self, from: u64, most: u64) -> (Vec<LocalExtent>, Option<u64>) {
        let (mut step, mut bytes) = (Vec::new(), 0);
        for extent in self.extents.over(from..self.size) {
            if bytes >= most || step.len() == EXTENTS {
                return (step, Some(extent.offset));
            }
            bytes += extent.length;
            step.push(*extent);
        }
        (step, None)
    }
}

impl Cache {
    /// Of the next up to `limit` files after an inode number, in its order, those that have clean pages here; `after` moves on, and is
    /// `None` at the end.
    ///
    /// # Errors
    /// When meta.db fails.
    pub fn clean_files(&self, after: &mut Option<Ino>, limit: usize) -> Result<Vec<Ino>, CacheError> {
        let Some(from) = *after else { return Ok(Vec::new()) };
        if from == 0 {
            // What was fetched or committed just now is in memory alone.
            self.apply_batch()?;
        }
        let meta = self.meta.lock();
        let sql = format!("SELECT ino,present>dirty FROM files WHERE ino>?1 ORDER BY ino LIMIT {limit}");
        let mut statement = meta.db.prepare_cached(&sql)?;
        let rows = statement.query_map([from as i64], |row| Ok((row.get::<_, i64>(0)? as u64, row.get::<_, bool>(1)?)))?;
        let rows: Vec<(Ino, bool)> = rows.collect::<Result<_, _>>()?;
        *after = rows.last().map(|(ino, _)| *ino);
        Ok(rows.into_iter().filter(|(_, clean)| *clean).map(|(ino, _)| ino).collect())
    }

    /// Compares a file's clean pages from `from` on with their extents, until about `most` bytes were read; drops what differs.
    ///
    /// # Errors
    /// `NoInode`; else when the cache's disk fails in another way than not to give the bytes.
    pub fn scrub(&self, ino: Ino, from: u64, most: u64) -> Result<Scrubbed, CacheError> {
        let file = self.file(ino)?;
        let (mut done, mut whole) = (Scrubbed::default(), Vec::new());
        let slot = {
            let mut content = file.inner.lock();
            let (step, next) = content.step(from, most);
            done.next = next;
            for extent in step {
                // After a loss of power: what is not what was stored is absent from here on, and was never shown.
                self.verify(&mut content, &extent.range())?;
                if content.is_compared(&extent) {
                    whole.push(extent);
                } else {
                    done.uncompared += content.clean(outward(&extent.range())).len().min(extent.length);
                }
            }
            content.slot
        };
        let Some(slot) = slot else { return Ok(done) };
        for extent in whole {
            done.checked += extent.length;
            if !self.is_good(slot, &extent)? && self.drop_unless_good(&file, &extent)? {
                done.dropped.push(extent.range());
            }
        }
        Ok(done)
    }

    fn is_good(&self, slot: u64, extent: &LocalExtent) -> Result<bool, CacheError> {
        let mut bytes = vec![0; extent.length as usize];
        let data = self.slots.file(slot)?;
        Ok(read_present(&data, &mut bytes, extent.offset).is_ok() && xxh3_64(&bytes) == extent.checksum)
    }

    // Under the lock: clean pages of an extent go unless they are good. False: they are, or something else stands there by now.
    fn drop_unless_good(&self, file: &Arc<DataFile>, extent: &LocalExtent) -> Result<bool, CacheError> {
        let _permit = self.admit(ROOM)?;
        // As in an eviction.
        let batch = self.batch.lock();
        let mut content = file.inner.lock();
        let stands = !batch.closed && !content.dead && content.has(extent) && content.is_compared(extent);
        let Some(slot) = content.slot.filter(|_| stands) else { return Ok(false) };
        if self.is_good(slot, extent)? {
            return Ok(false);
        }
        let pages: RangeSet = [outward(&extent.range())].into_iter().collect();
        self.log_content(file, &mut content, None, vec![Effect::Evicted { ino: file.ino, ranges: pages.clone() }]);
        self.tell_spoils(file.ino, Some(slot), &pages, (pages.len(), 0), WHY);
        Ok(true)
    }
}
