//! The trees of two commits of one volume, each in a cache of its own, side by side in the order of the inode numbers: a few rows at a
//! time, so that neither is ever in memory whole, and nothing of the data is read.
//!
//! An inode keeps its number from commit to commit. Content is the same when the same bytes of frames with the same checksums stand at the
//! same places, wherever those frames lie.

use super::Cache;
use super::compare::Shown;
use super::effect::InodeRow;
use super::types::CacheError;
use crate::types::{Attr, Ino};
use std::collections::BTreeSet;

/// A directory, and a name in it.
pub type Named = (Ino, Vec<u8>);

/// How an inode of one commit differs from an inode of another.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Differs {
    /// Its kind, its size, its bytes, where a link points to.
    pub content: bool,
    /// Mode, owner, device, extended attributes; where the content is the same also the time of the last change. Never the times of a
    /// directory or of an access.
    pub metadata: bool,
}

/// An inode that is not the same in two commits, or has not the same names.
#[derive(Debug, Clone, PartialEq)]
pub struct Changed {
    /// Its number.
    pub ino: Ino,
    /// In the first commit.
    pub was: Option<Attr>,
    /// In the second.
    pub is: Option<Attr>,
    /// What of it, when both have it.
    pub differs: Differs,
    /// Names that only the first has.
    pub gone: Vec<Named>,
    /// Names that only the second has.
    pub new: Vec<Named>,
    /// One that both have.
    pub kept: Option<Named>,
}

impl Cache {
    /// Looks at the next up to `limit` inodes of this commit and of a `later` one (or an earlier one); `after` moves on. `None`: at the end.
    ///
    /// # Errors
    /// When either database fails.
    pub fn diff(&self, later: &Self, after: &mut Ino, limit: usize) -> Result<Option<Vec<Changed>>, CacheError> {
        let ours = self.meta.lock().inodes_after(*after, limit)?;
        let theirs = later.meta.lock().inodes_after(*after, limit)?;
        let all = super::compare::keys_of(&ours, &theirs, limit);
        let mut changed = Vec::new();
        for ino in &all {
            let (was, is) = (ours.get(ino).map(|row| &row.row), theirs.get(ino).map(|row| &row.row));
            changed.extend(self.one(later, *ino, was, is)?);
            *after = *ino;
        }
        Ok(if all.is_empty() { None } else { Some(changed) })
    }

    fn one(&self, later: &Self, ino: Ino, was: Option<&InodeRow>, is: Option<&InodeRow>) -> Result<Option<Changed>, CacheError> {
        let differs = match (was, is) {
            (Some(was), Some(is)) => self.rows_differ(was, later, is)?,
            _ => Differs::default(),
        };
        let names = |cache: &Self, row: Option<&InodeRow>| match row {
            Some(_) => Ok(cache.view(|view| view.names_of(ino))?.into_iter().collect()),
            None => Ok::<_, CacheError>(BTreeSet::new()),
        };
        let (before, now): (BTreeSet<Named>, BTreeSet<Named>) = (names(self, was)?, names(later, is)?);
        if before == now && differs == Differs::default() && was.is_some() == is.is_some() {
            return Ok(None);
        }
        Ok(Some(Changed {
            ino,
            was: was.map(|row| row.attr.clone()),
            is: is.map(|row| row.attr.clone()),
            differs,
            gone: before.difference(&now).cloned().collect(),
            new: now.difference(&before).cloned().collect(),
            kept: before.intersection(&now).next().cloned(),
        }))
    }

    /// How an inode differs from another one of a `later` commit, which stands where it stood.
    ///
    /// # Errors
    /// When either database fails.
    pub fn differs(&self, ino: Ino, later: &Self, other: Ino) -> Result<Differs, CacheError> {
        let was = self.meta.lock().inodes_after(ino - 1, 1)?;
        let is = later.meta.lock().inodes_after(other - 1, 1)?;
        match (was.get(&ino), is.get(&other)) {
            (Some(was), Some(is)) => self.rows_differ(&was.row, later, &is.row),
            _ => Ok(Differs { content: true, metadata: true }),
        }
    }

    fn rows_differ(&self, was: &InodeRow, later: &Self, is: &InodeRow) -> Result<Differs, CacheError> {
        let (was, is) = (Shown::read(&self.meta.lock(), was)?, Shown::read(&later.meta.lock(), is)?);
        let bytes = |shown: &Shown| if shown.attr.is_dir() { 0 } else { shown.attr.size };
        let content = was.attr.kind() != is.attr.kind() || bytes(&was) != bytes(&is) || was.target != is.target || was.pieces != is.pieces;
        let owned = |attr: &Attr| (attr.mode & !libc::S_IFMT, attr.uid, attr.gid, attr.rdev);
        let dated = |shown: &Shown| if content || shown.attr.is_dir() { 0 } else { shown.attr.mtime };
        let metadata = owned(&was.attr) != owned(&is.attr) || was.xattrs != is.xattrs || dated(&was) != dated(&is);
        Ok(Differs { content, metadata })
    }
}
