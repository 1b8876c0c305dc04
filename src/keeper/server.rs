//! The keeper's loop: one thread that waits for lines, and answers each request at once or hangs up.
//!
//! Heard are root and the user it runs as, by the credentials of the peer. Nothing that comes in is waited for in parts, nothing
//! that goes out is waited for at all, so no peer can hold up another; the limits of `wire.rs` bound what all can make it keep.

use super::line::{receive, send};
use super::mount::Mount;
use super::say;
use super::wire::{Answer, LINES_MAX, MESSAGE_MAX, MOUNTS_MAX, Record, Request, STANDING_MAX, UNSEEN};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, SockFlag, accept4, getsockopt, sockopt};
use nix::unistd::geteuid;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::process::Child;

/// Without mounts and lines it ends after so long, milliseconds.
const IDLE: u16 = 10_000;
/// How often it looks at mounts that nobody attends, milliseconds.
const LOOK: u16 = 1_000;

/// How it runs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Options {
    /// Goes on when it holds nothing.
    pub(super) stay: bool,
    /// A monotonic clock, seconds.
    pub(super) now: fn() -> u64,
}

struct Line {
    stream: OwnedFd,
    name: u64,
    process: u32,
}

/// Everything it knows.
pub(super) struct Keeper {
    listener: OwnedFd,
    options: Options,
    lines: Vec<Line>,
    mounts: Vec<Mount>,
    /// Supervisors that were started for mounts which are gone: each is waited for when it ends.
    orphans: Vec<Child>,
    next_name: u64,
    retired: bool,
}

impl Keeper {
    pub(super) fn new(listener: OwnedFd, options: Options) -> io::Result<Self> {
        let set = nix::fcntl::fcntl(&listener, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK));
        set.map_err(io::Error::from)?;
        Ok(Self { listener, options, lines: Vec::new(), mounts: Vec::new(), orphans: Vec::new(), next_name: 0, retired: false })
    }

    /// Until it is retired, or holds nothing.
    pub(super) fn run(mut self) -> io::Result<()> {
        while self.step()? {}
        Ok(())
    }

    // One wait and what came of it. False: the end.
    fn step(&mut self) -> io::Result<bool> {
        let forsaken = !self.orphans.is_empty() || self.mounts.iter().any(|mount| mount.attendant.is_none());
        let idle = self.mounts.is_empty() && self.lines.is_empty();
        let timeout = match (forsaken, idle && !self.options.stay) {
            (true, _) => PollTimeout::from(LOOK),
            (false, true) => PollTimeout::from(IDLE),
            (false, false) => PollTimeout::NONE,
        };
        // With as many lines as there may be, newcomers wait in the socket's queue.
        let listens = if self.lines.len() < LINES_MAX { PollFlags::POLLIN } else { PollFlags::empty() };
        let mut fds = vec![PollFd::new(self.listener.as_fd(), listens)];
        fds.extend(self.lines.iter().map(|line| PollFd::new(line.stream.as_fd(), PollFlags::POLLIN)));
        let came = match poll(&mut fds, timeout) {
            Ok(came) => came,
            Err(Errno::EINTR) => return Ok(true),
            Err(errno) => return Err(errno.into()),
        };
        let ready: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(true)).collect();
        drop(fds);
        if came == 0 && idle && !self.options.stay {
            return Ok(false);
        }
        // From the last, so that one that ends does not move those still to be seen to.
        for at in (0..self.lines.len()).rev() {
            if ready.get(at + 1).copied().unwrap_or(false) && !self.hear(at) {
                self.hang_up(at);
            }
        }
        if self.retired {
            return Ok(false);
        }
        if ready.first().copied().unwrap_or(false) {
            self.accept();
        }
        self.look();
        Ok(true)
    }

    fn accept(&mut self) {
        let fd = match accept4(self.listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC) {
            Ok(fd) => fd,
            Err(Errno::EAGAIN | Errno::EINTR | Errno::ECONNABORTED) => return,
            Err(error) => return say(&format!("a line cannot be accepted: {error}")),
        };
        // SAFETY: accept4 has just made it for this process.
        let stream = unsafe { OwnedFd::from_raw_fd(fd) };
        let Ok(peer) = getsockopt(&stream, sockopt::PeerCredentials) else { return };
        if peer.uid() != 0 && peer.uid() != geteuid().as_raw() {
            return say(&format!("user {} is not heard", peer.uid()));
        }
        self.next_name += 1;
        self.lines.push(Line { stream, name: self.next_name, process: number_of(peer.pid()) });
    }

    // False: hang up.
    fn hear(&mut self, at: usize) -> bool {
        let Some(line) = self.lines.get(at) else { return true };
        let process = line.process;
        let (bytes, beside) = match receive(line.stream.as_fd(), MsgFlags::MSG_DONTWAIT) {
            Ok(Some(packet)) => packet,
            Err(Errno::EAGAIN | Errno::EINTR) => return true,
            Ok(None) => return false,
            Err(error) => {
                say(&format!("process {process} is hung up on: {error}"));
                return false;
            }
        };
        let request = match Request::decode(&bytes) {
            Ok(request) => request,
            Err(malformed) => {
                say(&format!("process {process} is hung up on: {malformed}"));
                return false;
            }
        };
        let attends = (line.name, process);
        let answered = match self.answer(request, beside, attends) {
            (answer, Some(mount)) => self.tell(at, &answer, self.mounts.get(mount)),
            (answer, None) => self.tell(at, &answer, None),
        };
        if let Err(error) = &answered {
            say(&format!("process {process} does not take its answer: {error}"));
        }
        answered.is_ok()
    }

    fn tell(&self, at: usize, answer: &Answer, beside: Option<&Mount>) -> io::Result<()> {
        let packet = answer.encode().map_err(io::Error::other)?;
        let Some(line) = self.lines.get(at) else { return Ok(()) };
        Ok(send(line.stream.as_fd(), &packet, beside.map(|mount| mount.device.as_fd()))?)
    }

    // The answer, and the mount whose descriptor goes with it.
    fn answer(&mut self, request: Request, beside: Option<OwnedFd>, line: (u64, u32)) -> (Answer, Option<usize>) {
        let now = (self.options.now)();
        let find = |mounts: &[Mount], dir: &[u8]| mounts.iter().position(|mount| mount.record.dir == dir);
        let answer = match (request, beside) {
            (Request::Keep(record), Some(device)) => self.keep(record, device, line, now),
            (Request::Keep(_), None) => Answer::Refused(b"no descriptor came with it".to_vec()),
            (_, Some(_)) => Answer::Refused(b"a descriptor came with it".to_vec()),
            (Request::Take(dir), None) => match find(&self.mounts, &dir) {
                None => Answer::Nothing,
                Some(at) => match self.mounts.get_mut(at) {
                    Some(Mount { attendant: Some((name, process)), .. }) if *name != line.0 => Answer::Busy(*process),
                    Some(mount) => {
                        mount.attend(line, now);
                        let record = Record { restart: None, ..mount.record.clone() };
                        return (Answer::Kept(record, mount.driver()), Some(at));
                    }
                    None => Answer::Nothing,
                },
            },
            (Request::LetGo(dir), None) => {
                self.drop_mounts(|mount| mount.record.dir == dir);
                Answer::Done
            }
            (Request::Serves(dir, driver, note), None) => match self.mounts.iter_mut().find(|mount| mount.record.dir == dir) {
                Some(mount) => {
                    mount.serves(driver, note, now);
                    Answer::Done
                }
                None => Answer::Nothing,
            },
            (Request::List(first), None) => self.list(usize::try_from(first).unwrap_or(usize::MAX), now),
            (Request::Retire, None) if self.mounts.iter().all(|mount| mount.attendant.is_some()) => {
                self.retired = true;
                Answer::Done
            }
            (Request::Retire, None) => Answer::Refused(b"a mount has nobody but this keeper".to_vec()),
        };
        (answer, None)
    }

    fn keep(&mut self, record: Record, device: OwnedFd, line: (u64, u32), now: u64) -> Answer {
        let known = self.mounts.iter_mut().find(|mount| mount.record.dir == record.dir);
        if let Some(known) = known {
            match known.attendant {
                Some((name, process)) if name != line.0 => return Answer::Busy(process),
                _ => known.again(device, record, line, now),
            }
            return Answer::Done;
        }
        if self.mounts.len() >= MOUNTS_MAX {
            return Answer::Refused(format!("{MOUNTS_MAX} mounts are as many as one keeper holds").into_bytes());
        }
        self.mounts.push(Mount::new(device, record, line, now));
        Answer::Done
    }

    fn list(&self, first: usize, now: u64) -> Answer {
        let (mut list, mut room) = (Vec::new(), MESSAGE_MAX - 64);
        for mount in self.mounts.iter().skip(first) {
            if room < STANDING_MAX {
                return Answer::List(std::process::id(), list, true);
            }
            let standing = mount.standing(now);
            room -= standing.dir.len() + standing.volume.len() + standing.cache.len() + standing.note.len() + 40;
            list.push(standing);
        }
        Answer::List(std::process::id(), list, false)
    }

    fn hang_up(&mut self, at: usize) {
        let line = self.lines.remove(at);
        let now = (self.options.now)();
        for mount in self.mounts.iter_mut().filter(|mount| mount.attendant.is_some_and(|(name, _)| name == line.name)) {
            say(&format!("{}: process {} does not attend it any more", mount.dir(), line.process));
            mount.forsaken(now);
        }
    }

    fn look(&mut self) {
        let now = (self.options.now)();
        self.drop_mounts(|mount| {
            let gone = mount.attendant.is_none() && mount.is_gone();
            if gone {
                say(&format!("{}: the mount is gone", mount.dir()));
            }
            gone
        });
        self.mounts.iter_mut().for_each(|mount| mount.look(now));
        self.orphans.retain_mut(|child| matches!(child.try_wait(), Ok(None)));
    }

    // What was started for them may go on for a while; nobody else could wait for its end.
    fn drop_mounts(&mut self, which: impl Fn(&Mount) -> bool) {
        let gone = self.mounts.extract_if(.., |mount| which(mount));
        self.orphans.extend(gone.filter_map(|mut mount| mount.started.take()));
    }
}

// A process of another container has no number here, which is told as 0: but there is one.
fn number_of(process: i32) -> u32 {
    u32::try_from(process).ok().filter(|process| *process > 0).unwrap_or(UNSEEN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_of_another_container_is_not_nobody() {
        assert_eq!([number_of(1), number_of(0), number_of(-1)], [1, UNSEEN, UNSEEN]);
    }
}
