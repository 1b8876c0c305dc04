//! Recovery: the records after the last batch are carried out once more.
//!
//! After the death of the process alone, the page cache holds what every record says. After a loss of power a write counts only when
//! a flush or a logged copy of its pages followed it; else it is as if it had never happened: the page is again what was committed,
//! or a hole, and the file does not grow by it (protocol.md 7.2).

use super::effect::{Effect, Record};
use super::file::{Content, DataFile};
use super::meta::Meta;
use super::pages::{ceil, clipped, floor, outward, without};
use super::ring::Scan;
use super::types::CacheError;
use super::update::{drop_inode, put_link, put_target, put_xattr};
use super::{Cache, db, length};
use crate::types::{ByteRange, Ino, PAGE, RangeSet};
use std::collections::BTreeMap;
use std::sync::Arc;

// What the log knows of a file's bytes that its data file may not have.
#[derive(Default)]
struct Copies {
    // Pages of logged copies by offset, with the record they come from.
    pages: BTreeMap<u64, (u64, Vec<u8>)>,
    // Rests of the tail page over which the size grew, with the record that says so. The size may be believed, so they must be zeros also
    // where the page on the disk is from before: there lies what a truncate had cut off.
    zeros: Vec<(u64, ByteRange)>,
}

impl Copies {
    fn drop_pages(&mut self, gone: impl Fn(u64) -> bool) {
        self.pages.retain(|at, _| !gone(*at));
        self.zeros.retain(|(_, range)| !gone(floor(range.start)));
    }

    // The data file was flushed, with all it had, when its newest record was `upto`.
    fn flushed(&mut self, upto: u64) {
        self.pages.retain(|_, (from, _)| *from > upto);
        self.zeros.retain(|(from, _)| *from > upto);
    }
}

struct Replay<'a> {
    cache: &'a Cache,
    power_lost: bool,
    // In order, so that the same replay leaves the same cache (I20).
    files: BTreeMap<Ino, Arc<DataFile>>,
    copies: BTreeMap<Ino, Copies>,
    // The records before it are in the metadata already.
    meta_lsn: u64,
}

/// Carries out what `scan` finds; tells how many records, and how many bytes of writes were lost. `redo`: the page cache has what was
/// written, and a flush has failed.
pub(super) fn replay(cache: &Cache, mut scan: Scan<'_>, power_lost: bool, redo: bool) -> Result<(u64, u64), CacheError> {
    let meta_lsn = cache.meta.lock().lsn;
    let mut replay = Replay { cache, power_lost, files: BTreeMap::new(), copies: BTreeMap::new(), meta_lsn };
    let mut count = 0;
    while let Some((lsn, payload)) = scan.next()? {
        // It passed its checksum: this version did not write it.
        let Some(record) = Record::decode(&payload) else { return Err(CacheError::Damaged(format!("record {lsn} of its log"))) };
        replay.record(lsn, record)?;
        count += 1;
    }
    let lost = replay.finish(redo)?;
    Ok((count, lost))
}

impl Replay<'_> {
    fn record(&mut self, lsn: u64, record: Record) -> Result<(), CacheError> {
        let cache = self.cache;
        if let Some((id, reply)) = record.request {
            cache.replies.lock().insert(id, reply);
        }
        let mut meta = cache.meta.lock();
        let mut touched: Vec<Arc<DataFile>> = Vec::new();
        for effect in &record.effects {
            match content_of(effect) {
                Some(ino) => {
                    if let Some(file) = self.content(&mut meta, ino, lsn, effect)? {
                        touched.push(file);
                    }
                }
                None if lsn > self.meta_lsn => self.metadata(&mut meta, lsn, effect)?,
                None => {}
            }
        }
        for file in touched {
            file.inner.lock().lsn = lsn;
        }
        meta.lsn = meta.lsn.max(lsn);
        Ok(())
    }

    fn metadata(&mut self, meta: &mut Meta, lsn: u64, effect: &Effect) -> Result<(), CacheError> {
        let cache = self.cache;
        match effect {
            Effect::Inode(row) => {
                let ino = row.attr.ino;
                meta.next_inode = meta.next_inode.max(ino + 1);
                meta.next_cookie = meta.next_cookie.max(row.cookies + 1);
                if meta.row(ino)?.is_none() {
                    return meta.add(row.clone());
                }
                let old = &mut meta.change(cache, ino)?.inode.row;
                let (nlink, size) = (old.attr.nlink, old.attr.size);
                *old = row.clone();
                if row.attr.is_file() {
                    old.attr.size = size;
                }
                if nlink > 0 && row.attr.nlink == 0 {
                    meta.unlinked(ino)?;
                }
            }
            Effect::Drop { ino } => {
                let Some(row) = meta.row(*ino)? else { return Ok(()) };
                let (nlink, is_file) = (row.row.attr.nlink, row.row.attr.is_file());
                if nlink > 0 {
                    meta.unlinked(*ino)?;
                }
                if let Some(file) = drop_inode(cache, meta, *ino, is_file)? {
                    cache.end_file(&file, lsn);
                }
                self.files.remove(ino);
                self.copies.remove(ino);
            }
            Effect::Name { dir, name, cookie, ino } => {
                meta.set_name(*dir, name, Some(db::NameRow { cookie: *cookie, ino: *ino }))?;
            }
            Effect::Unname { dir, name } => meta.set_name(*dir, name, None)?,
            Effect::Link { ino, dir, name, there } => put_link(meta, *ino, *dir, name, *there)?,
            Effect::Target { ino, target } => put_target(meta, *ino, target)?,
            Effect::Xattr { ino, name, value } => put_xattr(meta, *ino, name, value.as_deref())?,
            Effect::State { key, value } => {
                db::put_state(meta.write()?, key, value.as_deref())?;
                if key == "head" {
                    *cache.head.lock() = value.as_deref().and_then(super::open::decode_head);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn content(&mut self, meta: &mut Meta, ino: Ino, lsn: u64, effect: &Effect) -> Result<Option<Arc<DataFile>>, CacheError> {
        let cache = self.cache;
        let file = match self.files.get(&ino) {
            Some(file) => Arc::clone(file),
            None => match cache.load_file(meta, ino) {
                Ok(file) => file,
                // Gone by a later record that the metadata have already.
                Err(CacheError::NoInode(_)) => return Ok(None),
                Err(error) => return Err(error),
            },
        };
        self.files.insert(ino, Arc::clone(&file));
        let mut content = file.inner.lock();
        if lsn <= content.lsn {
            return Ok(None);
        }
        if let Effect::Slot { slot, .. } = effect {
            cache.slots.claim(*slot);
            if let Some(old) = content.slot.filter(|old| old != slot) {
                cache.slots.release(old, lsn);
            }
        }
        if self.power_lost {
            self.weigh(&mut content, ino, lsn, effect);
        }
        content.apply(effect);
        cache.pend(&file, &mut content);
        cache.tell(&file, &mut content);
        drop(content);
        Ok(Some(file))
    }

    // What of a write can be believed after a loss of power.
    fn weigh(&mut self, content: &mut Content, ino: Ino, lsn: u64, effect: &Effect) {
        let copies = self.copies.entry(ino).or_default();
        match effect {
            Effect::Wrote { range, .. } | Effect::Zeroed { range, .. } | Effect::Dirtied { range, .. } => {
                match effect {
                    Effect::Zeroed { .. } => copies.zeros.push((lsn, range.clone())),
                    Effect::Wrote { .. } if range.end > content.size => copies.zeros.push((lsn, content.size..ceil(content.size))),
                    _ => {}
                }
                let pages = outward(range);
                // A page that was dirty on the disk before holds the old or the new bytes now: both are allowed.
                let proven = without(&clipped(content.dirty.set(), pages.clone()), &content.unproven);
                proven.gaps(pages).into_iter().for_each(|part| content.unproven.insert(part));
            }
            Effect::Flushed { upto, size, ranges, .. } => {
                ranges.iter().for_each(|range| content.unproven.remove(range));
                copies.flushed(*upto);
                content.proven_size = content.proven_size.max((*size).min(content.size));
            }
            Effect::Data { size, parts, .. } => {
                for (offset, bytes) in parts {
                    content.unproven.remove(*offset..offset + bytes.len() as u64);
                    for (at, page) in (*offset..).step_by(PAGE as usize).zip(bytes.chunks(PAGE as usize)) {
                        // What lay above the size then has no meaning, and must have none when the file is longer again.
                        let mut page = page.to_vec();
                        let below = size.saturating_sub(at).min(page.len() as u64) as usize;
                        page[below..].fill(0);
                        copies.pages.insert(at, (lsn, page));
                    }
                }
                content.proven_size = content.proven_size.max((*size).min(content.size));
            }
            Effect::Punched { range, .. } => copies.drop_pages(|at| range.contains(&at)),
            Effect::Size { size, .. } if *size < content.size => copies.drop_pages(|at| at >= *size),
            Effect::Evicted { ranges, .. } => copies.drop_pages(|at| ranges.overlaps(at..at + 1)),
            Effect::Shared { extents, .. } => copies.drop_pages(|at| extents.iter().any(|e| outward(&e.range()).contains(&at))),
            _ => {}
        }
    }

    // In the order of their records: a copy of a page has the zeros that were written before it, not those after it. The pages written to.
    fn restore(&self, content: &Content, copies: Option<&Copies>) -> Result<RangeSet, CacheError> {
        let mut restored = RangeSet::new();
        let (Some(copies), Some(slot)) = (copies, content.slot) else { return Ok(restored) };
        let data = self.cache.slots.file(slot)?;
        let zeros = copies.zeros.iter().map(|(lsn, range)| (*lsn, range.start, vec![0; length(range) as usize]));
        let mut all: Vec<_> = zeros.chain(copies.pages.iter().map(|(at, (lsn, page))| (*lsn, *at, page.clone()))).collect();
        all.sort_by_key(|(lsn, ..)| *lsn);
        for (_, at, bytes) in all {
            let page = floor(at)..floor(at) + PAGE;
            if !bytes.is_empty() && content.present.set().contains(page.clone()) {
                data.write_all_at(&bytes, at).map_err(CacheError::io("data file"))?;
                restored.insert(page);
            }
        }
        Ok(restored)
    }

    fn finish(self, redo: bool) -> Result<u64, CacheError> {
        let mut lost_bytes = 0;
        if !self.power_lost {
            // What the records dirtied counts as present, whether the data file has it or not.
            for (ino, file) in &self.files {
                let mut content = file.inner.lock();
                if redo {
                    content.redo = content.unflushed.clone();
                }
                if self.cache.check_length(*ino, &mut content)? {
                    self.cache.pend(file, &mut content);
                    self.cache.tell(file, &mut content);
                }
            }
            return Ok(0);
        }
        for (ino, file) in &self.files {
            let mut content = file.inner.lock();
            let lost = std::mem::take(&mut content.unproven);
            lost_bytes += lost.len();
            content.forget(&lost);
            if content.proven_size < content.size {
                let size = content.proven_size;
                content.resize(size);
            }
            let restored = self.restore(&content, self.copies.get(ino))?;
            if redo {
                // The same boot: what is put there now may be in memory alone for ever, as what failed was.
                content.redo = restored;
            }
            content.all_unflushed();
            content.synced_size = content.size;
            content.settled = content.size;
            content.appended = RangeSet::new();
            self.cache.pend(file, &mut content);
            self.cache.tell(file, &mut content);
        }
        Ok(lost_bytes)
    }
}

impl Content {
    // Pages whose writes were lost are again what was committed, or holes.
    fn forget(&mut self, lost: &RangeSet) {
        for range in lost.iter() {
            self.dirty.remove(range.clone());
            self.present.remove(range.clone());
            self.unsynced.remove(range.clone());
            self.suspect.remove(range.clone());
            // Perhaps of another file, and then not yet committed here: said once more does no harm. Inline ones are never shared, and
            // the commit that holds them may lie before the newest checkpoint: they must not be said again.
            let stored: Vec<_> = self.extents.within(range.clone()).filter(|e| e.object != 0).map(|e| outward(&e.range())).collect();
            stored.into_iter().for_each(|pages| self.shared.insert(pages));
            self.stale.insert(range);
        }
        self.moves += 1;
    }
}

fn content_of(effect: &Effect) -> Option<Ino> {
    match effect {
        Effect::Slot { ino, .. }
        | Effect::Dirtied { ino, .. }
        | Effect::Wrote { ino, .. }
        | Effect::Zeroed { ino, .. }
        | Effect::Size { ino, .. }
        | Effect::Punched { ino, .. }
        | Effect::Evicted { ino, .. }
        | Effect::Flushed { ino, .. }
        | Effect::Data { ino, .. }
        | Effect::Shared { ino, .. } => Some(*ino),
        _ => None,
    }
}
