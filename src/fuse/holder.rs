//! The second holder of a mount's descriptor, which is also the driver's supervisor (protocol.md 8.1).
//!
//! `hold` runs as its own small process, the parent of the driver. It never reads the device and never answers a request:
//! it keeps the connection alive while no driver runs, hands it to the next driver with what INIT agreed on, and starts
//! that next driver. It ends with the driver when the mount was let go in order, or when the mount is gone.
//!
//! Talk over a Unix socket that only the same user may connect to, one message and one answer per connection, each a JSON
//! text in one packet; the descriptor travels beside it.

use super::session::Init;
use crate::env::Env;
use crate::types::{Fault, FaultKind};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr, accept4, bind, connect,
    getsockopt, listen, recvmsg, sendmsg, socket, sockopt,
};
use nix::unistd::{Pid, geteuid};
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::io::{IoSlice, IoSliceMut, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

/// The environment variable by which a driver finds its holder.
pub const HOLDER_VARIABLE: &str = "HOLDFAST_HOLDER";
/// [`HoldOptions::calm`] as it should be.
pub const CALM: Duration = Duration::from_secs(60);
/// How often a holder without a driver looks whether the mount still exists.
const LOOK: Duration = Duration::from_secs(1);
const MESSAGE_MAX: usize = 4096;

#[derive(Debug, Serialize, Deserialize)]
enum Message {
    /// To the holder: keep this descriptor.
    Keep(Init),
    /// To the holder: what do you keep?
    Take,
    /// To the holder: the mount is gone in order.
    LetGo,
    /// From the holder: this descriptor.
    Kept(Init),
    /// From the holder: nothing is kept.
    Nothing,
    /// From the holder: so be it.
    Done,
}

/// A live mount, as a successor gets it.
#[derive(Debug)]
pub struct Held {
    pub(super) device: OwnedFd,
    pub(super) init: Init,
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
            (Message::Kept(init), Some(device)) => Ok(Some(Held { device, init })),
            (Message::Nothing, _) => Ok(None),
            (other, _) => Err(self.confused(&other)),
        }
    }

    pub(super) fn keep(&self, device: BorrowedFd<'_>, init: Init) -> Result<(), Fault> {
        self.ask_done(&Message::Keep(init), Some(device))
    }

    /// Says that the mount is gone in order: the holder ends when this process does.
    ///
    /// # Errors
    /// The holder does not answer.
    pub fn let_go(&self) -> Result<(), Fault> {
        self.ask_done(&Message::LetGo, None)
    }

    fn ask_done(&self, message: &Message, device: Option<BorrowedFd<'_>>) -> Result<(), Fault> {
        match self.ask(message, device)? {
            (Message::Done, _) => Ok(()),
            (other, _) => Err(self.confused(&other)),
        }
    }

    fn ask(&self, message: &Message, device: Option<BorrowedFd<'_>>) -> Result<(Message, Option<OwnedFd>), Fault> {
        let failed =
            |errno: Errno| Fault::with(FaultKind::Local, format!("the mount's holder at {} does not answer", self.socket.display()), errno);
        let stream = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).map_err(failed)?;
        let address = UnixAddr::new(&self.socket).map_err(failed)?;
        connect(stream.as_raw_fd(), &address).map_err(failed)?;
        send(stream.as_fd(), message, device).map_err(failed)?;
        receive(stream.as_fd()).map_err(failed)
    }

    fn confused(&self, message: &Message) -> Fault {
        Fault::new(
            FaultKind::Local,
            format!("the mount's holder at {} answered {message:?}: is it another version?", self.socket.display()),
        )
    }
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
    let mut bytes = [0; MESSAGE_MAX];
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

/// What a holder does.
#[derive(Debug)]
pub struct HoldOptions {
    /// Where it listens: in a directory that survives the driver, not the machine.
    pub socket: PathBuf,
    /// The driver's program and arguments: the same for its first start and for each later one.
    pub command: Vec<OsString>,
    /// Gets one byte when the mount is there, and is closed when it will not be.
    pub ready: Option<std::fs::File>,
    /// A driver that dies twice within this time is started again only after it: [`CALM`].
    pub calm: Duration,
}

/// Holds until the mount is let go; returns the driver's last exit code. To be called by a process of its own, before it
/// has started threads. Signals that ask for an end are passed on to the driver.
///
/// # Errors
/// Another holder listens there, or no driver can be started.
pub fn hold(env: &Env, options: HoldOptions) -> Result<i32, Fault> {
    let listener = listen_at(&options.socket)?;
    if let Some(ready) = &options.ready {
        // Else the driver would inherit it, and its end would not be seen.
        fcntl(ready, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).map_err(|e| Fault::with(FaultKind::Local, "the pipe for readiness", e))?;
    }
    let mut mask = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGUSR1] {
        mask.add(signal);
    }
    let local = |what: &'static str| move |errno: Errno| Fault::with(FaultKind::Local, what, errno);
    mask.thread_block().map_err(local("the holder cannot receive signals"))?;
    let signals =
        SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).map_err(local("the holder cannot receive signals"))?;
    let mut supervisor =
        Supervisor { env: env.clone(), options, listener, signals, held: None, let_go: false, ended: false, deaths: Vec::new() };
    let code = supervisor.run();
    // Whoever comes next must not meet a socket that nobody listens at.
    let _ = std::fs::remove_file(&supervisor.options.socket);
    code
}

fn listen_at(path: &Path) -> Result<OwnedFd, Fault> {
    let failed = |errno: Errno| Fault::with(FaultKind::Local, format!("cannot listen at {}", path.display()), errno);
    let address = UnixAddr::new(path).map_err(failed)?;
    let listener = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).map_err(failed)?;
    match bind(listener.as_raw_fd(), &address) {
        Ok(()) => {}
        Err(Errno::EADDRINUSE) => {
            let probe = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).map_err(failed)?;
            if connect(probe.as_raw_fd(), &address).is_ok() {
                let message = format!("a holder listens at {} already: this volume is mounted here", path.display());
                return Err(Fault::new(FaultKind::Busy, message));
            }
            std::fs::remove_file(path)?;
            bind(listener.as_raw_fd(), &address).map_err(failed)?;
        }
        Err(errno) => return Err(failed(errno)),
    }
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    listen(&listener, Backlog::new(8).map_err(failed)?).map_err(failed)?;
    Ok(listener)
}

struct Supervisor {
    env: Env,
    options: HoldOptions,
    listener: OwnedFd,
    signals: SignalFd,
    held: Option<Held>,
    let_go: bool,
    // A signal asked for the end.
    ended: bool,
    deaths: Vec<Duration>,
}

impl Supervisor {
    fn run(&mut self) -> Result<i32, Fault> {
        loop {
            let mut driver = self.start()?;
            let code = self.watch(&mut driver)?;
            if self.let_go || self.held.is_none() {
                return Ok(code);
            }
            if self.mount_is_gone() {
                tracing::info!(code, "the driver ended and its mount is gone");
                return Ok(code);
            }
            if self.ended {
                tracing::error!(
                    code,
                    "asked to end while the driver does not run: the mount is given up, and what the kernel held with it"
                );
                return Ok(code);
            }
            tracing::warn!(code, "the driver died; its mount waits for a successor");
            if !self.calm_down() {
                return Ok(code);
            }
        }
    }

    fn start(&self) -> Result<Child, Fault> {
        let refused = || Fault::new(FaultKind::Invalid, "no driver to be started");
        let (program, arguments) = self.options.command.split_first().ok_or_else(refused)?;
        let mut command = Command::new(program);
        // SAFETY: sigprocmask is async-signal-safe. Our mask would be inherited, and the driver deaf to those who ask it to end.
        unsafe {
            std::os::unix::process::CommandExt::pre_exec(&mut command, || SigSet::empty().thread_set_mask().map_err(Into::into));
        }
        command
            .args(arguments)
            .env(HOLDER_VARIABLE, &self.options.socket)
            .spawn()
            .map_err(|e| Fault::with(FaultKind::Local, format!("the driver {} cannot be started", program.display()), e))
    }

    // Until the driver has ended, with all its threads: two must never read one device.
    fn watch(&mut self, driver: &mut Child) -> Result<i32, Fault> {
        let pid = Pid::from_raw(i32::try_from(driver.id()).unwrap_or(i32::MAX));
        let exit = pidfd(pid)?;
        loop {
            let ready = self.wait(Some(exit.as_fd()), PollTimeout::NONE)?;
            if ready.signal {
                self.pass_on(Some(pid));
            }
            if ready.request {
                self.answer();
            }
            if ready.exit {
                // Requests that it sent before its end are in the socket still.
                while self.wait(None, PollTimeout::ZERO)?.request {
                    self.answer();
                }
                let status = driver.wait()?;
                return Ok(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)));
            }
        }
    }

    // False: the mount is gone, or somebody asked for the end.
    fn calm_down(&mut self) -> bool {
        let now = self.env.monotonic();
        self.deaths.retain(|at| now - *at < self.options.calm);
        self.deaths.push(now);
        if self.deaths.len() < 2 {
            return true;
        }
        tracing::error!(
            seconds = self.options.calm.as_secs(),
            "the driver died twice within this time: the next one is started later; its files wait"
        );
        let until = now + self.options.calm;
        let look = PollTimeout::try_from(LOOK).unwrap_or(PollTimeout::ZERO);
        while self.env.monotonic() < until {
            match self.wait(None, look) {
                Ok(ready) if ready.signal => self.pass_on(None),
                Ok(ready) if ready.request => self.answer(),
                Ok(_) | Err(_) => {}
            }
            if self.ended || self.mount_is_gone() {
                return false;
            }
        }
        self.deaths.clear();
        true
    }

    fn wait(&self, exit: Option<BorrowedFd<'_>>, timeout: PollTimeout) -> Result<Ready, Fault> {
        let mut fds = vec![PollFd::new(self.listener.as_fd(), PollFlags::POLLIN), PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        fds.extend(exit.map(|exit| PollFd::new(exit, PollFlags::POLLIN)));
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(Fault::with(FaultKind::Local, "the holder cannot wait", errno)),
        }
        let is = |at: usize| fds.get(at).and_then(PollFd::any).unwrap_or(false);
        Ok(Ready { request: is(0), signal: is(1), exit: is(2) })
    }

    fn pass_on(&mut self, driver: Option<Pid>) {
        while let Ok(Some(info)) = self.signals.read_signal() {
            let Ok(signal) = Signal::try_from(info.ssi_signo as i32) else { continue };
            self.ended |= matches!(signal, Signal::SIGTERM | Signal::SIGINT);
            if let Some(driver) = driver
                && let Err(error) = kill(driver, signal)
            {
                tracing::warn!(%signal, %error, "a signal could not be passed on to the driver");
            }
        }
    }

    fn answer(&mut self) {
        if let Err(error) = self.try_answer() {
            tracing::warn!(%error, "the holder could not answer");
        }
    }

    fn try_answer(&mut self) -> Result<(), Errno> {
        let fd = accept4(self.listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC)?;
        // SAFETY: accept4 has just made it for this process.
        let stream = unsafe { OwnedFd::from_raw_fd(fd) };
        let peer = getsockopt(&stream, sockopt::PeerCredentials)?;
        if peer.uid() != 0 && peer.uid() != geteuid().as_raw() {
            return Err(Errno::EACCES);
        }
        // Somebody who connects and says nothing must not hold up the others.
        let patience = nix::sys::time::TimeVal::new(5, 0);
        nix::sys::socket::setsockopt(&stream, sockopt::ReceiveTimeout, &patience)?;
        let (message, device) = receive(stream.as_fd())?;
        match (message, device) {
            (Message::Take, _) => match &self.held {
                Some(held) => send(stream.as_fd(), &Message::Kept(held.init), Some(held.device.as_fd())),
                None => send(stream.as_fd(), &Message::Nothing, None),
            },
            (Message::Keep(init), Some(device)) => {
                self.held = Some(Held { device, init });
                self.let_go = false;
                if let Some(mut ready) = self.options.ready.take()
                    && let Err(error) = ready.write_all(b"1")
                {
                    tracing::debug!(%error, "nobody waits for the mount any more");
                }
                send(stream.as_fd(), &Message::Done, None)
            }
            (Message::LetGo, _) => {
                self.held = None;
                self.let_go = true;
                send(stream.as_fd(), &Message::Done, None)
            }
            (Message::Keep(_) | Message::Kept(_) | Message::Nothing | Message::Done, _) => Err(Errno::EPROTO),
        }
    }

    // Asked only while no driver runs: a poll that waits on the device would be woken by each request.
    fn mount_is_gone(&self) -> bool {
        let Some(held) = &self.held else { return true };
        let mut fds = [PollFd::new(held.device.as_fd(), PollFlags::empty())];
        poll(&mut fds, PollTimeout::ZERO).is_ok() && fds[0].revents().is_some_and(|events| events.contains(PollFlags::POLLERR))
    }
}

struct Ready {
    request: bool,
    signal: bool,
    exit: bool,
}

fn pidfd(pid: Pid) -> Result<OwnedFd, Fault> {
    // SAFETY: plain numbers; the call returns a new descriptor or -1.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) };
    if fd < 0 {
        return Err(Fault::with(FaultKind::Local, "the holder cannot watch the driver", std::io::Error::last_os_error()));
    }
    // SAFETY: as above.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
