//! One volume's local truth: metadata in SQLite, contents in sparse files, every mutation in a ring log before its reply.
//! Synchronous, callable from many threads, and without any I/O to the store. The rules are in [`protocol.rs`](protocol).

mod options;
mod types;

pub use options::CacheOptions;
pub use types::{
    CacheError, CacheOrigin, Change, CopyOutcome, Cut, Entry, Head, Intent, LocalExtent, Missing, ObjectId, ReadOutcome, Recovered,
    RequestId, Resolved, SavedReply, SealedFile, Space, Whence, WriteOutcome,
};

use crate::env::Env;
use crate::rpc;
use crate::types::{Attr, ByteRange, Domain, Epoch, Ino, UnixNanos};
use std::sync::Arc;

/// One volume's cache, open. Callable from many threads.
#[derive(Debug)]
pub struct Cache {}

/// What of the metadata can be asked, at one instant.
#[derive(Debug)]
pub struct View<'a> {
    _cache: &'a Cache,
}

/// A change of the metadata: all of it or nothing, logged before `Cache::update` returns. Dereferences to [`View`].
#[derive(Debug)]
pub struct Update<'a> {
    view: View<'a>,
}

impl<'a> std::ops::Deref for Update<'a> {
    type Target = View<'a>;
    fn deref(&self) -> &View<'a> {
        &self.view
    }
}
impl std::ops::DerefMut for Update<'_> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.view
    }
}

/// What was frozen at a cut.
#[derive(Debug)]
pub struct Seal {}

/// Fills an empty cache from a checkpoint and the commits after it: in bulk, not logged.
#[derive(Debug)]
pub struct Loader {}

/// A new inode, as asked for.
#[derive(Debug, Clone, Default)]
pub struct NewInode {
    /// Type and permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a device file.
    pub rdev: u64,
    /// Target of a symbolic link.
    pub target: Vec<u8>,
}

#[allow(unused_variables, clippy::todo, clippy::missing_errors_doc)]
impl Cache {
    /// Makes a cache in an empty or absent directory, with a root directory inode (mode 0755, owner 0:0) unless a loader fills it.
    pub fn create(env: Env, options: CacheOptions, origin: &CacheOrigin) -> Result<Arc<Self>, CacheError> {
        todo!()
    }
    /// Opens a cache and recovers what its log holds.
    pub fn open(env: Env, options: CacheOptions) -> Result<(Arc<Self>, Recovered), CacheError> {
        todo!()
    }
    /// Whether `dir` holds a cache (also a half-made one).
    pub fn exists(dir: &std::path::Path) -> bool {
        todo!()
    }
    /// Whose cache this is.
    pub fn origin(&self) -> CacheOrigin {
        todo!()
    }
    /// Applies and flushes everything and marks the cache as closed in order. It must not be used afterwards.
    pub fn close(&self) -> Result<(), CacheError> {
        todo!()
    }

    /// The newest record of the log that this cache contains; `None` before the first.
    pub fn head(&self) -> Option<Head> {
        todo!()
    }
    /// Moves the head without a commit of this cache (the `open` and `close` records; durable on return).
    pub fn set_head(&self, head: Head) -> Result<(), CacheError> {
        todo!()
    }
    /// What was about to be put and not known to be resolved.
    pub fn intent(&self) -> Result<Option<Intent>, CacheError> {
        todo!()
    }
    /// Makes an intent durable, or clears it. After a crash: clear it when it did not land, `set_head` and clear when it did;
    /// what it had frozen is dirty still and goes into the next commit once more.
    pub fn set_intent(&self, intent: Option<&Intent>) -> Result<(), CacheError> {
        todo!()
    }
    /// A small value kept under a key.
    pub fn get_state(&self, key: &str) -> Result<Option<Vec<u8>>, CacheError> {
        todo!()
    }
    /// Keeps a small value (up to 64 KiB) under a key; durable on return.
    pub fn set_state(&self, key: &str, value: &[u8]) -> Result<(), CacheError> {
        todo!()
    }
    /// The writer's epoch: new inodes get numbers from `epoch << 40`. Set by whoever opens the log, before the first create.
    pub fn set_epoch(&self, epoch: Epoch) -> Result<(), CacheError> {
        todo!()
    }

    /// Looks at the metadata.
    pub fn view<R>(&self, f: impl FnOnce(&mut View<'_>) -> R) -> R {
        todo!()
    }
    /// Changes the metadata: check first, change after, as an `Err` must have changed nothing (else the process ends).
    /// On return the change survives the death of the process, together with the reply for `request`.
    pub fn update<R, E: From<CacheError>>(
        &self,
        request: Option<RequestId>,
        f: impl FnOnce(&mut Update<'_>) -> Result<(R, SavedReply), E>,
    ) -> Result<R, E> {
        todo!()
    }
    /// The answer to a request that was carried out already.
    pub fn replayed(&self, request: RequestId) -> Option<SavedReply> {
        todo!()
    }
    /// Forgets saved replies of older connections than `conn_epoch`.
    pub fn forget_replies(&self, conn_epoch: u64) -> Result<(), CacheError> {
        todo!()
    }

    /// Reads up to `len` bytes; `out` is replaced.
    pub fn read(&self, ino: Ino, offset: u64, len: usize, out: &mut Vec<u8>) -> Result<ReadOutcome, CacheError> {
        todo!()
    }
    /// Writes; grows the file. Never refused for a limit. A page that is written in part must be here, else `Absent`.
    pub fn write(&self, request: Option<RequestId>, ino: Ino, offset: u64, data: &[u8]) -> Result<WriteOutcome, CacheError> {
        todo!()
    }
    /// `fallocate`: 0, `KEEP_SIZE`, `PUNCH_HOLE | KEEP_SIZE`, `ZERO_RANGE [| KEEP_SIZE]`; else `Invalid`.
    pub fn fallocate(&self, request: Option<RequestId>, ino: Ino, mode: i32, offset: u64, length: u64) -> Result<WriteOutcome, CacheError> {
        todo!()
    }
    /// `lseek` with `SEEK_DATA` or `SEEK_HOLE`; `None`: ENXIO.
    pub fn seek(&self, ino: Ino, offset: u64, whence: Whence) -> Result<Option<u64>, CacheError> {
        todo!()
    }
    /// Shares stored extents instead of copying bytes (protocol.md 6.8).
    pub fn copy_range(
        &self,
        request: Option<RequestId>,
        from: Ino,
        from_offset: u64,
        to: Ino,
        to_offset: u64,
        length: u64,
    ) -> Result<CopyOutcome, CacheError> {
        todo!()
    }
    /// What of `range` is committed and not here.
    pub fn missing(&self, ino: Ino, range: ByteRange) -> Result<Vec<Missing>, CacheError> {
        todo!()
    }
    /// Puts fetched bytes (exactly `missing.range`) into the pages that are still absent and still stored there; tells how many
    /// bytes were taken.
    pub fn install(&self, ino: Ino, missing: &Missing, bytes: &[u8]) -> Result<u64, CacheError> {
        todo!()
    }
    /// The stored object with this number.
    pub fn object(&self, id: ObjectId) -> Result<rpc::ObjectRef, CacheError> {
        todo!()
    }
    /// Makes a file's content, size and everything logged so far survive the loss of power.
    pub fn fsync(&self, ino: Ino, datasync: bool) -> Result<(), CacheError> {
        todo!()
    }
    /// Makes everything logged so far (names, attributes) survive the loss of power.
    pub fn fsyncdir(&self, ino: Ino) -> Result<(), CacheError> {
        todo!()
    }
    /// A handle was opened.
    pub fn opened(&self, ino: Ino, writable: bool) {
        todo!()
    }
    /// A handle was released.
    pub fn released(&self, ino: Ino, writable: bool) {
        todo!()
    }
    /// Regular files with a writable handle: what the kernel may hold bytes of.
    pub fn writable_open(&self) -> Vec<Ino> {
        todo!()
    }

    /// Bytes in no commit: dirty pages, copies made for a seal, and the log's records not yet applied.
    pub fn dirty_bytes(&self) -> u64 {
        todo!()
    }
    /// Whether anything (also a name or attribute) changed since the last seal.
    pub fn changed(&self) -> bool {
        todo!()
    }
    /// When the oldest change that is in no commit was made (wall clock).
    pub fn oldest_dirty(&self) -> Option<UnixNanos> {
        todo!()
    }
    /// Bytes of data here, dirty and clean.
    pub fn cached_bytes(&self) -> u64 {
        todo!()
    }
    /// Drops clean committed pages, least used files first, until `target` bytes are freed or nothing is left to drop.
    pub fn evict(&self, target: u64) -> Result<u64, CacheError> {
        todo!()
    }
    /// Background work, to be called about once a second: applies the log when due, checkpoints `meta.db`.
    pub fn tick(&self) -> Result<(), CacheError> {
        todo!()
    }

    /// Records kernel sizes (fstat after `sync_file_range`) for the next seal (protocol.md 6.2).
    pub fn flush_points(&self, points: &[(Ino, u64)]) {
        todo!()
    }
    /// Freezes everything changed that `classify` does not call `Local`. One seal at a time.
    pub fn seal(self: &Arc<Self>, classify: &mut dyn FnMut(&mut View<'_>, &Change) -> Domain) -> Result<Seal, CacheError> {
        todo!()
    }
    /// Makes everything in the cut durable here (protocol.md 6.7).
    pub fn make_durable(&self, seal: &Seal) -> Result<(), CacheError> {
        todo!()
    }
    /// The commit of `seal` is stored and readable: its extents are taken over, what was not dirtied again is clean, the head moves
    /// and the intent is cleared, in one durable step.
    pub fn resolve(&self, seal: Seal, head: Head, resolved: Resolved) -> Result<(), CacheError> {
        todo!()
    }
    /// The seal is given up: all it froze is dirty again.
    pub fn abandon(&self, seal: Seal) -> Result<(), CacheError> {
        todo!()
    }

    /// Fills an empty cache.
    pub fn load(self: &Arc<Self>) -> Result<Loader, CacheError> {
        todo!()
    }
}

#[allow(unused_variables, clippy::todo, clippy::missing_errors_doc)]
impl View<'_> {
    /// Attributes of an inode.
    pub fn attr(&mut self, ino: Ino) -> Result<Option<Attr>, CacheError> {
        todo!()
    }
    /// What a name means: inode and cookie.
    pub fn lookup(&mut self, dir: Ino, name: &[u8]) -> Result<Option<(Ino, u64)>, CacheError> {
        todo!()
    }
    /// Up to `limit` entries after a cookie, in cookie order.
    pub fn entries(&mut self, dir: Ino, after: u64, limit: usize) -> Result<Vec<Entry>, CacheError> {
        todo!()
    }
    /// Whether a directory has no entries.
    pub fn is_empty(&mut self, dir: Ino) -> Result<bool, CacheError> {
        todo!()
    }
    /// The directory that holds a directory; the root's is the root.
    pub fn parent(&mut self, dir: Ino) -> Result<Option<Ino>, CacheError> {
        todo!()
    }
    /// All names of an inode as (directory, name).
    pub fn names_of(&mut self, ino: Ino) -> Result<Vec<(Ino, Vec<u8>)>, CacheError> {
        todo!()
    }
    /// The value of an extended attribute.
    pub fn xattr(&mut self, ino: Ino, name: &[u8]) -> Result<Option<Vec<u8>>, CacheError> {
        todo!()
    }
    /// The names of the extended attributes, sorted.
    pub fn xattrs(&mut self, ino: Ino) -> Result<Vec<Vec<u8>>, CacheError> {
        todo!()
    }
    /// The target of a symbolic link.
    pub fn target(&mut self, ino: Ino) -> Result<Option<Vec<u8>>, CacheError> {
        todo!()
    }
    /// Numbers for `statfs`.
    pub fn space(&mut self) -> Space {
        todo!()
    }
    /// Whether a commit has held this name.
    pub fn name_captured(&mut self, dir: Ino, name: &[u8]) -> Result<bool, CacheError> {
        todo!()
    }
    /// Inodes without a name: kept until `Update::forget_orphan`.
    pub fn orphans(&mut self) -> Result<Vec<Ino>, CacheError> {
        todo!()
    }
}

#[allow(unused_variables, clippy::todo, clippy::missing_errors_doc)]
impl Update<'_> {
    /// The wall clock, for timestamps.
    pub fn now(&self) -> UnixNanos {
        todo!()
    }
    /// A new inode with nlink 0 (2 - 2 for a directory, too): `set_name` in the same update gives it its name. All times are now.
    pub fn new_inode(&mut self, new: &NewInode) -> Result<Attr, CacheError> {
        todo!()
    }
    /// Replaces mode, owner, rdev and times. `nlink` is kept by the names, `size` of regular files by writes and `set_size`.
    pub fn set_attr(&mut self, attr: &Attr) -> Result<(), CacheError> {
        todo!()
    }
    /// Cuts or extends a regular file.
    pub fn set_size(&mut self, ino: Ino, size: u64) -> Result<(), CacheError> {
        todo!()
    }
    /// Makes `name` mean `ino`; what it meant before loses that name. Link counts follow, also the parents' of directories.
    pub fn set_name(&mut self, dir: Ino, name: &[u8], ino: Ino) -> Result<(), CacheError> {
        todo!()
    }
    /// Removes a name; link counts follow. An inode whose last name goes stays until `forget_orphan`.
    pub fn remove_name(&mut self, dir: Ino, name: &[u8]) -> Result<(), CacheError> {
        todo!()
    }
    /// Sets an extended attribute.
    pub fn set_xattr(&mut self, ino: Ino, name: &[u8], value: &[u8]) -> Result<(), CacheError> {
        todo!()
    }
    /// Removes an extended attribute; tells whether it was there.
    pub fn remove_xattr(&mut self, ino: Ino, name: &[u8]) -> Result<bool, CacheError> {
        todo!()
    }
    /// Ends an inode without names that nobody holds open. Nothing when it has names.
    pub fn forget_orphan(&mut self, ino: Ino) -> Result<(), CacheError> {
        todo!()
    }
}

#[allow(unused_variables, clippy::todo, clippy::missing_errors_doc)]
impl Seal {
    /// Its instant.
    pub fn cut(&self) -> Cut {
        todo!()
    }
    /// Whether nothing is in it (`abandon` it then).
    pub fn is_empty(&self) -> bool {
        todo!()
    }
    /// Whether everything that was dirty and is not `Local` is in it.
    pub fn is_full(&self) -> bool {
        todo!()
    }
    /// Bytes of data to be stored, by `files`.
    pub fn dirty_bytes(&self) -> u64 {
        todo!()
    }
    /// The next removed names; `cursor` starts at 0; empty at the end.
    pub fn removed_names(&self, cursor: &mut u64, limit: usize) -> Result<Vec<rpc::NameRef>, CacheError> {
        todo!()
    }
    /// The next removed inodes.
    pub fn removed_inodes(&self, cursor: &mut u64, limit: usize) -> Result<Vec<Ino>, CacheError> {
        todo!()
    }
    /// The next changed inodes, as at the cut, by number.
    pub fn inodes(&self, cursor: &mut u64, limit: usize) -> Result<Vec<rpc::Inode>, CacheError> {
        todo!()
    }
    /// The next changed names, as at the cut.
    pub fn names(&self, cursor: &mut u64, limit: usize) -> Result<Vec<rpc::Name>, CacheError> {
        todo!()
    }
    /// The next files with changed content, by number.
    pub fn files(&self, cursor: &mut u64, limit: usize) -> Result<Vec<SealedFile>, CacheError> {
        todo!()
    }
    /// Content as at the cut: only within the `dirty` ranges of the file.
    pub fn read(&self, ino: Ino, offset: u64, out: &mut [u8]) -> Result<(), CacheError> {
        todo!()
    }
    /// The first inode number not yet used at the cut.
    pub fn next_inode(&self) -> Ino {
        todo!()
    }
    /// Inodes and bytes of the volume at the cut.
    pub fn totals(&self) -> Space {
        todo!()
    }
}

#[allow(unused_variables, clippy::todo, clippy::missing_errors_doc)]
impl Loader {
    /// Applies a checkpoint's part, or a commit's delta (in the order of `rpc::Delta`). `seq`: the commit, for inline extents.
    pub fn delta(&mut self, seq: crate::types::Seq, delta: &rpc::Delta) -> Result<(), CacheError> {
        todo!()
    }
    /// Applies a checkpoint's part.
    pub fn part(&mut self, part: &rpc::CheckpointPart) -> Result<(), CacheError> {
        todo!()
    }
    /// Counts links, checks the tree, and makes it all durable with its head.
    pub fn finish(self, head: Head, next_inode: Ino, next_cookie: u64) -> Result<(), CacheError> {
        todo!()
    }
}
