//! What was touched lately, for who must know how long ago the paths of a tier changed: a seal's own lists have each row once, whenever
//! it changed again.

use super::Cache;
use super::hold::Seams;
use super::types::Change;
use crate::types::Ino;
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Above so many it is only told that there were too many.
const TOUCHED_MAX: usize = 64 << 10;

/// See the module's head.
#[derive(Debug, Default)]
pub(super) struct Touches {
    watched: AtomicBool,
    recent: Mutex<Touched>,
    names: AtomicU64,
    /// What was lost, as a seal has to know it.
    pub(super) seams: Seams,
}

/// What was touched between two looks, each once.
#[derive(Debug, Default)]
pub struct Touched {
    /// Inodes (attributes, content), and names that came or went.
    pub changes: BTreeSet<Change>,
    /// More than are kept: anything may have been.
    pub overflow: bool,
}

impl Touched {
    fn add(&mut self, change: Change) {
        if self.changes.len() < TOUCHED_MAX {
            self.changes.insert(change);
        } else {
            self.overflow |= !self.changes.contains(&change);
        }
    }
}

impl Cache {
    /// From now on it is kept what is touched.
    pub fn watch_touched(&self) {
        self.touches.watched.store(true, Ordering::Relaxed);
    }

    /// What was touched since the last call.
    #[must_use]
    pub fn take_touched(&self) -> Touched {
        std::mem::take(&mut *self.touches.recent.lock())
    }

    /// Grows whenever a name comes, goes, or means something else: until then every path is what it was.
    #[must_use]
    pub fn names_changed(&self) -> u64 {
        self.touches.names.load(Ordering::Acquire)
    }

    pub(super) fn touch(&self, ino: Ino) {
        if self.touches.watched.load(Ordering::Relaxed) {
            self.touches.recent.lock().add(Change::Inode(ino));
        }
    }

    /// Under the metadata mutex.
    pub(super) fn touch_name(&self, dir: Ino, name: &[u8], ino: Ino) {
        self.touches.names.fetch_add(1, Ordering::Release);
        if self.touches.watched.load(Ordering::Relaxed) {
            self.touches.recent.lock().add(Change::Name { dir, name: name.to_vec(), ino });
        }
    }
}
