//! Bytes into data files: what every change of content does before its record is logged.

use super::effect::{Effect, Record};
use super::file::{Content, DataFile};
use super::pages::{clipped, outward, without};
use super::slots::{self, Data};
use super::types::{CacheError, LocalExtent, RequestId, SavedReply};
use super::{Cache, die, length};
use crate::types::{ByteRange, PAGE, RangeSet};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_64;

// Bytes in one record of what is moved.
const MOVED: usize = 16 << 10;

impl Cache {
    /// Logs a mutation. A log that cannot be written ends the process: memory and log would disagree.
    pub(super) fn log(&self, request: Option<(RequestId, SavedReply)>, effects: Vec<Effect>) -> u64 {
        let record = Record { request, effects };
        let lsn = self.ring.append(&record.encode()).unwrap_or_else(|error| die("the mutation log cannot be written", &error));
        if let Some((id, reply)) = request {
            self.replies.lock().insert(id, reply);
        }
        self.env.failpoint("cache.after_log_before_reply");
        lsn
    }

    /// Logs a change of one file's content and carries it out in its state, under its lock.
    pub(super) fn log_content(
        &self,
        file: &Arc<DataFile>,
        content: &mut Content,
        request: Option<(RequestId, SavedReply)>,
        effects: Vec<Effect>,
    ) -> u64 {
        for effect in &effects {
            content.apply(effect);
        }
        self.pend(file, content);
        let lsn = self.log(request, effects);
        content.lsn = lsn;
        self.tell(file, content);
        lsn
    }

    /// Whether a write of `range` says nothing that the log has not: its pages are dirty, which a record of their content has said, and
    /// it ends within the size. (A write that is sent again is carried out again, with the same bytes: no reply need be remembered.)
    pub(super) fn is_said(content: &Content, range: &ByteRange) -> bool {
        range.end <= content.size && content.dirty.set().contains(outward(range))
    }

    /// Carries out in a file's state what needs no record.
    pub(super) fn apply_unlogged(&self, file: &Arc<DataFile>, content: &mut Content, effects: &[Effect]) {
        effects.iter().for_each(|effect| content.apply(effect));
        self.pend(file, content);
        self.tell(file, content);
    }

    /// The data file, with a slot when it has none yet, and room up to `end`. The slot counts as the file's with its record only: a
    /// failed operation drops its effects, and a slot that no record names would be another file's after a crash.
    pub(super) fn slot_file(
        &self,
        file: &Arc<DataFile>,
        content: &mut Content,
        end: u64,
        effects: &mut Vec<Effect>,
    ) -> Result<Data, CacheError> {
        let end = end.max(content.size);
        let slot = match content.slot {
            Some(slot) if end <= slots::room(slot) => slot,
            Some(slot) => self.move_data(file, content, slot, end)?,
            None => {
                if let Some(spare) = content.spare.take_if(|spare| slots::room(*spare) < end) {
                    self.slots.release(spare, self.ring.end().lsn);
                }
                let slot = *content.spare.get_or_insert_with(|| self.slots.allocate(end));
                let effect = Effect::Slot { ino: file.ino, slot };
                if !effects.contains(&effect) {
                    effects.push(effect);
                }
                slot
            }
        };
        self.slots.file(slot)
    }

    /// A small file has outgrown its slot. What it has goes into the log beside the record of the new slot: the new place may be lost
    /// with the power, and the old one is another file's as soon as that record is durable. Clean pages too: they are clean in memory a
    /// moment before their commit is recorded here, and until then nothing else would have them.
    fn move_data(&self, file: &Arc<DataFile>, content: &mut Content, old: u64, end: u64) -> Result<u64, CacheError> {
        let new = self.slots.allocate(end);
        let moved = self.copy_slot(content, old, new).inspect_err(|_| self.slots.release(new, self.ring.end().lsn))?;
        let (ino, size) = (file.ino, content.size);
        // Before the slot's record: they are true of either place.
        for (at, bytes) in moved {
            for (at, bytes) in (at..).step_by(MOVED).zip(bytes.chunks(MOVED)) {
                self.log_content(file, content, None, vec![Effect::Data { ino, size, parts: vec![(at, bytes.to_vec())] }]);
            }
        }
        let lsn = self.log_content(file, content, None, vec![Effect::Slot { ino, slot: new }]);
        self.slots.release(old, lsn);
        Ok(new)
    }

    // Everything that somebody may still read there; returns the pages that are present.
    fn copy_slot(&self, content: &Content, old: u64, new: u64) -> Result<Vec<(u64, Vec<u8>)>, CacheError> {
        let (from, to) = (self.slots.file(old)?, self.slots.file(new)?);
        let mut needed = content.present.set().clone();
        if let Some(frozen) = &content.frozen {
            without(frozen.dirty.set(), &frozen.copied).iter().for_each(|range| needed.insert(range));
        }
        let read = |range: &ByteRange| {
            let mut bytes = vec![0; length(range) as usize];
            read_zeros_after_end(&from, &mut bytes, range.start).map(|()| bytes)
        };
        for range in needed.iter() {
            to.write_all_at(&read(&range)?, range.start).map_err(CacheError::io("data file"))?;
        }
        content.present.set().iter().map(|range| Ok((range.start, read(&range)?))).collect()
    }

    /// Copies frozen pages that are about to be overwritten (protocol.md 6.1).
    pub(super) fn save_frozen(&self, content: &mut Content, pages: &ByteRange) -> Result<(), CacheError> {
        let Some(frozen) = &mut content.frozen else { return Ok(()) };
        let parts = without(&clipped(frozen.dirty.set(), pages.clone()), &frozen.copied);
        if parts.is_empty() {
            return Ok(());
        }
        let Some(slot) = content.slot else { return Ok(()) };
        let data = self.slots.file(slot)?;
        for part in parts.iter() {
            let (shadow, place) = self.seal.shadow.reserve(&self.dir, length(&part))?;
            let mut at = part.start;
            while at < part.end {
                let mut buffer = vec![0; (part.end - at).min(1 << 20) as usize];
                read_zeros_after_end(&data, &mut buffer, at)?;
                shadow.write_all_at(&buffer, place + (at - part.start)).map_err(CacheError::io("copies"))?;
                at += buffer.len() as u64;
            }
            frozen.shadow = Some(shadow);
            frozen.copy(part, place);
        }
        Ok(())
    }

    /// Writes bytes into the data file. Pages that were not present get zeros beside them; clean ones are logged as dirtied first,
    /// so that no page differs from its extent while it counts as clean.
    pub(super) fn put_bytes(
        &self,
        file: &Arc<DataFile>,
        content: &mut Content,
        offset: u64,
        data: &[u8],
        effects: &mut Vec<Effect>,
    ) -> Result<(), CacheError> {
        let range = offset..offset + data.len() as u64;
        let pages = outward(&range);
        self.save_frozen(content, &pages)?;
        let clean = without(&clipped(content.present.set(), pages.clone()), content.dirty.set());
        if !clean.is_empty() {
            let dirtied = clean.iter().map(|range| Effect::Dirtied { ino: file.ino, range }).collect();
            self.log_content(file, content, None, dirtied);
        }
        let data_file = self.slot_file(file, content, pages.end, effects)?;
        let present = content.present.set();
        let result = (|| {
            if !present.contains(pages.start..pages.start + PAGE) && range.start > pages.start {
                data_file.write_all_at(&vec![0; (range.start - pages.start) as usize], pages.start)?;
            }
            data_file.write_all_at(data, offset)?;
            if !present.contains(pages.end - PAGE..pages.end) && range.end < pages.end {
                data_file.write_all_at(&vec![0; (pages.end - range.end) as usize], range.end)?;
            }
            Ok(())
        })();
        if let Err(error) = result {
            return Err(self.write_failed(content, pages, error));
        }
        content.replaced(pages);
        effects.push(Effect::Wrote { ino: file.ino, range });
        Ok(())
    }

    // The kernel reports a failed WRITE once, perhaps to nobody: fsync reports it until the bytes are there.
    fn write_failed(&self, content: &mut Content, pages: ByteRange, error: std::io::Error) -> CacheError {
        let errno = error.raw_os_error().unwrap_or(libc::EIO);
        let lost = content.error.get_or_insert((errno, RangeSet::new()));
        lost.0 = errno;
        lost.1.insert(pages);
        CacheError::io("data file")(error)
    }

    /// After an unclean boot: clean pages of `range` are compared with their extent's checksum before their first use; what cannot be
    /// compared, or differs, is absent again.
    pub(super) fn verify(&self, content: &mut Content, range: &ByteRange) -> Result<(), CacheError> {
        let pages = outward(range);
        if !content.suspect.overlaps(pages.clone()) {
            return Ok(());
        }
        let suspects: Vec<LocalExtent> =
            content.suspect.within(pages.clone()).flat_map(|r| content.extents.over(r).copied().collect::<Vec<_>>()).collect();
        for extent in suspects {
            let held = outward(&extent.range());
            if self.matches(content, &extent)? {
                content.suspect.remove(held);
            } else {
                let bad = clipped(&content.suspect, held);
                content.evict(&bad);
            }
        }
        // Pages without an extent cannot be clean; they were zeros of a commit, and are again.
        let rest = clipped(&content.suspect, pages);
        if !rest.is_empty() {
            content.evict(&rest);
        }
        if content.suspect.is_empty() {
            content.boots = self.boots;
        }
        Ok(())
    }

    fn matches(&self, content: &Content, extent: &LocalExtent) -> Result<bool, CacheError> {
        let held = outward(&extent.range());
        let whole = extent.skip == 0 && extent.length == u64::from(extent.plain_length);
        let untouched = clipped(content.present.set(), held.clone()).len() == length(&held) && !content.dirty.set().overlaps(held.clone());
        let (true, true, Some(slot)) = (whole, untouched, content.slot) else { return Ok(false) };
        let mut buffer = vec![0; length(&held) as usize];
        read_zeros_after_end(&self.slots.file(slot)?, &mut buffer, held.start)?;
        // Above its extent a page is a hole: what a lost write has left there is in no commit.
        let (stored, above) = buffer.split_at(extent.length as usize);
        Ok(xxh3_64(stored) == extent.checksum && above.iter().all(|byte| *byte == 0))
    }
}

/// What bytes are read from.
pub(super) trait ReadAt {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<usize>;
}

impl ReadAt for File {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<usize> {
        FileExt::read_at(self, buffer, offset)
    }
}

impl ReadAt for Data {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<usize> {
        Self::read_at(self, buffer, offset)
    }
}

/// Fills the buffer; what lies after the end of the data file is zeros.
pub(super) fn read_zeros_after_end(file: &impl ReadAt, buffer: &mut [u8], offset: u64) -> Result<(), CacheError> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(&mut buffer[done..], offset + done as u64) {
            Ok(0) => {
                buffer[done..].fill(0);
                return Ok(());
            }
            Ok(n) => done += n,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(CacheError::io("data file")(error)),
        }
    }
    Ok(())
}
