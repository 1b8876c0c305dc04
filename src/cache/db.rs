//! `meta.db`: its schema and the statements on it. One connection, used under the metadata mutex, with a write transaction that
//! stays open from batch to batch.

use super::disk::{Disk, Synced};
use super::effect::InodeRow;
use super::types::{CacheError, LocalExtent};
use crate::types::{Attr, Ino};
use rusqlite::{Connection, ErrorCode, OptionalExtension, Row, params};
use std::io;
use std::path::Path;

/// The version of the schema; another one is refused.
pub(super) const SCHEMA: i64 = 2;

// `stamp`: the seal epoch of the last change; at or below the resolved one it is in a commit (0: loaded from one).
// `flags`: CAPTURED, MAYBE. Nothing here is cleaned up row by row when a commit is resolved: the resolved epoch moves.
const TABLES: &str = "
CREATE TABLE state(key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE inodes(ino INTEGER PRIMARY KEY, mode INTEGER NOT NULL, uid INTEGER NOT NULL, gid INTEGER NOT NULL, nlink INTEGER NOT NULL,
  rdev INTEGER NOT NULL, size INTEGER NOT NULL, atime INTEGER NOT NULL, mtime INTEGER NOT NULL, ctime INTEGER NOT NULL,
  btime INTEGER NOT NULL, home_dir INTEGER NOT NULL, home_cookie INTEGER NOT NULL, cookies INTEGER NOT NULL, stamp INTEGER NOT NULL,
  flags INTEGER NOT NULL);
CREATE INDEX inodes_orphan ON inodes(ino) WHERE nlink = 0;
CREATE TABLE names(dir INTEGER NOT NULL, cookie INTEGER NOT NULL, name BLOB NOT NULL, ino INTEGER NOT NULL, stamp INTEGER NOT NULL,
  flags INTEGER NOT NULL, PRIMARY KEY(dir, cookie)) WITHOUT ROWID;
CREATE UNIQUE INDEX names_by_name ON names(dir, name);
CREATE TABLE links(ino INTEGER NOT NULL, dir INTEGER NOT NULL, name BLOB NOT NULL, PRIMARY KEY(ino, dir, name)) WITHOUT ROWID;
CREATE TABLE targets(ino INTEGER PRIMARY KEY, target BLOB NOT NULL);
CREATE TABLE xattrs(ino INTEGER NOT NULL, name BLOB NOT NULL, value BLOB NOT NULL, PRIMARY KEY(ino, name)) WITHOUT ROWID;
CREATE TABLE files(ino INTEGER PRIMARY KEY, slot INTEGER, lsn INTEGER NOT NULL, boots INTEGER NOT NULL, changed INTEGER NOT NULL,
  used INTEGER NOT NULL, present INTEGER NOT NULL, dirty INTEGER NOT NULL, pages BLOB NOT NULL);
CREATE TABLE extents(ino INTEGER NOT NULL, offset INTEGER NOT NULL, length INTEGER NOT NULL, object INTEGER NOT NULL, frame INTEGER NOT NULL,
  stored_offset INTEGER NOT NULL, stored_length INTEGER NOT NULL, plain_length INTEGER NOT NULL, skip INTEGER NOT NULL,
  checksum INTEGER NOT NULL, inline_seq INTEGER NOT NULL, PRIMARY KEY(ino, offset)) WITHOUT ROWID;
CREATE TABLE objects(id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, ref BLOB NOT NULL);
CREATE TABLE free_slots(slot INTEGER PRIMARY KEY);
CREATE TABLE gone_names(dir INTEGER NOT NULL, name BLOB NOT NULL, stamp INTEGER NOT NULL, PRIMARY KEY(dir, name, stamp)) WITHOUT ROWID;
CREATE TABLE gone_inodes(ino INTEGER NOT NULL, stamp INTEGER NOT NULL, PRIMARY KEY(ino, stamp)) WITHOUT ROWID;
";

/// A commit holds this row, in an older form perhaps.
pub(super) const CAPTURED: u8 = 1;
/// A seal whose outcome was open when it changed may have held it: its removal must be said.
pub(super) const MAYBE: u8 = 2;

/// A row with when it changed and whether a commit holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stamped<T> {
    pub(super) row: T,
    pub(super) stamp: u64,
    pub(super) flags: u8,
}

/// A name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NameRow {
    pub(super) cookie: u64,
    pub(super) ino: Ino,
}

/// A file's row, its page sets still encoded.
#[derive(Debug, Clone, Default)]
pub(super) struct FileRow {
    pub(super) slot: Option<u64>,
    pub(super) lsn: u64,
    pub(super) boots: u64,
    pub(super) changed: bool,
    pub(super) used: i64,
    pub(super) present: u64,
    pub(super) dirty: u64,
    pub(super) pages: Vec<u8>,
}

pub(super) type Sql<T> = Result<T, CacheError>;

/// Opens or creates the database.
pub(super) fn open(path: &Path, create: bool, no_sync: bool) -> Sql<Connection> {
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_WRITE | rusqlite::OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let flags = if create { flags | rusqlite::OpenFlags::SQLITE_OPEN_CREATE } else { flags };
    let db = Connection::open_with_flags(path, flags)?;
    db.set_prepared_statement_cache_capacity(64);
    let sync = if no_sync { "OFF" } else { "NORMAL" };
    db.execute_batch(&format!(
        "PRAGMA journal_mode=WAL; PRAGMA synchronous={sync}; PRAGMA wal_autocheckpoint=0; PRAGMA cache_size=-8192; PRAGMA temp_store=MEMORY;"
    ))?;
    if create {
        db.execute_batch(TABLES)?;
        db.pragma_update(None, "user_version", SCHEMA)?;
    }
    check_schema(&db, path)?;
    Ok(db)
}

/// Whether this version reads the database, without touching it: a driver may be using it.
pub(super) fn fits(path: &Path) -> Sql<()> {
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY | rusqlite::OpenFlags::SQLITE_OPEN_NO_MUTEX;
    check_schema(&Connection::open_with_flags(path, flags)?, path)
}

/// Copies the write-ahead log into the database, and flushes that; `false` when the disk has no room for it: the log has it still.
pub(super) fn checkpoint(db: &Connection, how: &str, disk: &Disk) -> Sql<bool> {
    match disk.ask(Synced::Meta) {
        Err(error) if error.kind() == io::ErrorKind::StorageFull => return Ok(false),
        asked => asked.map_err(CacheError::io("meta.db"))?,
    }
    match db.query_row(&format!("PRAGMA wal_checkpoint({how})"), [], |_| Ok(())) {
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::DiskFull) => Ok(false),
        done => Ok(done.map(|()| true)?),
    }
}

fn check_schema(db: &Connection, path: &Path) -> Sql<()> {
    let found: i64 = db.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if found == 0 {
        // No version of this program wrote that: a file that was emptied looks so.
        return Err(CacheError::Damaged(format!("{} has no schema", path.display())));
    }
    if found != SCHEMA {
        return Err(CacheError::NotACache(format!("{} has schema {found}, this version reads {SCHEMA}", path.display())));
    }
    Ok(())
}

pub(super) fn get_state(db: &Connection, key: &str) -> Sql<Option<Vec<u8>>> {
    Ok(db.prepare_cached("SELECT value FROM state WHERE key=?1")?.query_row([key], |row| row.get(0)).optional()?)
}

pub(super) fn put_state(db: &Connection, key: &str, value: Option<&[u8]>) -> Sql<()> {
    match value {
        Some(value) => db.prepare_cached("INSERT OR REPLACE INTO state VALUES(?1,?2)")?.execute(params![key, value])?,
        None => db.prepare_cached("DELETE FROM state WHERE key=?1")?.execute([key])?,
    };
    Ok(())
}

pub(super) fn get_number(db: &Connection, key: &str) -> Sql<u64> {
    let value = get_state(db, key)?.ok_or_else(|| CacheError::Damaged(format!("meta.db has no {key}")))?;
    Ok(u64::from_le_bytes(value.try_into().map_err(|_| CacheError::Damaged(format!("meta.db has no number in {key}")))?))
}

pub(super) fn put_number(db: &Connection, key: &str, value: u64) -> Sql<()> {
    put_state(db, key, Some(&value.to_le_bytes()))
}

/// A slot that is nobody's any more, in the transaction that says so of its owner.
pub(super) fn put_free_slot(db: &Connection, slot: u64) -> Sql<()> {
    db.prepare_cached("INSERT OR IGNORE INTO free_slots VALUES(?1)")?.execute([slot as i64])?;
    Ok(())
}

const INODE: &str = "ino,mode,uid,gid,nlink,rdev,size,atime,mtime,ctime,btime,home_dir,home_cookie,cookies,stamp,flags";

pub(super) fn inode_of(row: &Row<'_>, at: usize) -> rusqlite::Result<Stamped<InodeRow>> {
    let number = |i: usize| row.get::<_, i64>(at + i);
    let attr = Attr {
        ino: number(0)? as u64,
        mode: number(1)? as u32,
        uid: number(2)? as u32,
        gid: number(3)? as u32,
        nlink: number(4)? as u32,
        rdev: number(5)? as u64,
        size: number(6)? as u64,
        atime: number(7)?,
        mtime: number(8)?,
        ctime: number(9)?,
        btime: number(10)?,
    };
    let row = InodeRow { attr, home: (number(11)? as u64, number(12)? as u64), cookies: number(13)? as u64 };
    Ok(Stamped { row, stamp: number(14)? as u64, flags: number(15)? as u8 })
}

pub(super) fn get_inode(db: &Connection, ino: Ino) -> Sql<Option<Stamped<InodeRow>>> {
    let mut statement = db.prepare_cached(&format!("SELECT {INODE} FROM inodes WHERE ino=?1"))?;
    Ok(statement.query_row([ino as i64], |row| inode_of(row, 0)).optional()?)
}

// Not `OR REPLACE`: of a table with an index, SQLite then copies each page that it changes, for each row.
const PUT_INODE: &str = "INSERT INTO inodes VALUES(?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,?15,?16)
  ON CONFLICT(ino) DO UPDATE SET mode=excluded.mode, uid=excluded.uid, gid=excluded.gid, nlink=excluded.nlink, rdev=excluded.rdev,
    size=excluded.size, atime=excluded.atime, mtime=excluded.mtime, ctime=excluded.ctime, btime=excluded.btime,
    home_dir=excluded.home_dir, home_cookie=excluded.home_cookie, cookies=excluded.cookies, stamp=excluded.stamp, flags=excluded.flags";

pub(super) fn put_inode(db: &Connection, i: &Stamped<InodeRow>) -> Sql<()> {
    let a = &i.row.attr;
    db.prepare_cached(PUT_INODE)?.execute(params![
        a.ino as i64,
        a.mode,
        a.uid,
        a.gid,
        a.nlink,
        a.rdev as i64,
        a.size as i64,
        a.atime,
        a.mtime,
        a.ctime,
        a.btime,
        i.row.home.0 as i64,
        i.row.home.1 as i64,
        i.row.cookies as i64,
        i.stamp as i64,
        i.flags,
    ])?;
    Ok(())
}

/// Removes all that is known of an inode but its names. `kind`: its type in `mode`, when it is known; `xattrs`: whether it may have any.
pub(super) fn drop_inode(db: &Connection, ino: Ino, kind: Option<u32>, xattrs: bool) -> Sql<()> {
    let may_be = |of| kind.is_none_or(|kind| kind == of);
    db.prepare_cached("DELETE FROM inodes WHERE ino=?1")?.execute([ino as i64])?;
    db.prepare_cached("DELETE FROM links WHERE ino=?1")?.execute([ino as i64])?;
    if xattrs {
        db.prepare_cached("DELETE FROM xattrs WHERE ino=?1")?.execute([ino as i64])?;
    }
    if may_be(libc::S_IFLNK) {
        db.prepare_cached("DELETE FROM targets WHERE ino=?1")?.execute([ino as i64])?;
    }
    if may_be(libc::S_IFREG) {
        db.prepare_cached("DELETE FROM files WHERE ino=?1")?.execute([ino as i64])?;
        db.prepare_cached("DELETE FROM extents WHERE ino=?1")?.execute([ino as i64])?;
    }
    Ok(())
}

pub(super) fn get_name(db: &Connection, dir: Ino, name: &[u8]) -> Sql<Option<Stamped<NameRow>>> {
    let mut statement = db.prepare_cached("SELECT cookie,ino,stamp,flags FROM names WHERE dir=?1 AND name=?2")?;
    Ok(statement
        .query_row(params![dir as i64, name], |row| {
            Ok(Stamped {
                row: NameRow { cookie: row.get::<_, i64>(0)? as u64, ino: row.get::<_, i64>(1)? as u64 },
                stamp: row.get::<_, i64>(2)? as u64,
                flags: row.get(3)?,
            })
        })
        .optional()?)
}

pub(super) fn put_name(db: &Connection, dir: Ino, name: &[u8], n: &Stamped<NameRow>) -> Sql<()> {
    let put =
        |sql| db.prepare_cached(sql)?.execute(params![dir as i64, n.row.cookie as i64, name, n.row.ino as i64, n.stamp as i64, n.flags]);
    match put("INSERT INTO names VALUES(?1,?2,?3,?4,?5,?6)") {
        // Not at once, as above: a name is new, mostly.
        Err(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::ConstraintViolation) => {
            put("INSERT OR REPLACE INTO names VALUES(?1,?2,?3,?4,?5,?6)")?
        }
        done => done?,
    };
    Ok(())
}

pub(super) fn drop_name(db: &Connection, dir: Ino, name: &[u8]) -> Sql<()> {
    db.prepare_cached("DELETE FROM names WHERE dir=?1 AND name=?2")?.execute(params![dir as i64, name])?;
    Ok(())
}

pub(super) fn get_file(db: &Connection, ino: Ino) -> Sql<Option<FileRow>> {
    let mut statement = db.prepare_cached("SELECT slot,lsn,boots,changed,used,present,dirty,pages FROM files WHERE ino=?1")?;
    Ok(statement
        .query_row([ino as i64], |row| {
            Ok(FileRow {
                slot: row.get::<_, Option<i64>>(0)?.map(|slot| slot as u64),
                lsn: row.get::<_, i64>(1)? as u64,
                boots: row.get::<_, i64>(2)? as u64,
                changed: row.get(3)?,
                used: row.get(4)?,
                present: row.get::<_, i64>(5)? as u64,
                dirty: row.get::<_, i64>(6)? as u64,
                pages: row.get(7)?,
            })
        })
        .optional()?)
}

pub(super) fn put_file(db: &Connection, ino: Ino, f: &FileRow) -> Sql<()> {
    db.prepare_cached("INSERT OR REPLACE INTO files VALUES(?1,?2,?3,?4,?5,?6,?7,?8,?9)")?.execute(params![
        ino as i64,
        f.slot.map(|slot| slot as i64),
        f.lsn as i64,
        f.boots as i64,
        f.changed,
        f.used,
        f.present as i64,
        f.dirty as i64,
        f.pages
    ])?;
    Ok(())
}

// `+?1`: without the sign SQLite binds the order to the value that it saw, and prepares the statement anew at each use: a third of the
// time in which 100,000 files were loaded.
const EXTENTS: &str = "SELECT offset,length,object,frame,stored_offset,stored_length,plain_length,skip,checksum,inline_seq
  FROM extents WHERE ino=+?1 ORDER BY offset";

/// Up to `limit` (written out, for the same reason) names after a cookie, with their inodes.
pub(super) fn entries_sql(limit: usize) -> String {
    format!(
        "SELECT n.cookie,n.name,i.* FROM names n JOIN inodes i ON i.ino=n.ino WHERE n.dir=+?1 AND n.cookie>?2 ORDER BY n.cookie LIMIT {limit}"
    )
}

pub(super) fn get_extents(db: &Connection, ino: Ino) -> Sql<Vec<LocalExtent>> {
    let mut statement = db.prepare_cached(EXTENTS)?;
    let rows = statement.query_map([ino as i64], |row| {
        let number = |i: usize| row.get::<_, i64>(i);
        Ok(LocalExtent {
            offset: number(0)? as u64,
            length: number(1)? as u64,
            object: number(2)? as u64,
            frame: number(3)? as u32,
            stored_offset: number(4)? as u64,
            stored_length: number(5)? as u32,
            plain_length: number(6)? as u32,
            skip: number(7)? as u32,
            checksum: number(8)? as u64,
            inline_seq: number(9)? as u64,
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

pub(super) fn put_extent(db: &Connection, ino: Ino, e: &LocalExtent) -> Sql<()> {
    db.prepare_cached("INSERT OR REPLACE INTO extents VALUES(?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11)")?.execute(params![
        ino as i64,
        e.offset as i64,
        e.length as i64,
        e.object as i64,
        e.frame,
        e.stored_offset as i64,
        e.stored_length,
        e.plain_length,
        e.skip,
        e.checksum as i64,
        e.inline_seq as i64
    ])?;
    Ok(())
}

pub(super) fn drop_extents(db: &Connection, ino: Ino, from: u64, to: u64) -> Sql<()> {
    db.prepare_cached("DELETE FROM extents WHERE ino=?1 AND offset>=?2 AND offset<?3")?.execute(params![
        ino as i64,
        from as i64,
        to.min(i64::MAX as u64) as i64
    ])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rusqlite::StatementStatus;

    // With a parameter as its limit, for one, SQLite prepares a statement anew at each use: many times the cost of a look-up.
    #[test]
    fn statements_in_order_stay_prepared_and_need_no_sorting() {
        let dir = tempfile::tempdir().unwrap();
        let db = open(&dir.path().join("meta.db"), true, true).unwrap();
        for (sql, parameters) in [(EXTENTS.to_owned(), 1), (entries_sql(32), 2)] {
            let mut statement = db.prepare(&sql).unwrap();
            for n in 0..3 {
                assert!(!statement.exists(rusqlite::params_from_iter((0..parameters).map(|at| at + n))).unwrap());
            }
            assert_eq!(statement.get_status(StatementStatus::RePrepare), 0, "{sql}");
            let mut plan = db.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
            let values = rusqlite::params_from_iter(0..parameters);
            let steps: Vec<String> = plan.query_map(values, |row| row.get(3)).unwrap().map(Result::unwrap).collect();
            assert!(steps.iter().all(|step| step.contains("SEARCH") && !step.contains("TEMP")), "{steps:?}");
        }
    }
}
