//! The mount used from outside, as any process would: what must not be done by the process that answers for it (see
//! `holder`), unless there is no holder.

use super::kernel::ByHandle;
use crate::env::Env;
use crate::types::Ino;
use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use parking_lot::{RecursiveRwLock, RecursiveRwLockReadGuard};
use serde::{Deserialize, Serialize};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// One file, brought in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct BroughtIn {
    pub(super) ino: Ino,
    /// Its size as the kernel had it before.
    pub(super) size: Option<u64>,
    /// 0, or why not all came.
    pub(super) errno: i32,
}

/// What is to be closed when the kernel has its answer about the file.
#[derive(Debug)]
pub(super) struct Open<'a> {
    _file: Option<OwnedFd>,
    _mount: RecursiveRwLockReadGuard<'a, ()>,
}

/// One mount.
#[derive(Debug)]
pub(super) struct Outside {
    dir: PathBuf,
    env: Env,
    kernel: ByHandle,
    // Held while the mount is open from here: it could not be unmounted meanwhile. Recursive: an operation on two files holds it twice until
    // its answer, and the second time must not wait behind an unmount that waits for the first.
    open: RecursiveRwLock<()>,
}

impl Outside {
    pub(super) fn new(dir: &Path, env: Env) -> Self {
        Self { dir: dir.to_path_buf(), env, kernel: ByHandle::new(dir), open: RecursiveRwLock::new(()) }
    }

    pub(super) fn bring_in(&self, inodes: &[Ino]) -> io::Result<Vec<BroughtIn>> {
        let _open = self.open.read();
        let root = self.kernel.root()?;
        let bring_in = |ino: &Ino| {
            let (size, flushed) = self.kernel.bring_in(&root, *ino, self.env.now());
            BroughtIn { ino: *ino, size, errno: flushed.err().map_or(0, |e| e.raw_os_error().unwrap_or(libc::EIO)) }
        };
        Ok(inodes.iter().map(bring_in).collect())
    }

    pub(super) fn flush(&self, ino: Ino) -> (io::Result<()>, Open<'_>) {
        let mount = self.open.read();
        let (file, flushed) = match self.kernel.root() {
            Ok(root) => ByHandle::flush(&root, ino),
            Err(error) => (None, Err(error)),
        };
        (flushed, Open { _file: file, _mount: mount })
    }

    pub(super) fn unmount(&self, lazy: bool) -> Result<(), Errno> {
        let _closed = self.open.write();
        self.kernel.settle();
        let mut flags = MntFlags::UMOUNT_NOFOLLOW;
        flags.set(MntFlags::MNT_DETACH, lazy);
        umount2(&self.dir, flags)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_on_two_files_does_not_wait_behind_an_unmount_that_waits_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let outside = Outside::new(dir.path(), Env::real());
        std::thread::scope(|scope| {
            let (_, first) = outside.flush(2);
            let unmount = scope.spawn(|| outside.unmount(false));
            // That it waits cannot be asked for; soon it does.
            for _ in 0..1000 {
                drop(outside.flush(3));
                std::thread::yield_now();
            }
            assert!(!unmount.is_finished());
            drop(first);
            assert!(unmount.join().unwrap().is_err(), "nothing is mounted there");
        });
    }
}
