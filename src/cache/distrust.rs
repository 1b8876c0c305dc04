//! After a flush of data files that failed: what this boot's page cache is still worth.
//!
//! The kernel tells of a failed flush once, calls the pages clean, and a later flush succeeds without them. So they are written once more
//! from the page cache ([`Cache::redo`]) before the next flush may count. They get new blocks: ext4 writes a page that it has in memory to
//! the block it had, and where that one's first write failed the extent stays "unwritten" for ever, which reads as zeros after a boot
//! (seen on 6.18). `meta.db` too, by a copy of it when it is opened next. An empty file beside `meta.db` says so to a driver that opens the
//! cache before such a flush has succeeded:
//!
//! ```text
//! flush-failed   what the log says was written is to be written once more
//! flush-lost     the page cache had let such pages go: recovery as after a loss of power
//! ```

use super::die;
use super::disk::Disk;
use super::file::DataFile;
use super::pages::common;
use super::types::CacheError;
use super::{Cache, db};
use crate::types::{ByteRange, RangeSet};
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

const MARK: &str = "flush-failed";
const LOST: &str = "flush-lost";
// Bytes written once more at a time.
const REDO: usize = 1 << 20;

/// What the page cache is worth to whoever opens a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trust {
    /// It has what was written.
    All,
    /// It has what was written, and a flush may succeed without that.
    NotFlushed,
    /// It may have lost what was written.
    Nothing,
}

impl Trust {
    /// What an earlier driver of this boot has left word of.
    fn of(dir: &Path) -> Self {
        // One that cannot be looked at may be there.
        let said = |mark| !matches!(fs::symlink_metadata(dir.join(mark)), Err(error) if error.kind() == io::ErrorKind::NotFound);
        match (said(LOST), said(MARK)) {
            (true, _) => Self::Nothing,
            (false, true) => Self::NotFlushed,
            (false, false) => Self::All,
        }
    }
}

/// What an earlier driver has left word of. When a flush had failed, `meta.db` gets new blocks, with what its log has.
pub(super) fn renew(dir: &Path, disk: &Disk) -> Result<Trust, CacheError> {
    let trust = Trust::of(dir);
    if trust == Trust::All {
        return Ok(trust);
    }
    let (path, new) = (dir.join("meta.db"), dir.join("meta.new"));
    // Closed again before it is copied.
    let whole = db::checkpoint(&db::open(&path, false, false)?, "TRUNCATE", disk)?;
    let copied = match whole {
        true => fs::copy(&path, &new).and_then(|_| File::open(&new)?.sync_all()).and_then(|()| fs::rename(&new, &path)),
        false => Err(io::ErrorKind::StorageFull.into()),
    };
    match copied.and_then(|()| File::open(dir)?.sync_all()) {
        // Served rather than kept away: should it have lost a page, then SQLite will see that.
        Err(error) if error.kind() == io::ErrorKind::StorageFull => {
            tracing::warn!(%error, "a flush of meta.db had failed, and there is no room for it in new blocks");
            let _ = fs::remove_file(&new);
        }
        copied => copied.map_err(CacheError::io("meta.db"))?,
    }
    Ok(trust)
}

/// The note of a failed flush becomes that of lost pages, which takes no room on a disk that has none.
pub(super) fn note_lost(dir: &Path) -> io::Result<()> {
    match fs::rename(dir.join(MARK), dir.join(LOST)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => fs::write(dir.join(LOST), ""),
        renamed => renamed,
    }
}

/// Flushes that failed since the cache was opened.
#[derive(Debug, Default)]
pub(super) struct Failures {
    count: AtomicU64,
    // One more than the count at which the note was taken away.
    settled: AtomicU64,
}

impl Failures {
    /// To be given to [`Cache::trust_again`].
    pub(super) fn count(&self) -> u64 {
        self.count.load(Ordering::SeqCst)
    }
}

impl Cache {
    /// Leaves word for a successor. Not durable, and it need not be: another boot's page cache is nobody's. Where no file can be made
    /// nothing can be committed either.
    pub(super) fn note_failed_flush(&self) {
        if let Err(error) = fs::write(self.dir.join(MARK), "") {
            tracing::warn!(%error, "that a flush of the cache failed cannot be noted beside it");
        }
    }

    /// A flush of these files failed: each of them may have lost what it had.
    pub(super) fn flush_failed<'a>(&self, files: impl Iterator<Item = &'a DataFile>, error: &io::Error) {
        self.note_failed_flush();
        self.failures.count.fetch_add(1, Ordering::SeqCst);
        for file in files {
            file.inner.lock().flush_failed(error.raw_os_error().unwrap_or(libc::EIO));
        }
    }

    /// A batch is durable that began when so many flushes had failed: everything that had to be written once more was.
    pub(super) fn trust_again(&self, failures: u64) {
        if self.failures.count() != failures || self.failures.settled.load(Ordering::SeqCst) > failures {
            return;
        }
        for mark in [LOST, MARK] {
            if let Err(error) = fs::remove_file(self.dir.join(mark))
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(%error, mark, "the note of a failed flush stays beside the cache");
                return;
            }
        }
        self.failures.settled.store(failures + 1, Ordering::SeqCst);
    }

    /// Writes once more what a flush has failed to make durable. What the page cache has no longer is only in the log, if anywhere: the
    /// process ends then, so that its successor takes it from there.
    pub(super) fn redo(&self, file: &DataFile) -> Result<(), CacheError> {
        let mut content = file.inner.lock();
        let Some(slot) = content.slot.filter(|_| !content.redo.is_empty()) else { return Ok(()) };
        let data = self.slots.file(slot)?;
        for range in common(content.present.set(), &content.redo).iter() {
            for at in range.clone().step_by(REDO) {
                let part: ByteRange = at..range.end.min(at + REDO as u64);
                let mut bytes = vec![0; (part.end - part.start) as usize];
                match data.read_cached(&mut bytes, at) {
                    Ok(true) => data.punch(&part)?,
                    Ok(false) => self.lost(file, &part, &"not in memory"),
                    Err(error) => return Err(CacheError::io("data file")(error)),
                }
                data.write_all_at(&bytes, at).unwrap_or_else(|error| self.lost(file, &part, &error));
            }
        }
        content.redo = RangeSet::new();
        Ok(())
    }

    fn lost(&self, file: &DataFile, part: &ByteRange, why: &dyn std::fmt::Display) -> ! {
        // A driver that cannot say so must not go on either.
        let said = note_lost(&self.dir);
        let why = format!("bytes {} to {} of inode {}: {why}; {said:?}", part.start, part.end, file.ino);
        die("a flush failed, and the page cache no longer has what it was to write", &why);
    }
}
