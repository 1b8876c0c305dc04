//! An operation, carried out by the engine as the FUSE layer calls it.

use super::op::{Op, XATTR};
use holdfast::types::Attr;
use holdfast::volume::{Caller, NewEntry, Posix, PosixError, SetAttr};

/// What the engine answered: an inode it made, and bytes it copied.
pub type Answer = (Option<Attr>, u64);

pub fn carry_out(posix: &Posix, caller: &Caller, op: &Op) -> Result<Answer, PosixError> {
    let set = |ino, set: SetAttr| posix.setattr(caller, ino, &set).map(|_| (None, 0));
    match op {
        Op::Make { dir, name, mode, target } => {
            let new = NewEntry { dir: *dir, name, mode: *mode, umask: 0o022, rdev: 0, target };
            posix.make(caller, &new).map(|attr| (Some(attr), 0))
        }
        Op::Link { ino, dir, name } => posix.link(caller, *ino, *dir, name).map(|_| (None, 0)),
        Op::Remove { dir, name, directory: true } => posix.rmdir(caller, *dir, name).map(|()| (None, 0)),
        Op::Remove { dir, name, directory: false } => posix.unlink(caller, *dir, name).map(|()| (None, 0)),
        Op::Rename { from, to, mode } => posix.rename(caller, (from.0, &from.1), (to.0, &to.1), *mode).map(|()| (None, 0)),
        Op::Write { ino, offset, data } => posix.write_waiting(caller, *ino, *offset, data, false).map(|()| (None, 0)),
        Op::Truncate { ino, size } => set(*ino, SetAttr { size: Some(*size), ..SetAttr::default() }),
        Op::Mode { ino, mode } => set(*ino, SetAttr { mode: Some(*mode), ..SetAttr::default() }),
        Op::Xattr { ino, value: Some(value) } => posix.setxattr(caller, *ino, XATTR, value, 0).map(|()| (None, 0)),
        Op::Xattr { ino, value: None } => posix.removexattr(caller, *ino, XATTR).map(|()| (None, 0)),
        Op::Punch { ino, mode, offset, length } => posix.fallocate_waiting(caller, *ino, *mode, *offset, *length).map(|()| (None, 0)),
        Op::Copy { from, at, to, offset, length } => {
            posix.copy(caller, (*from, *at), (*to, *offset), *length).map(|copied| (None, u64::from(copied)))
        }
    }
}
