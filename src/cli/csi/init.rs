//! The first process of a container: hands signals on, and sees every process to its end that has no other parent any more.
//!
//! The processes of a mount are nobody's children once it is mounted. On a machine the init takes them; in a container that is process 1,
//! which is this program: it goes on in a child, and waits.

use crate::cli::exit::Exit;
use crate::types::{Fault, FaultKind};
use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, getpid};

/// In process 1: goes on in a child, and gives how that one ended. In the child, and elsewhere: `None`, go on. To be called before
/// threads are started.
///
/// # Errors
/// There can be no child, or its signals cannot be waited for.
pub(super) fn split() -> Result<Option<Exit>, Fault> {
    if getpid().as_raw() != 1 {
        return Ok(None);
    }
    let cannot = |errno: Errno| Fault::with(FaultKind::Local, "the first process of the container", errno);
    let mut mask = SigSet::empty();
    for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT] {
        mask.add(signal);
    }
    mask.thread_block().map_err(cannot)?;
    // SAFETY: the caller has no other threads, so the child finds every lock free.
    match unsafe { fork() }.map_err(cannot)? {
        ForkResult::Child => {
            mask.thread_unblock().map_err(cannot)?;
            Ok(None)
        }
        ForkResult::Parent { child } => loop {
            match mask.wait().map_err(cannot)? {
                Signal::SIGCHLD => {
                    if let Some(code) = reap(child) {
                        return Ok(Some(Exit::Code(code)));
                    }
                }
                signal => {
                    // It may have ended already, which the next signal tells.
                    let _ = kill(child, signal);
                }
            }
        },
    }
}

// One signal may stand for many ends.
fn reap(child: Pid) -> Option<u8> {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) if pid == child => return Some(u8::try_from(code).unwrap_or(u8::MAX)),
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == child => return u8::try_from(128 + signal as i32).ok(),
            Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return None,
            Ok(_) | Err(_) => {}
        }
    }
}
