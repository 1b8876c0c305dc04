//! What has to be said so that the tree of this commit becomes the tree of another one of the same volume, exactly: names with their
//! places, inodes with their times, extents where they lie. Neither tree is in memory whole, only the numbers of what differs.

use super::Cache;
use super::compare::{Shown, keys_of};
use super::db;
use super::types::{CacheError, LocalExtent};
use crate::rpc;
use crate::types::{FILE_SIZE_MAX, Ino};
use rusqlite::{OptionalExtension, params};

/// Rows compared at once.
const ROWS: usize = 1024;

/// A name by its place: the directory, and its number there.
pub type Place = (Ino, u64);

/// What differs, by number.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Turn {
    /// Names of this tree that the other one has not.
    pub gone_names: Vec<Place>,
    /// Inodes of this tree that the other one has not.
    pub gone_inodes: Vec<Ino>,
    /// Inodes of the other tree that are not so in this one.
    pub inodes: Vec<Ino>,
    /// Names of the other tree that are not so in this one.
    pub names: Vec<Place>,
    /// Files of the other tree whose content lies elsewhere in this one, and whether this one has them at all.
    pub files: Vec<(Ino, bool)>,
}

impl Turn {
    /// Whether both trees are the same.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Range that becomes a hole before the extents of a file are said anew: all of it.
    pub const WHOLE: std::ops::Range<u64> = 0..FILE_SIZE_MAX;
}

#[allow(clippy::missing_errors_doc, reason = "all of them fail only when a database does")]
impl Cache {
    /// Compares this tree, without anything that no commit has, with another.
    pub fn turn_into(&self, other: &Self) -> Result<Turn, CacheError> {
        let mut turn = Turn::default();
        self.turn_names(other, &mut turn)?;
        self.turn_inodes(other, &mut turn)?;
        Ok(turn)
    }

    fn turn_names(&self, other: &Self, turn: &mut Turn) -> Result<(), CacheError> {
        let mut after = (0, 0);
        loop {
            let ours = self.meta.lock().names_after(after, ROWS)?;
            let mut meta = other.meta.lock();
            let theirs = meta.names_after(after, ROWS)?;
            let all = keys_of(&ours, &theirs, ROWS);
            let Some(last) = all.last() else { return Ok(()) };
            after = *last;
            for place in all {
                let (our, their) = (ours.get(&place), theirs.get(&place));
                let same = our.zip(their).is_some_and(|((name, our), (other, their))| name == other && our.row == their.row);
                if same {
                    continue;
                }
                // A name that is there again at another place is said with the names.
                if let Some((name, _)) = our
                    && meta.name(place.0, name)?.is_none()
                {
                    turn.gone_names.push(place);
                }
                turn.names.extend(their.map(|_| place));
            }
        }
    }

    fn turn_inodes(&self, other: &Self, turn: &mut Turn) -> Result<(), CacheError> {
        let mut after = 0;
        loop {
            let ours = self.meta.lock().inodes_after(after, ROWS)?;
            let theirs = other.meta.lock().inodes_after(after, ROWS)?;
            let all = keys_of(&ours, &theirs, ROWS);
            let Some(last) = all.last() else { return Ok(()) };
            after = *last;
            for ino in all {
                let our = ours.get(&ino).map(|row| Shown::read(&self.meta.lock(), &row.row)).transpose()?;
                let their = theirs.get(&ino).map(|row| Shown::read(&other.meta.lock(), &row.row)).transpose()?;
                match (our, their) {
                    (_, None) => turn.gone_inodes.push(ino),
                    (Some(our), Some(their)) if our == their => {}
                    (our, Some(their)) => {
                        turn.inodes.push(ino);
                        let here = our.is_some();
                        if our.map_or(!their.pieces.is_empty(), |our| our.pieces != their.pieces) {
                            turn.files.push((ino, here));
                        }
                    }
                }
            }
        }
    }

    /// Names by their places.
    pub fn names_at(&self, places: &[Place]) -> Result<Vec<rpc::Name>, CacheError> {
        let meta = self.meta.lock();
        let mut statement = meta.db.prepare_cached("SELECT name,ino FROM names WHERE dir=?1 AND cookie=?2")?;
        let mut found = Vec::with_capacity(places.len());
        for (dir, cookie) in places {
            let row = |row: &rusqlite::Row<'_>| Ok((row.get::<_, Vec<u8>>(0)?, row.get::<_, i64>(1)? as u64));
            if let Some((name, ino)) = statement.query_row(params![*dir as i64, *cookie as i64], row).optional()? {
                found.push(rpc::Name { dir: *dir, name: name.into(), ino, cookie: *cookie });
            }
        }
        Ok(found)
    }

    /// Inodes by their numbers, as a commit says them.
    pub fn inodes_at(&self, inos: &[Ino]) -> Result<Vec<rpc::Inode>, CacheError> {
        self.view(|view| {
            let mut found = Vec::with_capacity(inos.len());
            for ino in inos {
                if let Some(attr) = view.attr(*ino)? {
                    found.push(view.message(&attr, attr.size)?);
                }
            }
            Ok(found)
        })
    }

    /// Where the content of a file lies, by offset.
    pub fn extents_at(&self, ino: Ino) -> Result<Vec<LocalExtent>, CacheError> {
        db::get_extents(&self.meta.lock().db, ino)
    }

    /// The least numbers that no inode and no entry of a directory ever had, as far as this cache knows.
    #[must_use]
    pub fn next_numbers(&self) -> (Ino, u64) {
        let meta = self.meta.lock();
        (meta.next_inode, meta.next_cookie)
    }
}
