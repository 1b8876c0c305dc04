//! One packet to or from the other side, with the descriptor beside it; the socket it comes by, and what the descriptor says of its
//! mount. The same file in both programs.

use super::wire::MESSAGE_MAX;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr, bind, listen, recvmsg, sendmsg,
    socket,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;

/// As many descriptors as one packet can bring: room for all, so that none is left open in a list that was cut. More than one
/// is a fault of the sender.
const BESIDE_MAX: usize = 253;

/// A keeper's socket, in the place of whatever is there. The directory must be its owner's alone: whoever can put a socket there is
/// asked to hold descriptors.
pub(super) fn listen_at(path: &Path) -> io::Result<OwnedFd> {
    let listener = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    bind(listener.as_raw_fd(), &UnixAddr::new(path)?)?;
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    listen(&listener, Backlog::new(64)?)?;
    Ok(listener)
}

/// Whether the kernel has ended the mount of this descriptor. Asked only while no driver reads it, and never waited for: a poll that
/// waits on the device is woken by each request.
pub(crate) fn is_gone(device: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(device, PollFlags::empty())];
    poll(&mut fds, PollTimeout::ZERO).is_ok() && fds[0].revents().is_some_and(|events| events.contains(PollFlags::POLLERR))
}

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
