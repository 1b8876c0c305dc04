//! Bytes into data files: what every change of content does before its record is logged.

use super::effect::{Effect, Record};
use super::file::{Content, DataFile};
use super::pages::{clipped, outward, without};
use super::types::{CacheError, LocalExtent, RequestId, SavedReply};
use super::{Cache, die, length};
use crate::types::{ByteRange, Ino, PAGE, RangeSet};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_64;

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

    /// The data file, with a slot when it has none yet. It counts as the file's with its record only: a failed operation drops its
    /// effects, and a slot that no record names would be another file's after a crash.
    pub(super) fn slot_file(&self, ino: Ino, content: &mut Content, effects: &mut Vec<Effect>) -> Result<Arc<File>, CacheError> {
        let slot = match content.slot {
            Some(slot) => slot,
            None => {
                let slot = *content.spare.get_or_insert_with(|| self.slots.allocate());
                let effect = Effect::Slot { ino, slot };
                if !effects.contains(&effect) {
                    effects.push(effect);
                }
                slot
            }
        };
        self.slots.file(slot)
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
        let data_file = self.slot_file(file.ino, content, effects)?;
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
        let untouched = clipped(content.present.set(), held.clone()).len() == length(&held) && !content.dirty.set().overlaps(held);
        let (true, true, Some(slot)) = (whole, untouched, content.slot) else { return Ok(false) };
        let mut buffer = vec![0; extent.length as usize];
        read_zeros_after_end(&*self.slots.file(slot)?, &mut buffer, extent.offset)?;
        Ok(xxh3_64(&buffer) == extent.checksum)
    }
}

/// Fills the buffer; what lies after the end of the data file is zeros.
pub(super) fn read_zeros_after_end(file: &File, buffer: &mut [u8], offset: u64) -> Result<(), CacheError> {
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
