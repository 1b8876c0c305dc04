//! What waits for its time: what is dirty in the tier `scheduled`, when a seal takes the rest for another tier (protocol.md 5.1, 5.3). The
//! commit says nothing of it, so it shows that tier as of its last capture.
//!
//! Only what stands for itself can wait. Whatever ties it to the rest is a *seam* (5.4), and after a seam the next seal takes everything: a name
//! that a commit may hold was removed or replaced in the tier, a file came into it from another one, a directory moved (with all below it). So
//! the names that are lost are judged one by one as they are lost, when it is known what they meant, and nothing has to be remembered of
//! them. What a process does not know when it starts counts as a seam.

use super::Cache;
use super::file::DataFile;
use super::meta::{Meta, key};
use super::seal::Seal;
use super::spool::{Names, Verdict};
use super::types::CacheError;
use super::view::View;
use crate::types::{Domain, Ino};
use std::collections::HashSet;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// A name that was removed, or means another inode now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    /// The directory.
    pub dir: Ino,
    /// The name.
    pub name: Vec<u8>,
    /// What it meant.
    pub ino: Ino,
    /// Whether that is a directory.
    pub is_dir: bool,
    /// A commit may hold it.
    pub said: bool,
}

type Judge = dyn Fn(&mut View<'_>, &Lost) -> bool + Send + Sync;

/// Who says whether a lost name is a seam, and whether there was one since the last full commit.
pub(super) struct Seams {
    judge: OnceLock<Box<Judge>>,
    met: AtomicBool,
}

impl Default for Seams {
    fn default() -> Self {
        Self { judge: OnceLock::new(), met: AtomicBool::new(true) }
    }
}

impl std::fmt::Debug for Seams {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Seams").field("met", &self.met).finish_non_exhaustive()
    }
}

impl Seams {
    /// Whether lost names are to be told.
    pub(super) fn watched(&self) -> bool {
        self.judge.get().is_some()
    }

    /// There was one.
    pub(super) fn meet(&self) {
        self.met.store(true, Ordering::SeqCst);
    }

    /// At the flip, under the metadata mutex: whether there was one since the last.
    pub(super) fn take(&self) -> bool {
        self.met.swap(false, Ordering::SeqCst)
    }
}

/// What a seal found of what may wait.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// At least so many bytes of it wait, fewer do not; `None`: nothing waits.
    pub(super) at_least: Option<u64>,
    /// There was a seam.
    pub(super) seam: bool,
    /// Its dirty content.
    pub(super) bytes: u64,
    /// Something does wait.
    pub(super) some: bool,
}

impl Cache {
    /// From now on `judge` is asked of every name that is lost, right after and under the metadata mutex, whether that is a seam.
    pub fn on_lost(&self, judge: impl Fn(&mut View<'_>, &Lost) -> bool + Send + Sync + 'static) {
        let _ = self.touches.seams.judge.set(Box::new(judge));
    }

    pub(super) fn judge_lost(&self, view: &mut View<'_>, lost: &[Lost]) {
        let Some(judge) = self.touches.seams.judge.get() else { return };
        if lost.iter().any(|lost| judge(view, lost)) {
            self.touches.seams.meet();
        }
    }

    /// What becomes of a frozen inode. `file`: its content, where that changed; looked up by the caller, as the metadata mutex is held.
    pub(super) fn verdict(&self, seal: &mut Seal, file: Option<&DataFile>, captured: bool, domain: Domain) -> Verdict {
        if domain != Domain::Scheduled || seal.waiting.at_least.is_none() || seal.waiting.seam {
            return if captured || domain != Domain::Local { Verdict::Taken } else { Verdict::Held };
        }
        if let Some(file) = file {
            let content = file.inner.lock();
            if let Some(frozen) = &content.frozen {
                seal.waiting.bytes += frozen.dirty.bytes();
                // What it shares must be named by the parent of the commit that takes it (protocol.md 3): later it may not be.
                seal.waiting.seam |= !frozen.shared.is_empty();
            }
        }
        Verdict::Waits
    }

    /// With all verdicts known: whether what may wait does. Below the limit it is not worth a partial commit.
    pub(super) fn settle_waiting(&self, meta: &mut Meta, seal: &Seal) -> Result<(), CacheError> {
        let (Some(at_least), Some(spool)) = (seal.waiting.at_least, &mut meta.spool) else { return Ok(()) };
        let (inodes, names) = spool.of(Verdict::Waits)?;
        let rows = inodes.len() as u64 * 512 + names.len() as u64 * 384;
        if seal.waiting.seam || seal.waiting.bytes + rows < at_least || spool.waits_with_a_said_name()? {
            spool.take_waiting()?;
            self.settle_tiers(meta)?;
        }
        Ok(())
    }
}

/// What waits counts as changed after this seal, whatever becomes of the seal, and is as old as before.
pub(super) fn put_back(cache: &Cache, meta: &mut Meta, seal: &Seal, inodes: &HashSet<Ino>, names: Names) -> Result<(), CacheError> {
    if !seal.waiting.some {
        return Ok(());
    }
    for ino in &seal.frozen.inodes {
        if inodes.contains(ino) {
            meta.amend(*ino, |row| row.stamp = row.stamp.max(seal.epoch + 1))?;
            meta.changed.inodes.push(*ino);
        }
    }
    for ino in &seal.frozen_files {
        if inodes.contains(ino) {
            cache.seal.list(seal.epoch + 1, *ino);
        }
    }
    for (dir, name) in names {
        meta.amend_name(dir, &name, |row| row.stamp = row.stamp.max(seal.epoch + 1))?;
        meta.changed.names.push(key(dir, &name));
    }
    cache.totals.stays_old();
    cache.totals.rows.store(meta.changed.bytes(), Ordering::Relaxed);
    Ok(())
}
