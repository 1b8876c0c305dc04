//! Data files: sparse, numbered, recycled rather than unlinked. A slot that was freed is used again only when the record that freed
//! it is durable: else a loss of power could give the old file the new one's bytes.

use super::types::CacheError;
use lru::LruCache;
use parking_lot::Mutex;
use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const OPEN_FILES: NonZeroUsize = NonZeroUsize::MIN.saturating_add(511);

/// The data files of a cache.
#[derive(Debug)]
pub(super) struct Slots {
    dir: PathBuf,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    open: LruCache<u64, Arc<File>>,
    free: Vec<u64>,
    next: u64,
    // Freed by the record with this LSN.
    limbo: Vec<(u64, u64)>,
    // Taken from `free` since the last batch.
    taken: Vec<u64>,
    shards: HashSet<u8>,
    // Shards with data files whose entry in the directory may not be durable.
    new_in: HashSet<u8>,
}

impl Slots {
    pub(super) fn new(dir: &Path, free: Vec<u64>, next: u64) -> Self {
        let inner = Inner {
            open: LruCache::new(OPEN_FILES),
            free: Vec::new(),
            next,
            // Freed before a crash, and perhaps not emptied: the first batch looks.
            limbo: free.into_iter().map(|slot| (0, slot)).collect(),
            taken: Vec::new(),
            shards: HashSet::new(),
            new_in: HashSet::new(),
        };
        Self { dir: dir.to_owned(), inner: Mutex::new(inner) }
    }

    /// A slot that nobody uses.
    pub(super) fn allocate(&self) -> u64 {
        let mut inner = self.inner.lock();
        if let Some(slot) = inner.free.pop() {
            inner.taken.push(slot);
            return slot;
        }
        inner.next += 1;
        inner.next - 1
    }

    /// At replay: this slot is in use.
    pub(super) fn claim(&self, slot: u64) {
        let mut inner = self.inner.lock();
        if let Some(at) = inner.limbo.iter().position(|(_, free)| *free == slot) {
            inner.limbo.swap_remove(at);
            inner.taken.push(slot);
        }
        inner.next = inner.next.max(slot + 1);
    }

    /// The slot's owner ended by the record `lsn`.
    pub(super) fn release(&self, slot: u64, lsn: u64) {
        self.inner.lock().limbo.push((lsn, slot));
    }

    /// Empties and frees up to `most` slots whose end is durable; tells whether there are more.
    pub(super) fn settle(&self, durable: u64, most: usize) -> Result<bool, CacheError> {
        let mut ready = Vec::new();
        let more = {
            let mut inner = self.inner.lock();
            let mut more = false;
            inner.limbo.retain(|(lsn, slot)| {
                let due = *lsn <= durable;
                let take = due && ready.len() < most;
                more |= due && !take;
                if take {
                    ready.push(*slot);
                }
                !take
            });
            more
        };
        for slot in ready {
            // A slot that never had data has no file.
            if std::fs::metadata(self.path(slot)).is_ok_and(|meta| meta.len() > 0) {
                self.file(slot)?.set_len(0).map_err(CacheError::io("data file"))?;
            }
            self.inner.lock().free.push(slot);
        }
        Ok(more)
    }

    pub(super) fn take_taken(&self) -> Vec<u64> {
        std::mem::take(&mut self.inner.lock().taken)
    }

    pub(super) fn next(&self) -> u64 {
        self.inner.lock().next
    }

    fn path(&self, slot: u64) -> PathBuf {
        self.dir.join(format!("{:02x}", slot as u8)).join(format!("{slot:x}"))
    }

    /// The data file of a slot, made when it is not there.
    pub(super) fn file(&self, slot: u64) -> Result<Arc<File>, CacheError> {
        let mut inner = self.inner.lock();
        if let Some(file) = inner.open.get(&slot) {
            return Ok(Arc::clone(file));
        }
        let path = self.path(slot);
        if !inner.shards.contains(&(slot as u8))
            && let Some(parent) = path.parent()
        {
            fs::create_dir_all(parent).map_err(CacheError::io("data directory"))?;
            inner.shards.insert(slot as u8);
        }
        let open = |create| OpenOptions::new().read(true).write(true).create(create).truncate(false).open(&path);
        let file = match open(false) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                inner.new_in.insert(slot as u8);
                open(true)
            }
            other => other,
        };
        let file = Arc::new(file.map_err(CacheError::io("data file"))?);
        inner.open.put(slot, Arc::clone(&file));
        Ok(file)
    }

    /// Makes the entries of new data files durable.
    pub(super) fn sync_entries(&self) -> Result<(), CacheError> {
        let new: Vec<u8> = self.inner.lock().new_in.drain().collect();
        if new.is_empty() {
            return Ok(());
        }
        let shards = new.iter().map(|shard| self.dir.join(format!("{shard:02x}")));
        let result = shards.chain([self.dir.clone()]).try_for_each(|dir| File::open(dir).and_then(|dir| dir.sync_all()));
        if result.is_err() {
            self.inner.lock().new_in.extend(new);
        }
        result.map_err(CacheError::io("data directory"))
    }
}

/// Gives a range of a file back to the disk; reads as zeros afterwards.
pub(super) fn punch(file: &File, range: &std::ops::Range<u64>) -> Result<(), CacheError> {
    use nix::fcntl::{FallocateFlags, fallocate};
    let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    fallocate(file, flags, range.start as i64, (range.end - range.start) as i64).map_err(|e| CacheError::io("data file")(e.into()))
}
