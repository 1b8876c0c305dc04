//! Attributes: getattr, setattr, readlink, statfs.

use super::acl::{self, Acl};
use super::{Admission, Caller, Posix, PosixError, Result};
use crate::cache::{SavedReply, Space, Update, Whence};
use crate::types::{Attr, FILE_SIZE_MAX, Ino, UnixNanos};

/// Smaller files are not looked through for holes.
const SPARSE_MIN: u64 = 256 << 10;
/// Runs of data that are counted one by one.
const RUNS_MAX: usize = 64;

/// A time to be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetTime {
    /// The time of the change.
    Now,
    /// This one.
    At(UnixNanos),
}

/// What is to be changed; `None`: kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SetAttr {
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Size of a regular file.
    pub size: Option<u64>,
    /// Last read.
    pub atime: Option<SetTime>,
    /// Last change of content.
    pub mtime: Option<SetTime>,
    /// Last change of the inode: the kernel says it for files whose times it keeps.
    pub ctime: Option<UnixNanos>,
}

impl Posix {
    /// The attributes of an inode.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn getattr(&self, ino: Ino) -> Result<Attr> {
        self.cache.view(|view| view.attr(ino))?.ok_or(PosixError::NotFound)
    }

    /// Bytes that are no hole, for `st_blocks`: tools decide by it whether a file is sparse. Exact up to some runs of data;
    /// behind them, and in small files, all counts as data.
    #[must_use]
    pub fn allocated(&self, attr: &Attr) -> u64 {
        if !attr.is_file() || attr.size < SPARSE_MIN {
            return attr.size;
        }
        let (mut at, mut data) = (0, 0);
        for _ in 0..RUNS_MAX {
            let run = self.cache.seek(attr.ino, at, Whence::Data).and_then(|start| match start {
                Some(start) => Ok(self.cache.seek(attr.ino, start, Whence::Hole)?.map(|end| (start, end))),
                None => Ok(None),
            });
            match run {
                Ok(Some((start, end))) => {
                    data += end - start;
                    at = end;
                }
                Ok(None) => return data,
                Err(_) => break,
            }
        }
        data + attr.size.saturating_sub(at)
    }

    /// Changes attributes; cuts or extends a file.
    ///
    /// # Errors
    /// As POSIX says; `NoSpace` for an extension beyond a limit.
    pub fn setattr(&self, caller: &Caller, ino: Ino, set: &SetAttr) -> Result<Attr> {
        if let Some(attr) = self.answered_inode(caller) {
            return attr;
        }
        // After WRITEs the kernel says their times: that belongs to what was acknowledged.
        let asked = set.mode.is_some() || set.uid.is_some() || set.gid.is_some() || set.size.is_some();
        self.change_unless(asked && self.gate.refuses_changes())?;
        if let Some(size) = set.size {
            let now = self.getattr(ino)?;
            if size > FILE_SIZE_MAX {
                return Err(PosixError::FileTooLarge);
            }
            if size > now.size {
                self.gate.admit(Admission::Grow)?;
            }
        }
        let attr = self.cache.update(caller.request, |update| {
            let attr = change_attributes(update, caller, ino, set)?;
            Ok::<_, PosixError>((attr, SavedReply::Attr(ino)))
        })?;
        if let Some(size) = set.size {
            self.lost.cure(ino, size..u64::MAX);
        }
        Ok(attr)
    }

    /// The target of a symbolic link.
    ///
    /// # Errors
    /// `Invalid` for anything else.
    pub fn readlink(&self, ino: Ino) -> Result<Vec<u8>> {
        self.cache.view(|view| view.target(ino))?.ok_or(PosixError::Invalid)
    }

    /// Numbers for `statfs`.
    #[must_use]
    pub fn statfs(&self) -> Space {
        self.gate.space(self.cache.view(|view| view.space()))
    }
}

fn change_attributes(update: &mut Update<'_>, caller: &Caller, ino: Ino, set: &SetAttr) -> Result<Attr> {
    let mut attr = update.attr(ino)?.ok_or(PosixError::NotFound)?;
    if set.size.is_some() && !attr.is_file() {
        return Err(if attr.is_dir() { PosixError::IsDirectory } else { PosixError::Invalid });
    }
    let list = set.mode.map(|_| update.xattr(ino, acl::ACCESS)).transpose()?.flatten();
    let now = update.now();
    let at = |time: SetTime| match time {
        SetTime::Now => now,
        SetTime::At(at) => at,
    };
    // The only step that can be refused: before all others.
    if let Some(size) = set.size {
        update.set_size(ino, size)?;
        attr.size = size;
        attr.mtime = now;
    }
    // HANDLE_KILLPRIV_V2: chown takes these bits from a file always, a cut unless the caller may keep them. (The flag that
    // says so does not reach us, so: unless it is root.)
    let chowned = set.uid.is_some() || set.gid.is_some();
    if !attr.is_dir() && (chowned || (set.size.is_some() && caller.uid != 0)) {
        attr.mode = without_privileges(attr.mode);
    }
    if let Some(mode) = set.mode {
        attr.mode = attr.mode & libc::S_IFMT | mode & 0o7777;
    }
    attr.uid = set.uid.unwrap_or(attr.uid);
    attr.gid = set.gid.unwrap_or(attr.gid);
    attr.atime = set.atime.map_or(attr.atime, at);
    attr.mtime = set.mtime.map_or(attr.mtime, at);
    attr.ctime = set.ctime.unwrap_or(now);
    update.set_attr(&attr)?;
    if let Some(mut list) = list.and_then(|value| Acl::parse(&value).ok()) {
        list.follow_mode(attr.mode);
        update.set_xattr(ino, acl::ACCESS, &list.to_value())?;
    }
    Ok(attr)
}

/// A mode after a change by somebody who may not keep set-user-id and set-group-id. (Without group execution the latter
/// was a mark for mandatory locks and stays.)
pub(super) fn without_privileges(mode: u32) -> u32 {
    let mut mode = mode & !libc::S_ISUID;
    if mode & libc::S_IXGRP != 0 {
        mode &= !libc::S_ISGID;
    }
    mode
}
