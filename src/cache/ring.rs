//! The mutation log: a ring of records in a file of fixed size, written out in full when made, so that a flush never has file
//! system metadata to write.
//!
//! ```text
//! record = length u32 | crc32 u32 | generation u32 | lsn u64 | payload       (length: of the payload; `SKIP`: go on at 0)
//! ```
//!
//! The LSN grows by one with each record and never comes back, so a record of an earlier lap is never taken for the next one. The
//! generation is drawn anew at each open, after everything before it was applied: what a lost tail left behind is not believed
//! when the numbers reach it again. `meta.db` knows the boot id of the generation and where replay begins.

use super::disk::{Disk, Synced};
use super::types::CacheError;
use crate::types::PAGE;
use parking_lot::{Condvar, Mutex};
use std::fs::File;
use std::os::unix::fs::FileExt;

pub(super) const HEADER: u64 = 20;
const SKIP: u32 = u32::MAX;

/// A place between two records: the LSN of the last one before it, and where the next one goes (counted on over all laps).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) lsn: u64,
    pub(super) at: u64,
}

/// See the module's head.
#[derive(Debug)]
pub(super) struct Ring {
    file: File,
    size: u64,
    generation: u32,
    disk: Disk,
    inner: Mutex<Inner>,
    room: Condvar,
    flush: Mutex<Flush>,
    flushed: Condvar,
}

#[derive(Debug)]
struct Inner {
    end: Place,
    // All before it is durable in meta.db.
    start: u64,
    reserved: u64,
    buffer: Vec<u8>,
}

#[derive(Debug)]
struct Flush {
    done: u64,
    leader: bool,
    // After a failed flush the kernel may call lost pages clean: no flush is believed before meta.db has all records up to this one.
    failed: Option<(i32, u64)>,
}

/// Room for a record, taken before any lock that the making of room needs.
#[derive(Debug)]
pub(super) struct Permit<'a> {
    ring: &'a Ring,
    bytes: u64,
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.ring.inner.lock().reserved -= self.bytes;
        self.ring.room.notify_all();
    }
}

impl Ring {
    pub(super) fn new(file: File, size: u64, generation: u32, start: Place, end: Place, disk: Disk) -> Self {
        Self {
            file,
            size,
            generation,
            disk,
            inner: Mutex::new(Inner { end, start: start.at, reserved: 0, buffer: Vec::new() }),
            room: Condvar::new(),
            flush: Mutex::new(Flush { done: start.lsn, leader: false, failed: None }),
            flushed: Condvar::new(),
        }
    }

    /// The largest payload that a mutation may log.
    pub(super) fn payload_max(&self) -> u64 {
        self.size / 4
    }

    /// Room for records of together `bytes`, or `None` when a batch must be applied first.
    pub(super) fn admit(&self, bytes: u64) -> Option<Permit<'_>> {
        // Twice: a record that does not fit before the end of the file leaves that end unused.
        let bytes = 2 * (bytes + HEADER);
        let mut inner = self.inner.lock();
        if inner.end.at - inner.start + inner.reserved + bytes > self.size {
            return None;
        }
        inner.reserved += bytes;
        Some(Permit { ring: self, bytes })
    }

    /// Waits until room may have been given back by others, when nothing is left that a batch could free.
    pub(super) fn wait_for_room(&self) {
        let mut inner = self.inner.lock();
        if inner.end.at == inner.start && inner.reserved > 0 {
            self.room.wait(&mut inner);
        }
    }

    /// Whether a batch is due for want of room.
    pub(super) fn half_full(&self) -> bool {
        let inner = self.inner.lock();
        inner.end.at - inner.start > self.size / 2
    }

    pub(super) fn used(&self) -> u64 {
        let inner = self.inner.lock();
        inner.end.at - inner.start
    }

    pub(super) fn end(&self) -> Place {
        self.inner.lock().end
    }

    /// Adds a record: outside the process on return.
    pub(super) fn append(&self, payload: &[u8]) -> Result<u64, CacheError> {
        let mut inner = self.inner.lock();
        let length = HEADER + payload.len() as u64;
        let mut at = inner.end.at;
        let left = self.size - at % self.size;
        if left < length {
            at += left;
        }
        if at + length - inner.start > self.size {
            return Err(CacheError::Damaged("a log record is larger than the room made for it".into()));
        }
        let lsn = inner.end.lsn + 1;
        if left < length && left >= HEADER {
            let skip = header(SKIP, self.generation, lsn, &[]);
            self.file.write_all_at(&skip, (at - left) % self.size).map_err(CacheError::io("log"))?;
        }
        let mut buffer = std::mem::take(&mut inner.buffer);
        buffer.clear();
        buffer.extend_from_slice(&header(payload.len() as u32, self.generation, lsn, payload));
        buffer.extend_from_slice(payload);
        buffer.resize(buffer.len() + self.padding(at, at + length, inner.start), 0);
        let written = self.file.write_all_at(&buffer, at % self.size).map_err(CacheError::io("log"));
        inner.buffer = buffer;
        written?;
        inner.end = Place { lsn, at: at + length };
        Ok(lsn)
    }

    // Zeros up to the end of the page, for a record that begins a page or reaches into the next: a page that is written in part must be
    // read from the disk first when the page cache does not have it, which takes as long as a flush. What lies there is of an earlier
    // lap, unless the room before `start` ends in that page.
    fn padding(&self, at: u64, end: u64, start: u64) -> usize {
        let page_end = end.next_multiple_of(PAGE);
        let enters = at.is_multiple_of(PAGE) || at / PAGE != (end - 1) / PAGE;
        let free = page_end - start <= self.size && page_end - at <= self.size - at % self.size;
        if enters && free { (page_end - end) as usize } else { 0 }
    }

    /// Gives the room before `place` back: everything before it is durable in `meta.db`.
    pub(super) fn trim(&self, place: Place) {
        let mut inner = self.inner.lock();
        inner.start = inner.start.max(place.at);
        self.room.notify_all();
        drop(inner);
        let mut flush = self.flush.lock();
        flush.done = flush.done.max(place.lsn);
        if flush.failed.is_some_and(|(_, upto)| upto <= place.lsn) {
            flush.failed = None;
        }
    }

    /// Flushes the log up to `lsn` at least; one flush serves everybody who waits meanwhile.
    pub(super) fn flush(&self, lsn: u64) -> Result<(), CacheError> {
        let mut flush = self.flush.lock();
        loop {
            if flush.done >= lsn {
                return Ok(());
            }
            if let Some((errno, _)) = flush.failed {
                return Err(CacheError::io("log")(std::io::Error::from_raw_os_error(errno)));
            }
            if !flush.leader {
                break;
            }
            self.flushed.wait(&mut flush);
        }
        flush.leader = true;
        drop(flush);
        let target = self.end().lsn;
        let result = self.disk.sync(Synced::Log, || self.file.sync_data());
        let written = self.end().lsn;
        let mut flush = self.flush.lock();
        flush.leader = false;
        match &result {
            Ok(()) => flush.done = flush.done.max(target),
            Err(error) => flush.failed = Some((error.raw_os_error().unwrap_or(libc::EIO), written)),
        }
        self.flushed.notify_all();
        result.map_err(CacheError::io("log"))
    }
}

fn header(length: u32, generation: u32, lsn: u64, payload: &[u8]) -> [u8; HEADER as usize] {
    let mut bytes = [0; HEADER as usize];
    bytes[0..4].copy_from_slice(&length.to_le_bytes());
    bytes[8..12].copy_from_slice(&generation.to_le_bytes());
    bytes[12..20].copy_from_slice(&lsn.to_le_bytes());
    let mut crc = crc32fast::Hasher::new();
    crc.update(&bytes[0..4]);
    crc.update(&bytes[8..]);
    crc.update(payload);
    bytes[4..8].copy_from_slice(&crc.finalize().to_le_bytes());
    bytes
}

/// Reads the records of a generation from a place on, up to the first that is not valid.
#[derive(Debug)]
pub(super) struct Scan<'a> {
    pub(super) file: &'a File,
    pub(super) size: u64,
    pub(super) generation: u32,
    pub(super) place: Place,
}

impl Scan<'_> {
    /// Where what is valid ends.
    pub(super) fn end(mut self) -> Result<Place, CacheError> {
        while self.next()?.is_some() {}
        Ok(self.place)
    }

    /// The next payload; `place` is after it then. `None`: the end of what is valid.
    pub(super) fn next(&mut self) -> Result<Option<(u64, Vec<u8>)>, CacheError> {
        let lsn = self.place.lsn + 1;
        let mut at = self.place.at;
        for _ in 0..2 {
            let left = self.size - at % self.size;
            if left < HEADER {
                at += left;
                continue;
            }
            let mut head = [0; HEADER as usize];
            self.file.read_exact_at(&mut head, at % self.size).map_err(CacheError::io("log"))?;
            let length = u32::from_le_bytes([head[0], head[1], head[2], head[3]]);
            if length == SKIP {
                if head != header(SKIP, self.generation, lsn, &[]) {
                    return Ok(None);
                }
                at += left;
                continue;
            }
            if u64::from(length) > left - HEADER {
                return Ok(None);
            }
            let mut payload = vec![0; length as usize];
            self.file.read_exact_at(&mut payload, at % self.size + HEADER).map_err(CacheError::io("log"))?;
            if head != header(length, self.generation, lsn, &payload) {
                return Ok(None);
            }
            self.place = Place { lsn, at: at + HEADER + u64::from(length) };
            return Ok(Some((lsn, payload)));
        }
        Ok(None)
    }
}
