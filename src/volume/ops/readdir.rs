//! Listing: positions are persistent, so that a listing under way goes on after a restart of the driver.

use super::names::directory;
use super::{Posix, PosixError, Result};
use crate::cache::Entry;
use crate::types::{Attr, Ino, ROOT};

/// Position of `.`, then of `..`; an entry's is its cookie and these two.
const FIRST: u64 = 2;

impl Posix {
    /// Gives the entries after position `after` to `take`, which returns whether it has no room for one. With attributes:
    /// those of `.` and `..` are given as well. `batch`: how many to look up at a time.
    ///
    /// # Errors
    /// `NotFound`, `NotDirectory`.
    pub fn list(&self, dir: Ino, after: u64, batch: usize, mut take: impl FnMut(u64, &[u8], &Attr) -> bool) -> Result<()> {
        if after < FIRST {
            let (own, parent) = self.cache.view(|view| {
                let own = view.attr(dir)?.ok_or(PosixError::NotFound)?;
                if !own.is_dir() {
                    return Err(PosixError::NotDirectory);
                }
                let parent = view.parent(dir)?.unwrap_or(ROOT);
                let parent = view.attr(parent)?.unwrap_or_else(|| own.clone());
                Ok((own, parent))
            })?;
            if after < 1 && take(1, b".", &own) {
                return Ok(());
            }
            if take(2, b"..", &parent) {
                return Ok(());
            }
        }
        let mut after = after.saturating_sub(FIRST);
        loop {
            let entries: Vec<Entry> = self.cache.view(|view| {
                let entries = view.entries(dir, after, batch)?;
                if entries.is_empty() {
                    // Nothing: is it a directory at all? (A removed one lists nothing.)
                    if let Err(PosixError::NotDirectory) = directory(view, dir) {
                        return Err(PosixError::NotDirectory);
                    }
                }
                Ok::<_, PosixError>(entries)
            })?;
            let last = entries.len() < batch;
            for entry in &entries {
                if take(entry.cookie.saturating_add(FIRST), &entry.name, &entry.attr) {
                    return Ok(());
                }
                after = entry.cookie;
            }
            if last {
                return Ok(());
            }
        }
    }
}
