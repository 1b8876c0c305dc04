//! Whether `meta.db` is what was written, and what can be said of a cache that is not.
//!
//! SQLite keeps no checksums of its pages. What it can see of them, their structure, is looked at when a volume is mounted, together with
//! what holds between our own rows; while a volume is served, any statement that meets a malformed page raises a suspicion, and the whole
//! database is looked at. A row with another value in it is no less sound to SQLite: a scrub finds it, beside the newest commit (`compare.rs`).

use super::codec::{Reader, Writer};
use super::open::{decode_origin, encode_origin};
use super::types::{CacheError, CacheOrigin};
use super::{Cache, db};
use crate::types::{Ino, ROOT, show_name};
use rusqlite::{Connection, OpenFlags, OptionalExtension};
use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use xxhash_rust::xxh3::xxh3_64;

/// A database of more bytes is not looked at whole before a mount is usable: a second's work.
const CHECKED_BYTES_MAX: i64 = 256 << 20;
/// Files named by a survey.
const NAMED: i64 = 10;
/// Whose cache it is, once more: readable when `meta.db` is not.
const ORIGIN: &str = "origin";
/// Why the cache must not be used again.
const MARK: &str = "damaged";

/// What holds between the rows of a sound database: a statement that finds an exception, and what that is.
const RULES: [(&str, &str); 4] = [
    (
        "SELECT 1 FROM names n LEFT JOIN inodes i ON i.ino=n.ino LEFT JOIN inodes d ON d.ino=n.dir
           WHERE i.ino IS NULL OR d.ino IS NULL OR (d.mode & 61440)<>16384 LIMIT 1",
        "a name means an inode, or lies in a directory, that is not there",
    ),
    (
        "SELECT 1 FROM files f LEFT JOIN inodes i ON i.ino=f.ino WHERE i.ino IS NULL LIMIT 1",
        "it has the pages of an inode that is not there",
    ),
    (
        "SELECT 1 FROM extents e LEFT JOIN objects o ON o.id=e.object WHERE e.object<>0 AND o.id IS NULL LIMIT 1",
        "an extent lies in a stored object that it does not know",
    ),
    ("SELECT 1 FROM inodes WHERE (mode & 61440) NOT IN (4096,8192,16384,24576,32768,40960,49152) LIMIT 1", "an inode has no type"),
];

// Statements of any cache of this process that met a malformed page. Which cache it was, each finds out for itself.
static SUSPICIONS: AtomicU64 = AtomicU64::new(0);

/// Whether SQLite, or the reading of a row, says that the database is not what was written.
pub(super) fn is_corrupt(error: &rusqlite::Error) -> bool {
    use rusqlite::{Error, ErrorCode};
    match error {
        Error::SqliteFailure(failure, _) => matches!(failure.code, ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase),
        Error::InvalidColumnType(..) | Error::FromSqlConversionFailure(..) | Error::IntegralValueOutOfRange(..) => true,
        _ => false,
    }
}

/// A statement failed.
pub(super) fn note(error: &rusqlite::Error) {
    if is_corrupt(error) {
        SUSPICIONS.fetch_add(1, Ordering::Relaxed);
    }
}

pub(super) fn suspicions() -> u64 {
    SUSPICIONS.load(Ordering::Relaxed)
}

/// Looks at the database, whole when it is not very large (`whole`: also then).
pub(super) fn check(db: &Connection, whole: bool) -> Result<(), CacheError> {
    let number = |sql: &str| db.query_row(sql, [], |row| row.get::<_, i64>(0));
    let damaged = |what: &str| Err(CacheError::Damaged(format!("meta.db: {what}")));
    // Without a head its hydrate never ended: it is filled anew, whatever is in it.
    let filled = db::get_state(db, "head")?.is_some();
    let root = format!("SELECT COUNT(*) FROM inodes WHERE ino={ROOT} AND (mode & 61440)=16384");
    if filled && number(&root)? != 1 {
        return damaged("the root directory is not there");
    }
    if !whole && number("PRAGMA page_count")?.saturating_mul(number("PRAGMA page_size")?) > CHECKED_BYTES_MAX {
        return Ok(());
    }
    let said: String = db.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if said != "ok" {
        return damaged(&said);
    }
    for (sql, what) in RULES.into_iter().filter(|_| filled) {
        if db.prepare(sql)?.exists([])? {
            return damaged(what);
        }
    }
    Ok(())
}

/// Why an earlier driver said that this cache must not be used.
pub(super) fn mark(dir: &Path) -> Option<String> {
    fs::read_to_string(dir.join(MARK)).ok()
}

/// Writes whose cache it is beside `meta.db`, unless it stands there.
pub(super) fn keep_origin(dir: &Path, origin: &CacheOrigin) -> Result<(), CacheError> {
    if origin_of(dir).as_ref() == Some(origin) {
        return Ok(());
    }
    let bytes = encode_origin(origin);
    let mut w = Writer::default();
    w.u64(xxh3_64(&bytes));
    w.bytes(&bytes);
    let new = dir.join("origin.new");
    let written = fs::File::create(&new).and_then(|mut file| file.write_all(&w.0).and_then(|()| file.sync_data()));
    written.and_then(|()| fs::rename(&new, dir.join(ORIGIN))).map_err(CacheError::io(ORIGIN))
}

fn origin_of(dir: &Path) -> Option<CacheOrigin> {
    let bytes = fs::read(dir.join(ORIGIN)).ok()?;
    let mut r = Reader(&bytes);
    let (checksum, body) = (r.u64()?, r.bytes()?);
    decode_origin(body).filter(|_| xxh3_64(body) == checksum)
}

impl Cache {
    /// Whose cache lies in `dir`, as far as that can be read without `meta.db`.
    #[must_use]
    pub fn origin_beside(dir: &Path) -> Option<CacheOrigin> {
        origin_of(dir)
    }

    /// Looks at the whole of `meta.db` when a statement has met a malformed page since the last call; why the cache must not be used any
    /// more. It is marked then: whoever opens it for a mount is told the same.
    ///
    /// # Errors
    /// When the cache's disk fails.
    pub fn suspicion(&self) -> Result<Option<String>, CacheError> {
        let seen = suspicions();
        if self.suspicions.swap(seen, Ordering::Relaxed) == seen {
            return Ok(None);
        }
        // Beside the connection in use: nobody waits for it.
        let Err(error) = read_only(&self.dir).and_then(|db| check(&db, true)) else { return Ok(None) };
        if !error.is_damage() {
            return Err(error);
        }
        let why = super::types::chain(&error);
        fs::write(self.dir.join(MARK), &why).map_err(CacheError::io(MARK))?;
        Ok(Some(why))
    }

    /// What a damaged cache had in no commit, as far as it can be read, for the person who is told that it was set aside; and whether it
    /// had nothing.
    #[must_use]
    pub fn survey(dir: &Path) -> (String, bool) {
        survey(dir).unwrap_or_else(|error| (format!("what it had in no commit cannot be known ({})", super::types::chain(&error)), false))
    }
}

fn read_only(dir: &Path) -> Result<Connection, CacheError> {
    Ok(Connection::open_with_flags(dir.join("meta.db"), OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)?)
}

fn survey(dir: &Path) -> Result<(String, bool), CacheError> {
    let db = read_only(dir)?;
    let (resolved, in_order) = (db::get_number(&db, "resolved")?, db::get_number(&db, "clean")? == 1);
    let number = |sql: &str| db.query_row(sql, [], |row| row.get::<_, i64>(0));
    let files = number("SELECT COUNT(*) FROM files WHERE changed<>0")?;
    let bytes = number("SELECT COALESCE(SUM(dirty),0) FROM files WHERE changed<>0")?;
    let rows = number(&format!("SELECT COUNT(*) FROM inodes WHERE stamp>{resolved}"))?
        + number(&format!("SELECT COUNT(*) FROM names WHERE stamp>{resolved}"))?
        + number("SELECT COUNT(*) FROM gone_names")?;
    let open = if in_order { "" } else { "; what was written in the seconds before its last driver ended is not counted" };
    if files == 0 && rows == 0 {
        return Ok((format!("all that it tells of is in a commit{open}"), in_order));
    }
    let changed: Vec<Ino> = {
        let sql = format!(
            "SELECT ino FROM files WHERE changed<>0 UNION SELECT ino FROM inodes WHERE stamp>{resolved}
             UNION SELECT ino FROM names WHERE stamp>{resolved} LIMIT {NAMED}"
        );
        let mut statement = db.prepare(&sql)?;
        statement.query_map([], |row| Ok(row.get::<_, i64>(0)? as u64))?.collect::<Result<_, _>>()?
    };
    let names: Vec<String> = changed.into_iter().map(|ino| path_of(&db, ino).unwrap_or_else(|_| format!("inode {ino}"))).collect();
    let names = names.join(", ");
    Ok((
        format!("in no commit are {files} files with {bytes} bytes and {rows} changes of names and attributes, among them {names}{open}"),
        false,
    ))
}

// As far up as it can be read.
fn path_of(db: &Connection, ino: Ino) -> Result<String, CacheError> {
    const DEPTH: usize = 64;
    let mut parts: Vec<String> = Vec::new();
    let mut at = ino;
    while at != ROOT && parts.len() < DEPTH {
        let sql = "SELECT n.name,n.dir FROM names n WHERE n.ino=?1 LIMIT 1";
        let found = db.query_row(sql, [at as i64], |row| Ok((row.get::<_, Vec<u8>>(0)?, row.get::<_, i64>(1)? as u64))).optional()?;
        let Some((name, dir)) = found else {
            parts.push(format!("inode {at}"));
            break;
        };
        parts.push(show_name(&name));
        at = dir;
    }
    parts.reverse();
    Ok(if parts.is_empty() { "the root directory".to_owned() } else { parts.join("/") })
}
