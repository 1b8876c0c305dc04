//! Room for the end: a file that is given up when the cache's disk is full, so that a driver can always take over from the log what was
//! acknowledged.
//!
//! meta.db grows with what is written into it. On a full disk a batch cannot be committed, the driver ends, and its successor would meet the
//! same disk: it gives the reserve up first, recovers, and refuses new work until the reserve is there again.

use super::types::CacheError;
use nix::fcntl::{FallocateFlags, fallocate};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// The reserve's share of the log: what the log holds is what a recovery brings into meta.db.
const SHARE_OF_LOG: u64 = 4;
/// With less than this share of the reserve free on the disk, it counts as full.
const TIGHT: u64 = 4;

/// The file, and whether there is room beside it.
#[derive(Debug)]
pub(super) struct Reserve {
    path: PathBuf,
    bytes: u64,
    tight: AtomicBool,
}

impl Reserve {
    /// Of the cache in `dir` with a log of so many bytes. Before anything is recovered: gives the file up when the disk is full.
    pub(super) fn at_open(dir: &Path, log_bytes: u64) -> Self {
        let reserve = Self { path: dir.join("reserve"), bytes: log_bytes / SHARE_OF_LOG, tight: AtomicBool::new(false) };
        if reserve.path.exists() && free_bytes(dir).is_some_and(|free| free < reserve.bytes / TIGHT) {
            tracing::warn!(file = %reserve.path.display(), "the cache's disk is full: its reserve is given up");
            if let Err(error) = fs::remove_file(&reserve.path) {
                tracing::error!(%error, file = %reserve.path.display(), "the reserve cannot be given up");
            }
            reserve.tight.store(true, Ordering::Relaxed);
        }
        reserve
    }

    /// Now and then: whether the disk is full, and the file made anew when it is not.
    pub(super) fn look(&self) {
        let Some(dir) = self.path.parent() else { return };
        // What cannot be asked is not known to be full.
        let Some(free) = free_bytes(dir) else { return };
        let there = self.path.exists();
        let tight = if there { free < self.bytes / TIGHT } else { free < self.bytes + self.bytes / 2 || self.make().is_err() };
        if self.tight.swap(tight, Ordering::Relaxed) != tight {
            match tight {
                true => tracing::error!(free, disk = %dir.display(), "the cache's disk is full: new work is refused until there is room"),
                false => tracing::info!(free, disk = %dir.display(), "there is room on the cache's disk again"),
            }
        }
    }

    /// Whether the disk is full.
    pub(super) fn is_tight(&self) -> bool {
        self.tight.load(Ordering::Relaxed)
    }

    /// As if the disk were full, until somebody looks.
    #[cfg(test)]
    pub(super) fn run_out(&self) {
        self.tight.store(true, Ordering::Relaxed);
    }

    fn make(&self) -> Result<(), CacheError> {
        let made = File::create(&self.path).and_then(|file| {
            let bytes = i64::try_from(self.bytes).unwrap_or(i64::MAX);
            fallocate(&file, FallocateFlags::empty(), 0, bytes).map_err(Into::into)
        });
        made.map_err(|error| {
            let _ = fs::remove_file(&self.path);
            CacheError::io("reserve")(error)
        })
    }
}

/// Bytes that are free on the disk of a directory.
pub(super) fn free_bytes(dir: &Path) -> Option<u64> {
    let stat = nix::sys::statvfs::statvfs(dir).ok()?;
    Some(stat.blocks_available().saturating_mul(stat.fragment_size()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserve_is_made_once_there_is_room_and_takes_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let reserve = Reserve::at_open(dir.path(), 4 << 20);
        assert!(!reserve.is_tight(), "a disk with room");
        reserve.look();
        assert!(!reserve.is_tight());
        let made = fs::metadata(dir.path().join("reserve")).unwrap();
        assert_eq!(made.len(), 1 << 20);
        assert!(std::os::unix::fs::MetadataExt::blocks(&made) * 512 >= 1 << 20, "not a hole");
    }

    #[test]
    fn on_a_full_disk_it_is_given_up_before_the_recovery() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("reserve"), "room").unwrap();
        // More than any disk has: as a full one looks like.
        let reserve = Reserve::at_open(dir.path(), u64::MAX);
        assert!(reserve.is_tight() && !dir.path().join("reserve").exists());
        reserve.look();
        assert!(reserve.is_tight() && !dir.path().join("reserve").exists(), "not before there is room");
    }
}
