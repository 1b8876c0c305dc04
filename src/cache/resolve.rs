//! The end of a seal: its commit is stored, or it is given up.

use super::batch::Begun;
use super::db::{self, CAPTURED, MAYBE, NameRow, Stamped};
use super::file::Content;
use super::meta::{Meta, parts};
use super::pages::outward;
use super::seal::Seal;
use super::sealed::WINDOW;
use super::spool::Verdict;
use super::types::{CacheError, Head, LocalExtent, ObjectId, chain};
use super::{Cache, die, open};
use crate::rpc;
use crate::types::{PAGE, Seq};
use prost::Message;
use rusqlite::{Connection, OptionalExtension, params};
use std::sync::atomic::Ordering;

/// The number of a stored object, given when it is new.
pub(super) fn object_id(db: &Connection, object: &rpc::ObjectRef) -> Result<ObjectId, CacheError> {
    let known =
        db.prepare_cached("SELECT id FROM objects WHERE name=?1")?.query_row([&object.name], |row| row.get::<_, i64>(0)).optional()?;
    if let Some(id) = known {
        return Ok(id as u64);
    }
    db.prepare_cached("INSERT INTO objects(name,ref) VALUES(?1,?2)")?.execute(params![object.name, object.encode_to_vec()])?;
    Ok(db.last_insert_rowid() as u64)
}

/// An extent of a commit or checkpoint as it is kept here. `ids`: of the message's table of objects; `seq`: the commit, for inline ones.
pub(super) fn local_extent(e: &rpc::Extent, ids: &[ObjectId], seq: Seq) -> Result<LocalExtent, CacheError> {
    let object = match e.object {
        0 => 0,
        n => *ids.get(n as usize - 1).ok_or(CacheError::Invalid("an extent names an object that its table does not have"))?,
    };
    if !e.offset.is_multiple_of(PAGE) || e.length == 0 {
        return Err(CacheError::Invalid("an extent does not begin at a page or is empty"));
    }
    Ok(LocalExtent {
        offset: e.offset,
        length: e.length,
        object,
        frame: e.frame,
        stored_offset: e.stored_offset,
        stored_length: e.stored_length,
        plain_length: e.plain_length,
        skip: e.skip,
        checksum: e.checksum,
        inline_seq: if object == 0 { if e.inline_seq == 0 { seq } else { e.inline_seq } } else { 0 },
    })
}

impl Content {
    /// Takes over what a commit says of the frozen content; what was cut, punched or dirtied since stays as it is.
    fn take_over(&mut self, extents: &[LocalExtent]) {
        let Some(frozen) = self.frozen.take() else { return };
        for extent in extents {
            // A shared extent stands here already.
            if frozen.shared.contains(outward(&extent.range())) && !frozen.dirty.set().overlaps(extent.range()) {
                continue;
            }
            let range = extent.offset..extent.range().end.min(self.size);
            if range.is_empty() || range.start >= range.end {
                continue;
            }
            for part in self.cleared.gaps(range) {
                if let Some(clip) = extent.clip(&part).filter(|clip| clip.offset.is_multiple_of(PAGE)) {
                    self.extents.put(clip);
                }
            }
        }
    }
}

impl Cache {
    /// The commit of `seal` is stored and readable: its extents are taken over, what was not dirtied again is clean, the head moves
    /// and the intent is cleared, in one durable step.
    ///
    /// # Errors
    /// A seal that is none. When meta.db or the cache's disk fails, the process dies: only who reads the cache and the log anew can tell what
    /// is clean.
    pub fn resolve(&self, seal: Seal, head: Head, objects: &[rpc::ObjectRef]) -> Result<(), CacheError> {
        match self.take_over(seal, head, objects) {
            Err(error @ (CacheError::Io { .. } | CacheError::Sql(_))) => die("a commit is stored and cannot be noted here", &chain(&error)),
            done => done,
        }
    }

    fn take_over(&self, seal: Seal, head: Head, objects: &[rpc::ObjectRef]) -> Result<(), CacheError> {
        let mut batch = self.batch.lock();
        let ids: Vec<ObjectId> = {
            let mut meta = self.meta.lock();
            let db = meta.write()?;
            objects.iter().map(|object| object_id(db, object)).collect::<Result<_, _>>()?
        };
        let mut begun = Begun::new(self);
        self.seal.resolving.store(true, Ordering::SeqCst);
        self.seal.landed.store(head.seq, Ordering::SeqCst);
        let (mut last, mut cursor) = (0, 0);
        loop {
            let window = self.seal.taken.lock().after(last, WINDOW);
            let Some(end) = window.last() else { break };
            last = *end;
            let changes = seal.spool(|spool| spool.stored(&mut cursor, last, WINDOW))?;
            for ino in &window {
                let extents = match changes.binary_search_by_key(ino, |file| file.ino) {
                    Ok(at) => changes[at].extents.iter().map(|e| local_extent(e, &ids, head.seq)).collect::<Result<_, _>>()?,
                    Err(_) => Vec::new(),
                };
                let file = seal.file(*ino)?;
                let mut content = file.inner.lock();
                content.take_over(&extents);
                self.end_frozen(&file, &mut content);
            }
            self.seal.taken.lock().resolved_upto(last);
            // Very many are not all in memory until the batch below.
            if window.len() == WINDOW {
                self.begin_batch(&mut begun);
                self.let_go(&window);
            }
        }
        self.seal.taken.lock().end();
        self.seal.ended.lock().clear();
        self.env.failpoint("cache.in_resolve");
        let mut meta = self.meta.lock();
        self.mark_captured(&mut meta, &seal)?;
        meta.resolved = seal.epoch;
        meta.sealing = 0;
        let db = meta.write()?;
        db.execute("DELETE FROM gone_names WHERE stamp<=?1", [seal.epoch as i64])?;
        db.execute("DELETE FROM gone_inodes WHERE stamp<=?1", [seal.epoch as i64])?;
        db::put_state(db, "head", Some(&open::encode_head(&head)))?;
        db::put_state(db, "intent", None)?;
        Self::forget_uploads(db)?;
        drop(meta);
        self.apply_locked(&mut batch, begun)?;
        self.seal.resolving.store(false, Ordering::SeqCst);
        *self.head.lock() = Some(head);
        if !seal.waiting.some {
            self.totals.inherited.store(false, Ordering::SeqCst);
        }
        self.totals.oldest_frozen.store(0, Ordering::SeqCst);
        self.totals.rows_frozen.store(0, Ordering::Relaxed);
        self.seal.shadow.end();
        self.seal.busy.store(false, Ordering::SeqCst);
        Ok(())
    }

    // Rows that changed since the flip are captured in their old form.
    fn mark_captured(&self, meta: &mut Meta, seal: &Seal) -> Result<(), CacheError> {
        let moved = std::mem::take(&mut meta.moved);
        let spool = seal.spool.lock();
        let Some(spool) = &*spool else { return Ok(()) };
        for ino in moved.inodes {
            if spool.inode_verdict(ino)? == Some(Verdict::Taken) {
                meta.amend(ino, |row| row.flags |= CAPTURED)?;
            }
        }
        for key in moved.names {
            let (dir, name) = parts(&key);
            if spool.name_taken(dir, name)? {
                // A file that was made at a name that had gone is another one; one that was renamed over it stands in its place.
                meta.amend_name(dir, name, |row| row.flags |= if row.flags & MAYBE != 0 { CAPTURED } else { 0 })?;
            }
        }
        for (dir, name) in &seal.hidden {
            meta.amend_name(*dir, name, |row| row.flags = 0)?;
        }
        Ok(())
    }

    /// The commit that was under way when the process before this one ended is in the log: what it holds counts as captured (protocol.md 5.5),
    /// and is dirty all the same. Durable before this returns.
    ///
    /// # Errors
    /// When the cache's disk fails.
    pub fn landed(&self, deltas: &[rpc::Delta]) -> Result<(), CacheError> {
        for delta in deltas {
            for some in delta.inodes.chunks(WINDOW) {
                let mut meta = self.meta.lock();
                for inode in some {
                    meta.amend(inode.ino, |row| row.flags |= CAPTURED)?;
                }
                drop(meta);
                self.apply_batch()?;
            }
            for some in delta.names.chunks(WINDOW) {
                let mut meta = self.meta.lock();
                for name in some {
                    let stands = |row: &Stamped<NameRow>| row.row.ino == name.ino || row.flags & MAYBE != 0;
                    meta.amend_name(name.dir, &name.name, |row| row.flags |= if stands(row) { CAPTURED } else { 0 })?;
                }
                drop(meta);
                self.apply_batch()?;
            }
        }
        Ok(())
    }

    /// The seal is given up: all it froze is dirty again, together with what changed since.
    ///
    /// # Errors
    /// None at present.
    pub fn abandon(&self, seal: Seal) -> Result<(), CacheError> {
        // While nothing is loaded: what comes into memory after this is not frozen.
        let taken = {
            let _meta = self.meta.lock();
            self.seal.taken.lock().end()
        };
        for ino in taken {
            // What is not in memory is dirty in `meta.db`. (A file that ends is among the ended before it leaves memory.)
            let ended = || self.seal.ended.lock().get(&ino).cloned();
            if let Some(file) = self.hot_file(ino).or_else(ended) {
                self.thaw(&file);
            }
        }
        self.seal.ended.lock().clear();
        let mut meta = self.meta.lock();
        meta.sealing = 0;
        meta.moved = super::meta::Changed::default();
        if seal.waiting.seam {
            self.touches.seams.meet();
        }
        if !seal.empty {
            meta.changed.inodes.extend(&seal.frozen.inodes);
            meta.changed.names.extend(seal.frozen.names);
            meta.changed.gone |= seal.frozen.gone;
            let epoch = meta.epoch;
            for ino in &seal.frozen_files {
                self.seal.list(epoch, *ino);
            }
            let oldest = self.totals.oldest_frozen.load(Ordering::SeqCst);
            if oldest != 0 {
                self.totals.oldest.store(oldest, Ordering::SeqCst);
            }
        }
        self.totals.oldest_frozen.store(0, Ordering::SeqCst);
        self.totals.rows_frozen.store(0, Ordering::Relaxed);
        self.totals.rows.store(meta.changed.bytes(), Ordering::Relaxed);
        drop(meta);
        self.seal.shadow.end();
        self.seal.busy.store(false, Ordering::SeqCst);
        Ok(())
    }

    /// The stored object with this number.
    ///
    /// # Errors
    /// `Damaged` when there is none.
    pub fn object(&self, id: ObjectId) -> Result<rpc::ObjectRef, CacheError> {
        let meta = self.meta.lock();
        let found = meta.db.prepare_cached("SELECT ref FROM objects WHERE id=?1")?.query_row([id as i64], |row| row.get::<_, Vec<u8>>(0));
        let body = found.optional()?.ok_or_else(|| CacheError::Damaged(format!("no object {id}")))?;
        rpc::ObjectRef::decode(&body[..]).map_err(|e| CacheError::Damaged(e.to_string()))
    }

    /// Makes everything in the cut durable here (protocol.md 6.7).
    ///
    /// # Errors
    /// When the cache's disk fails.
    pub fn make_durable(&self, seal: &Seal) -> Result<(), CacheError> {
        let _ = seal;
        self.apply_batch()
    }
}
