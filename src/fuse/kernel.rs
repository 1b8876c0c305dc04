//! Our own mount seen from outside: by handle, without a path. What the kernel still holds of a file, and bringing it in.
//!
//! Measured (kernel 6.18): an O_PATH open by handle and statx with DONT_SYNC send us nothing and tell the kernel's size,
//! also of what it has not sent; sync_file_range takes no lock of the inode, so it cannot deadlock with a handler, fsync
//! would. A descriptor that stays open makes unmounting fail: each is closed soon, and an unmount waits for that.

use super::closer::Closer;
use crate::types::{Ino, UnixNanos};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// FUSE's type of a handle: node number (high, low) and generation.
const HANDLE_TYPE: i32 = 0x81;
/// A write stamps its file when it begins: one that began this long before a flush may have gone on after it.
const RECENT: UnixNanos = 30_000_000_000;

/// Files whose last flush is remembered.
const KNOWN_MAX: usize = 64 << 10;

#[repr(C)]
struct Handle {
    bytes: u32,
    kind: i32,
    words: [u32; 3],
}

/// What the kernel knows of a file, without asking us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct KernelView {
    size: u64,
    mtime: UnixNanos,
    ctime: UnixNanos,
}

/// One mount, reached by inode number.
#[derive(Debug)]
pub(super) struct ByHandle {
    dir: PathBuf,
    flushed: Mutex<HashMap<Ino, (KernelView, UnixNanos)>>,
    closer: Closer,
}

impl ByHandle {
    pub(super) fn new(dir: &Path) -> Self {
        Self { dir: dir.to_path_buf(), flushed: Mutex::default(), closer: Closer::new() }
    }

    /// The mount itself, by which its files are opened: for one batch, as the mount is busy meanwhile.
    pub(super) fn root(&self) -> io::Result<OwnedFd> {
        let root = std::fs::OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY).open(&self.dir)?;
        Ok(root.into())
    }

    /// Waits a while until the files opened here are closed, before an unmount.
    pub(super) fn settle(&self) {
        self.closer.settle();
    }

    fn open(root: &OwnedFd, ino: Ino, flags: i32) -> io::Result<OwnedFd> {
        let mut handle = Handle { bytes: 12, kind: HANDLE_TYPE, words: [(ino >> 32) as u32, ino as u32, 0] };
        // SAFETY: `handle` has the layout of struct file_handle with room for the 12 bytes it announces.
        let fd = unsafe { libc::syscall(libc::SYS_open_by_handle_at, root.as_raw_fd(), &raw mut handle, flags | libc::O_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call returned a new descriptor that nobody else owns.
        Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
    }

    /// The kernel's size and times of a file.
    fn look(root: &OwnedFd, ino: Ino) -> io::Result<KernelView> {
        let fd = Self::open(root, ino, libc::O_PATH)?;
        // SAFETY: all-zero is a valid statx, and the call fills it.
        let mut stat: libc::statx = unsafe { std::mem::zeroed() };
        let mask = libc::STATX_SIZE | libc::STATX_MTIME | libc::STATX_CTIME;
        let flags = libc::AT_EMPTY_PATH | libc::AT_STATX_DONT_SYNC;
        // SAFETY: an open descriptor, an empty path, and a buffer of the right type.
        if unsafe { libc::statx(fd.as_raw_fd(), c"".as_ptr(), flags, mask, &raw mut stat) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let nanos = |t: libc::statx_timestamp| t.tv_sec.saturating_mul(1_000_000_000).saturating_add(i64::from(t.tv_nsec));
        Ok(KernelView { size: stat.stx_size, mtime: nanos(stat.stx_mtime), ctime: nanos(stat.stx_ctime) })
    }

    /// Makes the kernel send what it holds of a file, and waits until we have answered. Never on a handler's thread. An
    /// error here was the application's, and the kernel reports it once: it must be known by the WRITE that failed. The
    /// returned descriptor is to be closed soon, but not while the kernel waits for an answer about this file: on some
    /// kernels a close takes the inode's lock.
    pub(super) fn flush(root: &OwnedFd, ino: Ino) -> (Option<OwnedFd>, io::Result<()>) {
        let fd = match Self::open(root, ino, libc::O_RDONLY | libc::O_NOATIME) {
            Ok(fd) => fd,
            Err(error) => return (None, Err(error)),
        };
        let all = libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WRITE | libc::SYNC_FILE_RANGE_WAIT_AFTER;
        // SAFETY: an open descriptor and plain numbers.
        let synced = unsafe { libc::sync_file_range(fd.as_raw_fd(), 0, 0, all) };
        let result = if synced == 0 { Ok(()) } else { Err(io::Error::last_os_error()) };
        (Some(fd), result)
    }

    /// Looks, then flushes unless nothing was written since the last flush; returns the size at the look. `now` is the wall
    /// clock, as the kernel stamps with it.
    pub(super) fn bring_in(&self, root: &OwnedFd, ino: Ino, now: UnixNanos) -> (Option<u64>, io::Result<()>) {
        let view = match Self::look(root, ino) {
            Ok(view) => view,
            Err(error) => return (None, Err(error)),
        };
        // Every write and every first store through a mapping stamps the file. Same stamps, and old ones at the last flush:
        // nothing came after it.
        let unchanged = self.flushed.lock().get(&ino).is_some_and(|(last, at)| *last == view && view.ctime.max(view.mtime) < at - RECENT);
        if unchanged {
            return (Some(view.size), Ok(()));
        }
        if !self.closer.has_room() {
            return (Some(view.size), Err(io::Error::from_raw_os_error(libc::EMFILE)));
        }
        let (file, flushed) = Self::flush(root, ino);
        if let Some(file) = file {
            self.closer.close(file);
        }
        if flushed.is_ok() {
            let mut known = self.flushed.lock();
            if known.len() > KNOWN_MAX {
                // Most are closed by now; the others are flushed once more.
                known.clear();
            }
            known.insert(ino, (view, now));
        }
        (Some(view.size), flushed)
    }
}
