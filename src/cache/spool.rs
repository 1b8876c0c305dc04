//! Where a seal keeps what it froze: a table file of its own, so that memory stays bounded and no snapshot of `meta.db` is held
//! while it uploads. Nothing in it outlives the process.

use super::db::{NameRow, Sql, Stamped};
use super::types::CacheError;
use crate::rpc;
use crate::types::Ino;
use prost::Message;
use rusqlite::{Connection, OptionalExtension, params};
use std::path::Path;

/// Names, each with its directory.
pub(super) type Names = Vec<(Ino, Vec<u8>)>;

/// A frozen inode.
#[derive(Debug, Clone)]
pub(super) struct Kept {
    pub(super) inode: rpc::Inode,
    pub(super) captured: bool,
    pub(super) orphan: bool,
}

/// What becomes of something frozen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is `local`, and in no commit.
    Held = 0,
    /// It is in this one.
    Taken = 1,
    /// It is in a later one.
    Waits = 2,
}

/// See the module's head.
#[derive(Debug)]
pub(super) struct Spool {
    db: Connection,
}

// `taken`: NULL: kept before a change, and perhaps not of this seal; else a `Verdict`.
const TABLES: &str = "
CREATE TABLE IF NOT EXISTS inodes(ino INTEGER PRIMARY KEY, body BLOB NOT NULL, captured INTEGER NOT NULL, orphan INTEGER NOT NULL, taken INTEGER);
CREATE TABLE IF NOT EXISTS names(id INTEGER PRIMARY KEY, dir INTEGER NOT NULL, name BLOB NOT NULL, ino INTEGER NOT NULL, cookie INTEGER NOT NULL,
  said INTEGER NOT NULL, taken INTEGER, UNIQUE(dir, name));
CREATE TABLE IF NOT EXISTS gone_names(id INTEGER PRIMARY KEY, dir INTEGER NOT NULL, name BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS gone_inodes(ino INTEGER PRIMARY KEY);
CREATE TABLE IF NOT EXISTS stored(ino INTEGER PRIMARY KEY, body BLOB NOT NULL);
DELETE FROM inodes; DELETE FROM names; DELETE FROM gone_names; DELETE FROM gone_inodes; DELETE FROM stored;
";

impl Spool {
    pub(super) fn open(path: &Path) -> Sql<Self> {
        // Without a journal, what a killed process or a seal that was given up has left is no database any more.
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(CacheError::io("spool.db")(error)),
            _ => {}
        }
        let db = Connection::open(path)?;
        db.set_prepared_statement_cache_capacity(32);
        db.execute_batch(
            "PRAGMA locking_mode=EXCLUSIVE; PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA cache_size=-2048; BEGIN;",
        )?;
        db.execute_batch(TABLES)?;
        Ok(Self { db })
    }

    pub(super) fn keep_inode(&mut self, kept: &Kept) -> Sql<()> {
        self.db.prepare_cached("INSERT OR IGNORE INTO inodes VALUES(?1,?2,?3,?4,NULL)")?.execute(params![
            kept.inode.ino as i64,
            kept.inode.encode_to_vec(),
            kept.captured,
            kept.orphan
        ])?;
        Ok(())
    }

    pub(super) fn has_inode(&self, ino: Ino) -> Sql<bool> {
        Ok(self.db.prepare_cached("SELECT 1 FROM inodes WHERE ino=?1")?.exists([ino as i64])?)
    }

    pub(super) fn inode(&self, ino: Ino) -> Sql<Option<Kept>> {
        let mut statement = self.db.prepare_cached("SELECT body,captured,orphan FROM inodes WHERE ino=?1")?;
        let found = statement.query_row([ino as i64], |row| Ok((row.get::<_, Vec<u8>>(0)?, row.get(1)?, row.get(2)?))).optional()?;
        let Some((body, captured, orphan)) = found else { return Ok(None) };
        let inode = rpc::Inode::decode(&body[..]).map_err(|e| CacheError::Damaged(e.to_string()))?;
        Ok(Some(Kept { inode, captured, orphan }))
    }

    /// The size that the commit says, when the content was frozen at another one than the row.
    pub(super) fn resize(&mut self, mut kept: Kept, size: u64) -> Sql<()> {
        kept.inode.size = size;
        let body = kept.inode.encode_to_vec();
        self.db.prepare_cached("UPDATE inodes SET body=?2 WHERE ino=?1")?.execute(params![kept.inode.ino as i64, body])?;
        Ok(())
    }

    pub(super) fn keep_stored(&mut self, change: &rpc::ExtentChange) -> Sql<()> {
        let mut statement = self.db.prepare_cached("INSERT OR REPLACE INTO stored VALUES(?1,?2)")?;
        statement.execute(params![change.ino as i64, change.encode_to_vec()])?;
        Ok(())
    }

    /// What was kept of files with numbers above `cursor` and up to `last`.
    pub(super) fn stored(&self, cursor: &mut u64, last: Ino, limit: usize) -> Sql<Vec<rpc::ExtentChange>> {
        let sql = format!("SELECT body FROM stored WHERE ino>?1 AND ino<=?2 ORDER BY ino LIMIT {limit}");
        let mut statement = self.db.prepare_cached(&sql)?;
        let mut rows = statement.query(params![*cursor as i64, last.min(i64::MAX as u64) as i64])?;
        let mut found: Vec<rpc::ExtentChange> = Vec::new();
        while let Some(row) = rows.next()? {
            let body: Vec<u8> = row.get(0)?;
            found.push(rpc::ExtentChange::decode(&body[..]).map_err(|e| CacheError::Damaged(e.to_string()))?);
        }
        *cursor = found.last().map_or(*cursor, |change| change.ino);
        Ok(found)
    }

    pub(super) fn judge_inode(&mut self, ino: Ino, verdict: Verdict) -> Sql<()> {
        self.db.prepare_cached("UPDATE inodes SET taken=?2 WHERE ino=?1")?.execute(params![ino as i64, verdict as i64])?;
        Ok(())
    }

    /// What becomes of a frozen inode; `None`: it is not of this seal.
    pub(super) fn inode_verdict(&self, ino: Ino) -> Sql<Option<Verdict>> {
        let mut statement = self.db.prepare_cached("SELECT taken FROM inodes WHERE ino=?1")?;
        let found = statement.query_row([ino as i64], |row| row.get::<_, Option<i64>>(0)).optional()?.flatten();
        Ok(found.map(|verdict| match verdict {
            0 => Verdict::Held,
            1 => Verdict::Taken,
            _ => Verdict::Waits,
        }))
    }

    /// `said` in the row's flags: a commit may hold this name.
    pub(super) fn keep_name(&mut self, dir: Ino, name: &[u8], row: &Stamped<NameRow>) -> Sql<()> {
        self.db.prepare_cached("INSERT OR IGNORE INTO names(dir,name,ino,cookie,said) VALUES(?1,?2,?3,?4,?5)")?.execute(params![
            dir as i64,
            name,
            row.row.ino as i64,
            row.row.cookie as i64,
            row.flags != 0
        ])?;
        Ok(())
    }

    /// A frozen name: what it meant.
    pub(super) fn name(&self, dir: Ino, name: &[u8]) -> Sql<Option<Ino>> {
        let mut statement = self.db.prepare_cached("SELECT ino FROM names WHERE dir=?1 AND name=?2")?;
        Ok(statement.query_row(params![dir as i64, name], |row| row.get::<_, i64>(0)).optional()?.map(|ino| ino as u64))
    }

    pub(super) fn judge_name(&mut self, dir: Ino, name: &[u8], verdict: Verdict) -> Sql<()> {
        let mut statement = self.db.prepare_cached("UPDATE names SET taken=?3 WHERE dir=?1 AND name=?2")?;
        statement.execute(params![dir as i64, name, verdict as i64])?;
        Ok(())
    }

    pub(super) fn name_taken(&self, dir: Ino, name: &[u8]) -> Sql<bool> {
        let mut statement = self.db.prepare_cached("SELECT taken=1 FROM names WHERE dir=?1 AND name=?2")?;
        Ok(statement.query_row(params![dir as i64, name], |row| row.get::<_, Option<bool>>(0)).optional()?.flatten() == Some(true))
    }

    /// The taken names in directories (or of inodes) that are not: (directory, inode).
    pub(super) fn taken_beside_held(&self) -> Sql<Vec<(Ino, Ino)>> {
        let mut statement = self.db.prepare_cached(
            "SELECT n.dir,n.ino FROM names n WHERE n.taken=1 AND (EXISTS(SELECT 1 FROM inodes i WHERE i.ino=n.dir AND i.taken<>1)
             OR EXISTS(SELECT 1 FROM inodes i WHERE i.ino=n.ino AND i.taken<>1))",
        )?;
        let rows = statement.query_map([], |row| Ok((row.get::<_, i64>(0)? as u64, row.get::<_, i64>(1)? as u64)))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// The frozen names of an inode are taken.
    pub(super) fn take_names_of(&mut self, ino: Ino) -> Sql<()> {
        self.db.execute("UPDATE names SET taken=1 WHERE ino=?1 AND taken<>1", [ino as i64])?;
        Ok(())
    }

    /// What has this verdict. (Whatever is not taken goes back to the changed.)
    pub(super) fn of(&self, verdict: Verdict) -> Sql<(Vec<Ino>, Names)> {
        let verdict = [verdict as i64];
        let mut statement = self.db.prepare("SELECT ino FROM inodes WHERE taken=?1")?;
        let inodes = statement.query_map(verdict, |row| Ok(row.get::<_, i64>(0)? as u64))?.collect::<Result<_, _>>()?;
        let mut statement = self.db.prepare("SELECT dir,name FROM names WHERE taken=?1")?;
        let names = statement.query_map(verdict, |row| Ok((row.get::<_, i64>(0)? as u64, row.get(1)?)))?.collect::<Result<_, _>>()?;
        Ok((inodes, names))
    }

    /// Whether a name waits that a commit may hold, so with another meaning.
    pub(super) fn waits_with_a_said_name(&self) -> Sql<bool> {
        Ok(self.db.query_row("SELECT EXISTS(SELECT 1 FROM names WHERE taken=2 AND said=1)", [], |row| row.get(0))?)
    }

    /// Nothing waits.
    pub(super) fn take_waiting(&mut self) -> Sql<()> {
        self.db.execute_batch("UPDATE inodes SET taken=1 WHERE taken=2; UPDATE names SET taken=1 WHERE taken=2;")?;
        Ok(())
    }

    pub(super) fn add_gone_name(&mut self, dir: Ino, name: &[u8]) -> Sql<()> {
        self.db.prepare_cached("INSERT INTO gone_names(dir,name) VALUES(?1,?2)")?.execute(params![dir as i64, name])?;
        Ok(())
    }

    pub(super) fn add_gone_inode(&mut self, ino: Ino) -> Sql<()> {
        self.db.prepare_cached("INSERT OR IGNORE INTO gone_inodes VALUES(?1)")?.execute([ino as i64])?;
        Ok(())
    }

    /// A held name that a commit holds with another meaning is removed there.
    pub(super) fn remove_held_names(&mut self) -> Sql<Names> {
        self.db.execute("INSERT INTO gone_names(dir,name) SELECT dir,name FROM names WHERE taken=0 AND said=1", [])?;
        let mut statement = self.db.prepare("SELECT dir,name FROM names WHERE taken=0 AND said=1")?;
        let rows = statement.query_map([], |row| Ok((row.get::<_, i64>(0)? as u64, row.get(1)?)))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    pub(super) fn is_empty(&self) -> Sql<bool> {
        let sql = "SELECT NOT EXISTS(SELECT 1 FROM inodes WHERE taken=1) AND NOT EXISTS(SELECT 1 FROM names WHERE taken=1)
                   AND NOT EXISTS(SELECT 1 FROM gone_names) AND NOT EXISTS(SELECT 1 FROM gone_inodes)";
        Ok(self.db.query_row(sql, [], |row| row.get(0))?)
    }

    pub(super) fn removed_names(&self, cursor: &mut u64, limit: usize) -> Sql<Vec<rpc::NameRef>> {
        let mut statement = self.db.prepare_cached(&format!("SELECT id,dir,name FROM gone_names WHERE id>?1 ORDER BY id LIMIT {limit}"))?;
        let mut rows = statement.query(params![*cursor as i64])?;
        let mut found = Vec::new();
        while let Some(row) = rows.next()? {
            *cursor = row.get::<_, i64>(0)? as u64;
            found.push(rpc::NameRef { dir: row.get::<_, i64>(1)? as u64, name: row.get::<_, Vec<u8>>(2)?.into() });
        }
        Ok(found)
    }

    pub(super) fn removed_inodes(&self, cursor: &mut u64, limit: usize) -> Sql<Vec<Ino>> {
        let mut statement = self.db.prepare_cached(&format!("SELECT ino FROM gone_inodes WHERE ino>?1 ORDER BY ino LIMIT {limit}"))?;
        let rows = statement.query_map(params![*cursor as i64], |row| Ok(row.get::<_, i64>(0)? as u64))?;
        let found: Vec<Ino> = rows.collect::<Result<_, _>>()?;
        *cursor = found.last().copied().unwrap_or(*cursor);
        Ok(found)
    }

    pub(super) fn inodes(&self, cursor: &mut u64, limit: usize) -> Sql<Vec<rpc::Inode>> {
        let mut statement =
            self.db.prepare_cached(&format!("SELECT body FROM inodes WHERE ino>?1 AND taken=1 ORDER BY ino LIMIT {limit}"))?;
        let mut rows = statement.query(params![*cursor as i64])?;
        let mut found: Vec<rpc::Inode> = Vec::new();
        while let Some(row) = rows.next()? {
            let body: Vec<u8> = row.get(0)?;
            found.push(rpc::Inode::decode(&body[..]).map_err(|e| CacheError::Damaged(e.to_string()))?);
        }
        *cursor = found.last().map_or(*cursor, |inode| inode.ino);
        Ok(found)
    }

    pub(super) fn names(&self, cursor: &mut u64, limit: usize) -> Sql<Vec<rpc::Name>> {
        let mut statement = self
            .db
            .prepare_cached(&format!("SELECT id,dir,name,ino,cookie FROM names WHERE id>?1 AND taken=1 ORDER BY id LIMIT {limit}"))?;
        let mut rows = statement.query(params![*cursor as i64])?;
        let mut found = Vec::new();
        while let Some(row) = rows.next()? {
            *cursor = row.get::<_, i64>(0)? as u64;
            found.push(rpc::Name {
                dir: row.get::<_, i64>(1)? as u64,
                name: row.get::<_, Vec<u8>>(2)?.into(),
                ino: row.get::<_, i64>(3)? as u64,
                cookie: row.get::<_, i64>(4)? as u64,
            });
        }
        Ok(found)
    }
}
