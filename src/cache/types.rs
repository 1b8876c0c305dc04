//! The nouns of the cache's border: what its callers pass in and get back.

use crate::types::{Attr, ByteRange, CacheId, Fault, FaultKind, Identity, Incarnation, Ino, Seq, StoreId, UnixNanos};
pub use crate::types::{Head, Intent};

/// Whose cache a directory is. Written at its creation, compared by whoever opens it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheOrigin {
    /// The store's identity.
    pub store_id: StoreId,
    /// The life of the volume.
    pub incarnation: Incarnation,
    /// The volume's name.
    pub identity: Identity,
    /// This directory, from its creation on.
    pub cache_id: CacheId,
}

/// One request of the kernel: the connection it came by and its number there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId {
    /// Grows with every INIT of the mount; the same across a takeover.
    pub conn_epoch: u64,
    /// The request's number on that connection.
    pub unique: u64,
}

/// What was, or would have been, answered to a request: kept with its effects, so that a resent request is answered and not
/// repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SavedReply {
    /// Success without content.
    Empty,
    /// An entry of this inode.
    Entry(Ino),
    /// The attributes of this inode.
    Attr(Ino),
    /// An inode created and opened.
    Created(Ino),
    /// Bytes written or copied.
    Size(u32),
}

/// How the cache was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recovered {
    /// It had been closed in order.
    pub clean: bool,
    /// The machine did not restart since it was last used: its data files are believed as they are.
    pub same_boot: bool,
    /// Records replayed from the log.
    pub replayed: u64,
    /// Bytes of writes that were never flushed and did not survive the loss of power.
    pub lost_bytes: u64,
}

/// An entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its position: unique within the directory for ever.
    pub cookie: u64,
    /// Its name.
    pub name: Vec<u8>,
    /// What it names.
    pub ino: Ino,
    /// The attributes of what it names.
    pub attr: Attr,
}

/// Number in the table of stored objects; 0: inline in the commit `inline_seq`.
pub type ObjectId = u64;

/// A run of a file's bytes as it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalExtent {
    /// First byte in the file: a multiple of [`crate::types::PAGE`].
    pub offset: u64,
    /// Bytes.
    pub length: u64,
    /// The object that holds its frame ([`super::Cache::object`]).
    pub object: ObjectId,
    /// The frame's number in the object or commit.
    pub frame: u32,
    /// Where the frame lies in the object.
    pub stored_offset: u64,
    /// Its stored bytes, with the tag.
    pub stored_length: u32,
    /// Its plain bytes.
    pub plain_length: u32,
    /// Where the extent begins in the plain bytes.
    pub skip: u32,
    /// XXH3-64 of the frame's plain bytes.
    pub checksum: u64,
    /// The commit that holds the frame, when `object` is 0.
    pub inline_seq: Seq,
}

impl LocalExtent {
    /// The bytes of the file it covers.
    #[must_use]
    pub fn range(&self) -> ByteRange {
        self.offset..self.offset + self.length
    }

    /// The part of it inside `range`, if any.
    #[must_use]
    pub fn clip(&self, range: &ByteRange) -> Option<Self> {
        let start = self.offset.max(range.start);
        let end = (self.offset + self.length).min(range.end);
        (start < end).then(|| Self { offset: start, length: end - start, skip: self.skip + (start - self.offset) as u32, ..*self })
    }
}

/// Bytes that are committed and not here: to be fetched from `extent` and given to [`super::Cache::install`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// The bytes, whole pages up to the end of the extent.
    pub range: ByteRange,
    /// Where they are stored: exactly `range`.
    pub extent: LocalExtent,
}

/// What a scrub of a part of a file found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Scrubbed {
    /// Bytes compared with their checksum.
    pub checked: u64,
    /// Ranges that differed, and are absent now.
    pub dropped: Vec<ByteRange>,
    /// Clean bytes whose frame is not here whole: its checksum says nothing of them.
    pub uncompared: u64,
    /// Where to go on; `None`: the end of the file.
    pub next: Option<u64>,
}

/// What this cache calls committed, and the commit shows otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Odd {
    /// An inode: attributes, extended ones, target, where its content is stored.
    Inode(Ino),
    /// A name.
    Name {
        /// The directory.
        dir: Ino,
        /// The name.
        name: Vec<u8>,
    },
}

/// A row that differed from the newest commit, and was repaired.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Where it is.
    pub path: String,
    /// The inode, or the directory of a name.
    pub ino: Ino,
    /// The name, when it is one.
    pub name: Option<Vec<u8>>,
    /// What is here was kept (it is newer than the commit, or only here); else it is as the commit says.
    pub kept: bool,
}

/// The outcome of a read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReadOutcome {
    /// The buffer holds the bytes, fewer than asked only at the end of the file.
    Done,
    /// These ranges are committed and not here: fetch them, then read again. The buffer is empty.
    Absent(Vec<ByteRange>),
}

/// The outcome of a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WriteOutcome {
    /// Taken, whole.
    Done,
    /// Nothing was written: these pages are written in part and their rest is committed and not here. Fetch, write again.
    Absent(Vec<ByteRange>),
}

/// The outcome of [`super::Cache::copy_range`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CopyOutcome {
    /// So many bytes of stored extents are shared now.
    Shared(u64),
    /// Not to be shared (not aligned, dirty, or nothing stored): copy by reading and writing.
    Copy,
}

/// `SEEK_DATA` or `SEEK_HOLE`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whence {
    /// The next byte of data.
    Data,
    /// The next byte of a hole; the end of the file is one.
    Hole,
}

/// Numbers for `statfs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Space {
    /// Inodes that exist.
    pub inodes: u64,
    /// At most so many inodes.
    pub inodes_max: u64,
    /// The sum of the sizes of regular files (what a copy of the volume would take, holes included up to the stored bytes).
    pub bytes: u64,
    /// At most so many bytes.
    pub bytes_max: u64,
}

/// What is classified when a seal freezes: its tier decides whether it is captured.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// An inode: attributes, xattrs, content.
    Inode(Ino),
    /// An entry and what it names.
    Name {
        /// The directory.
        dir: Ino,
        /// The name.
        name: Vec<u8>,
        /// What it names.
        ino: Ino,
    },
}

/// The instant of a seal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// Grows with every seal of this cache.
    pub number: u64,
    /// The wall clock at the flip.
    pub time: UnixNanos,
}

/// What a commit must say about the content of one file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SealedFile {
    /// The file.
    pub ino: Ino,
    /// Its size at the cut (protocol.md 6.2).
    pub size: u64,
    /// Ranges that became holes.
    pub cleared: Vec<ByteRange>,
    /// Ranges to be stored: read them by [`super::Seal::read`]. They begin at pages and end at pages or at `size`.
    pub dirty: Vec<ByteRange>,
    /// Stored extents that the file has taken over from another one (`copy_file_range`).
    pub shared: Vec<LocalExtent>,
}

/// Why the cache could not do it.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// The cache's disk or directory failed.
    #[error("the cache's {what} failed")]
    Io {
        /// The file or step.
        what: String,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The metadata database failed.
    #[error("the cache's meta.db failed")]
    Sql(#[source] rusqlite::Error),
    /// No such inode.
    #[error("inode {0} is not in the cache")]
    NoInode(Ino),
    /// A limit of the volume is reached.
    #[error("the volume's limit is reached: {0}")]
    NoSpace(&'static str),
    /// Larger than a file can be.
    #[error("a file may have at most {} bytes", crate::types::FILE_SIZE_MAX)]
    TooBig,
    /// An argument that makes no sense.
    #[error("{0}")]
    Invalid(&'static str),
    /// Another process uses this directory.
    #[error("the cache {0} is in use by another process; unmount the volume there first")]
    Locked(String),
    /// The directory cannot hold a cache.
    #[error("{dir} lies on {found}, which cannot hold a cache: {why}; choose a directory on a local ext4 or XFS disk (--cache)")]
    Unsuitable {
        /// The directory.
        dir: String,
        /// Its file system.
        found: String,
        /// Why not.
        why: &'static str,
    },
    /// No cache there, or not a whole one.
    #[error("{0}")]
    NotACache(String),
    /// Its content contradicts itself.
    #[error("the cache is damaged: {0}")]
    Damaged(String),
    /// A seal is under way already.
    #[error("a seal is under way")]
    SealBusy,
    /// Bytes that are in no commit are gone from the cache's disk.
    #[error("bytes {start} to {end} of inode {ino} are in no commit, and the cache's disk does not have them any more")]
    Spoiled {
        /// The file.
        ino: Ino,
        /// The first of them.
        start: u64,
        /// Behind the last.
        end: u64,
    },
    /// Bytes of an earlier write could not be kept by the cache's disk.
    #[error("bytes of inode {ino} could not be written to the cache's disk")]
    WriteLost {
        /// The file.
        ino: Ino,
        /// The error of the disk.
        errno: i32,
    },
}

impl CacheError {
    pub(super) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }

    /// Whether the cache is not what was written, so that nothing else in it can be believed either.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Damaged(_) => true,
            Self::Sql(error) => super::health::is_corrupt(error),
            _ => false,
        }
    }

    /// The errno that a system call gets for it.
    #[must_use]
    pub fn errno(&self) -> i32 {
        match self {
            Self::Io { source, .. } => source.raw_os_error().unwrap_or(libc::EIO),
            Self::NoInode(_) => libc::ENOENT,
            Self::NoSpace(_) => libc::ENOSPC,
            Self::TooBig => libc::EFBIG,
            Self::Invalid(_) => libc::EINVAL,
            Self::Locked(_) | Self::SealBusy => libc::EBUSY,
            Self::WriteLost { errno, .. } => *errno,
            Self::Sql(_) | Self::Spoiled { .. } | Self::Unsuitable { .. } | Self::NotACache(_) | Self::Damaged(_) => libc::EIO,
        }
    }
}

impl From<rusqlite::Error> for CacheError {
    fn from(error: rusqlite::Error) -> Self {
        super::health::note(&error);
        Self::Sql(error)
    }
}

/// An error with its causes, in one line.
pub(super) fn chain(error: &CacheError) -> String {
    let causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
    std::iter::once(error.to_string()).chain(causes.map(ToString::to_string)).collect::<Vec<_>>().join(": ")
}

const DAMAGED: &str = "the cache is not what was written; unmount the volume and mount it again: its cache is set aside then, and the volume \
                       comes from the log";

impl From<CacheError> for Fault {
    fn from(error: CacheError) -> Self {
        if error.is_damage() {
            return Self::with(FaultKind::Damaged, DAMAGED, error);
        }
        let kind = match &error {
            CacheError::NoInode(_) | CacheError::NotACache(_) => FaultKind::NotFound,
            CacheError::NoSpace(_) => FaultKind::Full,
            CacheError::TooBig | CacheError::Invalid(_) | CacheError::Unsuitable { .. } => FaultKind::Invalid,
            CacheError::Locked(_) | CacheError::SealBusy => FaultKind::Busy,
            CacheError::Io { .. }
            | CacheError::Sql(_)
            | CacheError::Damaged(_)
            | CacheError::Spoiled { .. }
            | CacheError::WriteLost { .. } => FaultKind::Local,
        };
        Self::with(kind, "the cache", error)
    }
}

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
