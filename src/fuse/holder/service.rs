//! What is done to the mount for the driver: in a process of its own, each on a thread of its own.
//!
//! Not in the supervisor: a driver started from there would inherit the files that are open here, and begin by closing
//! them, which flushes them to a mount that nobody serves before it does (seen, not thought out).

use super::{Message, path, receive, send};
use crate::env::Env;
use crate::fuse::outside::Outside;
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::unistd::{ForkResult, fork};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

/// The supervisor's line to the process that does it.
#[derive(Debug)]
pub(super) struct Hands {
    line: OwnedFd,
}

impl Hands {
    /// Starts the process. `inherited`: what it must not keep open. The caller has no other threads.
    pub(super) fn start(dir: &[u8], env: &Env, inherited: &[BorrowedFd<'_>]) -> Result<Self, Errno> {
        let (line, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        // SAFETY: the caller is the only thread, so the child finds every lock free.
        match unsafe { fork() }? {
            ForkResult::Parent { .. } => Ok(Self { line }),
            ForkResult::Child => {
                drop(line);
                for fd in inherited {
                    // SAFETY: closed here only, in a process that never returns to whoever owns them.
                    unsafe { libc::close(fd.as_raw_fd()) };
                }
                // SAFETY: plain numbers. It must not outlive the supervisor.
                unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
                serve(&theirs, &Arc::new(Service::new(&path(dir.to_vec()), env.clone())));
                // SAFETY: ends this process, and nothing of the parent's state is tidied up twice.
                unsafe { libc::_exit(0) }
            }
        }
    }

    /// Hands a request over, with the line on which it is to be answered.
    pub(super) fn pass(&self, asked: &Message, stream: BorrowedFd<'_>) -> Result<(), Errno> {
        send(self.line.as_fd(), asked, Some(stream))
    }
}

fn serve(line: &OwnedFd, service: &Arc<Service>) {
    let mut under_way: Vec<JoinHandle<()>> = Vec::new();
    loop {
        match receive(line.as_fd()) {
            Ok((asked, Some(stream))) => {
                let service = Arc::clone(service);
                under_way.retain(|thread| !thread.is_finished());
                match std::thread::Builder::new().name("hold-service".to_owned()).spawn(move || service.serve(&stream, &asked)) {
                    Ok(thread) => under_way.push(thread),
                    Err(error) => tracing::warn!(%error, "no thread for a request of the driver"),
                }
            }
            Ok((_, None)) | Err(Errno::EINTR) => {}
            // The mount was let go, perhaps as the effect of what is still to be answered.
            Err(_) => break,
        }
    }
    for thread in under_way {
        if thread.join().is_err() {
            tracing::warn!("a request of the driver was not answered");
        }
    }
}

/// The mount as this process reaches it.
struct Service {
    outside: Outside,
}

impl Service {
    fn new(dir: &Path, env: Env) -> Self {
        Self { outside: Outside::new(dir, env) }
    }

    /// Does it and answers.
    fn serve(&self, stream: &OwnedFd, asked: &Message) {
        let answered = match asked {
            Message::Flush(ino) => {
                let (flushed, open) = self.outside.flush(*ino);
                let answered = send(stream.as_fd(), &outcome(flushed), None);
                // The kernel waits for an answer of the driver about this file: it hangs up after that.
                wait_for_end(stream);
                drop(open);
                answered
            }
            Message::BringIn(inodes) => match self.outside.bring_in(inodes) {
                Ok(some) => send(stream.as_fd(), &Message::BroughtIn(some), None),
                Err(error) => send(stream.as_fd(), &outcome(Err(error)), None),
            },
            Message::Unmount { lazy } => send(stream.as_fd(), &outcome(self.outside.unmount(*lazy).map_err(io::Error::from)), None),
            other => {
                tracing::warn!(?other, "no service");
                Ok(())
            }
        };
        if let Err(error) = answered {
            tracing::debug!(%error, "the driver that asked is gone");
        }
    }
}

fn outcome(result: io::Result<()>) -> Message {
    match result {
        Ok(()) => Message::Done,
        Err(error) => Message::Failed(error.raw_os_error().unwrap_or(libc::EIO)),
    }
}

fn wait_for_end(stream: &OwnedFd) {
    let mut byte = [0u8];
    while let Err(Errno::EINTR) = nix::sys::socket::recv(stream.as_raw_fd(), &mut byte, nix::sys::socket::MsgFlags::empty()) {}
}
