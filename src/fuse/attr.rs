//! Attributes and times between our words and fuser's.

use crate::types::{Attr, UnixNanos};
use fuser::{FileAttr, FileType, INodeNo, TimeOrNow};
use std::time::{Duration, SystemTime};

/// Attributes and names stay valid until the kernel itself changes them: nobody else does (about 136 years).
pub(super) const FOREVER: Duration = Duration::from_secs(u32::MAX as u64);
/// Inode numbers are never reused, so there is one generation.
pub(super) const GENERATION: fuser::Generation = fuser::Generation(0);

const SECOND: i64 = 1_000_000_000;

/// The file type of a mode.
pub(super) fn file_type(mode: u32) -> FileType {
    match mode & libc::S_IFMT {
        libc::S_IFDIR => FileType::Directory,
        libc::S_IFLNK => FileType::Symlink,
        libc::S_IFIFO => FileType::NamedPipe,
        libc::S_IFSOCK => FileType::Socket,
        libc::S_IFCHR => FileType::CharDevice,
        libc::S_IFBLK => FileType::BlockDevice,
        _ => FileType::RegularFile,
    }
}

/// The attributes as a reply carries them; `allocated` are the bytes that are no hole.
pub(super) fn to_fuser(attr: &Attr, allocated: u64) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.ino),
        size: attr.size,
        blocks: allocated.div_ceil(512),
        atime: to_system(attr.atime),
        mtime: to_system(attr.mtime),
        ctime: to_system(attr.ctime),
        crtime: to_system(attr.btime),
        kind: file_type(attr.mode),
        perm: (attr.mode & 0o7777) as u16,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        // The kernel's 32-bit encoding equals the C library's for every device number it can carry.
        rdev: attr.rdev as u32,
        blksize: 4096,
        flags: 0,
    }
}

/// "No such name", to be remembered by the kernel: inode 0 with a validity.
pub(super) fn negative() -> FileAttr {
    let epoch = SystemTime::UNIX_EPOCH;
    FileAttr {
        ino: INodeNo(0),
        size: 0,
        blocks: 0,
        atime: epoch,
        mtime: epoch,
        ctime: epoch,
        crtime: epoch,
        kind: FileType::RegularFile,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

/// To fuser's time, which it sends as it should, before 1970 as well.
pub(super) fn to_system(nanos: UnixNanos) -> SystemTime {
    let distance = Duration::from_nanos(nanos.unsigned_abs());
    if nanos >= 0 { SystemTime::UNIX_EPOCH + distance } else { SystemTime::UNIX_EPOCH - distance }
}

/// From fuser's time. For an instant before 1970 fuser 0.18 hands out `-(seconds + nanoseconds)` where the kernel meant
/// `-seconds + nanoseconds`: undone here. What does not fit (before 1677, after 2262) is the nearest that does.
pub(super) fn from_system(time: SystemTime) -> UnixNanos {
    let clamp = |seconds: i64, nanos: u32| seconds.saturating_mul(SECOND).saturating_add(i64::from(nanos));
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => clamp(i64::try_from(after.as_secs()).unwrap_or(i64::MAX), after.subsec_nanos()),
        Err(before) => {
            let before = before.duration();
            clamp(i64::try_from(before.as_secs()).map_or(i64::MIN, |s| -s), before.subsec_nanos())
        }
    }
}

/// A time of a SETATTR.
pub(super) fn from_request(time: TimeOrNow) -> crate::volume::SetTime {
    match time {
        TimeOrNow::SpecificTime(at) => crate::volume::SetTime::At(from_system(at)),
        TimeOrNow::Now => crate::volume::SetTime::Now,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_survive_fusers_decoding() {
        // What fuser makes of the kernel's {-5 s, +300 ms}.
        let decoded = SystemTime::UNIX_EPOCH - Duration::new(5, 300_000_000);
        assert_eq!(from_system(decoded), -4_700_000_000);
        assert_eq!(from_system(SystemTime::UNIX_EPOCH + Duration::new(7, 1)), 7_000_000_001);
    }

    #[test]
    fn times_out_of_range_are_clamped() {
        assert_eq!(from_system(SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 60)), i64::MAX);
        assert_eq!(from_system(SystemTime::UNIX_EPOCH - Duration::from_secs(1 << 60)), i64::MIN);
        to_system(i64::MIN);
        to_system(i64::MAX);
    }
}
