//! One packet to or from the other side, with the descriptor beside it; the same file in both programs.

use super::wire::MESSAGE_MAX;
use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// As many descriptors as one packet can bring: room for all, so that none is left open in a list that was cut. More than one
/// is a fault of the sender.
const BESIDE_MAX: usize = 253;

/// Sends a packet; does not wait.
pub(super) fn send(line: BorrowedFd<'_>, packet: &[u8], beside: Option<BorrowedFd<'_>>) -> Result<(), Errno> {
    let fds: Vec<RawFd> = beside.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&fds)];
    let control: &[ControlMessage<'_>] = if fds.is_empty() { &[] } else { &rights };
    sendmsg::<()>(line.as_raw_fd(), &[IoSlice::new(packet)], control, MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT, None)?;
    Ok(())
}

/// A packet, and the descriptor that came with it.
pub(super) type Packet = (Vec<u8>, Option<OwnedFd>);

/// Receives a packet: none when the other side hung up, `EMSGSIZE` and `EPROTO` when it is not one that this protocol has.
pub(super) fn receive(line: BorrowedFd<'_>, flags: MsgFlags) -> Result<Option<Packet>, Errno> {
    let mut bytes = vec![0; MESSAGE_MAX];
    let mut control = nix::cmsg_space!([RawFd; BESIDE_MAX]);
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let got = recvmsg::<()>(line.as_raw_fd(), &mut parts, Some(&mut control), flags | MsgFlags::MSG_CMSG_CLOEXEC)?;
    let mut beside = Vec::new();
    for message in got.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = message {
            // SAFETY: the kernel has just made these descriptors for this process.
            beside.extend(fds.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    let (length, cut) = (got.bytes, got.flags.intersects(MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC));
    if cut {
        return Err(Errno::EMSGSIZE);
    }
    if beside.len() > 1 {
        return Err(Errno::EPROTO);
    }
    if length == 0 {
        return Ok(None);
    }
    bytes.truncate(length);
    Ok(Some((bytes, beside.pop())))
}
