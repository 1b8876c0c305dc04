//! The nouns every module shares: ids, ranges, attributes, limits, and the kinds of fault.

mod fault;
mod ids;
mod numbers;
mod range;
mod record;
mod words;

pub use fault::{Fault, FaultKind};
pub use ids::{CacheId, DataKey, Hash, Identity, IdentityError, Incarnation, Nonce, StoreId, StoreKey, WriterId};
pub use numbers::SeqSet;
pub use range::{ByteRange, RangeSet};
pub use record::{Head, Intent};
pub use words::{nearest, show_name};

/// A page: the unit of dirtiness and presence, in bytes, whatever the system's page size.
pub const PAGE: u64 = 4096;
/// Longest name of a directory entry, in bytes.
pub const NAME_MAX: usize = 255;
/// Largest size of a file, in bytes (the sparse data files lie on ext4, whose limit is 16 TiB).
pub const FILE_SIZE_MAX: u64 = (16 << 40) - PAGE;
/// The root directory's inode number.
pub const ROOT: Ino = 1;
/// Numbers in one aligned block of the log (protocol.md 1.5).
pub const BLOCK: u64 = 1024;

/// An inode number: never reused in the life of a volume; allocated from `epoch << 40` (protocol.md 7.7).
pub type Ino = u64;
/// The number of a record in the log, from 1.
pub type Seq = u64;
/// The term of one writer, from 1.
pub type Epoch = u64;
/// An instant in nanoseconds since the Unix epoch, UTC. May be negative.
pub type UnixNanos = i64;

/// The attributes of an inode, as in `struct stat`. `nlink` counts the names (a directory: 2 + its subdirectories).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attr {
    /// Inode number.
    pub ino: Ino,
    /// Type and permission bits, as in `st_mode`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Names that point here; 0: unlinked and still open.
    pub nlink: u32,
    /// Device number of a device file.
    pub rdev: u64,
    /// Bytes; of a symbolic link the length of its target.
    pub size: u64,
    /// Last read.
    pub atime: UnixNanos,
    /// Last change of content.
    pub mtime: UnixNanos,
    /// Last change of the inode.
    pub ctime: UnixNanos,
    /// Birth.
    pub btime: UnixNanos,
}

impl Attr {
    /// The file type bits of `mode` (`S_IFREG`, ...).
    #[must_use]
    pub fn kind(&self) -> u32 {
        self.mode & libc::S_IFMT
    }

    /// Whether this is a directory.
    #[must_use]
    pub fn is_dir(&self) -> bool {
        self.kind() == libc::S_IFDIR
    }

    /// Whether this is a regular file.
    #[must_use]
    pub fn is_file(&self) -> bool {
        self.kind() == libc::S_IFREG
    }
}

/// A tier's domain: what is captured at one instant (protocol.md 5). `Local` is in no commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Domain {
    /// fsync waits for the commit.
    Strict,
    /// At most `lag` after a write.
    Continuous,
    /// When quiet.
    Debounced,
    /// At set times.
    Scheduled,
    /// Never.
    Local,
}
