//! Extended attributes, among them the ACLs and the read-only `user.holdfast.state`.

use super::acl::{self, Acl};
use super::{Admission, Caller, Posix, PosixError, Result};
use crate::cache::{SavedReply, Stored, Update};
use crate::types::{Attr, Ino, UnixNanos};

/// Longest value, as Linux has it.
const VALUE_MAX: usize = 64 << 10;
/// Longest name, as Linux has it.
const NAME_MAX: usize = 255;
/// Ours: computed, never stored, never listed.
const OWN: &[u8] = b"user.holdfast.";
const STATE: &[u8] = b"user.holdfast.state";

/// Whether an attribute tells where a file stands, so that what the kernel holds of it is to come in before it is asked for.
#[must_use]
pub fn is_state(name: &[u8]) -> bool {
    name == STATE
}

impl Posix {
    /// The value of an extended attribute.
    ///
    /// # Errors
    /// `NoAttribute`.
    pub fn getxattr(&self, ino: Ino, name: &[u8]) -> Result<Vec<u8>> {
        if name == STATE {
            return self.state(ino).map(String::into_bytes);
        }
        self.cache.view(|view| view.xattr(ino, name))?.ok_or(PosixError::NoAttribute)
    }

    // In which commit it is as it is now, or since when it is in none: one look at the cache, whatever the store does.
    fn state(&self, ino: Ino) -> Result<String> {
        Ok(match self.cache.view(|view| view.stored(ino))?.ok_or(PosixError::NotFound)? {
            Stored::In(seq) => {
                let seq = seq.or_else(|| self.gate.last_commit()).or_else(|| self.cache.head().map(|head| head.seq));
                format!("commit {}", seq.unwrap_or(0))
            }
            Stored::Unnamed => "unlinked".to_owned(),
            Stored::Dirty(_) if self.gate.is_local(ino) => "local".to_owned(),
            Stored::Dirty(since) => {
                let before = if since.or_before { "before " } else { "" };
                format!("dirty since {before}{}", show_time(since.at))
            }
        })
    }

    /// The names of the extended attributes, each ended by a NUL.
    ///
    /// # Errors
    /// The cache failed.
    pub fn listxattr(&self, ino: Ino) -> Result<Vec<u8>> {
        let names = self.cache.view(|view| view.xattrs(ino))?;
        Ok(names.iter().flat_map(|name| name.iter().copied().chain([0])).collect())
    }

    /// Sets an extended attribute; `flags` as of setxattr(2).
    ///
    /// # Errors
    /// `Exists` and `NoAttribute` as the flags ask, `Invalid` for a malformed ACL.
    pub fn setxattr(&self, caller: &Caller, ino: Ino, name: &[u8], value: &[u8], flags: i32) -> Result<()> {
        if self.answered(caller).is_some() {
            return Ok(());
        }
        self.change()?;
        check(name)?;
        if value.len() > VALUE_MAX {
            return Err(PosixError::AttributeTooLarge);
        }
        self.gate.admit(Admission::Attribute)?;
        let list = if is_acl(name) { Some(Acl::parse(value)?) } else { None };
        self.cache.update(caller.request, |update| {
            let mut attr = update.attr(ino)?.ok_or(PosixError::NotFound)?;
            let there = update.xattr(ino, name)?.is_some();
            if flags & libc::XATTR_CREATE != 0 && there {
                return Err(PosixError::Exists);
            }
            if flags & libc::XATTR_REPLACE != 0 && !there {
                return Err(PosixError::NoAttribute);
            }
            if name == acl::DEFAULT && !attr.is_dir() {
                return Err(PosixError::NotPermitted);
            }
            attr.ctime = update.now();
            match &list {
                Some(list) if name == acl::ACCESS => set_access(update, caller, attr, list, there)?,
                Some(_) | None => {
                    update.set_attr(&attr)?;
                    update.set_xattr(ino, name, value)?;
                }
            }
            Ok(((), SavedReply::Empty))
        })
    }

    /// Removes an extended attribute.
    ///
    /// # Errors
    /// `NoAttribute`.
    pub fn removexattr(&self, caller: &Caller, ino: Ino, name: &[u8]) -> Result<()> {
        if self.answered(caller).is_some() {
            return Ok(());
        }
        self.change()?;
        check(name)?;
        self.cache.update(caller.request, |update| {
            let mut attr = update.attr(ino)?.ok_or(PosixError::NotFound)?;
            if update.xattr(ino, name)?.is_none() {
                return Err(PosixError::NoAttribute);
            }
            attr.ctime = update.now();
            update.set_attr(&attr)?;
            update.remove_xattr(ino, name)?;
            Ok(((), SavedReply::Empty))
        })
    }
}

// The list's owner, mask (or group) and other become the mode; one that says no more than the mode is not kept.
fn set_access(update: &mut Update<'_>, caller: &Caller, mut attr: Attr, list: &Acl, there: bool) -> Result<()> {
    attr.mode = attr.mode & !0o777 | list.permission_bits();
    // The kernel would tell us by a flag that fuser does not carry whether the caller may keep set-group-id: without it,
    // only root and members by their first group do.
    if caller.uid != 0 && caller.gid != attr.gid {
        attr.mode &= !libc::S_ISGID;
    }
    update.set_attr(&attr)?;
    if !list.is_minimal() {
        update.set_xattr(attr.ino, acl::ACCESS, &list.to_value())?;
    } else if there {
        update.remove_xattr(attr.ino, acl::ACCESS)?;
    }
    Ok(())
}

fn show_time(at: UnixNanos) -> String {
    let at = jiff::Timestamp::from_nanosecond(i128::from(at)).unwrap_or_default();
    format!("{:.3}", at)
}

fn is_acl(name: &[u8]) -> bool {
    name == acl::ACCESS || name == acl::DEFAULT
}

fn check(name: &[u8]) -> Result<()> {
    if name.starts_with(OWN) {
        return Err(PosixError::NotPermitted);
    }
    if name.len() > NAME_MAX {
        return Err(PosixError::BufferTooSmall);
    }
    let known = [&b"user."[..], b"trusted.", b"security."].iter().any(|space| name.starts_with(space) && name.len() > space.len());
    if known || is_acl(name) { Ok(()) } else { Err(PosixError::NotSupported) }
}
