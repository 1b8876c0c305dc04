//! Reading what a seal froze.

use super::Cache;
use super::file::DataFile;
use super::pages::{clipped, without};
use super::put::read_zeros_after_end;
use super::seal::Seal;
use super::spoiled::read_present;
use super::spool::Spool;
use super::types::{CacheError, Cut, SealedFile, Space};
use crate::rpc;
use crate::types::{ByteRange, Ino, RangeSet};
use std::collections::HashSet;
use std::sync::Arc;

/// Files of a seal looked at or taken over at a time.
pub(super) const WINDOW: usize = 512;

#[allow(clippy::missing_errors_doc, reason = "they fail only when the cache's disk does")]
impl Seal {
    /// Its instant.
    #[must_use]
    pub fn cut(&self) -> Cut {
        self.cut
    }

    /// Whether nothing is in it (`abandon` it then).
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.empty
    }

    /// Whether everything that was dirty and is not `Local` is in it.
    #[must_use]
    pub fn is_full(&self) -> bool {
        !self.waiting.some
    }

    /// Bytes of data to be stored, by `files`.
    #[must_use]
    pub fn dirty_bytes(&self) -> u64 {
        self.dirty
    }

    /// The first inode number not used at the cut.
    #[must_use]
    pub fn next_inode(&self) -> Ino {
        self.next_inode
    }

    /// Above every cookie given out in any directory up to the cut.
    #[must_use]
    pub fn next_cookie(&self) -> u64 {
        self.next_cookie
    }

    /// Inodes and bytes of the volume at the cut, `Local` ones included.
    #[must_use]
    pub fn totals(&self) -> Space {
        self.totals
    }

    pub(super) fn spool<R>(&self, f: impl FnOnce(&mut Spool) -> Result<R, CacheError>) -> Result<R, CacheError> {
        match &mut *self.spool.lock() {
            Some(spool) => f(spool),
            None => Err(CacheError::Invalid("a seal without its spool")),
        }
    }

    /// The next removed names; `cursor` starts at 0; empty at the end. What is removed may be unknown to the commits: a name made and
    /// removed between two of them.
    pub fn removed_names(&self, cursor: &mut u64, limit: usize) -> Result<Vec<rpc::NameRef>, CacheError> {
        self.spool(|spool| spool.removed_names(cursor, limit))
    }

    /// The next removed inodes, by number.
    pub fn removed_inodes(&self, cursor: &mut u64, limit: usize) -> Result<Vec<Ino>, CacheError> {
        self.spool(|spool| spool.removed_inodes(cursor, limit))
    }

    /// The next changed inodes, as at the cut, by number.
    pub fn inodes(&self, cursor: &mut u64, limit: usize) -> Result<Vec<rpc::Inode>, CacheError> {
        self.spool(|spool| spool.inodes(cursor, limit))
    }

    /// The next changed names, as at the cut.
    pub fn names(&self, cursor: &mut u64, limit: usize) -> Result<Vec<rpc::Name>, CacheError> {
        self.spool(|spool| spool.names(cursor, limit))
    }

    /// The next files with changed content, by number.
    pub fn files(&self, cursor: &mut u64, limit: usize) -> Result<Vec<SealedFile>, CacheError> {
        let mut found = Vec::new();
        while found.is_empty() {
            self.cache.let_go(&std::mem::take(&mut *self.window.lock()));
            let window = self.cache.seal.taken.lock().after(*cursor, limit);
            let Some(last) = window.last() else { break };
            *cursor = *last;
            for ino in &window {
                let file = self.file(*ino)?;
                let content = file.inner.lock();
                let Some(frozen) = &content.frozen else { continue };
                let within = |set: &RangeSet| clipped(set, 0..frozen.size).iter().collect::<Vec<ByteRange>>();
                let sealed = SealedFile {
                    ino: *ino,
                    size: frozen.size,
                    cleared: within(&without(&frozen.cleared, frozen.dirty.set())),
                    dirty: within(frozen.dirty.set()),
                    shared: frozen.shared_extents.clone(),
                };
                if !(sealed.cleared.is_empty() && sealed.dirty.is_empty() && sealed.shared.is_empty()) {
                    found.push(sealed);
                }
            }
            *self.window.lock() = window;
        }
        Ok(found)
    }

    /// A frozen file, also when its inode ended since.
    pub(super) fn file(&self, ino: Ino) -> Result<Arc<DataFile>, CacheError> {
        self.cache.file(ino).or_else(|error| self.cache.seal.ended.lock().get(&ino).cloned().ok_or(error))
    }

    /// Keeps what the commit says of the contents of these files, for its deltas and for [`Cache::resolve`]: they may be very many.
    pub fn keep_stored(&self, changes: &[rpc::ExtentChange]) -> Result<(), CacheError> {
        self.spool(|spool| changes.iter().try_for_each(|change| spool.keep_stored(change)))
    }

    /// The next of them, by number.
    pub fn stored(&self, cursor: &mut u64, limit: usize) -> Result<Vec<rpc::ExtentChange>, CacheError> {
        self.spool(|spool| spool.stored(cursor, Ino::MAX, limit))
    }

    /// Content as at the cut: only within the `dirty` ranges of the file.
    pub fn read(&self, ino: Ino, offset: u64, out: &mut [u8]) -> Result<(), CacheError> {
        let file = self.file(ino)?;
        let range = offset..offset + out.len() as u64;
        loop {
            let (slot, copied, copies, shadow) = {
                let content = file.inner.lock();
                let frozen = content.frozen.as_ref().ok_or(CacheError::NoInode(ino))?;
                if !frozen.dirty.set().contains(range.clone()) {
                    return Err(CacheError::Invalid("only frozen ranges can be read from a seal"));
                }
                (content.slot, clipped(&frozen.copied, range.clone()), frozen.copies(&range), frozen.shadow.clone())
            };
            let part = |range: &ByteRange| (range.start - offset) as usize..(range.end - offset) as usize;
            if let Some(slot) = slot {
                let data = self.cache.slots.file(slot)?;
                for gap in copied.gaps(range.clone()) {
                    // Never zeros in the place of what is gone: the seal fails, and the next one is without it.
                    if let Err(why) = read_present(&data, &mut out[part(&gap)], gap.start)
                        && file.inner.lock().slot == Some(slot)
                    {
                        self.cache.unread(&file, &gap, why)?;
                        let source = std::io::Error::from_raw_os_error(libc::EIO);
                        return Err(CacheError::Io { what: format!("data file of inode {ino}"), source });
                    }
                }
            }
            if let Some(shadow) = shadow {
                for (copy, place) in copies {
                    read_zeros_after_end(&*shadow, &mut out[part(&copy)], place)?;
                }
            }
            // A page copied meanwhile was perhaps read after it was overwritten, and a slot that was left is another file's.
            let content = file.inner.lock();
            if content.slot == slot && content.frozen.as_ref().is_some_and(|frozen| clipped(&frozen.copied, range.clone()) == copied) {
                return Ok(());
            }
        }
    }

    /// Lets the files go that are held or wait, and remembers of each what it is.
    pub(super) fn keep_files(&mut self, cache: &Cache, held: &HashSet<Ino>, waiting: &HashSet<Ino>) -> Result<(), CacheError> {
        let let_go = |ino: &Ino| held.contains(ino) || waiting.contains(ino);
        let mut last = 0;
        loop {
            let window = cache.seal.taken.lock().after(last, WINDOW);
            let Some(end) = window.last() else { break };
            last = *end;
            for ino in window {
                if let_go(&ino) {
                    let file = self.file(ino)?;
                    set_local(cache, &file, held.contains(&ino));
                    self.dirty -= file.inner.lock().frozen.as_ref().map_or(0, |frozen| frozen.dirty.bytes());
                    cache.thaw(&file);
                } else if let Some(file) = cache.hot_file(ino) {
                    // (What is `local` does not leave memory.)
                    set_local(cache, &file, false);
                }
            }
        }
        cache.seal.taken.lock().retain(|ino| !let_go(&ino));
        cache.seal.ended.lock().retain(|ino, _| !let_go(ino));
        Ok(())
    }
}

fn set_local(cache: &Cache, file: &Arc<DataFile>, local: bool) {
    let mut content = file.inner.lock();
    content.local = local;
    cache.tell(file, &mut content);
}
