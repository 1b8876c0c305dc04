//! Names: lookup, the four ways to make an inode, link, unlink, rmdir.

use super::acl::{self, Acl};
use super::{Admission, Caller, LINKS_MAX, Posix, PosixError, Result};
use crate::cache::{NewInode, SavedReply, Update, View};
use crate::types::{Attr, Ino, NAME_MAX};

/// A new inode under a new name.
#[derive(Debug, Clone, Copy)]
pub struct NewEntry<'a> {
    /// The directory.
    pub dir: Ino,
    /// The name in it.
    pub name: &'a [u8],
    /// Type and permission bits as the application asked for them.
    pub mode: u32,
    /// Its umask: has no say in a directory with a default ACL.
    pub umask: u32,
    /// Device number of a device file.
    pub rdev: u64,
    /// Target of a symbolic link.
    pub target: &'a [u8],
}

impl Posix {
    /// What a name means; `None`: nothing. Knows `.` and `..`, by which the kernel finds its way from a handle.
    ///
    /// # Errors
    /// The directory is gone or none.
    pub fn lookup(&self, dir: Ino, name: &[u8]) -> Result<Option<Attr>> {
        check_name(name)?;
        self.cache.view(|view| {
            let ino = match name {
                b"." => Some(dir),
                b".." => view.parent(dir)?,
                _ => {
                    let found = view.lookup(dir, name)?.map(|(ino, _)| ino);
                    if found.is_none() {
                        directory(view, dir)?;
                    }
                    found
                }
            };
            let attr = ino.map(|ino| view.attr(ino)).transpose()?.flatten();
            // By a handle (`.`), an inode without a name is found only while it is open; gone is gone.
            if attr.is_none() && name == b"." { Err(PosixError::NotFound) } else { Ok(attr) }
        })
    }

    /// mknod, mkdir, symlink, and the first half of create.
    ///
    /// # Errors
    /// As POSIX says; `NoSpace` at a limit.
    pub fn make(&self, caller: &Caller, new: &NewEntry<'_>) -> Result<Attr> {
        if let Some(attr) = self.answered_inode(caller) {
            return attr;
        }
        self.change()?;
        check_new_name(new.name)?;
        self.gate.admit(Admission::Create)?;
        self.cache.update(caller.request, |update| {
            let attr = make_inode(update, caller, new)?;
            Ok((attr.clone(), SavedReply::Created(attr.ino)))
        })
    }

    /// open with `O_CREAT` of a name that does not exist: makes a regular file and opens it.
    ///
    /// # Errors
    /// As `make`.
    pub fn create(&self, caller: &Caller, new: &NewEntry<'_>, flags: i32) -> Result<Attr> {
        let attr = self.make(caller, new)?;
        self.note_open(caller, attr.ino, flags);
        Ok(attr)
    }

    /// A further name for an inode.
    ///
    /// # Errors
    /// As POSIX says; `TooManyLinks` at 65,000.
    pub fn link(&self, caller: &Caller, ino: Ino, dir: Ino, name: &[u8]) -> Result<Attr> {
        if let Some(attr) = self.answered_inode(caller) {
            return attr;
        }
        self.change()?;
        check_new_name(name)?;
        self.gate.admit(Admission::Create)?;
        self.cache.update(caller.request, |update| {
            let mut attr = update.attr(ino)?.ok_or(PosixError::NotFound)?;
            if attr.is_dir() {
                return Err(PosixError::NotPermitted);
            }
            if attr.nlink == 0 {
                return Err(PosixError::NotFound);
            }
            if attr.nlink >= LINKS_MAX {
                return Err(PosixError::TooManyLinks);
            }
            free_name(update, dir, name)?;
            update.set_name(dir, name, ino)?;
            attr.ctime = update.now();
            update.set_attr(&attr)?;
            touch_directory(update, dir)?;
            attr.nlink += 1;
            Ok((attr, SavedReply::Entry(ino)))
        })
    }

    /// Removes the name of anything but a directory.
    ///
    /// # Errors
    /// As POSIX says.
    pub fn unlink(&self, caller: &Caller, dir: Ino, name: &[u8]) -> Result<()> {
        self.remove(caller, dir, name, false)
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// As POSIX says.
    pub fn rmdir(&self, caller: &Caller, dir: Ino, name: &[u8]) -> Result<()> {
        self.remove(caller, dir, name, true)
    }

    fn remove(&self, caller: &Caller, dir: Ino, name: &[u8], directory: bool) -> Result<()> {
        if self.answered(caller).is_some() {
            return Ok(());
        }
        self.change()?;
        check_name(name)?;
        let orphan = self.cache.update(caller.request, |update| {
            let (ino, attr) = named(update, dir, name)?.ok_or(PosixError::NotFound)?;
            match (directory, attr.is_dir()) {
                (true, false) => return Err(PosixError::NotDirectory),
                (false, true) => return Err(PosixError::IsDirectory),
                (true, true) if !update.is_empty(ino)? => return Err(PosixError::NotEmpty),
                (true, true) | (false, false) => {}
            }
            update.remove_name(dir, name)?;
            let orphan = unnamed(update, ino)?;
            touch_directory(update, dir)?;
            Ok((orphan, SavedReply::Empty))
        })?;
        if let Some(ino) = orphan {
            self.orphaned(ino);
        }
        Ok(())
    }
}

fn make_inode(update: &mut Update<'_>, caller: &Caller, new: &NewEntry<'_>) -> Result<Attr> {
    let parent = free_name(update, new.dir, new.name)?;
    let kind = new.mode & libc::S_IFMT;
    let mut mode = new.mode;
    let mut own = None;
    let default = if kind == libc::S_IFLNK { None } else { update.xattr(new.dir, acl::DEFAULT)? };
    match default.as_deref().map(Acl::parse).transpose()? {
        Some(list) => {
            let (access, cut) = list.inherit(mode);
            mode = cut;
            own = Some(access).filter(|list| !list.is_minimal());
        }
        None if kind == libc::S_IFLNK => {}
        None => mode &= !(new.umask & 0o777),
    }
    let mut gid = caller.gid;
    if parent.mode & libc::S_ISGID != 0 {
        gid = parent.gid;
        if kind == libc::S_IFDIR {
            mode |= libc::S_ISGID;
        }
    }
    let inode = NewInode { mode, uid: caller.uid, gid, rdev: new.rdev, target: new.target.to_vec() };
    let ino = update.new_inode(&inode)?.ino;
    update.set_name(new.dir, new.name, ino)?;
    if let Some(access) = own {
        update.set_xattr(ino, acl::ACCESS, &access.to_value())?;
    }
    if kind == libc::S_IFDIR
        && let Some(default) = default
    {
        update.set_xattr(ino, acl::DEFAULT, &default)?;
    }
    touch_directory(update, new.dir)?;
    update.attr(ino)?.ok_or(PosixError::Io)
}

/// A directory that can take part in an operation: there, a directory, and not removed.
pub(super) fn directory(view: &mut View<'_>, dir: Ino) -> Result<Attr> {
    let attr = view.attr(dir)?.ok_or(PosixError::NotFound)?;
    if !attr.is_dir() {
        return Err(PosixError::NotDirectory);
    }
    if attr.nlink == 0 { Err(PosixError::NotFound) } else { Ok(attr) }
}

fn free_name(view: &mut View<'_>, dir: Ino, name: &[u8]) -> Result<Attr> {
    let attr = directory(view, dir)?;
    if view.lookup(dir, name)?.is_some() { Err(PosixError::Exists) } else { Ok(attr) }
}

/// What a name means, with attributes.
pub(super) fn named(view: &mut View<'_>, dir: Ino, name: &[u8]) -> Result<Option<(Ino, Attr)>> {
    let Some((ino, _)) = view.lookup(dir, name)? else {
        directory(view, dir)?;
        return Ok(None);
    };
    let attr = view.attr(ino)?.ok_or(PosixError::Io)?;
    Ok(Some((ino, attr)))
}

/// After a name was taken from an inode: stamps it, and returns it when it has no name any more.
pub(super) fn unnamed(update: &mut Update<'_>, ino: Ino) -> Result<Option<Ino>> {
    let mut attr = update.attr(ino)?.ok_or(PosixError::Io)?;
    attr.ctime = update.now();
    update.set_attr(&attr)?;
    Ok((attr.nlink == 0).then_some(ino))
}

/// A directory whose entries changed.
pub(super) fn touch_directory(update: &mut Update<'_>, dir: Ino) -> Result<()> {
    let mut attr = update.attr(dir)?.ok_or(PosixError::Io)?;
    attr.mtime = update.now();
    attr.ctime = attr.mtime;
    update.set_attr(&attr)?;
    Ok(())
}

/// The kernel passes longer names than we keep.
pub(super) fn check_name(name: &[u8]) -> Result<()> {
    if name.len() > NAME_MAX { Err(PosixError::NameTooLong) } else { Ok(()) }
}

/// A name that can be given.
pub(super) fn check_new_name(name: &[u8]) -> Result<()> {
    check_name(name)?;
    match name {
        b"." | b".." => Err(PosixError::Exists),
        _ if name.is_empty() || name.contains(&b'/') || name.contains(&0) => Err(PosixError::Invalid),
        _ => Ok(()),
    }
}
