//! The seal: freezes what changed at one instant, while the application goes on (protocol.md 5 and 6).
//!
//! The flip is an increment of the epoch under the metadata mutex. An operation on content belongs to the epoch it reads under its
//! file's lock; the seal reads nothing before those of the old epoch ended. Whoever first touches a file after the flip, the seal or
//! an operation, freezes it; whoever first changes a row after the flip keeps the old one in the spool.

use super::Cache;
use super::db::Stamped;
use super::file::{Content, DataFile};
use super::flip::Op;
use super::frozen::Sent;
use super::hold::{self, Waiting};
use super::meta::{Changed, Key, Meta, parts};
use super::spool::{Kept, Spool, Verdict};
use super::types::{CacheError, Change, Cut, Space};
use super::view::View;
use crate::types::{Domain, Ino};
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

// Rows looked at per hold of the metadata mutex.
const CHUNK: usize = 128;

/// What was frozen at a cut. To be given to [`Cache::resolve`] or [`Cache::abandon`].
#[derive(Debug)]
pub struct Seal {
    pub(super) cache: Arc<Cache>,
    pub(super) cut: Cut,
    pub(super) epoch: u64,
    pub(super) spool: Mutex<Option<Spool>>,
    /// What was looked at, for the next seal if this one is abandoned.
    pub(super) frozen: Changed,
    pub(super) frozen_files: Vec<Ino>,
    pub(super) next_inode: Ino,
    pub(super) next_cookie: u64,
    pub(super) totals: Space,
    pub(super) empty: bool,
    pub(super) dirty: u64,
    /// Held names that the commit removes.
    pub(super) hidden: Vec<(Ino, Vec<u8>)>,
    /// Of the tier `scheduled`, for a later seal.
    pub(super) waiting: Waiting,
    /// The files that [`Seal::files`] told last: they leave memory when it is asked for the next.
    pub(super) window: Mutex<Vec<Ino>>,
}

impl Cache {
    /// Begins an operation on content: under the file's lock.
    pub(super) fn begin(&self, file: &Arc<DataFile>, content: &mut Content) -> Result<Op<'_>, CacheError> {
        if content.dead {
            return Err(CacheError::NoInode(file.ino));
        }
        let op = self.seal.enter();
        self.freeze_for(file, content, op.epoch)?;
        Ok(op)
    }

    /// Freezes a file that an operation of a later epoch is about to change.
    #[allow(clippy::unnecessary_wraps, reason = "called where errors are passed on")]
    pub(super) fn freeze_for(&self, file: &Arc<DataFile>, content: &mut Content, epoch: u64) -> Result<(), CacheError> {
        let sealing = self.seal.spooling.load(Ordering::SeqCst);
        if sealing == 0 || epoch <= sealing || content.frozen_for == sealing {
            return Ok(());
        }
        let mut candidates = self.seal.candidates.lock();
        // Ended meanwhile: what the seal took, it has frozen itself.
        if self.seal.spooling.load(Ordering::SeqCst) == sealing {
            self.freeze(file, content, sealing);
            candidates.insert(file.ino, Arc::clone(file));
        }
        Ok(())
    }

    fn freeze(&self, file: &Arc<DataFile>, content: &mut Content, sealing: u64) {
        let sent = self.seal.sent.lock().get(&file.ino).copied().unwrap_or(Sent::All);
        let behind = content.freeze(sealing, sent);
        if content.is_changed() {
            self.relist(file, content, sealing + 1);
        }
        if behind {
            self.seal.behind.store(true, Ordering::SeqCst);
            self.totals.stays_old();
        }
    }

    /// A file's content changed in `epoch`.
    pub(super) fn list(&self, file: &Arc<DataFile>, content: &mut Content, epoch: u64) {
        self.touch(file.ino);
        self.relist(file, content, epoch);
    }

    fn relist(&self, file: &Arc<DataFile>, content: &mut Content, epoch: u64) {
        if content.listed != epoch {
            content.listed = epoch;
            self.seal.list(epoch, file.ino);
            if self.totals.changed(&self.env) {
                self.stir();
            }
        }
    }

    /// Whether anything (also a name or attribute) changed since the last seal.
    #[must_use]
    pub fn changed(&self) -> bool {
        self.meta.lock().has_changes() || self.seal.has_listed()
    }

    /// Records kernel sizes (fstat after `sync_file_range`) for the next seal (protocol.md 6.2), in place of those that were recorded
    /// before: they are true of this moment alone.
    pub fn flush_points(&self, points: &[(Ino, u64)]) {
        *self.seal.points.lock() = points.iter().copied().collect();
    }

    /// A file was cut since: what the kernel was asked for lay below.
    pub(super) fn cut_flush_point(&self, ino: Ino, size: u64) {
        if let Some(point) = self.seal.points.lock().get_mut(&ino) {
            *point = (*point).min(size);
        }
    }

    /// Whether the newest seal had to leave bytes behind, because nobody had asked the kernel what it holds in front of them: the next
    /// one must ask.
    #[must_use]
    pub fn left_behind(&self) -> bool {
        self.seal.behind.load(Ordering::SeqCst)
    }

    /// Freezes everything changed that `classify` does not call `Local`; what a commit has held is taken whatever it is called, so
    /// that nothing captured is lost by a rename. One seal at a time.
    ///
    /// # Errors
    /// `SealBusy`; else when meta.db or the cache's disk fails: then nothing is frozen.
    pub fn seal(self: &Arc<Self>, classify: &mut dyn FnMut(&mut View<'_>, &Change) -> Domain) -> Result<Seal, CacheError> {
        self.seal_urgent(None, classify)
    }

    /// The same, and what `classify` calls `Scheduled` is left for a later seal when it is at least so many bytes (rows included) and
    /// stands for itself: then this one is not full.
    ///
    /// # Errors
    /// As of [`Cache::seal`].
    pub fn seal_urgent(
        self: &Arc<Self>,
        at_least: Option<u64>,
        classify: &mut dyn FnMut(&mut View<'_>, &Change) -> Domain,
    ) -> Result<Seal, CacheError> {
        let (mut seal, epoch) = self.flip()?;
        seal.waiting.at_least = at_least;
        self.seal.wait_for(epoch);
        seal.frozen_files.append(&mut self.seal.listed[(epoch & 1) as usize].lock());
        match self.read_frozen(&mut seal, classify) {
            Ok(()) => Ok(seal),
            Err(error) => {
                self.end_spooling(&mut seal);
                self.abandon(seal)?;
                Err(error)
            }
        }
    }

    fn flip(self: &Arc<Self>) -> Result<(Seal, u64), CacheError> {
        if self.seal.busy.swap(true, Ordering::SeqCst) {
            return Err(CacheError::SealBusy);
        }
        self.seal.behind.store(false, Ordering::SeqCst);
        let spool = Spool::open(&self.dir.join("spool.db")).inspect_err(|_| self.seal.busy.store(false, Ordering::SeqCst))?;
        let mut meta = self.meta.lock();
        let epoch = meta.epoch;
        let seam = self.touches.seams.take();
        let mut frozen = std::mem::take(&mut meta.changed);
        let held = std::mem::take(&mut meta.held);
        frozen.inodes.extend(held.inodes);
        frozen.names.extend(held.names);
        let frozen_files = std::mem::take(&mut meta.held_files);
        meta.sealing = epoch;
        meta.spool = Some(spool);
        meta.moved = Changed::default();
        // Nobody asked the kernel about these, or it was before they were opened. What it had sent at earlier seals is settled.
        let mut sent: HashMap<Ino, Sent> = self.writable_open().into_iter().map(|ino| (ino, Sent::Unknown)).collect();
        for (ino, size) in self.seal.points.lock().drain() {
            // Of what was closed meanwhile the kernel has sent all.
            sent.entry(ino).and_modify(|sent| *sent = Sent::Upto(size));
        }
        *self.seal.sent.lock() = sent;
        {
            let _candidates = self.seal.candidates.lock();
            self.seal.taken.lock().begin(epoch);
            self.seal.spooling.store(epoch, Ordering::SeqCst);
        }
        let oldest = self.totals.oldest.swap(0, Ordering::SeqCst);
        self.totals.oldest_frozen.store(oldest, Ordering::SeqCst);
        self.totals.rows_frozen.store(self.totals.rows.swap(0, Ordering::Relaxed), Ordering::Relaxed);
        meta.epoch = epoch + 1;
        self.seal.epoch.store(epoch + 1, Ordering::SeqCst);
        let cut = Cut { number: self.seal.cuts.fetch_add(1, Ordering::SeqCst) + 1, time: self.env.now() };
        let totals = View { cache: self, meta: &mut meta }.space();
        let (next_inode, next_cookie) = (meta.next_inode, meta.next_cookie);
        drop(meta);
        let seal = Seal {
            cache: Arc::clone(self),
            cut,
            epoch,
            // Under the metadata mutex until the frozen rows are read.
            spool: Mutex::new(None),
            frozen,
            frozen_files,
            next_inode,
            next_cookie,
            totals,
            empty: false,
            dirty: 0,
            hidden: Vec::new(),
            waiting: Waiting { seam, ..Waiting::default() },
            window: Mutex::default(),
        };
        Ok((seal, epoch))
    }

    fn read_frozen(&self, seal: &mut Seal, classify: &mut dyn FnMut(&mut View<'_>, &Change) -> Domain) -> Result<(), CacheError> {
        for list in [&mut seal.frozen.inodes, &mut seal.frozen_files] {
            list.sort_unstable();
            list.dedup();
        }
        let mut inodes: Vec<Ino> = seal.frozen.inodes.iter().chain(&seal.frozen_files).copied().collect();
        inodes.sort_unstable();
        inodes.dedup();
        for chunk in inodes.chunks(CHUNK) {
            let mut meta = self.meta.lock();
            for ino in chunk {
                self.read_inode(seal, &mut meta, *ino, classify)?;
            }
            drop(meta);
            self.let_go(chunk);
        }
        seal.frozen.names.sort_unstable();
        seal.frozen.names.dedup();
        for chunk in seal.frozen.names.chunks(CHUNK) {
            let mut meta = self.meta.lock();
            for key in chunk {
                self.read_name(&mut meta, seal.epoch, key, classify)?;
            }
        }
        let mut meta = self.meta.lock();
        read_gone(&mut meta, seal.epoch)?;
        self.settle_tiers(&mut meta)?;
        self.settle_waiting(&mut meta, seal)?;
        drop(meta);
        self.end_spooling(seal);
        let Some(spool) = seal.spool.get_mut() else { return Err(CacheError::Invalid("a seal without its spool")) };
        let (mut inodes, names) = spool.of(Verdict::Held)?;
        let (waiting, waiting_names) = spool.of(Verdict::Waits)?;
        seal.waiting.some = !(waiting.is_empty() && waiting_names.is_empty());
        seal.hidden = spool.remove_held_names()?;
        seal.empty = spool.is_empty()?;
        let (held, waiting): (HashSet<Ino>, HashSet<Ino>) = (inodes.iter().copied().collect(), waiting.into_iter().collect());
        seal.keep_files(self, &held, &waiting)?;
        let mut meta = self.meta.lock();
        hold::put_back(self, &mut meta, seal, &waiting, waiting_names)?;
        meta.held_files = inodes.iter().copied().filter(|ino| seal.frozen_files.binary_search(ino).is_ok()).collect();
        inodes.retain(|ino| seal.frozen.inodes.binary_search(ino).is_ok());
        restamp(&mut meta, seal.epoch, inodes, names)
    }

    fn read_inode(
        &self,
        seal: &mut Seal,
        meta: &mut Meta,
        ino: Ino,
        classify: &mut dyn FnMut(&mut View<'_>, &Change) -> Domain,
    ) -> Result<(), CacheError> {
        // Unchanged since the flip, or else kept before it was changed.
        if meta.row(ino)?.is_some_and(|row| row.stamp <= seal.epoch) {
            meta.spool_inode(self, ino)?;
        }
        let Some(kept) = meta.spool.as_ref().map(|spool| spool.inode(ino)).transpose()?.flatten() else { return Ok(()) };
        if kept.orphan {
            return Ok(());
        }
        let mut file = None;
        if kept.inode.mode & libc::S_IFMT == libc::S_IFREG && seal.frozen_files.binary_search(&ino).is_ok() {
            let (frozen, size) = self.read_file(seal, meta, ino)?;
            file = Some(frozen);
            if let Some(spool) = meta.spool.as_mut().filter(|_| size != kept.inode.size) {
                spool.resize(kept.clone(), size)?;
            }
        }
        let domain = classify(&mut View { cache: self, meta }, &Change::Inode(ino));
        let verdict = self.verdict(seal, file.as_deref(), kept.captured, domain);
        meta.spool.as_mut().map_or(Ok(()), |spool| spool.judge_inode(ino, verdict))
    }

    // The content of a changed file, frozen now if nobody did before, and its size at the cut.
    fn read_file(&self, seal: &mut Seal, meta: &mut Meta, ino: Ino) -> Result<(Arc<DataFile>, u64), CacheError> {
        let found = self.seal.candidates.lock().get(&ino).cloned();
        let file = match found {
            Some(file) => file,
            None => {
                let file = self.load_file(meta, ino)?;
                let mut content = file.inner.lock();
                if content.frozen_for != seal.epoch {
                    self.freeze(&file, &mut content, seal.epoch);
                    self.tell(&file, &mut content);
                }
                drop(content);
                file
            }
        };
        let content = file.inner.lock();
        let Some(frozen) = &content.frozen else { return Err(CacheError::Invalid("a changed file that is not frozen")) };
        seal.dirty += frozen.dirty.bytes();
        self.seal.taken.lock().push(ino);
        let size = frozen.size;
        drop(content);
        Ok((file, size))
    }

    fn read_name(
        &self,
        meta: &mut Meta,
        epoch: u64,
        key: &Key,
        classify: &mut dyn FnMut(&mut View<'_>, &Change) -> Domain,
    ) -> Result<(), CacheError> {
        let (dir, name) = parts(key);
        if let Some(row) = meta.name(dir, name)?.filter(|row| row.stamp <= epoch)
            && let Some(spool) = &mut meta.spool
        {
            spool.keep_name(dir, name, &row)?;
        }
        let Some(ino) = meta.spool.as_ref().map(|spool| spool.name(dir, name)).transpose()?.flatten() else { return Ok(()) };
        let change = Change::Name { dir, name: name.to_vec(), ino };
        let domain = classify(&mut View { cache: self, meta }, &change);
        // A name belongs to the tier of what it names (protocol.md 5.4a): no commit has an inode without its names. (`settle_tiers`
        // sees to the other way round.)
        let Some(spool) = &meta.spool else { return Ok(()) };
        let captured = |captured| if captured { Verdict::Taken } else { Verdict::Held };
        let verdict = match (spool.inode_verdict(ino)?, spool.inode(ino)?) {
            (Some(verdict), _) => verdict,
            (None, Some(kept)) => captured(kept.captured),
            (None, None) => captured(View { cache: self, meta }.inode_captured(ino)?),
        };
        let verdict = if verdict == Verdict::Held && domain != Domain::Local { Verdict::Taken } else { verdict };
        meta.spool.as_mut().map_or(Ok(()), |spool| spool.judge_name(dir, name, verdict))
    }

    // A taken name needs its directory and its inode, and these need theirs (protocol.md 5.4a).
    pub(super) fn settle_tiers(&self, meta: &mut Meta) -> Result<(), CacheError> {
        let Some(spool) = &mut meta.spool else { return Ok(()) };
        loop {
            let needed = spool.taken_beside_held()?;
            if needed.is_empty() {
                return Ok(());
            }
            for (dir, ino) in needed {
                for needed in [dir, ino] {
                    if spool.inode_verdict(needed)?.is_some_and(|verdict| verdict != Verdict::Taken) {
                        spool.judge_inode(needed, Verdict::Taken)?;
                        spool.take_names_of(needed)?;
                    }
                }
            }
        }
    }

    // From here on changed rows are not kept any more, and files not frozen.
    fn end_spooling(&self, seal: &mut Seal) {
        let mut meta = self.meta.lock();
        if let Some(spool) = meta.spool.take() {
            *seal.spool.get_mut() = Some(spool);
        }
        let mut candidates = self.seal.candidates.lock();
        self.seal.spooling.store(0, Ordering::SeqCst);
        let mut all = std::mem::take(&mut *candidates);
        drop(candidates);
        drop(meta);
        // Frozen by an operation, and not of this seal.
        let taken = self.seal.taken.lock();
        all.retain(|ino, _| !taken.contains(*ino));
        drop(taken);
        for file in all.into_values() {
            self.thaw(&file);
            self.seal.ended.lock().remove(&file.ino);
        }
    }

    /// Undoes a freeze.
    pub(super) fn thaw(&self, file: &Arc<DataFile>) {
        let mut content = file.inner.lock();
        content.thaw();
        self.end_frozen(file, &mut content);
    }

    /// After the frozen state of a file was given up or resolved.
    pub(super) fn end_frozen(&self, file: &Arc<DataFile>, content: &mut Content) {
        self.pend(file, content);
        self.tell(file, content);
        if content.dead
            && let Some(slot) = content.slot.take()
        {
            self.slots.release(slot, self.ring.end().lsn);
        }
    }

    /// Ends the content of an inode that the record `lsn` ended.
    pub(super) fn end_file(&self, file: &Arc<DataFile>, lsn: u64) {
        let mut content = file.inner.lock();
        if content.frozen.is_some() {
            self.seal.ended.lock().insert(file.ino, Arc::clone(file));
        }
        self.files.lock().remove(&file.ino);
        content.dead = true;
        self.totals.tell(&mut content);
        if let Some(spare) = content.spare.take() {
            self.slots.release(spare, lsn);
        }
        if content.frozen.is_none()
            && let Some(slot) = content.slot.take()
        {
            self.slots.release(slot, lsn);
        }
    }
}

fn read_gone(meta: &mut Meta, epoch: u64) -> Result<(), CacheError> {
    let Some(mut spool) = meta.spool.take() else { return Ok(()) };
    let result = (|| {
        let mut statement = meta.db.prepare_cached("SELECT DISTINCT dir,name FROM gone_names WHERE stamp<=?1")?;
        let mut rows = statement.query([epoch as i64])?;
        while let Some(row) = rows.next()? {
            spool.add_gone_name(row.get::<_, i64>(0)? as u64, &row.get::<_, Vec<u8>>(1)?)?;
        }
        let mut statement = meta.db.prepare_cached("SELECT ino FROM gone_inodes WHERE stamp<=?1")?;
        let mut rows = statement.query([epoch as i64])?;
        while let Some(row) = rows.next()? {
            spool.add_gone_inode(row.get::<_, i64>(0)? as u64)?;
        }
        Ok(())
    })();
    meta.spool = Some(spool);
    result
}

// What is held counts as changed after this seal, whatever becomes of the seal.
fn restamp(meta: &mut Meta, epoch: u64, inodes: Vec<Ino>, names: Vec<(Ino, Vec<u8>)>) -> Result<(), CacheError> {
    for ino in inodes {
        meta.amend(ino, |row| row.stamp = row.stamp.max(epoch + 1))?;
        meta.held.inodes.push(ino);
    }
    for (dir, name) in names {
        meta.amend_name(dir, &name, |row| row.stamp = row.stamp.max(epoch + 1))?;
        meta.held.names.push(super::meta::key(dir, &name));
    }
    Ok(())
}

impl Meta {
    /// Keeps a row as the seal has frozen it.
    pub(super) fn spool_inode(&mut self, cache: &Cache, ino: Ino) -> Result<(), CacheError> {
        let Some(Stamped { row, stamp, flags }) = self.row(ino)?.cloned() else { return Ok(()) };
        let captured = self.is_captured(stamp, flags);
        let a = row.attr;
        let mut size = a.size;
        if a.is_file()
            && let Some(file) = cache.hot_file(ino)
        {
            // Not frozen: nothing of a later epoch has touched it. (What one of this epoch still does to it is in `Seal::files`.)
            let content = file.inner.lock();
            size = content.frozen.as_ref().filter(|_| content.frozen_for == self.sealing).map_or(content.size, |frozen| frozen.size);
        }
        let inode = View { cache, meta: self }.message(&a, size)?;
        let kept = Kept { inode, captured, orphan: a.nlink == 0 };
        self.spool.as_mut().map_or(Ok(()), |spool| spool.keep_inode(&kept))
    }
}
