//! The errno table: the only place where a refusal becomes a number. Exhaustive, so that a new refusal does not compile
//! before somebody chose its number.

use crate::volume::PosixError;
use fuser::Errno;

/// The number an application sees.
pub(super) fn errno(error: PosixError) -> Errno {
    match error {
        PosixError::NotFound => Errno::ENOENT,
        PosixError::Exists => Errno::EEXIST,
        PosixError::NotDirectory => Errno::ENOTDIR,
        PosixError::IsDirectory => Errno::EISDIR,
        PosixError::NotEmpty => Errno::ENOTEMPTY,
        PosixError::Invalid => Errno::EINVAL,
        PosixError::NameTooLong => Errno::ENAMETOOLONG,
        PosixError::TooManyLinks => Errno::EMLINK,
        PosixError::NoSpace => Errno::ENOSPC,
        PosixError::ReadOnly => Errno::EROFS,
        PosixError::NotPermitted => Errno::EPERM,
        PosixError::NoAttribute => Errno::ENODATA,
        PosixError::AttributeTooLarge => Errno::E2BIG,
        PosixError::BufferTooSmall => Errno::ERANGE,
        PosixError::FileTooLarge => Errno::EFBIG,
        PosixError::NotSupported => Errno::EOPNOTSUPP,
        PosixError::NoData => Errno::ENXIO,
        PosixError::Stale => Errno::ESTALE,
        PosixError::Io | PosixError::Unreachable => Errno::EIO,
        // What changes the tree: a directory that another machine writes is read-only here.
        PosixError::Fenced => Errno::EROFS,
    }
}
