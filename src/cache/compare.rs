//! The tree of this cache beside the tree of a commit, which a second cache was filled with: row by row, a few at a time, so that neither
//! is ever in memory whole.
//!
//! Only rows that this cache calls committed are compared, and only content of which nothing is dirty or frozen. What changed after the
//! commit was read is told apart by whoever asks: it reads the deltas since. The repair is in `repair.rs`.

use super::Cache;
use super::db::{self, NameRow, Stamped};
use super::effect::InodeRow;
use super::meta::Meta;
use super::reserve::free_bytes;
use super::types::{CacheError, Head, LocalExtent, Odd};
use crate::types::{Attr, Ino};
use rusqlite::{OptionalExtension, params};
use std::collections::{BTreeMap, BTreeSet};

/// Below a cache's directory, where the tree of a commit may be. What was left there goes when the cache is opened.
pub const SCRATCH: &str = "scrub";
/// Its log, and something for those who write meanwhile.
const SCRATCH_BYTES_MIN: u64 = 64 << 20;

/// What this cache holds for committed at one instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Basis {
    /// Its newest record.
    pub head: Head,
    pub(super) resolved: u64,
}

/// A piece of content, by what it is: the same bytes may be named by another object meanwhile.
pub(super) type Piece = (u64, u64, u32, u32, u64);
type Place = (Ino, u64);
type Names = BTreeMap<Place, (Vec<u8>, Stamped<NameRow>)>;

/// An inode as it is compared.
#[derive(Debug, PartialEq)]
pub(super) struct Shown {
    pub(super) attr: Attr,
    home: Place,
    pub(super) target: Option<Vec<u8>>,
    pub(super) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(super) pieces: Vec<Piece>,
}

impl Shown {
    pub(super) fn read(meta: &Meta, row: &InodeRow) -> Result<Self, CacheError> {
        let (ino, mut attr, mut home) = (row.attr.ino, row.attr.clone(), row.home);
        // A directory may have others in it that no commit takes; of several names any may be the home.
        if attr.is_dir() {
            attr.nlink = 0;
        } else if attr.nlink > 1 {
            home = (0, 0);
        }
        let target =
            meta.db.prepare_cached("SELECT target FROM targets WHERE ino=?1")?.query_row([ino as i64], |row| row.get(0)).optional()?;
        let pieces = if attr.is_file() { pieces(&db::get_extents(&meta.db, ino)?) } else { Vec::new() };
        Ok(Self { attr, home, target, xattrs: xattrs(meta, ino)?, pieces })
    }
}

pub(super) fn xattrs(meta: &Meta, ino: Ino) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, CacheError> {
    let mut statement = meta.db.prepare_cached("SELECT name,value FROM xattrs WHERE ino=?1")?;
    let rows = statement.query_map([ino as i64], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

// Neighbours of one frame are one piece: it does not matter where they were once cut.
fn pieces(extents: &[LocalExtent]) -> Vec<Piece> {
    let mut pieces: Vec<Piece> = Vec::new();
    for e in extents {
        match pieces.last_mut() {
            Some((offset, length, skip, plain, checksum))
                if *offset + *length == e.offset
                    && u64::from(*skip) + *length == u64::from(e.skip)
                    && (*plain, *checksum) == (e.plain_length, e.checksum) =>
            {
                *length += e.length;
            }
            _ => pieces.push((e.offset, e.length, e.skip, e.plain_length, e.checksum)),
        }
    }
    pieces
}

/// The keys of both, as far as both were read: each up to `limit` rows.
pub(super) fn keys_of<K: Ord + Copy, A, B>(ours: &BTreeMap<K, A>, theirs: &BTreeMap<K, B>, limit: usize) -> BTreeSet<K> {
    let last_of = |count: usize, last: Option<&K>| last.copied().filter(|_| count == limit);
    let ends = [last_of(ours.len(), ours.keys().next_back()), last_of(theirs.len(), theirs.keys().next_back())];
    let end = ends.into_iter().flatten().min();
    ours.keys().chain(theirs.keys()).copied().filter(|key| end.is_none_or(|end| *key <= end)).collect()
}

impl Meta {
    // Rows after a number, up to `limit`, as `meta.db` has them.
    pub(super) fn inodes_after(&mut self, after: Ino, limit: usize) -> Result<BTreeMap<Ino, Stamped<InodeRow>>, CacheError> {
        self.flush()?;
        let mut statement = self.db.prepare_cached(&format!("SELECT * FROM inodes WHERE ino>?1 ORDER BY ino LIMIT {limit}"))?;
        let rows = statement.query_map([after as i64], |row| db::inode_of(row, 0))?;
        rows.map(|row| Ok(row.map(|row| (row.row.attr.ino, row))?)).collect()
    }

    pub(super) fn names_after(&mut self, after: Place, limit: usize) -> Result<Names, CacheError> {
        self.flush()?;
        let sql = format!("SELECT dir,cookie,name,ino,stamp,flags FROM names WHERE (dir,cookie)>(?1,?2) ORDER BY dir,cookie LIMIT {limit}");
        let mut statement = self.db.prepare_cached(&sql)?;
        let rows = statement.query_map([after.0 as i64, after.1 as i64], |row| {
            let (dir, cookie) = (row.get::<_, i64>(0)? as u64, row.get::<_, i64>(1)? as u64);
            let name = NameRow { cookie, ino: row.get::<_, i64>(3)? as u64 };
            let stamped = Stamped { row: name, stamp: row.get::<_, i64>(4)? as u64, flags: row.get(5)? };
            Ok(((dir, cookie), (row.get(2)?, stamped)))
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Whether an end that no commit says yet accounts for it.
    pub(super) fn is_gone(&self, odd: &Odd) -> Result<bool, CacheError> {
        Ok(match odd {
            Odd::Inode(ino) => self.db.prepare_cached("SELECT 1 FROM gone_inodes WHERE ino=?1")?.exists([*ino as i64])?,
            Odd::Name { dir, name } => {
                self.db.prepare_cached("SELECT 1 FROM gone_names WHERE dir=?1 AND name=?2")?.exists(params![*dir as i64, name])?
            }
        })
    }

    /// The name at a place, and when it changed.
    pub(super) fn name_at(&self, dir: Ino, cookie: u64) -> Result<Option<(Vec<u8>, u64)>, CacheError> {
        let mut statement = self.db.prepare_cached("SELECT name,stamp FROM names WHERE dir=?1 AND cookie=?2")?;
        let found = statement.query_row([dir as i64, cookie as i64], |row| Ok((row.get(0)?, row.get::<_, i64>(1)? as u64)));
        Ok(found.optional()?)
    }
}

impl Cache {
    /// Whether the tree of a commit finds room beside this one, in [`SCRATCH`], and as much is left. What cannot be asked is not known to be
    /// full.
    #[must_use]
    pub fn has_room_for_scratch(&self) -> bool {
        let bytes = std::fs::metadata(self.dir.join("meta.db")).map_or(0, |file| file.len());
        !self.disk_is_full() && free_bytes(&self.dir).is_none_or(|free| free >= 2 * bytes + SCRATCH_BYTES_MIN)
    }

    /// What this cache holds for committed now. `None`: nothing was ever committed.
    #[must_use]
    pub fn basis(&self) -> Option<Basis> {
        // Held while a commit is taken over: head and rows are of one.
        let _batch = self.batch.lock();
        let resolved = self.meta.lock().resolved;
        self.head().map(|head| Basis { head, resolved })
    }

    /// Compares the next up to `limit` inodes with those of a commit; `after` moves on. Returns how many were compared: 0 at the end.
    ///
    /// # Errors
    /// When either database fails.
    pub fn compare_inodes(
        &self,
        basis: &Basis,
        commit: &Self,
        after: &mut Ino,
        limit: usize,
        odd: &mut Vec<Odd>,
    ) -> Result<usize, CacheError> {
        let theirs = commit.meta.lock().inodes_after(*after, limit)?;
        let mut meta = self.meta.lock();
        let ours = meta.inodes_after(*after, limit)?;
        let all = keys_of(&ours, &theirs, limit);
        for ino in &all {
            if self.inode_differs(&meta, basis, commit, ours.get(ino), theirs.get(ino), *ino)? {
                odd.push(Odd::Inode(*ino));
            }
            *after = *ino;
        }
        Ok(all.len())
    }

    /// The same for names, in the order of their directories and cookies.
    ///
    /// # Errors
    /// When either database fails.
    pub fn compare_names(
        &self,
        basis: &Basis,
        commit: &Self,
        after: &mut (Ino, u64),
        limit: usize,
        odd: &mut Vec<Odd>,
    ) -> Result<usize, CacheError> {
        let theirs = commit.meta.lock().names_after(*after, limit)?;
        let mut meta = self.meta.lock();
        let ours = meta.names_after(*after, limit)?;
        let all = keys_of(&ours, &theirs, limit);
        for key in &all {
            let (our, their) = (ours.get(key), theirs.get(key));
            let same = match (our, their) {
                (Some((_, our)), _) if our.stamp > basis.resolved => true,
                (Some((name, our)), Some((other, their))) => name == other && our.row == their.row,
                _ => false,
            };
            if !same {
                for (name, _) in our.into_iter().chain(their) {
                    let name = Odd::Name { dir: key.0, name: name.clone() };
                    if !odd.contains(&name) && !meta.is_gone(&name)? {
                        odd.push(name);
                    }
                }
            }
            *after = *key;
        }
        Ok(all.len())
    }

    fn inode_differs(
        &self,
        meta: &Meta,
        basis: &Basis,
        commit: &Self,
        ours: Option<&Stamped<InodeRow>>,
        theirs: Option<&Stamped<InodeRow>>,
        ino: Ino,
    ) -> Result<bool, CacheError> {
        if ours.is_some_and(|ours| ours.row.attr.is_file()) && self.is_unsettled(meta, ino)? {
            return Ok(false);
        }
        let shown = theirs.map(|theirs| Shown::read(&commit.meta.lock(), &theirs.row)).transpose()?;
        differs(meta, basis, ours, shown.as_ref(), ino)
    }

    // Whether anything of a file's content is in no commit that this cache knows.
    fn is_unsettled(&self, meta: &Meta, ino: Ino) -> Result<bool, CacheError> {
        if let Some(file) = self.hot_file(ino) {
            return Ok(file.inner.lock().is_unsettled());
        }
        Ok(meta.db.prepare_cached("SELECT 1 FROM files WHERE ino=?1 AND changed<>0")?.exists([ino as i64])?)
    }
}

/// Whether a row as `meta.db` has it is not what the commit shows, and nothing accounts for it. Its content is settled.
pub(super) fn differs(
    meta: &Meta,
    basis: &Basis,
    ours: Option<&Stamped<InodeRow>>,
    theirs: Option<&Shown>,
    ino: Ino,
) -> Result<bool, CacheError> {
    match (ours, theirs) {
        (None, None) => Ok(false),
        (Some(ours), _) if ours.stamp > basis.resolved => Ok(false),
        (None, Some(_)) => Ok(!meta.is_gone(&Odd::Inode(ino))?),
        // Without a name it is in no commit: somebody has it open.
        (Some(ours), None) => Ok(ours.row.attr.nlink > 0),
        (Some(ours), Some(theirs)) => Ok(Shown::read(meta, &ours.row)? != *theirs),
    }
}
