//! A tree of a commit written into a local directory, with everything that a file has.

use super::reader::Tree;
use crate::types::{Attr, Fault, FaultKind, Ino, UnixNanos};
use nix::sys::stat::{Mode, SFlag, UtimensatFlags, mknod, utimensat};
use nix::sys::time::TimeSpec;
use serde::Serialize;
use std::collections::HashMap;
use std::ffi::{CString, OsStr};
use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};

/// Bytes read at once.
pub(super) const CHUNK: usize = 1 << 20;
/// Blocks of zeros of this size are left out: holes come back as holes.
const BLOCK: usize = 4096;
/// Entries listed at once.
const BATCH: usize = 1024;

/// What was copied.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(super) struct Copied {
    /// Files, directories and others.
    pub(super) inodes: u64,
    /// Bytes of files.
    pub(super) bytes: u64,
    /// How many could not be given to their owner.
    pub(super) not_owned: u64,
}

/// Copies `attr` and all below it to `dest`, which does not exist, or is the empty directory that the copy is to be (`into`).
pub(super) fn copy_out(tree: &Tree, attr: &Attr, dest: &Path, into: bool) -> Result<Copied, Fault> {
    let mut copy = Copy { tree, into: into.then_some(dest), links: HashMap::new(), done: Copied::default() };
    // Directories get their times last: what is made in them changes these.
    let mut finished_dirs: Vec<(PathBuf, Attr)> = Vec::new();
    let mut waiting = vec![(dest.to_path_buf(), attr.clone())];
    while let Some((path, attr)) = waiting.pop() {
        if copy.one(&path, &attr)? {
            let mut after = 0;
            loop {
                let batch = tree.cache().view(|view| view.entries(attr.ino, after, BATCH))?;
                let Some(last) = batch.last() else { break };
                after = last.cookie;
                waiting.extend(batch.into_iter().map(|entry| (path.join(OsStr::from_bytes(&entry.name)), entry.attr)));
            }
            finished_dirs.push((path, attr));
        }
    }
    for (path, attr) in finished_dirs.iter().rev() {
        copy.finish(path, attr)?;
    }
    Ok(copy.done)
}

struct Copy<'a> {
    tree: &'a Tree,
    /// The directory that is there already.
    into: Option<&'a Path>,
    /// Where an inode with several names was written first.
    links: HashMap<Ino, PathBuf>,
    done: Copied,
}

impl Copy<'_> {
    /// One inode; `true` for a directory, whose entries come next.
    fn one(&mut self, path: &Path, attr: &Attr) -> Result<bool, Fault> {
        let failed = |error: io::Error| Fault::with(FaultKind::Local, format!("{} cannot be written", path.display()), error);
        if !attr.is_dir() && attr.nlink > 1 {
            if let Some(first) = self.links.get(&attr.ino) {
                std::fs::hard_link(first, path).map_err(failed)?;
                return Ok(false);
            }
            self.links.insert(attr.ino, path.to_path_buf());
        }
        self.done.inodes += 1;
        match attr.kind() {
            libc::S_IFDIR => {
                // Until all below it is there and has its mode: what is not open to others there must not be open to them here meanwhile.
                let made = match self.into {
                    Some(there) if there == path => std::fs::set_permissions(path, Permissions::from_mode(0o700)),
                    _ => DirBuilder::new().mode(0o700).create(path),
                };
                return made.map(|()| true).map_err(failed);
            }
            libc::S_IFREG => self.file(path, attr)?,
            libc::S_IFLNK => {
                let target = self.tree.cache().view(|view| view.target(attr.ino))?.unwrap_or_default();
                symlink(OsStr::from_bytes(&target), path).map_err(failed)?;
            }
            kind => {
                let kind = SFlag::from_bits_truncate(kind);
                mknod(path, kind, Mode::from_bits_truncate(attr.mode & 0o7777), attr.rdev).map_err(|errno| failed(errno.into()))?;
            }
        }
        self.finish(path, attr)?;
        Ok(false)
    }

    fn file(&mut self, path: &Path, attr: &Attr) -> Result<(), Fault> {
        let failed = |error: io::Error| Fault::with(FaultKind::Local, format!("{} cannot be written", path.display()), error);
        let file: File = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
        let (mut at, mut bytes) = (0u64, Vec::new());
        loop {
            self.tree.read(attr.ino, at, CHUNK, &mut bytes)?;
            if bytes.is_empty() {
                break;
            }
            for (block, chunk) in bytes.chunks(BLOCK).enumerate() {
                if chunk.iter().any(|byte| *byte != 0) {
                    file.write_all_at(chunk, at + (block * BLOCK) as u64).map_err(failed)?;
                }
            }
            at += bytes.len() as u64;
        }
        file.set_len(attr.size).map_err(failed)?;
        self.done.bytes += attr.size;
        Ok(())
    }

    /// Owner, xattrs, mode and times, in the order in which none undoes another.
    fn finish(&mut self, path: &Path, attr: &Attr) -> Result<(), Fault> {
        let failed =
            |what: &str, error: io::Error| Fault::with(FaultKind::Local, format!("{what} of {} cannot be set", path.display()), error);
        let owned = match lchown(path, Some(attr.uid), Some(attr.gid)) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => false,
            Err(error) => return Err(failed("owner", error)),
        };
        self.done.not_owned += u64::from(!owned);
        for name in self.tree.cache().view(|view| view.xattrs(attr.ino))? {
            let value = self.tree.cache().view(|view| view.xattr(attr.ino, &name))?.unwrap_or_default();
            set_xattr(path, &name, &value).map_err(|error| failed(&format!("attribute `{}`", String::from_utf8_lossy(&name)), error))?;
        }
        if attr.kind() != libc::S_IFLNK {
            std::fs::set_permissions(path, Permissions::from_mode(mode_of(attr, owned))).map_err(|error| failed("mode", error))?;
        }
        utimensat(nix::fcntl::AT_FDCWD, path, &time(attr.atime), &time(attr.mtime), UtimensatFlags::NoFollowSymlink)
            .map_err(|errno| failed("times", errno.into()))
    }
}

/// The mode that a copy gets. Setuid and setgid lend the rights of an owner: not those of whoever made the copy.
fn mode_of(attr: &Attr, owned: bool) -> u32 {
    attr.mode & if owned { 0o7777 } else { 0o1777 }
}

fn time(nanos: UnixNanos) -> TimeSpec {
    TimeSpec::new(nanos.div_euclid(1_000_000_000), nanos.rem_euclid(1_000_000_000))
}

fn set_xattr(path: &Path, name: &[u8], value: &[u8]) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let name = CString::new(name)?;
    // SAFETY: two C strings and a buffer with its length.
    let set = unsafe { libc::lsetxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn setuid_is_lent_by_the_owner_alone() {
        let attr = Attr {
            ino: 2,
            mode: libc::S_IFREG | 0o6755,
            uid: 0,
            gid: 0,
            nlink: 1,
            rdev: 0,
            size: 0,
            atime: 0,
            mtime: 0,
            ctime: 0,
            btime: 0,
        };
        assert_eq!((mode_of(&attr, true), mode_of(&attr, false)), (0o6755, 0o755));
        let sticky = Attr { mode: libc::S_IFDIR | 0o3777, ..attr };
        assert_eq!((mode_of(&sticky, true), mode_of(&sticky, false)), (0o3777, 0o1777));
    }
}
