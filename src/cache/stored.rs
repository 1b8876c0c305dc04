//! Where a file stands: is it, as it is now, in the newest commit?

use super::Cache;
use super::types::CacheError;
use super::view::{DEPTH, View};
use crate::types::{Ino, ROOT, Seq, UnixNanos};
use std::sync::atomic::Ordering;

/// Names of one inode that are looked at: of a file with more, the others are not.
const NAMES_MAX: usize = 16;

/// See the module's head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// The newest record of the log holds it: content, attributes and names, those of the directories above it too. `None`: a record older
    /// than this process, the newest that it found.
    In(Option<Seq>),
    /// Something of it is in no commit.
    Dirty(Since),
    /// It has no name: no commit takes it.
    Unnamed,
}

/// Since when, by the wall clock of now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Since {
    /// Since then.
    pub at: UnixNanos,
    /// Or since a time before that: it was dirty when this process began.
    pub or_before: bool,
}

impl View<'_> {
    /// Where an inode stands; `None`: there is none. A change counts as stored when its commit's outcome is known here. Says nothing of what
    /// the kernel has not sent yet.
    ///
    /// # Errors
    /// Only when meta.db fails.
    pub fn stored(&mut self, ino: Ino) -> Result<Option<Stored>, CacheError> {
        let resolved = self.meta.resolved;
        let Some(row) = self.meta.row(ino)? else { return Ok(None) };
        let (stamp, born, is_file) = (row.stamp, row.row.attr.btime, row.row.attr.is_file());
        if row.row.attr.nlink == 0 {
            return Ok(Some(Stored::Unnamed));
        }
        let dirty = stamp > resolved || self.any_name_dirty(ino)?;
        if dirty {
            return Ok(Some(Stored::Dirty(self.cache.dirty_since(born))));
        }
        if !is_file {
            return Ok(Some(self.cache.in_newest()));
        }
        let file = self.cache.load_file(self.meta, ino)?;
        // What is clean while this is held is in the commit that is told: a seal ends under it.
        let content = file.inner.lock();
        let dirty = content.is_changed() || content.frozen.is_some();
        Ok(Some(if dirty { Stored::Dirty(self.cache.dirty_since(born)) } else { self.cache.in_newest() }))
    }

    // Whether a name that leads to it is in no commit.
    fn any_name_dirty(&mut self, ino: Ino) -> Result<bool, CacheError> {
        let names = if ino == ROOT { Vec::new() } else { self.names_of(ino)? };
        for (mut dir, mut name) in names.into_iter().take(NAMES_MAX) {
            for _ in 0..DEPTH {
                let resolved = self.meta.resolved;
                if self.meta.name(dir, &name)?.is_none_or(|row| row.stamp > resolved) {
                    return Ok(true);
                }
                match self.names_of(dir)?.into_iter().next().filter(|_| dir != ROOT) {
                    Some(above) => (dir, name) = above,
                    None => break,
                }
            }
        }
        Ok(false)
    }
}

impl Cache {
    fn in_newest(&self) -> Stored {
        let seq = self.seal.landed.load(Ordering::SeqCst);
        Stored::In((seq != 0).then_some(seq))
    }

    // The cache knows when the oldest change of all was made, and when the inode was.
    fn dirty_since(&self, born: UnixNanos) -> Since {
        let now = self.env.now();
        let age = self.oldest_dirty().map(|at| self.env.monotonic().saturating_sub(at));
        let age = age.map_or(0, |age| UnixNanos::try_from(age.as_nanos()).unwrap_or(UnixNanos::MAX));
        since(now, age, born, self.totals.inherited.load(Ordering::SeqCst))
    }
}

/// Never later than the first change of this inode that is in no commit: as old as the oldest change of all, unless it was born after that.
fn since(now: UnixNanos, oldest_age: UnixNanos, born: UnixNanos, inherited: bool) -> Since {
    let oldest = now.saturating_sub(oldest_age);
    // Born in the future: a clock was set back.
    let born_later = (oldest..=now).contains(&born);
    Since { at: if born_later { born } else { oldest }, or_before: inherited && !born_later }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dirty_since_the_oldest_change_or_its_birth() {
        let at = |at, or_before| Since { at, or_before };
        assert_eq!(since(1000, 100, 5, false), at(900, false));
        assert_eq!(since(1000, 100, 950, false), at(950, false));
        assert_eq!(since(1000, 100, 2000, false), at(900, false), "a clock that was set back");
        assert_eq!(since(1000, 100, 5, true), at(900, true), "dirty before this process began");
        assert_eq!(since(1000, 100, 950, true), at(950, false));
        assert_eq!(since(1000, 0, 5, false), at(1000, false));
    }
}
