//! Looking at the metadata.

use super::db::inode_of;
use super::diff::Named;
use super::meta::Meta;
use super::types::{CacheError, Entry, Space};
use super::{Cache, db};
use crate::rpc;
use crate::types::{Attr, Ino, ROOT, show_name};
use rusqlite::{OptionalExtension, params};
use std::fmt;
use std::sync::atomic::Ordering;

/// More directories above a name than any path has.
pub(super) const DEPTH: usize = 4096;

/// What of the metadata can be asked, at one instant.
pub struct View<'a> {
    pub(super) cache: &'a Cache,
    pub(super) meta: &'a mut Meta,
}

impl fmt::Debug for View<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("View")
    }
}

impl Cache {
    /// Looks at the metadata.
    pub fn view<R>(&self, f: impl FnOnce(&mut View<'_>) -> R) -> R {
        f(&mut View { cache: self, meta: &mut self.meta.lock() })
    }
}

#[allow(clippy::missing_errors_doc, reason = "all of them fail only when meta.db does")]
impl View<'_> {
    /// Attributes of an inode.
    pub fn attr(&mut self, ino: Ino) -> Result<Option<Attr>, CacheError> {
        self.meta.attr(self.cache, ino)
    }

    /// What a name means: inode and cookie.
    pub fn lookup(&mut self, dir: Ino, name: &[u8]) -> Result<Option<(Ino, u64)>, CacheError> {
        Ok(self.meta.name(dir, name)?.map(|name| (name.row.ino, name.row.cookie)))
    }

    /// Up to `limit` entries after a cookie, in cookie order.
    pub fn entries(&mut self, dir: Ino, after: u64, limit: usize) -> Result<Vec<Entry>, CacheError> {
        self.meta.flush()?;
        let mut entries = Vec::new();
        let mut statement = self.meta.db.prepare_cached(&db::entries_sql(limit))?;
        let mut rows = statement.query(params![dir as i64, after as i64])?;
        while let Some(row) = rows.next()? {
            let mut attr = inode_of(row, 2)?.row.attr;
            if attr.is_file()
                && let Some(file) = self.cache.hot_file(attr.ino)
            {
                attr.size = file.size();
            }
            entries.push(Entry { cookie: row.get::<_, i64>(0)? as u64, name: row.get(1)?, ino: attr.ino, attr });
        }
        Ok(entries)
    }

    /// Up to `limit` regular files after an inode number, in its order.
    pub fn files(&mut self, after: Ino, limit: usize) -> Result<Vec<Attr>, CacheError> {
        self.meta.flush()?;
        let (mask, kind) = (libc::S_IFMT, libc::S_IFREG);
        let sql = format!("SELECT * FROM inodes WHERE ino>?1 AND (mode & {mask})={kind} ORDER BY ino LIMIT {limit}");
        let mut statement = self.meta.db.prepare_cached(&sql)?;
        let mut rows = statement.query(params![after as i64])?;
        let mut files = Vec::new();
        while let Some(row) = rows.next()? {
            let mut attr = inode_of(row, 0)?.row.attr;
            if let Some(file) = self.cache.hot_file(attr.ino) {
                attr.size = file.size();
            }
            files.push(attr);
        }
        Ok(files)
    }

    /// Whether a directory has no entries.
    pub fn is_empty(&mut self, dir: Ino) -> Result<bool, CacheError> {
        self.meta.flush()?;
        let mut statement = self.meta.db.prepare_cached("SELECT 1 FROM names WHERE dir=?1 LIMIT 1")?;
        Ok(!statement.exists([dir as i64])?)
    }

    /// The directory that holds a directory; the root's is the root.
    pub fn parent(&mut self, dir: Ino) -> Result<Option<Ino>, CacheError> {
        if dir == ROOT {
            return Ok(Some(ROOT));
        }
        Ok(self.meta.row(dir)?.map(|row| row.row.home.0).filter(|home| *home != 0))
    }

    /// All names of an inode as (directory, name).
    pub fn names_of(&mut self, ino: Ino) -> Result<Vec<(Ino, Vec<u8>)>, CacheError> {
        let Some(row) = self.meta.row(ino)? else { return Ok(Vec::new()) };
        let (nlink, home, is_dir) = (row.row.attr.nlink, row.row.home, row.row.attr.is_dir());
        self.meta.flush()?;
        if is_dir || nlink <= 1 {
            let mut statement = self.meta.db.prepare_cached("SELECT name FROM names WHERE dir=?1 AND cookie=?2")?;
            let name = statement.query_row([home.0 as i64, home.1 as i64], |row| row.get(0)).optional()?;
            return Ok(name.map(|name| (home.0, name)).into_iter().collect());
        }
        let mut statement = self.meta.db.prepare_cached("SELECT dir,name FROM links WHERE ino=?1")?;
        let rows = statement.query_map([ino as i64], |row| Ok((row.get::<_, i64>(0)? as u64, row.get(1)?)))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// A path of an inode from the volume's root, byte for byte, without a slash at either end; `None` when no names lead there.
    pub fn path(&mut self, ino: Ino) -> Result<Option<Vec<u8>>, CacheError> {
        let (mut parts, mut at) = (Vec::new(), ino);
        while at != ROOT {
            let Some((dir, name)) = self.names_of(at)?.into_iter().next().filter(|_| parts.len() < DEPTH) else { return Ok(None) };
            parts.push(name);
            at = dir;
        }
        parts.reverse();
        Ok(Some(parts.join(&b'/')))
    }

    /// The path of a name, as [`Self::path`].
    pub fn path_of(&mut self, (dir, name): &Named) -> Result<Option<Vec<u8>>, CacheError> {
        let above = self.path(*dir)?;
        Ok(above.map(|above| if above.is_empty() { name.clone() } else { [&above, &name[..]].join(&b'/') }))
    }

    /// A path of an inode for people; its number when no names lead there.
    pub fn show_path(&mut self, ino: Ino) -> String {
        self.path(ino).ok().flatten().map_or_else(|| format!("inode {ino}"), |path| show_name(&path))
    }

    /// The value of an extended attribute.
    pub fn xattr(&mut self, ino: Ino, name: &[u8]) -> Result<Option<Vec<u8>>, CacheError> {
        if self.xattrs_known_absent(ino)? {
            return Ok(None);
        }
        let mut statement = self.meta.db.prepare_cached("SELECT value FROM xattrs WHERE ino=?1 AND name=?2")?;
        Ok(statement.query_row(params![ino as i64, name], |row| row.get(0)).optional()?)
    }

    /// The names of the extended attributes, sorted.
    pub fn xattrs(&mut self, ino: Ino) -> Result<Vec<Vec<u8>>, CacheError> {
        if self.xattrs_known_absent(ino)? {
            return Ok(Vec::new());
        }
        let mut statement = self.meta.db.prepare_cached("SELECT name FROM xattrs WHERE ino=?1 ORDER BY name")?;
        let rows = statement.query_map([ino as i64], |row| row.get(0))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Bytes of all extended attributes but one, with their names.
    pub(super) fn xattr_bytes(&mut self, ino: Ino, but: &[u8]) -> Result<usize, CacheError> {
        if self.xattrs_known_absent(ino)? {
            return Ok(0);
        }
        let sum = "SELECT COALESCE(SUM(length(name)+length(value)),0) FROM xattrs WHERE ino=?1 AND name<>?2";
        let bytes: i64 = self.meta.db.prepare_cached(sum)?.query_row(params![ino as i64, but], |row| row.get(0))?;
        Ok(bytes as usize)
    }

    // The kernel asks for security.capability before each write and for ACLs at each lookup: mostly there is nothing.
    fn xattrs_known_absent(&mut self, ino: Ino) -> Result<bool, CacheError> {
        if !self.meta.any_xattrs()? {
            return Ok(true);
        }
        match self.meta.hot(ino)? {
            None => return Ok(true),
            Some(hot) if hot.no_xattrs => return Ok(true),
            Some(_) => {}
        }
        let any = self.meta.db.prepare_cached("SELECT 1 FROM xattrs WHERE ino=?1 LIMIT 1")?.exists([ino as i64])?;
        if !any && let Some(hot) = self.meta.hot(ino)? {
            hot.no_xattrs = true;
        }
        Ok(!any)
    }

    /// The target of a symbolic link.
    pub fn target(&mut self, ino: Ino) -> Result<Option<Vec<u8>>, CacheError> {
        let mut statement = self.meta.db.prepare_cached("SELECT target FROM targets WHERE ino=?1")?;
        Ok(statement.query_row([ino as i64], |row| row.get(0)).optional()?)
    }

    /// An inode as a commit says it.
    pub(super) fn message(&mut self, attr: &Attr, size: u64) -> Result<rpc::Inode, CacheError> {
        let Attr { ino, mode, uid, gid, rdev, atime, mtime, ctime, btime, .. } = *attr;
        let target = if attr.kind() == libc::S_IFLNK { self.target(ino)?.unwrap_or_default() } else { Vec::new() };
        let mut xattrs = Vec::new();
        for name in self.xattrs(ino)? {
            let value = self.xattr(ino, &name)?.unwrap_or_default();
            xattrs.push(rpc::Xattr { name: name.into(), value: value.into() });
        }
        Ok(rpc::Inode { ino, mode, uid, gid, rdev, size, atime, mtime, ctime, target: target.into(), xattrs, btime })
    }

    /// Numbers for `statfs`.
    #[must_use]
    pub fn space(&self) -> Space {
        let options = &self.cache.options;
        let bytes = self.cache.totals.bytes.load(Ordering::Relaxed);
        Space { inodes: self.meta.count, inodes_max: options.inodes_max, bytes, bytes_max: options.bytes_max }
    }

    /// Whether a commit has held this name.
    pub fn name_captured(&mut self, dir: Ino, name: &[u8]) -> Result<bool, CacheError> {
        let found = self.meta.name(dir, name)?;
        Ok(found.is_some_and(|row| self.meta.is_captured(row.stamp, row.flags)))
    }

    /// Whether a commit has held this inode. It is in every later one, whatever tier its path has (the cache sees to it).
    pub fn inode_captured(&mut self, ino: Ino) -> Result<bool, CacheError> {
        let Some(row) = self.meta.row(ino)? else { return Ok(false) };
        let (stamp, flags) = (row.stamp, row.flags);
        Ok(self.meta.is_captured(stamp, flags))
    }

    /// Inodes without a name: kept until `Update::forget_orphan`.
    pub fn orphans(&mut self) -> Result<Vec<Ino>, CacheError> {
        self.meta.flush()?;
        let mut statement = self.meta.db.prepare_cached("SELECT ino FROM inodes WHERE nlink=0")?;
        let rows = statement.query_map([], |row| Ok(row.get::<_, i64>(0)? as u64))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    pub(super) fn state(&self, key: &str) -> Result<Option<Vec<u8>>, CacheError> {
        db::get_state(&self.meta.db, key)
    }
}
