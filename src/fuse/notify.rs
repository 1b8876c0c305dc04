//! Telling the kernel that what it has in memory is not so any more. It believes us for ever, as nobody else changes the volume; a repair does.

use crate::types::{ByteRange, Ino};
use std::io;
use std::os::fd::BorrowedFd;

const INVAL_INODE: u32 = 2;
const INVAL_ENTRY: u32 = 3;

/// Attributes of an inode, and its pages in a range. What an application has written there and the kernel holds is sent first.
pub(super) fn content(device: BorrowedFd<'_>, ino: Ino, range: &ByteRange) -> io::Result<()> {
    let mut body = ino.to_ne_bytes().to_vec();
    let start = i64::try_from(range.start).unwrap_or(i64::MAX);
    // No length: to the end.
    let length = i64::try_from(range.end).map_or(0, |end| end.saturating_sub(start));
    body.extend_from_slice(&start.to_ne_bytes());
    body.extend_from_slice(&length.to_ne_bytes());
    send(device, INVAL_INODE, &body)
}

/// What a name in a directory means.
pub(super) fn name(device: BorrowedFd<'_>, dir: Ino, name: &[u8]) -> io::Result<()> {
    let mut body = dir.to_ne_bytes().to_vec();
    body.extend_from_slice(&u32::try_from(name.len()).unwrap_or(0).to_ne_bytes());
    body.extend_from_slice(&[0; 4]);
    body.extend_from_slice(name);
    body.push(0);
    send(device, INVAL_ENTRY, &body)
}

// fuse_out_header: length, the notification as its "error", request 0.
fn send(device: BorrowedFd<'_>, what: u32, body: &[u8]) -> io::Result<()> {
    let length = u32::try_from(16 + body.len()).unwrap_or(u32::MAX);
    let mut message = length.to_ne_bytes().to_vec();
    message.extend_from_slice(&what.to_ne_bytes());
    message.extend_from_slice(&[0; 8]);
    message.extend_from_slice(body);
    match nix::unistd::write(device, &message) {
        // The kernel knows nothing of it.
        Ok(_) | Err(nix::errno::Errno::ENOENT | nix::errno::Errno::ENOTDIR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}
