//! Durability on request (protocol.md 7.2): one flush of the log for a little data, together with everybody else who waits; a flush
//! of the data file first for more.

use super::disk::Synced;
use super::effect::Effect;
use super::file::DataFile;
use super::put::read_zeros_after_end;
use super::slots;
use super::types::CacheError;
use super::{Cache, length};
use crate::types::{Ino, RangeSet};

/// Up to so many bytes go into the log.
const LOGGED_MAX: u64 = 128 << 10;
// Ranges in one record.
const RANGES: usize = 1000;

impl Cache {
    /// Makes a file's content, size and everything logged so far survive the loss of power.
    ///
    /// # Errors
    /// `WriteLost` while bytes of a failed write are missing; else when the cache's disk fails.
    pub fn fsync(&self, ino: Ino, datasync: bool) -> Result<(), CacheError> {
        // The attributes are in the log, which is flushed in any case.
        let _ = datasync;
        let limit = LOGGED_MAX.min(self.ring.payload_max() / 2);
        let permit = self.admit(limit + 4096)?;
        let file = match self.file(ino) {
            Ok(file) => file,
            Err(CacheError::NoInode(_)) => return self.fsyncdir(ino),
            Err(error) => return Err(error),
        };
        let mut content = file.inner.lock();
        if let Some((errno, _)) = content.error {
            return Err(CacheError::WriteLost { ino, errno });
        }
        content.spoiled_in(ino, &(0..u64::MAX))?;
        let volatile = content.volatile();
        let size = content.size;
        if volatile.is_empty() && !content.size_unsynced {
            content.synced_size = size;
            content.settled = content.settled.max(size);
            drop(content);
            return self.ring.flush(self.ring.end().lsn);
        }
        if volatile.len() > limit || volatile.count() > RANGES {
            drop(content);
            drop(permit);
            return self.fsync_large(ino);
        }
        let mut parts = Vec::with_capacity(volatile.count());
        if let Some(slot) = content.slot {
            let data = self.slots.file(slot)?;
            for range in volatile.iter() {
                let mut bytes = vec![0; length(&range) as usize];
                read_zeros_after_end(&data, &mut bytes, range.start)?;
                parts.push((range.start, bytes));
            }
        }
        // Also without any bytes: a size by writes that were cut off again is believed from here on.
        let lsn = self.log_content(&file, &mut content, None, vec![Effect::Data { ino, size, parts }]);
        content.unsynced = RangeSet::new();
        content.size_unsynced = false;
        content.synced_size = size;
        content.settled = content.settled.max(size);
        drop(content);
        self.ring.flush(lsn)
    }

    fn fsync_large(&self, ino: Ino) -> Result<(), CacheError> {
        let file = self.file(ino)?;
        if file.inner.lock().slot.is_some_and(slots::is_shared) {
            return self.fsync_with_batch(&file);
        }
        let flush = self.next_flush();
        let (slot, size, upto, ranges) = {
            let mut content = file.inner.lock();
            let ranges = content.volatile();
            let unsynced = std::mem::take(&mut content.unsynced);
            content.syncing.push((flush, unsynced));
            (content.slot, content.size, content.lsn, ranges)
        };
        let result = self.flush_file(&file, slot).and_then(|()| if self.options.no_sync { Ok(()) } else { self.slots.sync_entries() });
        // Another flush may have failed, and this one then says nothing of what that one covered.
        let result = result.and_then(|()| match file.inner.lock().error {
            Some((errno, _)) => Err(CacheError::WriteLost { ino, errno }),
            None => Ok(()),
        });
        let mut pieces: Vec<RangeSet> = Vec::new();
        for (at, range) in ranges.iter().enumerate() {
            if at % RANGES == 0 {
                pieces.push(RangeSet::new());
            }
            if let Some(piece) = pieces.last_mut() {
                piece.insert(range);
            }
        }
        if let Err(error) = result {
            file.inner.lock().synced(flush, false);
            return Err(error);
        }
        let mut lsn = self.ring.end().lsn;
        for ranges in pieces {
            // Whoever leaves before the end has proven nothing: the next fsync does it all again.
            let _permit = self.admit(RANGES as u64 * 12).inspect_err(|_| file.inner.lock().synced(flush, false))?;
            let mut content = file.inner.lock();
            lsn = self.log_content(&file, &mut content, None, vec![Effect::Flushed { ino, upto, size, ranges }]);
        }
        // Logged, and about to be flushed: who asks meanwhile flushes the log too.
        let mut content = file.inner.lock();
        content.synced(flush, true);
        content.size_unsynced &= content.size != size;
        content.synced_size = size.min(content.size);
        content.settled = content.settled.max(content.synced_size);
        drop(content);
        self.ring.flush(lsn)
    }

    // Flushes of a file that many share are for the batch alone: the kernel tells of an error once, and all must be told.
    fn fsync_with_batch(&self, file: &DataFile) -> Result<(), CacheError> {
        let size = file.size();
        self.apply_batch()?;
        let mut content = file.inner.lock();
        if let Some((errno, _)) = content.error {
            return Err(CacheError::WriteLost { ino: file.ino, errno });
        }
        content.size_unsynced &= content.size != size;
        content.synced_size = size.min(content.size);
        content.settled = content.settled.max(content.synced_size);
        Ok(())
    }

    /// Flushes one data file. One at a time: the kernel tells of an error once, and whoever is told marks what is lost before the next
    /// one is told of success.
    pub(super) fn flush_file(&self, file: &DataFile, slot: Option<u64>) -> Result<(), CacheError> {
        let Some(slot) = slot else { return Ok(()) };
        let _one = file.flushing.lock();
        self.redo(file)?;
        let data = self.slots.file(slot)?;
        self.disk.sync(Synced::Slot(slot), || data.sync_data()).map_err(|error| {
            self.flush_failed(std::iter::once(file), &error);
            CacheError::io("data file")(error)
        })
    }

    /// Makes everything logged so far (names, attributes) survive the loss of power.
    ///
    /// # Errors
    /// When the cache's disk fails.
    pub fn fsyncdir(&self, ino: Ino) -> Result<(), CacheError> {
        let _ = ino;
        self.ring.flush(self.ring.end().lsn)
    }
}
