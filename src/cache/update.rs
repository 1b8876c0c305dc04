//! Changing the metadata: one mutation, one record, one answer.

use super::db::{NameRow, Stamped};
use super::effect::{Effect, InodeRow, Record};
use super::file::{Content, DataFile};
use super::hold::Lost;
use super::meta::Meta;
use super::types::{CacheError, NewInode, RequestId, SavedReply};
use super::view::View;
use super::{Cache, db, die};
use crate::format::limits;
use crate::types::{Attr, FILE_SIZE_MAX, Ino, NAME_MAX, UnixNanos};
use parking_lot::{ArcMutexGuard, RawMutex};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

// A record holds at most one long value (an extended attribute, a symlink's target, a state) beside rows and names.
const ROOM: u64 = (64 << 10) + 4096;

type Held = (Arc<DataFile>, ArcMutexGuard<RawMutex, Content>);

/// A change of the metadata: all of it or nothing, logged before `Cache::update` returns. Dereferences to [`View`].
pub struct Update<'a> {
    view: View<'a>,
    now: UnixNanos,
    // Inodes whose rows changed, with the link count before.
    rows: Vec<(Ino, u32)>,
    effects: Vec<Effect>,
    // Locked until the record is logged, so that no write of theirs is logged between.
    files: Vec<Held>,
    ended: Vec<Arc<DataFile>>,
    lost: Vec<Lost>,
}

impl fmt::Debug for Update<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Update")
    }
}

impl<'a> std::ops::Deref for Update<'a> {
    type Target = View<'a>;
    fn deref(&self) -> &View<'a> {
        &self.view
    }
}

impl std::ops::DerefMut for Update<'_> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.view
    }
}

impl Cache {
    /// Changes the metadata: check first, change after, as an `Err` must have changed nothing (else the process ends).
    /// On return the change survives the death of the process, together with the reply for `request`.
    ///
    /// # Errors
    /// Those of `f`, and of making room in the log.
    pub fn update<R, E: From<CacheError>>(
        &self,
        request: Option<RequestId>,
        f: impl FnOnce(&mut Update<'_>) -> Result<(R, SavedReply), E>,
    ) -> Result<R, E> {
        let _permit = self.admit(ROOM)?;
        let mut meta = self.meta.lock();
        let mut update = Update {
            view: View { cache: self, meta: &mut meta },
            now: self.env.now(),
            rows: Vec::new(),
            effects: Vec::new(),
            files: Vec::new(),
            ended: Vec::new(),
            lost: Vec::new(),
        };
        match f(&mut update) {
            Ok((value, reply)) => {
                update.finish(request.map(|id| (id, reply)))?;
                Ok(value)
            }
            Err(error) => {
                if !update.rows.is_empty() || !update.effects.is_empty() {
                    die("a refused change of the metadata had changed something", &"a check came after a change");
                }
                Err(error)
            }
        }
    }
}

impl Cache {
    /// The content of a regular file lost its last name, or has one again. Without one no commit takes it: counted as dirty it would keep
    /// the volume at its limit for as long as somebody has it open.
    pub(super) fn name_content(&self, meta: &mut Meta, ino: Ino, unnamed: bool, held: Option<&mut Held>) -> Result<(), CacheError> {
        let epoch = meta.epoch;
        let change = |file: &Arc<DataFile>, content: &mut Content| {
            content.unnamed = unnamed;
            // Seals passed over it meanwhile.
            if !unnamed && (content.is_changed() || content.frozen.is_some()) {
                self.list(file, content, epoch);
            }
            self.tell(file, content);
        };
        match held {
            Some((file, content)) => change(file, content),
            // A new one is not here yet, and has its name from the beginning.
            None if !unnamed && self.hot_file(ino).is_none() => {}
            None => {
                let file = self.load_file(meta, ino)?;
                change(&file, &mut file.inner.lock());
            }
        }
        Ok(())
    }
}

#[allow(clippy::missing_errors_doc, reason = "NoInode, limits where said, else only when meta.db or the disk fails")]
impl Update<'_> {
    /// The wall clock, for timestamps.
    #[must_use]
    pub fn now(&self) -> UnixNanos {
        self.now
    }

    fn finish(mut self, request: Option<(RequestId, SavedReply)>) -> Result<(), CacheError> {
        self.view.cache.judge_lost(&mut self.view, &self.lost);
        let Self { view: View { cache, meta }, rows, effects, mut files, ended, .. } = self;
        if rows.is_empty() && effects.is_empty() && request.is_none() {
            return Ok(());
        }
        let mut all = Vec::with_capacity(rows.len() + effects.len());
        for (ino, nlink) in rows {
            cache.touch(ino);
            let Some(row) = meta.row(ino)? else { continue };
            let row = row.row.clone();
            if nlink > 0 && row.attr.nlink == 0 {
                meta.unlinked(ino)?;
            }
            if row.attr.is_file() && (nlink == 0) != (row.attr.nlink == 0) {
                let held = files.iter_mut().find(|(file, _)| file.ino == ino);
                cache.name_content(meta, ino, row.attr.nlink == 0, held)?;
            }
            all.push(Effect::Inode(row));
        }
        all.extend(effects);
        if !all.is_empty() {
            if cache.totals.changed(&cache.env) {
                cache.stir();
            }
            cache.totals.rows.store(meta.changed.bytes(), Ordering::Relaxed);
        }
        let payload = Record { request, effects: all }.encode();
        let lsn = cache.ring.append(&payload).unwrap_or_else(|error| die("the mutation log cannot be written", &error));
        meta.lsn = lsn;
        for (_, mut content) in files {
            content.lsn = lsn;
        }
        for file in ended {
            cache.end_file(&file, lsn);
        }
        if let Some((id, reply)) = request {
            cache.replies.lock().insert(id, reply);
        }
        cache.env.failpoint("cache.after_log_before_reply");
        Ok(())
    }

    fn row_mut(&mut self, ino: Ino) -> Result<&mut InodeRow, CacheError> {
        let View { cache, meta } = &mut self.view;
        let hot = meta.change(cache, ino)?;
        if !self.rows.iter().any(|(known, _)| *known == ino) {
            self.rows.push((ino, hot.inode.row.attr.nlink));
        }
        Ok(&mut hot.inode.row)
    }

    /// A new inode without a name: `set_name` in the same update gives it one. All times are now.
    pub fn new_inode(&mut self, new: &NewInode) -> Result<Attr, CacheError> {
        if self.view.meta.count >= self.view.cache.options.inodes_max {
            return Err(CacheError::NoSpace("inodes"));
        }
        let ino = self.view.meta.next_inode;
        self.view.meta.next_inode += 1;
        let attr = Attr {
            ino,
            mode: new.mode,
            uid: new.uid,
            gid: new.gid,
            nlink: 0,
            rdev: new.rdev,
            size: new.target.len() as u64,
            atime: self.now,
            mtime: self.now,
            ctime: self.now,
            btime: self.now,
        };
        self.view.meta.add(InodeRow { attr: attr.clone(), home: (0, 0), cookies: 0 })?;
        self.rows.push((ino, 0));
        if !new.target.is_empty() {
            put_target(self.view.meta, ino, &new.target)?;
            self.effects.push(Effect::Target { ino, target: new.target.clone() });
        }
        Ok(attr)
    }

    /// Replaces mode, owner, rdev and times. `nlink` is kept by the names, `size` of regular files by writes and `set_size`.
    pub fn set_attr(&mut self, attr: &Attr) -> Result<(), CacheError> {
        let row = &mut self.row_mut(attr.ino)?.attr;
        let (nlink, size) = (row.nlink, row.size);
        *row = Attr { nlink, size, ..attr.clone() };
        Ok(())
    }

    /// Cuts or extends a regular file.
    pub fn set_size(&mut self, ino: Ino, size: u64) -> Result<(), CacheError> {
        if size > FILE_SIZE_MAX {
            return Err(CacheError::TooBig);
        }
        let cache = self.view.cache;
        let at = match self.files.iter().position(|(file, _)| file.ino == ino) {
            Some(at) => at,
            None => {
                // The lock is held until the record is logged, and attributes may change in the same update.
                self.view.meta.keep(cache, ino)?;
                let file = cache.load_file(self.view.meta, ino)?;
                let content = file.inner.lock_arc();
                self.files.push((file, content));
                self.files.len() - 1
            }
        };
        let Some((file, content)) = self.files.get_mut(at) else { return Ok(()) };
        if size > content.size {
            cache.check_growth(size - content.size)?;
        }
        // No flip can come between: it needs the metadata mutex.
        let epoch = self.view.meta.epoch;
        cache.freeze_for(file, content, epoch)?;
        let mut effects = Vec::new();
        cache.fill_gap(file, content, size, &mut effects)?;
        effects.push(Effect::Size { ino, size });
        for effect in &effects {
            content.apply(effect);
        }
        self.effects.append(&mut effects);
        cache.cut_flush_point(ino, size);
        cache.pend(file, content);
        cache.list(file, content, epoch);
        cache.tell(file, content);
        Ok(())
    }

    /// Makes `name` mean `ino`; what it meant before loses that name. Link counts follow, also the parents' of directories.
    pub fn set_name(&mut self, dir: Ino, name: &[u8], ino: Ino) -> Result<(), CacheError> {
        if name.is_empty() || name.len() > NAME_MAX {
            return Err(CacheError::Invalid("a name has 1 to 255 bytes"));
        }
        let old = self.view.meta.name(dir, name)?;
        if old.as_ref().is_some_and(|old| old.row.ino == ino) {
            return Ok(());
        }
        // Checked before anything changes.
        for ino in [dir, ino] {
            if self.view.meta.row(ino)?.is_none() {
                return Err(CacheError::NoInode(ino));
            }
        }
        let cookie = match old {
            Some(old) => {
                self.note_lost(dir, name, &old)?;
                self.lose_name(dir, name, old.row)?;
                old.row.cookie
            }
            None => {
                let parent = self.row_mut(dir)?;
                parent.cookies += 1;
                let cookie = parent.cookies;
                self.view.meta.next_cookie = self.view.meta.next_cookie.max(cookie + 1);
                cookie
            }
        };
        self.view.meta.set_name(dir, name, Some(NameRow { cookie, ino }))?;
        self.view.cache.touch_name(dir, name, ino);
        self.effects.push(Effect::Name { dir, name: name.to_vec(), cookie, ino });
        let row = self.row_mut(ino)?;
        let (was, home, is_dir) = (row.attr.nlink, row.home, row.attr.is_dir());
        row.home = (dir, cookie);
        row.attr.nlink += if is_dir { 2 } else { 1 };
        if is_dir {
            self.row_mut(dir)?.attr.nlink += 1;
        } else if was > 0 {
            if was == 1
                && let Some((dir, name)) = self.name_at(home)?
            {
                self.link(ino, dir, &name, true)?;
            }
            self.link(ino, dir, name, true)?;
        }
        Ok(())
    }

    /// Removes a name; link counts follow. An inode whose last name goes stays until `forget_orphan`.
    pub fn remove_name(&mut self, dir: Ino, name: &[u8]) -> Result<(), CacheError> {
        let Some(old) = self.view.meta.name(dir, name)? else { return Ok(()) };
        self.note_lost(dir, name, &old)?;
        self.view.meta.set_name(dir, name, None)?;
        self.view.cache.touch_name(dir, name, old.row.ino);
        self.effects.push(Effect::Unname { dir, name: name.to_vec() });
        self.lose_name(dir, name, old.row)
    }

    fn note_lost(&mut self, dir: Ino, name: &[u8], old: &Stamped<NameRow>) -> Result<(), CacheError> {
        let View { cache, meta } = &mut self.view;
        if cache.touches.seams.watched() {
            let is_dir = meta.row(old.row.ino)?.is_some_and(|row| row.row.attr.is_dir());
            let said = meta.said(old.stamp, old.flags);
            self.lost.push(Lost { dir, name: name.to_vec(), ino: old.row.ino, is_dir, said });
        }
        Ok(())
    }

    // What `name` meant has it no longer.
    fn lose_name(&mut self, dir: Ino, name: &[u8], old: NameRow) -> Result<(), CacheError> {
        let row = self.row_mut(old.ino)?;
        let (was, is_dir) = (row.attr.nlink, row.attr.is_dir());
        row.attr.nlink = was.saturating_sub(if is_dir { 2 } else { 1 });
        if row.home == (dir, old.cookie) {
            row.home = (0, 0);
        }
        if is_dir {
            let parent = self.row_mut(dir)?;
            parent.attr.nlink = parent.attr.nlink.saturating_sub(1);
        } else if was > 1 {
            self.link(old.ino, dir, name, false)?;
            let rest = self.links(old.ino)?;
            if let Some((dir, name)) = rest.first() {
                let cookie = self.view.meta.name(*dir, name)?.map_or(0, |name| name.row.cookie);
                self.row_mut(old.ino)?.home = (*dir, cookie);
            }
            if let [(dir, name)] = &rest[..] {
                self.link(old.ino, *dir, name, false)?;
            }
        }
        Ok(())
    }

    fn links(&mut self, ino: Ino) -> Result<Vec<(Ino, Vec<u8>)>, CacheError> {
        let mut statement = self.view.meta.db.prepare_cached("SELECT dir,name FROM links WHERE ino=?1")?;
        let rows = statement.query_map([ino as i64], |row| Ok((row.get::<_, i64>(0)? as u64, row.get(1)?)))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    fn name_at(&mut self, home: (Ino, u64)) -> Result<Option<(Ino, Vec<u8>)>, CacheError> {
        use rusqlite::OptionalExtension;
        self.view.meta.flush()?;
        let mut statement = self.view.meta.db.prepare_cached("SELECT name FROM names WHERE dir=?1 AND cookie=?2")?;
        let name = statement.query_row([home.0 as i64, home.1 as i64], |row| row.get(0)).optional()?;
        Ok(name.map(|name| (home.0, name)))
    }

    fn link(&mut self, ino: Ino, dir: Ino, name: &[u8], there: bool) -> Result<(), CacheError> {
        put_link(self.view.meta, ino, dir, name, there)?;
        self.effects.push(Effect::Link { ino, dir, name: name.to_vec(), there });
        Ok(())
    }

    /// Sets an extended attribute.
    pub fn set_xattr(&mut self, ino: Ino, name: &[u8], value: &[u8]) -> Result<(), CacheError> {
        if value.len() > 64 << 10 || name.len() > NAME_MAX {
            return Err(CacheError::Invalid("an extended attribute has at most 64 KiB"));
        }
        let others = self.view.xattr_bytes(ino, name)?;
        if others + name.len() + value.len() > limits::XATTRS_BYTES_MAX {
            return Err(CacheError::NoSpace("bytes of an inode's extended attributes"));
        }
        self.change_xattr(ino, name, Some(value))
    }

    /// Removes an extended attribute; tells whether it was there.
    pub fn remove_xattr(&mut self, ino: Ino, name: &[u8]) -> Result<bool, CacheError> {
        if self.xattr(ino, name)?.is_none() {
            return Ok(false);
        }
        self.change_xattr(ino, name, None)?;
        Ok(true)
    }

    fn change_xattr(&mut self, ino: Ino, name: &[u8], value: Option<&[u8]>) -> Result<(), CacheError> {
        self.row_mut(ino)?;
        put_xattr(self.view.meta, ino, name, value)?;
        self.effects.push(Effect::Xattr { ino, name: name.to_vec(), value: value.map(<[u8]>::to_vec) });
        Ok(())
    }

    /// Ends an inode without names that nobody holds open. Nothing when it has names or is not there.
    pub fn forget_orphan(&mut self, ino: Ino) -> Result<(), CacheError> {
        let Some(row) = self.view.meta.row(ino)?.filter(|row| row.row.attr.nlink == 0) else { return Ok(()) };
        let is_file = row.row.attr.is_file();
        let View { cache, meta } = &mut self.view;
        if self.rows.iter().any(|(known, nlink)| *known == ino && *nlink > 0) {
            meta.unlinked(ino)?;
        }
        self.ended.extend(drop_inode(cache, meta, ino, is_file)?);
        self.rows.retain(|(known, _)| *known != ino);
        self.effects.push(Effect::Drop { ino });
        Ok(())
    }
}

/// Ends an inode; its content, if it has any, is to be ended with [`Cache::end_file`] when the record is logged.
pub(super) fn drop_inode(cache: &Cache, meta: &mut Meta, ino: Ino, is_file: bool) -> Result<Option<Arc<DataFile>>, CacheError> {
    let file = if is_file { Some(cache.load_file(meta, ino)?) } else { None };
    if let Some(file) = &file {
        // A seal may have frozen it.
        cache.freeze_for(file, &mut file.inner.lock(), meta.epoch)?;
    }
    meta.drop_inode(cache, ino)?;
    if let Some(file) = &file {
        let mut content = file.inner.lock();
        let slots = content.slot.or(content.spare).into_iter().chain(std::mem::take(&mut content.left));
        for slot in slots {
            db::put_free_slot(meta.write()?, slot)?;
            cache.slots.untake(slot);
        }
    }
    Ok(file)
}

pub(super) fn put_target(meta: &mut Meta, ino: Ino, target: &[u8]) -> Result<(), CacheError> {
    meta.write()?.prepare_cached("INSERT OR REPLACE INTO targets VALUES(?1,?2)")?.execute(rusqlite::params![ino as i64, target])?;
    Ok(())
}

pub(super) fn put_xattr(meta: &mut Meta, ino: Ino, name: &[u8], value: Option<&[u8]>) -> Result<(), CacheError> {
    if let Some(hot) = meta.hot(ino)? {
        hot.no_xattrs = false;
    }
    meta.has_xattrs();
    let db = meta.write()?;
    match value {
        Some(value) => {
            db.prepare_cached("INSERT OR REPLACE INTO xattrs VALUES(?1,?2,?3)")?.execute(rusqlite::params![ino as i64, name, value])?
        }
        None => db.prepare_cached("DELETE FROM xattrs WHERE ino=?1 AND name=?2")?.execute(rusqlite::params![ino as i64, name])?,
    };
    Ok(())
}

pub(super) fn put_link(meta: &mut Meta, ino: Ino, dir: Ino, name: &[u8], there: bool) -> Result<(), CacheError> {
    let sql = if there { "INSERT OR IGNORE INTO links VALUES(?1,?2,?3)" } else { "DELETE FROM links WHERE ino=?1 AND dir=?2 AND name=?3" };
    meta.write()?.prepare_cached(sql)?.execute(rusqlite::params![ino as i64, dir as i64, name])?;
    Ok(())
}
