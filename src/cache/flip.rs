//! The flip: one increment of the epoch parts the operations before a cut from those after it; and the place for the old content of
//! frozen pages that are overwritten meanwhile.

use super::Drained;
use super::file::DataFile;
use super::frozen::Sent;
use super::types::CacheError;
use crate::types::Ino;
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::fs::{File, OpenOptions};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// The epoch, and who is in it.
#[derive(Debug, Default)]
pub(super) struct Flip {
    pub(super) epoch: AtomicU64,
    inflight: [AtomicU64; 2],
    drained: Drained,
    // The epoch that a seal is reading; 0: none. Changed under `candidates` only.
    pub(super) spooling: AtomicU64,
    pub(super) candidates: Mutex<BTreeMap<Ino, Arc<DataFile>>>,
    /// The files of the seal under way.
    pub(super) taken: Mutex<Taken>,
    // Frozen files whose inode ended meanwhile.
    pub(super) ended: Mutex<BTreeMap<Ino, Arc<DataFile>>>,
    // Files changed in an epoch, by its parity.
    pub(super) listed: [Mutex<Vec<Ino>>; 2],
    pub(super) points: Mutex<HashMap<Ino, u64>>,
    // Of files open for writing at the flip.
    pub(super) sent: Mutex<HashMap<Ino, Sent>>,
    pub(super) cuts: AtomicU64,
    pub(super) shadow: Shadow,
    // The seal left bytes of an open file behind a gap that the kernel was not asked about.
    pub(super) behind: AtomicBool,
    // One seal at a time.
    pub(super) busy: AtomicBool,
    // A commit is being taken over: extents point to objects that meta.db does not have durably yet.
    pub(super) resolving: AtomicBool,
    // The newest commit of this process that is stored; 0: none. Before what it holds counts as clean.
    pub(super) landed: AtomicU64,
}

/// The files that a seal froze, by number, so that there may be very many of them. Those that are not in memory are frozen as
/// `meta.db` has them: whatever changes a file brings it into memory first, and then it is frozen before it changes.
#[derive(Debug, Default)]
pub(super) struct Taken {
    epoch: u64,
    inos: Vec<Ino>,
    resolved: usize,
}

impl Taken {
    /// A seal begins.
    pub(super) fn begin(&mut self, epoch: u64) {
        *self = Self { epoch, inos: Vec::new(), resolved: 0 };
    }

    /// A file that is frozen now; they come in the order of their numbers.
    pub(super) fn push(&mut self, ino: Ino) {
        self.inos.push(ino);
    }

    pub(super) fn contains(&self, ino: Ino) -> bool {
        self.inos.binary_search(&ino).is_ok()
    }

    /// The seal that a file is frozen for which just came into memory.
    pub(super) fn frozen_for(&self, ino: Ino) -> Option<u64> {
        self.inos[self.resolved..].binary_search(&ino).is_ok().then_some(self.epoch)
    }

    pub(super) fn retain(&mut self, keep: impl Fn(Ino) -> bool) {
        self.inos.retain(|ino| keep(*ino));
    }

    /// The next after a number.
    pub(super) fn after(&self, ino: Ino, limit: usize) -> Vec<Ino> {
        let rest = &self.inos[self.inos.partition_point(|known| *known <= ino)..];
        rest[..rest.len().min(limit)].to_vec()
    }

    /// Up to this one their commit is known here: what comes into memory is not frozen any more.
    pub(super) fn resolved_upto(&mut self, ino: Ino) {
        self.resolved = self.inos.partition_point(|known| *known <= ino);
    }

    /// The seal ended.
    pub(super) fn end(&mut self) -> Vec<Ino> {
        std::mem::take(self).inos
    }
}

/// Where the old content of frozen pages goes that are overwritten: one file for a seal, as there may be very many overwritten files.
#[derive(Debug, Default)]
pub(super) struct Shadow(Mutex<Option<(Arc<File>, u64)>>);

impl Shadow {
    /// Room for so many bytes: the file, and the place in it.
    pub(super) fn reserve(&self, dir: &Path, bytes: u64) -> Result<(Arc<File>, u64), CacheError> {
        let mut shadow = self.0.lock();
        if shadow.is_none() {
            let path = dir.join("copies").join("shadow");
            let open = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path);
            let file = open.map_err(CacheError::io("copies"))?;
            // It ends with its last descriptor.
            std::fs::remove_file(&path).map_err(CacheError::io("copies"))?;
            *shadow = Some((Arc::new(file), 0));
        }
        let Some((file, end)) = &mut *shadow else { return Err(CacheError::Invalid("a shadow file that was just made")) };
        let place = *end;
        *end += bytes;
        Ok((Arc::clone(file), place))
    }

    /// The seal ended.
    pub(super) fn end(&self) {
        *self.0.lock() = None;
    }
}

/// An operation's stay in its epoch.
#[derive(Debug)]
pub(super) struct Op<'a> {
    flip: &'a Flip,
    pub(super) epoch: u64,
}

impl Drop for Op<'_> {
    fn drop(&mut self) {
        if self.flip.inflight[(self.epoch & 1) as usize].fetch_sub(1, Ordering::SeqCst) == 1
            && self.flip.epoch.load(Ordering::SeqCst) != self.epoch
        {
            let _lock = self.flip.drained.lock.lock();
            self.flip.drained.changed.notify_all();
        }
    }
}

impl Flip {
    pub(super) fn enter(&self) -> Op<'_> {
        loop {
            let epoch = self.epoch.load(Ordering::SeqCst);
            self.inflight[(epoch & 1) as usize].fetch_add(1, Ordering::SeqCst);
            let op = Op { flip: self, epoch };
            if self.epoch.load(Ordering::SeqCst) == epoch {
                return op;
            }
        }
    }

    pub(super) fn wait_for(&self, epoch: u64) {
        let mut lock = self.drained.lock.lock();
        while self.inflight[(epoch & 1) as usize].load(Ordering::SeqCst) != 0 {
            self.drained.changed.wait(&mut lock);
        }
    }

    pub(super) fn list(&self, epoch: u64, ino: Ino) {
        self.listed[(epoch & 1) as usize].lock().push(ino);
    }

    pub(super) fn has_listed(&self) -> bool {
        let epoch = self.epoch.load(Ordering::SeqCst);
        !self.listed[(epoch & 1) as usize].lock().is_empty()
    }
}
