//! Reading and writing content. Never the metadata mutex under a file's lock.

use super::effect::Effect;
use super::file::{Content, DataFile};
use super::frozen::Sent;
use super::pages::{clipped, inward, outward};
use super::slots::SHARED_MAX;
use super::spoiled::read_present;
use super::types::{CacheError, CopyOutcome, LocalExtent, Missing, ReadOutcome, RequestId, SavedReply, Whence, WriteOutcome};
use super::{Cache, length};
use crate::types::{ByteRange, FILE_SIZE_MAX, Ino, PAGE, RangeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

// Room for the records of one operation on content, also when the file moves to a larger slot.
const ROOM: u64 = SHARED_MAX + 4096;

fn checked(offset: u64, length: u64) -> Result<ByteRange, CacheError> {
    offset.checked_add(length).filter(|end| *end <= FILE_SIZE_MAX).map(|end| offset..end).ok_or(CacheError::TooBig)
}

impl Cache {
    /// Reads up to `len` bytes; `out` is replaced.
    ///
    /// # Errors
    /// When the inode is no regular file or the cache's disk fails.
    pub fn read(&self, ino: Ino, offset: u64, len: usize, out: &mut Vec<u8>) -> Result<ReadOutcome, CacheError> {
        let file = self.file(ino)?;
        loop {
            out.clear();
            let mut content = file.inner.lock();
            let range = offset.min(content.size)..offset.saturating_add(len as u64).min(content.size).max(offset.min(content.size));
            self.verify(&mut content, &range)?;
            content.spoiled_in(ino, &range)?;
            let absent = content.absent(range.clone());
            if !absent.is_empty() {
                return Ok(ReadOutcome::Absent(absent));
            }
            content.used = self.now_used();
            let present: Vec<ByteRange> = content.present.set().within(range.clone()).collect();
            let moves = content.moves;
            let slot = content.slot;
            drop(content);
            out.resize(length(&range) as usize, 0);
            let mut unread = None;
            if let Some(slot) = slot.filter(|_| !present.is_empty()) {
                let data = self.slots.file(slot)?;
                unread = present.into_iter().find_map(|part| {
                    let at = (part.start - range.start) as usize;
                    let why = read_present(&data, &mut out[at..at + length(&part) as usize], part.start).err()?;
                    Some((part, why))
                });
            }
            // What was evicted or punched meanwhile may have been read as zeros of no hole (protocol.md 7.4).
            if file.inner.lock().moves != moves {
                continue;
            }
            match unread {
                None => return Ok(ReadOutcome::Done),
                Some((part, why)) => self.unread(&file, &part, why)?,
            }
        }
    }

    /// Writes; grows the file. Never refused for a limit. A page that is written in part must be here, else `Absent`.
    ///
    /// # Errors
    /// When the inode is no regular file, the file would be larger than a file can be, or the cache's disk fails.
    pub fn write(&self, request: Option<RequestId>, ino: Ino, offset: u64, data: &[u8]) -> Result<WriteOutcome, CacheError> {
        let range = checked(offset, data.len() as u64)?;
        if data.is_empty() {
            return Ok(WriteOutcome::Done);
        }
        let reply = request.map(|id| (id, SavedReply::Size(data.len() as u32)));
        let _permit = self.admit(ROOM)?;
        let file = self.file(ino)?;
        let mut content = file.inner.lock();
        let op = self.begin(&file, &mut content)?;
        self.verify(&mut content, &range)?;
        content.spoiled_beside(ino, &range)?;
        let needed = content.needed(&range);
        if !needed.is_empty() {
            return Ok(WriteOutcome::Absent(needed));
        }
        let said = Self::is_said(&content, &range);
        let mut effects = Vec::with_capacity(3);
        self.fill_gap(&file, &mut content, offset, &mut effects)?;
        self.put_bytes(&file, &mut content, offset, data, &mut effects)?;
        self.env.failpoint("cache.after_data_before_log");
        if said {
            self.apply_unlogged(&file, &mut content, &effects);
        } else {
            self.log_content(&file, &mut content, reply, effects);
        }
        self.list(&file, &mut content, op.epoch);
        Ok(WriteOutcome::Done)
    }

    /// Zeros in the tail page up to where the file goes on: what lies there above the size has no meaning until then.
    pub(super) fn fill_gap(
        &self,
        file: &Arc<DataFile>,
        content: &mut Content,
        size: u64,
        effects: &mut Vec<Effect>,
    ) -> Result<(), CacheError> {
        if size <= content.size {
            return Ok(());
        }
        let tail = content.size..content.size;
        self.verify(content, &(tail.start.saturating_sub(1)..tail.end))?;
        let gap = content.gap(size);
        if gap.is_empty() {
            return Ok(());
        }
        self.put_bytes(file, content, gap.start, &vec![0; length(&gap) as usize], effects)?;
        // The application did not write them: a seal must not take them for the next bytes of a file that only grows.
        if let Some(effect @ Effect::Wrote { .. }) = effects.last_mut() {
            *effect = Effect::Zeroed { ino: file.ino, range: gap };
        }
        Ok(())
    }

    /// `fallocate` with mode 0, `KEEP_SIZE`, `PUNCH_HOLE | KEEP_SIZE` or `ZERO_RANGE [| KEEP_SIZE]`.
    ///
    /// # Errors
    /// `Invalid` for other modes; `NoSpace`; the cache's disk.
    pub fn fallocate(&self, request: Option<RequestId>, ino: Ino, mode: i32, offset: u64, len: u64) -> Result<WriteOutcome, CacheError> {
        const KEEP: i32 = libc::FALLOC_FL_KEEP_SIZE;
        let (zero, keep) = match mode {
            0 => (false, false),
            KEEP => (false, true),
            _ if mode == libc::FALLOC_FL_PUNCH_HOLE | KEEP => (true, true),
            _ if mode & !KEEP == libc::FALLOC_FL_ZERO_RANGE => (true, mode & KEEP != 0),
            _ => return Err(CacheError::Invalid("this mode of fallocate is not supported")),
        };
        let range = checked(offset, len)?;
        if range.is_empty() {
            return Err(CacheError::Invalid("fallocate of no bytes"));
        }
        let _permit = self.admit(ROOM)?;
        let file = self.file(ino)?;
        let mut content = file.inner.lock();
        let op = self.begin(&file, &mut content)?;
        if !keep && range.end > content.size {
            self.check_growth(range.end - content.size)?;
        }
        let mut effects = Vec::new();
        if zero {
            let size = content.size;
            let inside = range.start.min(size)..range.end.min(size);
            let grows = !keep && range.end > size;
            if let Some(needed) = self.zero(&file, &mut content, &inside, grows, &mut effects)? {
                return Ok(WriteOutcome::Absent(needed));
            }
        }
        if !keep && range.end > content.size {
            self.fill_gap(&file, &mut content, range.end, &mut effects)?;
            effects.push(Effect::Size { ino, size: range.end });
        }
        if !effects.is_empty() || request.is_some() {
            self.log_content(&file, &mut content, request.map(|id| (id, SavedReply::Empty)), effects);
            self.list(&file, &mut content, op.epoch);
        }
        Ok(WriteOutcome::Done)
    }

    // Whole pages become holes; the edges are written.
    fn zero(
        &self,
        file: &Arc<DataFile>,
        content: &mut Content,
        inside: &ByteRange,
        grows: bool,
        effects: &mut Vec<Effect>,
    ) -> Result<Option<Vec<ByteRange>>, CacheError> {
        // The tail page's rest above the size has no meaning: it goes with the page. Not when the file grows: then zeros are written there,
        // and they would bring what is below them back.
        let whole =
            if inside.end == content.size && !grows { inward(&(inside.start..super::pages::ceil(inside.end))) } else { inward(inside) };
        let edges: Vec<ByteRange> =
            if whole.is_empty() { vec![inside.clone()] } else { vec![inside.start..whole.start, whole.end.min(inside.end)..inside.end] };
        let edges: Vec<ByteRange> = edges.into_iter().filter(|edge| !edge.is_empty()).collect();
        let mut needed = Vec::new();
        for edge in &edges {
            self.verify(content, edge)?;
            content.spoiled_beside(file.ino, edge)?;
            needed.extend(content.needed(edge));
        }
        if !needed.is_empty() {
            return Ok(Some(needed));
        }
        for edge in edges {
            let page = outward(&edge);
            // Zeros into a hole change nothing.
            if content.present.set().overlaps(page.clone()) || content.extents.within(page).next().is_some() {
                self.put_bytes(file, content, edge.start, &vec![0; length(&edge) as usize], effects)?;
            }
        }
        if !whole.is_empty() {
            effects.push(Effect::Punched { ino: file.ino, range: whole });
        }
        Ok(None)
    }

    /// `lseek` with `SEEK_DATA` or `SEEK_HOLE`; `None`: ENXIO.
    ///
    /// # Errors
    /// When the inode is no regular file.
    pub fn seek(&self, ino: Ino, offset: u64, whence: Whence) -> Result<Option<u64>, CacheError> {
        let file = self.file(ino)?;
        let content = file.inner.lock();
        if offset >= content.size {
            return Ok(None);
        }
        let data_at = |at: u64| {
            let here = content.present.set().within(at..content.size).next().map(|r| r.start);
            let stored = content.extents.within(at..content.size).next().map(|e| e.offset);
            here.into_iter().chain(stored).min()
        };
        if whence == Whence::Data {
            return Ok(data_at(offset));
        }
        let mut at = offset;
        while at < content.size {
            let here = content.present.set().within(at..at + 1).next().is_some();
            let end = if here {
                content.present.set().within(at..content.size).next().map(|r| r.end)
            } else {
                content.extents.within(at..content.size).next().filter(|e| e.offset == at).map(|e| super::pages::ceil(e.range().end))
            };
            match end {
                Some(end) => at = end,
                None => return Ok(Some(at)),
            }
        }
        Ok(Some(content.size))
    }

    /// What of `range` is committed and not here.
    ///
    /// # Errors
    /// When the inode is no regular file or the cache's disk fails.
    pub fn missing(&self, ino: Ino, range: ByteRange) -> Result<Vec<Missing>, CacheError> {
        let file = self.file(ino)?;
        let mut content = file.inner.lock();
        self.verify(&mut content, &range)?;
        let mut missing = Vec::new();
        for gap in content.present.set().gaps(outward(&range)) {
            missing.extend(content.extents.within(gap).map(|extent| Missing { range: extent.range(), extent }));
        }
        Ok(missing)
    }

    /// Puts fetched bytes (exactly `missing.range`) into the pages that are still absent and still stored there; tells how many
    /// bytes were taken.
    ///
    /// # Errors
    /// When the bytes are not as many as the range, the inode is gone, or the cache's disk fails.
    pub fn install(&self, ino: Ino, missing: &Missing, bytes: &[u8]) -> Result<u64, CacheError> {
        if bytes.len() as u64 != length(&missing.range) || missing.range != missing.extent.range() {
            return Err(CacheError::Invalid("the bytes to install are not those of the range"));
        }
        // Tens of thousands of small files a second come here.
        self.bound_pending(true);
        let _permit = self.admit(ROOM)?;
        let file = self.file(ino)?;
        let mut content = file.inner.lock();
        if content.dead {
            return Ok(0);
        }
        let mut taken = RangeSet::new();
        for gap in content.present.set().gaps(outward(&missing.range)) {
            // Another commit's extent may stand there by now, or a shorter one, or none.
            let same = |e: &LocalExtent| missing.extent.clip(&e.range()) == Some(*e);
            taken = taken.iter().chain(content.extents.within(gap).filter(same).map(|e| e.range())).collect();
        }
        if taken.is_empty() {
            return Ok(0);
        }
        let mut effects = Vec::new();
        let end = taken.iter().last().map_or(0, |last| outward(&last).end);
        let data = self.slot_file(&file, &mut content, end, &mut effects)?;
        // Before any page counts as present: one that is must have its place, also when a later one fails.
        if !effects.is_empty() {
            self.log_content(&file, &mut content, None, effects);
        }
        content.used = self.now_used();
        self.pend(&file, &mut content);
        for part in taken.iter() {
            let pages = outward(&part);
            self.save_frozen(&mut content, &pages)?;
            let at = (part.start - missing.range.start) as usize;
            let write = |bytes: &[u8], at| data.write_all_at(bytes, at).map_err(CacheError::io("data file"));
            write(&bytes[at..at + length(&part) as usize], part.start)?;
            if pages.end > part.end {
                write(&vec![0; (pages.end - part.end) as usize], part.end)?;
            }
            content.present.insert(pages.clone());
            content.unflushed.insert(pages.clone());
            content.stale.remove(pages);
        }
        self.tell(&file, &mut content);
        Ok(taken.len())
    }

    /// Shares stored extents instead of copying bytes (protocol.md 6.8).
    ///
    /// # Errors
    /// When an inode is no regular file, or at a limit.
    #[allow(clippy::too_many_arguments, reason = "copy_file_range has them")]
    pub fn copy_range(
        &self,
        request: Option<RequestId>,
        from: Ino,
        from_offset: u64,
        to: Ino,
        to_offset: u64,
        len: u64,
    ) -> Result<CopyOutcome, CacheError> {
        let aligned = from_offset.is_multiple_of(PAGE) && to_offset.is_multiple_of(PAGE);
        if from == to || !aligned || len > u64::from(u32::MAX) {
            return Ok(CopyOutcome::Copy);
        }
        let target = checked(to_offset, len)?;
        let _permit = self.admit(self.ring.payload_max().min(64 << 10))?;
        let (source, file) = (self.file(from)?, self.file(to)?);
        let first = if from < to { &source } else { &file };
        let second = if from < to { &file } else { &source };
        let (mut a, mut b) = (first.inner.lock(), second.inner.lock());
        // What is taken over from a commit just now has numbers of objects that meta.db may never get.
        if self.seal.resolving.load(Ordering::SeqCst) {
            return Ok(CopyOutcome::Copy);
        }
        let (source, content) = if from < to { (&*a, &mut *b) } else { (&*b, &mut *a) };
        let range = from_offset..from_offset.saturating_add(len).min(source.size);
        if range.is_empty() {
            return Ok(CopyOutcome::Copy);
        }
        let target = target.start..target.start + length(&range);
        let Some(extents) = shareable(source, &range).filter(|extents| extents.len() < 512) else { return Ok(CopyOutcome::Copy) };
        // A part of a page cannot be shared, unless nothing of the target lies behind it.
        if !target.end.is_multiple_of(PAGE) && target.end < content.size {
            return Ok(CopyOutcome::Copy);
        }
        // Behind a gap that only the kernel can fill, it might be of a later commit than the removal of what it was copied from.
        if target.start > content.captured_size(Sent::Unknown) {
            return Ok(CopyOutcome::Copy);
        }
        let op = self.begin(&file, content)?;
        self.check_growth(target.end.saturating_sub(content.size))?;
        let mut effects = Vec::new();
        self.fill_gap(&file, content, target.start, &mut effects)?;
        let moved = extents.into_iter().map(|e| LocalExtent { offset: e.offset - from_offset + to_offset, ..e }).collect();
        effects.push(Effect::Shared { ino: to, size: target.end, extents: moved });
        let reply = request.map(|id| (id, SavedReply::Size(length(&range) as u32)));
        self.log_content(&file, content, reply, effects);
        self.list(&file, content, op.epoch);
        Ok(CopyOutcome::Shared(length(&range)))
    }
}

// Committed, clean, in a pack, and without holes; of a file that has a name: no tree names the packs of another one, and gc may have them.
fn shareable(source: &Content, range: &ByteRange) -> Option<Vec<LocalExtent>> {
    let pages = outward(range);
    let unsettled = source.unnamed
        || source.spoiled.overlaps(pages.clone())
        || source.dirty.set().overlaps(pages.clone())
        || source.shared.overlaps(pages.clone())
        || source.frozen.as_ref().is_some_and(|f| f.dirty.set().overlaps(pages.clone()) || f.shared.overlaps(pages.clone()));
    let extents: Vec<LocalExtent> = source.extents.within(range.clone()).collect();
    let covered: RangeSet = extents.iter().map(LocalExtent::range).collect();
    let whole = clipped(&covered, range.clone()).len() == length(range);
    (!unsettled && whole && extents.iter().all(|e| e.object != 0)).then_some(extents)
}
