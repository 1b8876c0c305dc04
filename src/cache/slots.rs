//! Data files: numbered places for the bytes of one inode each, used again rather than unlinked. A slot that was freed is used again
//! only when the record that freed it is durable: else a loss of power could give the old file the new one's bytes.
//!
//! ```text
//! slot  = class << 56 | number
//! class   0: a sparse file of its own, data/<number mod 256>/<number>
//!         1, 2, 3: a small file's 4, 16, 64 KiB in a file that it shares with 4095 others, data/s<class>/<number / 4096>
//! ```
//!
//! Most files are small, and a file system pays much for each file: making one costs ext4 several times what writing a page into one that
//! is there does, as does unlinking or emptying it. A file that outgrows its slot moves to a larger one ([`super::put`]).

use super::types::CacheError;
use crate::types::{ByteRange, RangeSet};
use lru::LruCache;
use parking_lot::Mutex;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const OPEN_FILES: NonZeroUsize = NonZeroUsize::MIN.saturating_add(511);
const CLASS_SHIFT: u32 = 56;
/// Bytes of a slot by its class; class 0 has no end.
const ROOM: [u64; CLASSES] = [u64::MAX, 4 << 10, 16 << 10, 64 << 10];
pub(super) const CLASSES: usize = 4;
/// The largest slot that shares its file with others.
pub(super) const SHARED_MAX: u64 = ROOM[CLASSES - 1];
// Slots that share a file.
const TOGETHER: u64 = 4096;
// XFS answers a read that is not to wait in the same way when a page is not there as when somebody writes to the file: some 20 ms.
const TRIES: u32 = 20_000;

/// The bytes of one slot: offsets count from its beginning.
#[derive(Debug, Clone)]
pub(super) struct Data {
    file: Arc<File>,
    base: u64,
    room: u64,
}

impl Data {
    /// As `FileExt::read_at`; nothing is read beyond the slot.
    pub(super) fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let most = self.room.saturating_sub(offset).min(buffer.len() as u64) as usize;
        self.file.read_at(&mut buffer[..most], self.base + offset)
    }

    /// Fills the buffer with what the page cache has; whether it had all.
    pub(super) fn read_cached(&self, buffer: &mut [u8], offset: u64) -> io::Result<bool> {
        let (mut done, mut tries) = (0, TRIES);
        while done < buffer.len() {
            let part = libc::iovec { iov_base: buffer[done..].as_mut_ptr().cast(), iov_len: buffer.len() - done };
            let at = (self.base + offset) as i64 + done as i64;
            // SAFETY: one vector, which names a part of a buffer that outlives the call.
            match unsafe { libc::preadv2(self.file.as_raw_fd(), &raw const part, 1, at, libc::RWF_NOWAIT) } {
                0 => return Ok(false),
                n if n > 0 => done += n as usize,
                _ => match io::Error::last_os_error() {
                    error if error.kind() == io::ErrorKind::WouldBlock && tries == 0 => return Ok(false),
                    error if error.kind() == io::ErrorKind::WouldBlock => {
                        tries -= 1;
                        std::thread::yield_now();
                    }
                    error if error.kind() == io::ErrorKind::Interrupted => {}
                    // A file system that cannot tell: what the disk has instead of a page that was let go is taken for it.
                    error if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                        return self.file.read_exact_at(buffer, self.base + offset).map(|()| true);
                    }
                    error => return Err(error),
                },
            }
        }
        Ok(true)
    }

    /// As `FileExt::write_all_at`; refuses to write beyond the slot.
    pub(super) fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if offset.saturating_add(bytes.len() as u64) > self.room {
            return Err(io::Error::other("a write beyond the end of its slot"));
        }
        self.file.write_all_at(bytes, self.base + offset)
    }

    /// Flushes the file, with all slots that share it.
    pub(super) fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Gives a range back to the disk; reads as zeros afterwards.
    pub(super) fn punch(&self, range: &ByteRange) -> Result<(), CacheError> {
        punch(&self.file, self.base + range.start, range.end.min(self.room).saturating_sub(range.start))
    }
}

fn punch(file: &File, offset: u64, length: u64) -> Result<(), CacheError> {
    use nix::fcntl::{FallocateFlags, fallocate};
    if length == 0 {
        return Ok(());
    }
    let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    fallocate(file, flags, offset as i64, length as i64).map_err(|e| CacheError::io("data file")(e.into()))
}

fn class(slot: u64) -> usize {
    ((slot >> CLASS_SHIFT) as usize).min(CLASSES - 1)
}

fn number(slot: u64) -> u64 {
    slot & ((1 << CLASS_SHIFT) - 1)
}

/// Bytes that a slot has room for.
pub(super) fn room(slot: u64) -> u64 {
    ROOM[class(slot)]
}

/// Whether the slot shares its file with others.
pub(super) fn is_shared(slot: u64) -> bool {
    class(slot) != 0
}

/// The same for two slots when they are in one file.
pub(super) fn file_of(slot: u64) -> (usize, u64) {
    match class(slot) {
        0 => (0, number(slot)),
        class => (class, number(slot) / TOGETHER),
    }
}

/// Where the slot's file is below the directory of data.
pub(super) fn path_of(slot: u64) -> PathBuf {
    let (_, file) = file_of(slot);
    Path::new(&directory_of(slot)).join(format!("{file:x}"))
}

fn directory_of(slot: u64) -> String {
    match class(slot) {
        0 => format!("{:02x}", slot as u8),
        class => format!("s{class}"),
    }
}

/// The data files of a cache.
#[derive(Debug)]
pub(super) struct Slots {
    dir: PathBuf,
    // Held while entries are made durable: whoever finds none left relies on them.
    entries: Mutex<()>,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    open: LruCache<(usize, u64), Arc<File>>,
    free: [Vec<u64>; CLASSES],
    next: [u64; CLASSES],
    // Freed by the record with this LSN.
    limbo: Vec<(u64, u64)>,
    // Taken from `free` since the last batch; in order, as each batch writes them: the same history is the same file.
    taken: BTreeSet<u64>,
    directories: HashSet<String>,
    // Of files that slots share, when they were last looked at.
    lengths: HashMap<(usize, u64), u64>,
    // Directories with data files whose entry may not be durable.
    new_in: HashSet<String>,
}

impl Slots {
    /// `next`: by class, the first number that was never used.
    pub(super) fn new(dir: &Path, free: Vec<u64>, next: [u64; CLASSES]) -> Self {
        let inner = Inner {
            open: LruCache::new(OPEN_FILES),
            free: Default::default(),
            next,
            // Freed before a crash, and perhaps not emptied: the first batch looks.
            limbo: free.into_iter().map(|slot| (0, slot)).collect(),
            taken: BTreeSet::new(),
            directories: HashSet::new(),
            lengths: HashMap::new(),
            new_in: HashSet::new(),
        };
        Self { dir: dir.to_owned(), entries: Mutex::new(()), inner: Mutex::new(inner) }
    }

    /// A slot that nobody uses, with room for so many bytes.
    pub(super) fn allocate(&self, bytes: u64) -> u64 {
        let class = (1..CLASSES).find(|class| ROOM[*class] >= bytes).unwrap_or(0);
        let mut inner = self.inner.lock();
        if let Some(slot) = inner.free[class].pop() {
            inner.taken.insert(slot);
            return slot;
        }
        inner.next[class] += 1;
        (class as u64) << CLASS_SHIFT | (inner.next[class] - 1)
    }

    /// At replay: this slot is in use.
    pub(super) fn claim(&self, slot: u64) {
        let mut inner = self.inner.lock();
        if let Some(at) = inner.limbo.iter().position(|(_, free)| *free == slot) {
            inner.limbo.swap_remove(at);
            inner.taken.insert(slot);
        }
        let next = &mut inner.next[class(slot)];
        *next = (*next).max(number(slot) + 1);
    }

    /// A slot that was taken since the last batch is listed as free again: the batch must not take it from the list.
    pub(super) fn untake(&self, slot: u64) {
        self.inner.lock().taken.remove(&slot);
    }

    /// The slot's owner ended, or moved, by the record `lsn`.
    pub(super) fn release(&self, slot: u64, lsn: u64) {
        self.inner.lock().limbo.push((lsn, slot));
    }

    /// Whether no freed slot waits to be emptied.
    pub(super) fn is_settled(&self) -> bool {
        self.inner.lock().limbo.is_empty()
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
        let mut shared: [RangeSet; CLASSES] = Default::default();
        for slot in &ready {
            if is_shared(*slot) {
                shared[class(*slot)].insert(number(*slot)..number(*slot) + 1);
            } else if fs::metadata(self.dir.join(path_of(*slot))).is_ok_and(|meta| meta.len() > 0) {
                // One that never had data has no file.
                self.file(*slot)?.file.set_len(0).map_err(CacheError::io("data file"))?;
            }
        }
        for (class, numbers) in shared.iter().enumerate() {
            for run in numbers.iter() {
                self.empty(class as u64, run)?;
            }
        }
        let mut inner = self.inner.lock();
        for slot in ready {
            inner.free[class(slot)].push(slot);
        }
        Ok(more)
    }

    // Slots that lie side by side, in one step for each of their files.
    fn empty(&self, class: u64, run: ByteRange) -> Result<(), CacheError> {
        let mut at = run.start;
        while at < run.end {
            let end = run.end.min((at / TOGETHER + 1) * TOGETHER);
            let slot = class << CLASS_SHIFT | at;
            if fs::metadata(self.dir.join(path_of(slot))).is_ok() {
                let data = self.file(slot)?;
                punch(&data.file, data.base, (end - at) * data.room)?;
            }
            at = end;
        }
        Ok(())
    }

    /// By class, the first number that was never used.
    pub(super) fn next(&self) -> [u64; CLASSES] {
        self.inner.lock().next
    }

    pub(super) fn take_taken(&self) -> BTreeSet<u64> {
        std::mem::take(&mut self.inner.lock().taken)
    }

    /// The bytes of a slot; its file is made when it is not there.
    pub(super) fn file(&self, slot: u64) -> Result<Data, CacheError> {
        let mut inner = self.inner.lock();
        let room = room(slot);
        let base = if is_shared(slot) { number(slot) % TOGETHER * room } else { 0 };
        if let Some(file) = inner.open.get(&file_of(slot)) {
            return Ok(Data { file: Arc::clone(file), base, room });
        }
        let directory = directory_of(slot);
        if !inner.directories.contains(&directory) {
            fs::create_dir_all(self.dir.join(&directory)).map_err(CacheError::io("data directory"))?;
            inner.directories.insert(directory.clone());
        }
        let path = self.dir.join(path_of(slot));
        let open = |create| OpenOptions::new().read(true).write(true).create(create).truncate(false).open(&path);
        let file = match open(false) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                inner.new_in.insert(directory);
                open(true)
            }
            other => other,
        };
        let file = Arc::new(file.map_err(CacheError::io("data file"))?);
        inner.open.put(file_of(slot), Arc::clone(&file));
        Ok(Data { file, base, room })
    }

    /// How many of a slot's first `wanted` bytes its file has; nothing is made when there is none.
    pub(super) fn held(&self, slot: u64, wanted: u64) -> Result<u64, CacheError> {
        let room = room(slot);
        let base = if is_shared(slot) { number(slot) % TOGETHER * room } else { 0 };
        // A file that others share only grows: mostly it was long enough when it was last looked at.
        let known = self.inner.lock().lengths.get(&file_of(slot)).copied().unwrap_or(0);
        if known >= base + wanted {
            return Ok(wanted);
        }
        let length = match fs::metadata(self.dir.join(path_of(slot))) {
            Ok(meta) => meta.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(CacheError::io("data file")(error)),
        };
        if is_shared(slot) {
            self.inner.lock().lengths.insert(file_of(slot), length);
        }
        Ok(length.saturating_sub(base).min(wanted))
    }

    /// Makes the entries of new data files durable.
    pub(super) fn sync_entries(&self) -> Result<(), CacheError> {
        let _one = self.entries.lock();
        let new: Vec<String> = self.inner.lock().new_in.drain().collect();
        if new.is_empty() {
            return Ok(());
        }
        let directories = new.iter().map(|directory| self.dir.join(directory));
        let result = directories.chain([self.dir.clone()]).try_for_each(|dir| File::open(dir).and_then(|dir| dir.sync_all()));
        if result.is_err() {
            self.inner.lock().new_in.extend(new);
        }
        result.map_err(CacheError::io("data directory"))
    }
}
