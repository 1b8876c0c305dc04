//! Filling an empty cache from a checkpoint and the commits after it: in bulk, straight into `meta.db`, not logged. Nothing of it
//! counts before `finish`: a cache that was not finished has no head.

use super::db::{self, NameRow, Stamped};
use super::effect::InodeRow;
use super::pages::Extents;
use super::resolve::{local_extent, object_id};
use super::types::{CacheError, Head, ObjectId};
use super::{Cache, open};
use crate::rpc;
use crate::types::{Attr, Ino, ROOT, Seq};
use rusqlite::{Connection, OptionalExtension, params};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Fills an empty cache from a checkpoint and the commits after it.
#[derive(Debug)]
pub struct Loader {
    cache: Arc<Cache>,
    /// Of the parts so far, which come in the order of their keys: the last inode with its size, and where the last extent ended.
    inode: (Ino, u64),
    extent: (Ino, u64),
}

impl Cache {
    /// Begins to fill an empty cache: the root directory that it was made with goes, the checkpoint or the first commit has one.
    ///
    /// # Errors
    /// `Invalid` when the cache has a head or a name already.
    pub fn load(self: &Arc<Self>) -> Result<Loader, CacheError> {
        if self.head().is_some() {
            return Err(CacheError::Invalid("only an empty cache can be filled"));
        }
        self.apply_batch()?;
        let mut meta = self.meta.lock();
        if meta.db.prepare("SELECT 1 FROM names LIMIT 1")?.exists([])? {
            // The rest of a load that was cut short.
            let db = meta.write()?;
            for table in ["names", "links", "targets", "xattrs", "files", "extents", "objects", "gone_names", "gone_inodes"] {
                db.execute(&format!("DELETE FROM {table}"), [])?;
            }
        }
        meta.write()?.execute_batch("DELETE FROM inodes; CREATE UNIQUE INDEX IF NOT EXISTS names_by_name ON names(dir, name);")?;
        meta.forget_all();
        Ok(Loader { cache: Arc::clone(self), inode: (0, 0), extent: (0, 0) })
    }
}

#[allow(clippy::missing_errors_doc, reason = "`Invalid` for what a sound message cannot say; else only when the disk fails")]
impl Loader {
    /// Applies a checkpoint's part: all of them in their order, before any commit. So nothing of it is there yet, and nothing is looked up.
    pub fn part(&mut self, part: &rpc::CheckpointPart) -> Result<(), CacheError> {
        let mut meta = self.cache.meta.lock();
        let db = meta.write()?;
        let ids = ids(db, &part.objects)?;
        for inode in &part.inodes {
            put_inode(db, inode, true)?;
        }
        for name in &part.names {
            put_name(db, name)?;
        }
        for change in &part.extents {
            let ino = change.ino;
            let found = part.inodes.binary_search_by_key(&ino, |inode| inode.ino);
            let size = found.map_or(if self.inode.0 == ino { self.inode.1 } else { 0 }, |at| part.inodes[at].size);
            for extent in &change.extents {
                let extent = local_extent(extent, &ids, 0)?;
                if (ino, extent.offset) < self.extent {
                    return Err(CacheError::Invalid("the extents of a checkpoint are out of order or overlap"));
                }
                self.extent = (ino, extent.range().end);
                if let Some(clip) = extent.clip(&(0..size)) {
                    db::put_extent(db, ino, &clip)?;
                }
            }
        }
        if let Some(last) = part.inodes.last() {
            self.inode = (last.ino, last.size);
        }
        Ok(())
    }

    /// Applies a commit's delta, in the order that `rpc::Delta` says. `seq`: the commit, for inline extents.
    pub fn delta(&mut self, seq: Seq, delta: &rpc::Delta) -> Result<(), CacheError> {
        let mut meta = self.cache.meta.lock();
        let db = meta.write()?;
        let ids = ids(db, &delta.objects)?;
        for name in &delta.removed_names {
            db::drop_name(db, name.dir, &name.name)?;
        }
        for ino in &delta.removed_inodes {
            db::drop_inode(db, *ino, None, true)?;
        }
        for inode in &delta.inodes {
            put_inode(db, inode, false)?;
            // What the file was cut by must not come back when it grows again.
            if inode.mode & libc::S_IFMT == libc::S_IFREG {
                cut_extents(db, inode.ino, inode.size)?;
            }
        }
        for name in &delta.names {
            put_name(db, name)?;
        }
        for change in &delta.extents {
            put_extents(db, change, &ids, seq)?;
        }
        Ok(())
    }

    /// Counts links, checks the tree, and makes it all durable with its head.
    pub fn finish(self, head: Head, next_inode: Ino, next_cookie: u64) -> Result<(), CacheError> {
        let cache = Arc::clone(&self.cache);
        {
            let mut meta = cache.meta.lock();
            let db = meta.write()?;
            count_links(db)?;
            // A cookie of a removed name must not come back: a reader of the directory may stand there.
            let last = next_cookie.saturating_sub(1) as i64;
            db.execute("UPDATE inodes SET cookies=MAX(cookies,?1) WHERE (mode & 61440)=16384", [last])?;
            let dangling = "SELECT n.ino FROM names n LEFT JOIN inodes i ON i.ino=n.ino LEFT JOIN inodes d ON d.ino=n.dir
                            WHERE i.ino IS NULL OR d.ino IS NULL OR (d.mode & 61440)<>16384 LIMIT 1";
            if db.prepare(dangling)?.exists([])? {
                return Err(CacheError::Invalid("a name means an inode, or lies in a directory, that the volume does not have"));
            }
            if !db.prepare("SELECT 1 FROM inodes WHERE ino=1 AND (mode & 61440)=16384")?.exists([])? {
                return Err(CacheError::Invalid("the volume has no root directory"));
            }
            let count: i64 = db.query_row("SELECT COUNT(*) FROM inodes", [], |row| row.get(0))?;
            let bytes: i64 = db.query_row("SELECT COALESCE(SUM(size),0) FROM inodes WHERE (mode & 61440)=32768", [], |row| row.get(0))?;
            db::put_state(db, "head", Some(&open::encode_head(&head)))?;
            meta.count = count as u64;
            meta.next_inode = meta.next_inode.max(next_inode);
            let most: i64 = db_max_cookie(&meta.db)?;
            meta.next_cookie = meta.next_cookie.max(most as u64 + 1);
            meta.forget_all();
            cache.totals.bytes.store(bytes as u64, Ordering::Relaxed);
            cache.totals.oldest.store(0, Ordering::Relaxed);
        }
        cache.files.lock().clear();
        cache.apply_batch()?;
        *cache.head.lock() = Some(head);
        Ok(())
    }
}

// Inodes without a name are no part of the volume. Links: only of inodes with several names. SQLite sorts in memory, and keeps in memory what
// a statement changes of the pages that were there before: so nothing is sorted, and the inodes are changed some at a time.
const COUNT: &str = "
DROP TABLE IF EXISTS count;
CREATE TABLE count(ino INTEGER PRIMARY KEY, n INTEGER NOT NULL, dir INTEGER NOT NULL, cookie INTEGER NOT NULL);
INSERT INTO count SELECT ino, 1, dir, cookie FROM names WHERE true
  ON CONFLICT(ino) DO UPDATE SET n=n+1, dir=MAX(dir,excluded.dir), cookie=MAX(cookie,excluded.cookie);
UPDATE count SET cookie=(SELECT cookie FROM names WHERE names.dir=count.dir AND names.ino=count.ino LIMIT 1) WHERE n>1;
DELETE FROM links;
INSERT INTO links SELECT n.ino, n.dir, n.name FROM count c JOIN names n ON n.dir=c.dir AND n.ino=c.ino WHERE c.n>1;
INSERT OR IGNORE INTO links SELECT ino, dir, name FROM names WHERE ino IN (SELECT ino FROM count WHERE n>1);
";
const LINKED: [&str; 3] = [
    "UPDATE inodes SET nlink=0 WHERE ino>?1 AND ino<=?2 AND ino NOT IN (SELECT ino FROM count)",
    "UPDATE inodes SET nlink=c.n, home_dir=c.dir, home_cookie=c.cookie FROM count c WHERE c.ino=inodes.ino AND inodes.ino>?1 AND inodes.ino<=?2",
    "UPDATE inodes SET nlink=2 + (SELECT COUNT(*) FROM names n JOIN inodes i ON i.ino=n.ino WHERE n.dir=inodes.ino AND (i.mode & 61440)=16384),
       cookies=COALESCE((SELECT MAX(cookie) FROM names n WHERE n.dir=inodes.ino),0)
     WHERE ino>?1 AND ino<=?2 AND (mode & 61440)=16384",
];
const COUNTED: &str = "
DROP TABLE count;
DELETE FROM extents WHERE ino IN (SELECT ino FROM inodes WHERE nlink=0);
DELETE FROM inodes WHERE nlink=0;
";

fn count_links(db: &Connection) -> Result<(), CacheError> {
    db.execute_batch(COUNT)?;
    let mut after = 0;
    loop {
        let mut next = db.prepare_cached("SELECT ino FROM inodes WHERE ino>?1 ORDER BY ino LIMIT 1 OFFSET 9999")?;
        let end: Option<i64> = next.query_row([after], |row| row.get(0)).optional()?;
        for sql in LINKED {
            db.prepare_cached(sql)?.execute([after, end.unwrap_or(i64::MAX)])?;
        }
        match end {
            Some(end) => after = end,
            None => break,
        }
    }
    Ok(db.execute_batch(COUNTED)?)
}

fn db_max_cookie(db: &Connection) -> Result<i64, CacheError> {
    Ok(db.query_row("SELECT COALESCE(MAX(cookies),0) FROM inodes", [], |row| row.get(0))?)
}

fn ids(db: &Connection, objects: &[rpc::ObjectRef]) -> Result<Vec<ObjectId>, CacheError> {
    objects.iter().map(|object| object_id(db, object)).collect()
}

fn put_inode(db: &Connection, i: &rpc::Inode, new: bool) -> Result<(), CacheError> {
    if i.ino == 0 || i.size > crate::types::FILE_SIZE_MAX {
        return Err(CacheError::Invalid("an inode has the number 0, or a size that no file can have"));
    }
    let link = i.mode & libc::S_IFMT == libc::S_IFLNK;
    let attr = Attr {
        ino: i.ino,
        mode: i.mode,
        uid: i.uid,
        gid: i.gid,
        // Counted at the end. With 0 it would be listed as an orphan until then, at half of its row's price.
        nlink: 1,
        rdev: i.rdev,
        size: if link { i.target.len() as u64 } else { i.size },
        atime: i.atime,
        mtime: i.mtime,
        ctime: i.ctime,
        btime: i.btime,
    };
    db::put_inode(db, &Stamped { row: InodeRow { attr, home: (0, 0), cookies: 0 }, stamp: 0, flags: db::CAPTURED })?;
    if link {
        db.prepare_cached("INSERT OR REPLACE INTO targets VALUES(?1,?2)")?.execute(params![i.ino as i64, &i.target[..]])?;
    }
    if !new {
        db.prepare_cached("DELETE FROM xattrs WHERE ino=?1")?.execute([i.ino as i64])?;
    }
    for xattr in &i.xattrs {
        db.prepare_cached("INSERT OR REPLACE INTO xattrs VALUES(?1,?2,?3)")?.execute(params![
            i.ino as i64,
            &xattr.name[..],
            &xattr.value[..]
        ])?;
    }
    Ok(())
}

fn put_name(db: &Connection, n: &rpc::Name) -> Result<(), CacheError> {
    if n.cookie == 0 || n.ino == ROOT || n.ino == 0 {
        return Err(CacheError::Invalid("a name without a cookie, or of the root"));
    }
    let row = NameRow { cookie: n.cookie, ino: n.ino };
    db::put_name(db, n.dir, &n.name, &Stamped { row, stamp: 0, flags: db::CAPTURED })
}

fn write_back(db: &Connection, ino: Ino, extents: &Extents) -> Result<(), CacheError> {
    for range in extents.touched.iter() {
        db::drop_extents(db, ino, range.start, range.end)?;
        for extent in extents.starting_in(range) {
            db::put_extent(db, ino, extent)?;
        }
    }
    Ok(())
}

fn put_extents(db: &Connection, change: &rpc::ExtentChange, ids: &[ObjectId], seq: Seq) -> Result<(), CacheError> {
    let mut extents = Extents::from_rows(db::get_extents(db, change.ino)?);
    for range in &change.cleared {
        extents.clear(range.offset..range.offset.saturating_add(range.length));
    }
    for extent in &change.extents {
        extents.put(local_extent(extent, ids, seq)?);
    }
    let size = db::get_inode(db, change.ino)?.map_or(0, |inode| inode.row.attr.size);
    extents.clear(size..u64::MAX);
    write_back(db, change.ino, &extents)
}

fn cut_extents(db: &Connection, ino: Ino, size: u64) -> Result<(), CacheError> {
    if !db.prepare_cached("SELECT 1 FROM extents WHERE ino=?1 AND offset+length>?2 LIMIT 1")?.exists([ino as i64, size as i64])? {
        return Ok(());
    }
    let mut extents = Extents::from_rows(db::get_extents(db, ino)?);
    extents.clear(size..u64::MAX);
    write_back(db, ino, &extents)
}
