//! Metadata: hot rows in memory before `meta.db`. A change is made here and logged; it reaches SQLite with the next flush of what
//! is pending, so that a row changed often is written once, and a file made and removed in between never.

use super::db::{self, CAPTURED, MAYBE, NameRow, Sql, Stamped, get_number, get_state};
use super::effect::InodeRow;
use super::spool::Spool;
use super::types::CacheError;
use super::{Cache, die};
use crate::types::{Attr, Ino};
use lru::LruCache;
use rusqlite::Connection;

/// A hot inode.
#[derive(Debug)]
pub(super) struct Hot {
    pub(super) inode: Stamped<InodeRow>,
    pending: bool,
    /// `meta.db` has no extended attribute of it.
    pub(super) no_xattrs: bool,
    /// `meta.db` has no `files` row and no extents of it.
    pub(super) no_file: bool,
    /// `meta.db` has no name in it.
    no_names: bool,
}

#[derive(Debug)]
struct HotName {
    value: Option<Stamped<NameRow>>,
    pending: bool,
    stored: bool,
}

/// Directory and name as one key.
pub(super) type Key = Box<[u8]>;

pub(super) fn key(dir: Ino, name: &[u8]) -> Key {
    let mut key = Vec::with_capacity(8 + name.len());
    key.extend_from_slice(&dir.to_be_bytes());
    key.extend_from_slice(name);
    key.into()
}

pub(super) fn parts(key: &[u8]) -> (Ino, &[u8]) {
    let (dir, name) = key.split_at(8.min(key.len()));
    (dir.try_into().map_or(0, Ino::from_be_bytes), name)
}

/// What changed since the flip before, to be looked at by the next seal.
#[derive(Debug, Default)]
pub(super) struct Changed {
    pub(super) inodes: Vec<Ino>,
    pub(super) names: Vec<Key>,
    /// Something was removed.
    pub(super) gone: bool,
}

impl Changed {
    /// About the bytes that these rows take in `meta.db`, its log and its indexes.
    pub(super) fn bytes(&self) -> u64 {
        (self.inodes.len() as u64) * 512 + (self.names.len() as u64) * 384
    }
}

/// See the module's head.
#[derive(Debug)]
pub(super) struct Meta {
    pub(super) db: Connection,
    in_transaction: bool,
    inodes: LruCache<Ino, Hot>,
    names: LruCache<Key, HotName>,
    pending_inodes: Vec<Ino>,
    pending_names: Vec<Key>,
    hot_inodes: usize,
    hot_names: usize,
    /// The newest record whose effects on the metadata are here.
    pub(super) lsn: u64,
    pub(super) epoch: u64,
    /// Changes of this epoch and before are in a commit, but for those on `held`.
    pub(super) resolved: u64,
    /// The epoch frozen by the seal under way; 0: none.
    pub(super) sealing: u64,
    /// Where frozen rows go before they change, until the seal has read them all.
    pub(super) spool: Option<Spool>,
    /// Frozen rows that changed since the flip.
    pub(super) moved: Changed,
    pub(super) changed: Changed,
    /// Classified as `Local` by the last seal.
    pub(super) held: Changed,
    pub(super) held_files: Vec<Ino>,
    pub(super) count: u64,
    // Whether `meta.db` has any extended attribute at all; `None`: not looked yet. Mostly it has none, and the kernel asks all the time.
    any_xattrs: Option<bool>,
    pub(super) next_inode: u64,
    /// Above every cookie given out in any directory.
    pub(super) next_cookie: u64,
}

impl Meta {
    pub(super) fn new(db: Connection, hot_inodes: usize, hot_names: usize) -> Self {
        Self {
            db,
            in_transaction: false,
            inodes: LruCache::unbounded(),
            names: LruCache::unbounded(),
            pending_inodes: Vec::new(),
            pending_names: Vec::new(),
            hot_inodes: hot_inodes.max(16),
            hot_names: hot_names.max(16),
            lsn: 0,
            epoch: 1,
            resolved: 0,
            sealing: 0,
            spool: None,
            moved: Changed::default(),
            changed: Changed::default(),
            held: Changed::default(),
            held_files: Vec::new(),
            count: 0,
            any_xattrs: None,
            next_inode: 0,
            next_cookie: 1,
        }
    }

    /// As `meta.db` has it, in the seal epoch after the last one.
    pub(super) fn read(db: Connection, hot_inodes: usize, hot_names: usize) -> Result<Self, CacheError> {
        let mut meta = Self::new(db, hot_inodes, hot_names);
        meta.lsn = get_number(&meta.db, "meta_lsn")?;
        meta.epoch = get_number(&meta.db, "epoch")? + 1;
        meta.resolved = get_number(&meta.db, "resolved")?;
        meta.next_inode = get_number(&meta.db, "next_inode")?;
        meta.next_cookie = get_number(&meta.db, "next_cookie")?;
        meta.count = meta.db.query_row("SELECT COUNT(*) FROM inodes", [], |row| row.get::<_, i64>(0))? as u64;
        if get_state(&meta.db, "intent")?.is_some() {
            // What was about to be committed may have been: the end of such a row must be said.
            let resolved = meta.resolved;
            let db = meta.write()?;
            db.execute("UPDATE names SET flags=flags|2 WHERE stamp>?1", [resolved as i64])?;
            db.execute("UPDATE inodes SET flags=flags|2 WHERE stamp>?1", [resolved as i64])?;
        }
        Ok(meta)
    }

    /// The connection, inside the open write transaction.
    pub(super) fn write(&mut self) -> Sql<&Connection> {
        if !self.in_transaction {
            self.db.execute_batch("BEGIN IMMEDIATE")?;
            self.in_transaction = true;
        } else if self.db.is_autocommit() {
            // After a full disk or an I/O error SQLite rolls the whole transaction back by itself. What it held is in the log alone:
            // going on would move the place where replay begins past it.
            die("meta.db gave up what was not committed", &"SQLite rolled its transaction back");
        }
        Ok(&self.db)
    }

    pub(super) fn commit(&mut self) -> Sql<()> {
        if self.in_transaction {
            self.db.execute_batch("COMMIT").map_err(|error| -> CacheError { die("meta.db cannot be committed", &error) })?;
            self.in_transaction = false;
        }
        Ok(())
    }

    /// Brings everything pending into the open transaction.
    pub(super) fn flush(&mut self) -> Sql<()> {
        // Rows left over would be pending for ever, and replay begin after them.
        self.flush_rows().map_err(|error| -> CacheError { die("meta.db does not take what changed", &error) })
    }

    fn flush_rows(&mut self) -> Sql<()> {
        if self.pending_inodes.is_empty() && self.pending_names.is_empty() {
            return Ok(());
        }
        self.write()?;
        let db = &self.db;
        for ino in self.pending_inodes.drain(..) {
            if let Some(hot) = self.inodes.peek_mut(&ino).filter(|hot| hot.pending) {
                db::put_inode(db, &hot.inode)?;
                hot.pending = false;
            }
        }
        for key in self.pending_names.drain(..) {
            let Some(hot) = self.names.peek_mut(&key).filter(|hot| hot.pending) else { continue };
            let (dir, name) = parts(&key);
            match &hot.value {
                Some(row) => {
                    db::put_name(db, dir, name, row)?;
                    if let Some(dir) = self.inodes.peek_mut(&dir) {
                        dir.no_names = false;
                    }
                }
                None if hot.stored => db::drop_name(db, dir, name)?,
                None => {}
            }
            hot.stored = hot.value.is_some();
            hot.pending = false;
        }
        Ok(())
    }

    fn make_room(&mut self) -> Sql<()> {
        if self.inodes.len() >= self.hot_inodes || self.names.len() >= self.hot_names {
            self.flush()?;
            while self.inodes.len() > self.hot_inodes - self.hot_inodes / 8 {
                self.inodes.pop_lru();
            }
            while self.names.len() > self.hot_names - self.hot_names / 8 {
                self.names.pop_lru();
            }
        }
        Ok(())
    }

    /// A hot inode, brought in when it is cold.
    pub(super) fn hot(&mut self, ino: Ino) -> Sql<Option<&mut Hot>> {
        if !self.inodes.contains(&ino) {
            let Some(inode) = db::get_inode(&self.db, ino)? else { return Ok(None) };
            self.make_room()?;
            self.inodes.put(ino, Hot { inode, pending: false, no_xattrs: false, no_file: false, no_names: false });
        }
        Ok(self.inodes.get_mut(&ino))
    }

    pub(super) fn row(&mut self, ino: Ino) -> Sql<Option<&Stamped<InodeRow>>> {
        Ok(self.hot(ino)?.map(|hot| &hot.inode))
    }

    /// The attributes, with the present size of a regular file.
    pub(super) fn attr(&mut self, cache: &Cache, ino: Ino) -> Sql<Option<Attr>> {
        let Some(row) = self.row(ino)? else { return Ok(None) };
        let mut attr = row.row.attr.clone();
        if attr.is_file()
            && let Some(file) = cache.hot_file(ino)
        {
            attr.size = file.size();
        }
        Ok(Some(attr))
    }

    /// What a seal whose outcome is open may hold, is in doubt; what a resolved one took is captured.
    fn carried(&self, stamp: u64, flags: u8) -> u8 {
        if stamp <= self.resolved {
            flags | CAPTURED
        } else if stamp != self.epoch {
            flags | MAYBE
        } else {
            flags
        }
    }

    /// Whether a commit may hold this row, so that its end must be said.
    pub(super) fn said(&self, stamp: u64, flags: u8) -> bool {
        self.carried(stamp, flags) != 0
    }

    pub(super) fn is_captured(&self, stamp: u64, flags: u8) -> bool {
        stamp <= self.resolved || flags & CAPTURED != 0
    }

    /// Adds a new inode.
    pub(super) fn add(&mut self, row: InodeRow) -> Sql<()> {
        self.make_room()?;
        let ino = row.attr.ino;
        let inode = Stamped { row, stamp: self.epoch, flags: 0 };
        self.inodes.put(ino, Hot { inode, pending: true, no_xattrs: true, no_file: true, no_names: true });
        self.pending_inodes.push(ino);
        self.changed.inodes.push(ino);
        self.count += 1;
        Ok(())
    }

    /// Puts an inode back that a commit has and `meta.db` has lost. What else belongs to it may be here still.
    pub(super) fn put_back(&mut self, row: InodeRow) -> Sql<()> {
        let ino = row.attr.ino;
        self.add(row)?;
        if let Some(hot) = self.inodes.peek_mut(&ino) {
            (hot.no_xattrs, hot.no_file, hot.no_names) = (false, false, false);
            hot.inode.flags = CAPTURED;
        }
        Ok(())
    }

    /// Keeps what a seal has frozen of an inode before it changes. It asks the content for its size: whoever changes an inode while
    /// holding that lock calls this before taking it.
    pub(super) fn keep(&mut self, cache: &Cache, ino: Ino) -> Sql<()> {
        let Some(stamp) = self.row(ino)?.map(|row| row.stamp) else { return Ok(()) };
        let frozen = self.sealing != 0 && stamp <= self.sealing && stamp != self.epoch;
        let kept = match &self.spool {
            Some(spool) if frozen => spool.has_inode(ino)?,
            _ => true,
        };
        if kept { Ok(()) } else { self.spool_inode(cache, ino) }
    }

    /// An inode about to be changed: what a seal has frozen of it is kept first.
    pub(super) fn change(&mut self, cache: &Cache, ino: Ino) -> Sql<&mut Hot> {
        let Some(hot) = self.hot(ino)? else { return Err(CacheError::NoInode(ino)) };
        let (stamp, flags) = (hot.inode.stamp, hot.inode.flags);
        if stamp != self.epoch {
            self.keep(cache, ino)?;
            if self.sealing != 0 && stamp <= self.sealing && stamp > self.resolved {
                self.moved.inodes.push(ino);
            }
            self.changed.inodes.push(ino);
        }
        let (flags, epoch) = (self.carried(stamp, flags), self.epoch);
        let Some(hot) = self.inodes.peek_mut(&ino) else { return Err(CacheError::NoInode(ino)) };
        hot.inode.stamp = epoch;
        hot.inode.flags = flags;
        if !hot.pending {
            hot.pending = true;
            self.pending_inodes.push(ino);
        }
        Ok(hot)
    }

    /// Sets what only the cache knows of a row (flags, the size at a batch): no change of the volume.
    pub(super) fn amend(&mut self, ino: Ino, f: impl FnOnce(&mut Stamped<InodeRow>)) -> Sql<()> {
        if self.hot(ino)?.is_none() {
            return Ok(());
        }
        let Some(hot) = self.inodes.peek_mut(&ino) else { return Ok(()) };
        f(&mut hot.inode);
        hot.no_file = false;
        if !hot.pending {
            hot.pending = true;
            self.pending_inodes.push(ino);
        }
        Ok(())
    }

    /// The last name of an inode went.
    pub(super) fn unlinked(&mut self, ino: Ino) -> Sql<()> {
        let Some(row) = self.row(ino)? else { return Ok(()) };
        let (stamp, flags) = (row.stamp, row.flags);
        if self.said(stamp, flags) {
            let epoch = self.epoch;
            self.write()?.prepare_cached("INSERT OR IGNORE INTO gone_inodes VALUES(?1,?2)")?.execute([ino as i64, epoch as i64])?;
            self.changed.gone = true;
        }
        Ok(())
    }

    /// Whether any inode may have an extended attribute.
    pub(super) fn any_xattrs(&mut self) -> Sql<bool> {
        match self.any_xattrs {
            Some(any) => Ok(any),
            None => {
                let any = self.db.prepare_cached("SELECT 1 FROM xattrs LIMIT 1")?.exists([])?;
                self.any_xattrs = Some(any);
                Ok(any)
            }
        }
    }

    /// One is about to be set.
    pub(super) fn has_xattrs(&mut self) {
        self.any_xattrs = Some(true);
    }

    /// Ends an inode.
    pub(super) fn drop_inode(&mut self, cache: &Cache, ino: Ino) -> Sql<()> {
        let kind = self.change(cache, ino)?.inode.row.attr.kind();
        self.inodes.pop(&ino);
        let xattrs = self.any_xattrs()?;
        db::drop_inode(self.write()?, ino, Some(kind), xattrs)?;
        self.count = self.count.saturating_sub(1);
        Ok(())
    }

    /// What a name means.
    pub(super) fn name(&mut self, dir: Ino, name: &[u8]) -> Sql<Option<Stamped<NameRow>>> {
        let key = key(dir, name);
        if let Some(hot) = self.names.get(&key) {
            return Ok(hot.value.clone());
        }
        let value = if self.inodes.peek(&dir).is_some_and(|dir| dir.no_names) { None } else { db::get_name(&self.db, dir, name)? };
        self.make_room()?;
        let stored = value.is_some();
        self.names.put(key, HotName { value: value.clone(), pending: false, stored });
        Ok(value)
    }

    /// Makes a name mean something, or nothing.
    pub(super) fn set_name(&mut self, dir: Ino, name: &[u8], to: Option<NameRow>) -> Sql<()> {
        let old = self.name(dir, name)?;
        let key = key(dir, name);
        let mut flags = 0;
        if let Some(old) = &old {
            if self.sealing != 0 && old.stamp <= self.sealing && old.stamp > self.resolved {
                if let Some(spool) = &mut self.spool {
                    spool.keep_name(dir, name, old)?;
                }
                self.moved.names.push(key.clone());
            }
            flags = self.carried(old.stamp, old.flags);
            if to.is_none() && flags != 0 {
                let epoch = self.epoch as i64;
                self.write()?
                    .prepare_cached("INSERT OR IGNORE INTO gone_names VALUES(?1,?2,?3)")?
                    .execute(rusqlite::params![dir as i64, name, epoch])?;
                self.changed.gone = true;
            }
        }
        if to.is_some() && old.as_ref().is_none_or(|old| old.stamp != self.epoch) {
            self.changed.names.push(key.clone());
        }
        self.make_room()?;
        let value = to.map(|row| Stamped { row, stamp: self.epoch, flags });
        let stored = self.names.peek(&key).map_or(old.is_some(), |hot| hot.stored);
        let was_pending = self.names.peek(&key).is_some_and(|hot| hot.pending);
        if !was_pending {
            self.pending_names.push(key.clone());
        }
        self.names.put(key, HotName { value, pending: true, stored });
        Ok(())
    }

    /// Changes what only the cache knows of a name.
    pub(super) fn amend_name(&mut self, dir: Ino, name: &[u8], f: impl FnOnce(&mut Stamped<NameRow>)) -> Sql<()> {
        let Some(mut row) = self.name(dir, name)? else { return Ok(()) };
        f(&mut row);
        let key = key(dir, name);
        let Some(hot) = self.names.peek_mut(&key) else { return Ok(()) };
        hot.value = Some(row);
        if !hot.pending {
            hot.pending = true;
            self.pending_names.push(key);
        }
        Ok(())
    }

    /// Whether a seal has anything to look at.
    pub(super) fn has_changes(&self) -> bool {
        !self.changed.inodes.is_empty() || !self.changed.names.is_empty() || self.changed.gone
    }
}

impl Meta {
    /// After a load: nothing in memory is about the rows of now.
    pub(super) fn forget_all(&mut self) {
        self.inodes.clear();
        self.names.clear();
        self.pending_inodes.clear();
        self.pending_names.clear();
        self.any_xattrs = None;
        self.changed = Changed::default();
    }
}
