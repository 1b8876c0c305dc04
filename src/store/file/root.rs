//! System calls on the store's directory, all relative to one descriptor of its root: a disk that is mounted or unmounted in the
//! middle of a request cannot split it over two directories.

use super::Failed;
use crate::format::names::marker;
use crate::store::{BODY_BYTES_MAX, ObjectMeta};
use bytes::Bytes;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open, openat};
use nix::sys::stat::{FileStat, Mode, fstat, fstatat, mkdirat};
use nix::unistd::{UnlinkatFlags, fsync, linkat, unlinkat};
use std::fs::File;
use std::io::Write;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;

const DIRECTORY: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC);
const READ: OFlag = OFlag::O_RDONLY.union(OFlag::O_CLOEXEC).union(OFlag::O_NONBLOCK);
const WRITE: OFlag = OFlag::O_WRONLY.union(OFlag::O_CLOEXEC);

/// The root directory, opened for one request.
pub(super) struct Root(OwnedFd);

impl Root {
    pub(super) fn open(directory: &Path) -> Result<Self, Failed> {
        match open(directory, DIRECTORY, Mode::empty()) {
            Ok(fd) => Ok(Self(fd)),
            Err(Errno::ENOENT) => Err(Failed::NoRoot),
            Err(errno) => Err(errno.into()),
        }
    }

    pub(super) fn has_marker(&self) -> Result<bool, Failed> {
        Ok(self.stat(marker())?.is_some())
    }

    /// Size and time of an object, `None`: no regular file has this name.
    pub(super) fn stat(&self, name: &str) -> Result<Option<ObjectMeta>, Failed> {
        match fstatat(&self.0, name, AtFlags::empty()) {
            Ok(stat) if is_file(&stat) => Ok(Some(meta(name, &stat))),
            Ok(_) | Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    pub(super) fn read(&self, name: &str, range: Option<Range<u64>>) -> Result<Option<Bytes>, Failed> {
        let file = match openat(&self.0, name, READ, Mode::empty()) {
            Ok(fd) => File::from(fd),
            Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
        let stat = fstat(&file)?;
        if !is_file(&stat) {
            return Ok(None);
        }
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let range = range.unwrap_or(0..size);
        let (start, end) = (range.start.min(size), range.end.min(size));
        let length = end.saturating_sub(start);
        if length > BODY_BYTES_MAX {
            return Err(Errno::EFBIG.into());
        }
        let length = usize::try_from(length).map_err(|_| Errno::EFBIG)?;
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, start)?;
        Ok(Some(bytes.into()))
    }

    pub(super) fn open_directory(&self, path: &str) -> Result<OwnedFd, Failed> {
        let path = if path.is_empty() { "." } else { path };
        Ok(openat(&self.0, path, DIRECTORY, Mode::empty())?)
    }

    /// Makes what is missing of `path` and flushes every directory on the way, so that no entry of the chain is lost with the power.
    pub(super) fn make_directories(&self, path: &str) -> Result<OwnedFd, Failed> {
        let mut at = self.open_directory("")?;
        for part in path.split('/').filter(|part| !part.is_empty()) {
            match mkdirat(&at, part, Mode::from_bits_truncate(0o777)) {
                Ok(()) | Err(Errno::EEXIST) => fsync(&at)?,
                Err(errno) => return Err(errno.into()),
            }
            at = openat(&at, part, DIRECTORY, Mode::empty())?;
        }
        Ok(at)
    }

    pub(super) fn remove(&self, name: &str) -> Result<(), Failed> {
        match unlinkat(&self.0, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) => {}
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::EISDIR) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        }
        let parent = name.rsplit_once('/').map_or("", |(parent, _)| parent);
        Ok(fsync(&self.open_directory(parent)?)?)
    }
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

pub(super) fn is_file(stat: &FileStat) -> bool {
    stat.st_mode & libc::S_IFMT == libc::S_IFREG
}

pub(super) fn meta(name: &str, stat: &FileStat) -> ObjectMeta {
    let modified = stat.st_mtime.saturating_mul(1_000_000_000).saturating_add(stat.st_mtime_nsec);
    ObjectMeta { name: name.to_owned(), size: u64::try_from(stat.st_size).unwrap_or(0), modified }
}

/// Makes the root itself, durably, with everything above it that is missing.
pub(super) fn make_directory(directory: &Path) -> Result<(), Failed> {
    for ancestor in directory.ancestors().collect::<Vec<_>>().into_iter().rev() {
        match std::fs::create_dir(ancestor) {
            Ok(()) => {
                let parent = ancestor.parent().unwrap_or(Path::new("/"));
                fsync(&File::open(parent)?)?;
            }
            // An existing one may be unwritable to us (EACCES, EROFS) and still be the way to the root.
            Err(_) if ancestor.is_dir() => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Creates `leaf` with these bytes, whole and flushed before it has its name; `EEXIST` when the name is taken.
pub(super) fn write_new(directory: &OwnedFd, leaf: &str, body: &[u8], random: impl Fn() -> [u8; 8]) -> Result<(), Failed> {
    let mode = Mode::from_bits_truncate(0o444);
    // An object that is there needs no writing: most losers of a race for a number end here.
    if fstatat(directory, leaf, AtFlags::AT_SYMLINK_NOFOLLOW).is_ok() {
        return Err(Errno::EEXIST.into());
    }
    match openat(directory, ".", WRITE | OFlag::O_TMPFILE, mode) {
        Ok(fd) => {
            let file = flushed(fd, body)?;
            let unnamed = format!("/proc/self/fd/{}", file.as_raw_fd());
            Ok(linkat(nix::fcntl::AT_FDCWD, unnamed.as_str(), directory, leaf, AtFlags::AT_SYMLINK_FOLLOW)?)
        }
        // No unnamed files here (NFS, FUSE, some overlays).
        Err(Errno::EOPNOTSUPP | Errno::EISDIR | Errno::EINVAL | Errno::ENOENT) => write_named(directory, leaf, body, random()),
        Err(errno) => Err(errno.into()),
    }
}

/// The same by way of a temporary name that no object and no other writer has.
pub(super) fn write_named(directory: &OwnedFd, leaf: &str, body: &[u8], random: [u8; 8]) -> Result<(), Failed> {
    let temporary = format!(".{}.new", hex::encode(random));
    let fd = openat(directory, temporary.as_str(), WRITE | OFlag::O_CREAT | OFlag::O_EXCL, Mode::from_bits_truncate(0o444))?;
    let linked = flushed(fd, body).and_then(|_| Ok(linkat(directory, temporary.as_str(), directory, leaf, AtFlags::empty())?));
    // Whatever happened, the temporary name goes; one that stays after a crash is no object and is in no listing.
    let _ = unlinkat(directory, temporary.as_str(), UnlinkatFlags::NoRemoveDir);
    linked
}

fn flushed(fd: OwnedFd, body: &[u8]) -> Result<File, Failed> {
    let mut file = File::from(fd);
    file.write_all(body)?;
    file.sync_all()?;
    Ok(file)
}
