//! The second holder of a mount's descriptor, which is also the driver's supervisor (protocol.md 8.1).
//!
//! `hold` runs as its own small process, the parent of the driver. It never reads the device and never answers a request:
//! it keeps the connection alive while no driver runs, hands it to the next driver with what INIT agreed on, and starts
//! that next driver. It ends with the driver when the mount was let go in order, or when the mount is gone.
//!
//! It also does whatever must be *asked of* the mount from outside: flushing the kernel's pages, unmounting. A driver that
//! asked its own mount and was killed meanwhile could not end: its thread would wait, unkillable, for an answer that no
//! thread of it can give any more, its descriptors would stay open, and no successor could begin (seen, not thought out).
//! The holder has a child for it, which waits just so until the successor answers.
//!
//! Talk over a Unix socket that only the same user may connect to: one message and one answer at a time, each a JSON text
//! in one packet; the descriptor travels beside it.

mod custody;
mod service;
mod supervisor;
mod upgrade;

pub use custody::Custody;
pub(super) use custody::watch_supervisor;
pub use supervisor::{CALM, HoldOptions, QUARANTINE_VARIABLE, hold};

use super::outside::BroughtIn;
use super::session::Init;
use crate::types::{Fault, FaultKind, Ino};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr, connect, getsockopt, recvmsg, sendmsg,
    socket, sockopt,
};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// The environment variable by which a driver finds its holder.
pub const HOLDER_VARIABLE: &str = "HOLDFAST_HOLDER";
/// The environment variable in which a driver finds the process of its supervisor.
const SUPERVISOR_VARIABLE: &str = "HOLDFAST_SUPERVISOR";
/// Files of one message: more are asked for one after the other.
const BATCH: usize = 512;
const MESSAGE_MAX: usize = 64 << 10;

#[derive(Debug, Serialize, Deserialize)]
enum Message {
    /// To the holder: keep this descriptor, of the mount on this directory.
    Keep { init: Init, dir: Vec<u8> },
    /// To the holder: what do you keep?
    Take,
    /// To the holder: the mount is gone in order.
    LetGo,
    /// To the holder: flush this file, and keep it open until I hang up.
    Flush(Ino),
    /// To the holder: bring in what the kernel holds of these files.
    BringIn(Vec<Ino>),
    /// To the holder: unmount.
    Unmount { lazy: bool },
    /// To the holder: end the driver and go on as this program, which starts the next one.
    Upgrade { program: Vec<u8> },
    /// From the holder: not done, and why.
    Refused(String),
    /// From the holder: this descriptor.
    Kept(Init),
    /// From the holder: nothing is kept.
    Nothing,
    /// From the holder: so be it.
    Done,
    /// From the holder: a system call failed so.
    Failed(i32),
    /// From the holder: these came in.
    BroughtIn(Vec<BroughtIn>),
}

/// A live mount, as a successor gets it.
#[derive(Debug)]
pub struct Held {
    pub(super) device: OwnedFd,
    pub(super) init: Init,
    pub(super) holder: Holder,
}

/// A driver's line to its holder.
#[derive(Debug, Clone)]
pub struct Holder {
    socket: PathBuf,
}

impl Holder {
    /// The holder that listens there.
    #[must_use]
    pub fn at(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into() }
    }

    /// The holder that started this process, if one did.
    #[must_use]
    pub fn from_environment() -> Option<Self> {
        std::env::var_os(HOLDER_VARIABLE).map(Self::at)
    }

    /// The live mount that the driver before this one has left, if any.
    ///
    /// # Errors
    /// The holder does not answer.
    pub fn take(&self) -> Result<Option<Held>, Fault> {
        match self.ask(&Message::Take, None)? {
            (Message::Kept(init), Some(device)) => Ok(Some(Held { device, init, holder: self.clone() })),
            (Message::Nothing, _) => Ok(None),
            (other, _) => Err(self.confused(&other)),
        }
    }

    pub(super) fn keep(&self, device: BorrowedFd<'_>, init: Init, dir: &Path) -> Result<(), Fault> {
        // As the holder sees it: from its own working directory.
        let dir = std::path::absolute(dir)?.into_os_string().into_vec();
        self.ask_done(&Message::Keep { init, dir }, Some(device))
    }

    /// Flushes a file. The returned line is to be dropped when the file may be closed.
    pub(super) fn flush(&self, ino: Ino) -> Result<OwnedFd, Fault> {
        let (stream, answer, _) = self.call(&Message::Flush(ino), None)?;
        match answer {
            Message::Done => Ok(stream),
            Message::Failed(errno) => Err(system("flushing a file", errno)),
            other => Err(self.confused(&other)),
        }
    }

    pub(super) fn bring_in(&self, inodes: &[Ino]) -> Result<Vec<BroughtIn>, Fault> {
        let mut all = Vec::with_capacity(inodes.len());
        for batch in inodes.chunks(BATCH) {
            match self.call(&Message::BringIn(batch.to_vec()), None)?.1 {
                Message::BroughtIn(some) => all.extend(some),
                Message::Failed(errno) => return Err(system("opening the mount", errno)),
                other => return Err(self.confused(&other)),
            }
        }
        Ok(all)
    }

    /// Unmounts; the errno when it is refused.
    pub(super) fn unmount(&self, lazy: bool) -> Result<Result<(), Errno>, Fault> {
        match self.call(&Message::Unmount { lazy }, None)?.1 {
            Message::Done => Ok(Ok(())),
            Message::Failed(errno) => Ok(Err(Errno::from_raw(errno))),
            other => Err(self.confused(&other)),
        }
    }

    /// Says that the mount is gone in order: the holder ends when this process does.
    ///
    /// # Errors
    /// The holder does not answer.
    pub fn let_go(&self) -> Result<(), Fault> {
        self.ask_done(&Message::LetGo, None)
    }

    /// Asks for a planned hand-over: the driver is ended, the holder goes on as `program`, and starts a driver of it.
    ///
    /// # Errors
    /// [`FaultKind::Local`]: it cannot, and says why; nothing has changed.
    pub fn upgrade(&self, program: &Path) -> Result<(), Fault> {
        let program = program.as_os_str().to_owned().into_vec();
        match self.ask(&Message::Upgrade { program }, None)?.0 {
            Message::Done => Ok(()),
            Message::Refused(why) => Err(Fault::new(FaultKind::Local, why)),
            other => Err(self.confused(&other)),
        }
    }

    /// Asks the holder and its driver to end, as a signal does: a mount that is not there yet is given up. Nobody there: nothing to end.
    ///
    /// # Errors
    /// It is there and cannot be asked.
    pub fn end(&self) -> Result<(), Fault> {
        let failed = |errno: Errno| Fault::with(FaultKind::Local, format!("the mount's holder at {}", self.socket.display()), errno);
        let stream = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).map_err(failed)?;
        match connect(stream.as_raw_fd(), &UnixAddr::new(&self.socket).map_err(failed)?) {
            Err(Errno::ENOENT | Errno::ECONNREFUSED) => return Ok(()),
            connected => connected.map_err(failed)?,
        }
        // Of whoever listens there.
        let holder = getsockopt(&stream, sockopt::PeerCredentials).map_err(failed)?;
        kill(Pid::from_raw(holder.pid()), Signal::SIGTERM).map_err(failed)
    }

    fn ask_done(&self, message: &Message, device: Option<BorrowedFd<'_>>) -> Result<(), Fault> {
        match self.ask(message, device)? {
            (Message::Done, _) => Ok(()),
            (other, _) => Err(self.confused(&other)),
        }
    }

    fn ask(&self, message: &Message, device: Option<BorrowedFd<'_>>) -> Result<(Message, Option<OwnedFd>), Fault> {
        self.call(message, device).map(|(_, answer, device)| (answer, device))
    }

    fn call(&self, message: &Message, device: Option<BorrowedFd<'_>>) -> Result<(OwnedFd, Message, Option<OwnedFd>), Fault> {
        let failed =
            |errno: Errno| Fault::with(FaultKind::Local, format!("the mount's holder at {} does not answer", self.socket.display()), errno);
        let stream = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).map_err(failed)?;
        let address = UnixAddr::new(&self.socket).map_err(failed)?;
        connect(stream.as_raw_fd(), &address).map_err(failed)?;
        send(stream.as_fd(), message, device).map_err(failed)?;
        let (answer, device) = receive(stream.as_fd()).map_err(failed)?;
        Ok((stream, answer, device))
    }

    fn confused(&self, message: &Message) -> Fault {
        Fault::new(
            FaultKind::Local,
            format!("the mount's holder at {} answered {message:?}: is it another version?", self.socket.display()),
        )
    }
}

fn system(what: &str, errno: i32) -> Fault {
    Fault::with(FaultKind::Local, what.to_owned(), Errno::from_raw(errno))
}

fn path(bytes: Vec<u8>) -> PathBuf {
    OsString::from_vec(bytes).into()
}

fn send(stream: BorrowedFd<'_>, message: &Message, device: Option<BorrowedFd<'_>>) -> Result<(), Errno> {
    let text = serde_json::to_vec(message).map_err(|_| Errno::EINVAL)?;
    let fds: Vec<_> = device.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&fds)];
    let control: &[ControlMessage<'_>] = if fds.is_empty() { &[] } else { &rights };
    sendmsg::<()>(stream.as_raw_fd(), &[IoSlice::new(&text)], control, MsgFlags::MSG_NOSIGNAL, None)?;
    Ok(())
}

fn receive(stream: BorrowedFd<'_>) -> Result<(Message, Option<OwnedFd>), Errno> {
    let mut bytes = vec![0; MESSAGE_MAX];
    let mut control = nix::cmsg_space!([std::os::fd::RawFd; 1]);
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let got = recvmsg::<()>(stream.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::MSG_CMSG_CLOEXEC)?;
    let mut device = None;
    for message in got.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = message {
            // SAFETY: the kernel has just made these descriptors for this process.
            device = fds.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }).next_back();
        }
    }
    let length = got.bytes;
    let message = serde_json::from_slice(bytes.get(..length).ok_or(Errno::EMSGSIZE)?).map_err(|_| Errno::EPROTO)?;
    Ok((message, device))
}
