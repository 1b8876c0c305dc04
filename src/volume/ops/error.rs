//! Why an operation was refused, in the words of POSIX. `fuse::errno` gives each its number.

use crate::cache::CacheError;
use thiserror::Error;

/// What an application is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Error)]
pub enum PosixError {
    /// No such name or inode.
    #[error("no such file or directory")]
    NotFound,
    /// The name is taken.
    #[error("file exists")]
    Exists,
    /// A directory was needed.
    #[error("not a directory")]
    NotDirectory,
    /// A directory cannot be used so.
    #[error("is a directory")]
    IsDirectory,
    /// The directory has entries.
    #[error("directory not empty")]
    NotEmpty,
    /// The request makes no sense (a directory moved into itself, an unknown flag, a malformed ACL).
    #[error("invalid argument")]
    Invalid,
    /// A name of more than 255 bytes.
    #[error("file name too long")]
    NameTooLong,
    /// More than 65,000 names for one inode.
    #[error("too many links")]
    TooManyLinks,
    /// A limit (capacity, dirty bytes, inodes) or the cache disk is full.
    #[error("no space left")]
    NoSpace,
    /// The mount is read-only.
    #[error("read-only file system")]
    ReadOnly,
    /// The caller may not do this even as the owner.
    #[error("operation not permitted")]
    NotPermitted,
    /// No such extended attribute.
    #[error("no such attribute")]
    NoAttribute,
    /// An extended attribute of more than 64 KiB.
    #[error("attribute too large")]
    AttributeTooLarge,
    /// The answer does not fit the caller's buffer.
    #[error("buffer too small")]
    BufferTooSmall,
    /// Beyond the largest file size.
    #[error("file too large")]
    FileTooLarge,
    /// Known, and not offered here (a mode of fallocate, a namespace of attributes).
    #[error("operation not supported")]
    NotSupported,
    /// SEEK_DATA or SEEK_HOLE beyond the end.
    #[error("no data beyond this offset")]
    NoData,
    /// A handle to an inode that is gone.
    #[error("stale file handle")]
    Stale,
    /// The disk, the store or stored bytes failed; the log says which.
    #[error("input/output error")]
    Io,
    /// The bytes are not here and the store did not give them in time; later it may.
    #[error("the store did not answer in time")]
    Unreachable,
    /// This volume was taken over or closed: nothing may change any more.
    #[error("the volume is fenced")]
    Fenced,
}

impl From<CacheError> for PosixError {
    fn from(error: CacheError) -> Self {
        match &error {
            CacheError::NoInode(_) => Self::NotFound,
            CacheError::NoSpace(_) => Self::NoSpace,
            CacheError::TooBig => Self::FileTooLarge,
            CacheError::Invalid(_) => Self::Invalid,
            CacheError::Io { .. }
            | CacheError::WriteLost { .. }
            | CacheError::Spoiled { .. }
            | CacheError::Sql(_)
            | CacheError::Locked(_)
            | CacheError::Unsuitable { .. }
            | CacheError::NotACache(_)
            | CacheError::Damaged(_)
            | CacheError::SealBusy => {
                let full = matches!(error.errno(), libc::ENOSPC | libc::EDQUOT);
                tracing::error!(error = &error as &dyn std::error::Error, "an operation failed on the cache");
                if full { Self::NoSpace } else { Self::Io }
            }
        }
    }
}
