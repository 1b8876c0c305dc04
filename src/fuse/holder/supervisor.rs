//! The holder's process: keeps the descriptor, starts drivers, passes signals on.

use super::custody::{Custodian, Custody};
use super::service::Hands;
use super::{HOLDER_VARIABLE, Init, Message, SUPERVISOR_VARIABLE, receive, send};
use crate::env::Env;
use crate::types::{Fault, FaultKind};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, accept4, bind, connect, getsockopt, listen, socket, sockopt};
use nix::unistd::{Pid, geteuid};
use std::ffi::OsString;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

/// [`HoldOptions::calm`] as it should be.
pub const CALM: Duration = Duration::from_secs(60);
/// How often a holder without a driver looks whether the mount still exists.
const LOOK: Duration = Duration::from_secs(1);
/// How often, and how far apart, a new holder looks whether the one before it goes on: two seconds.
const ENDING_TRIES: u32 = 100;
const ENDING_PAUSE_MS: u16 = 20;

/// What a holder does.
#[derive(Debug)]
pub struct HoldOptions {
    /// Where it listens: in a directory that survives the driver, not the machine.
    pub socket: PathBuf,
    /// The driver's program and arguments: the same for its first start and for each later one.
    pub command: Vec<OsString>,
    /// Files that each driver reads when it starts: where one is missing, none is ended for an upgrade.
    pub needs: Vec<PathBuf>,
    /// Gets one byte when the mount is there, and is closed when it will not be.
    pub ready: Option<std::fs::File>,
    /// A driver that dies twice within this time is started once more, in quarantine; if that one dies too, only after this time:
    /// [`CALM`].
    pub calm: Duration,
    /// The keeper that holds the mount besides; none: this process alone does.
    pub custody: Option<Custody>,
}

/// In the environment of a driver: the volume is in quarantine.
pub const QUARANTINE_VARIABLE: &str = "HOLDFAST_QUARANTINE";
/// What a person is told of it.
const QUARANTINED: &str = "its driver died twice within a minute: the volume is in quarantine, read-only";

/// Holds until the mount is let go; returns the driver's last exit code. To be called by a process of its own, before it
/// has started threads. Signals that ask for an end are passed on to the driver.
///
/// # Errors
/// Another holder listens there, or no driver can be started.
pub fn hold(env: &Env, mut options: HoldOptions) -> Result<i32, Fault> {
    let mut custodian = Custodian::new(env, options.custody.take());
    // First: if a driver of another supervisor serves the mount still, it is ended before anything else is done.
    let adopted = custodian.adopt(&options.socket)?;
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
    let mut supervisor = Supervisor {
        env: env.clone(),
        options,
        listener,
        signals,
        held: None,
        let_go: false,
        ended: false,
        deaths: Vec::new(),
        custodian,
        quarantined: false,
        driver: None,
        upgrade: None,
    };
    if let Some((device, init, dir)) = adopted {
        supervisor.keep(Kept { device, init, dir, hands: None });
    }
    let code = supervisor.run();
    // Whoever comes next must not meet a socket that nobody listens at.
    let _ = std::fs::remove_file(&supervisor.options.socket);
    code
}

/// Whether somebody goes on listening there. The holder of a mount that was just ended is gone a moment after the mount.
fn is_held(address: &UnixAddr) -> Result<bool, Errno> {
    for _ in 0..ENDING_TRIES {
        let probe = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
        if connect(probe.as_raw_fd(), address).is_err() {
            return Ok(false);
        }
        drop(probe);
        poll(&mut [], PollTimeout::from(ENDING_PAUSE_MS))?;
    }
    Ok(true)
}

fn listen_at(path: &Path) -> Result<OwnedFd, Fault> {
    let failed = |errno: Errno| Fault::with(FaultKind::Local, format!("cannot listen at {}", path.display()), errno);
    let address = UnixAddr::new(path).map_err(failed)?;
    let listener = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).map_err(failed)?;
    match bind(listener.as_raw_fd(), &address) {
        Ok(()) => {}
        Err(Errno::EADDRINUSE) => {
            if is_held(&address).map_err(failed)? {
                let message = format!("a holder listens at {} already: this volume is mounted here", path.display());
                return Err(Fault::new(FaultKind::Busy, message));
            }
            // Whoever has just ended may have removed it.
            match std::fs::remove_file(path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
                _ => bind(listener.as_raw_fd(), &address).map_err(failed)?,
            }
        }
        Err(errno) => return Err(failed(errno)),
    }
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    listen(&listener, Backlog::new(8).map_err(failed)?).map_err(failed)?;
    Ok(listener)
}

pub(super) struct Kept {
    device: OwnedFd,
    init: Init,
    dir: Vec<u8>,
    hands: Option<Hands>,
}

pub(super) struct Supervisor {
    env: Env,
    options: HoldOptions,
    listener: OwnedFd,
    signals: SignalFd,
    pub(super) held: Option<Kept>,
    let_go: bool,
    // A signal asked for the end.
    ended: bool,
    deaths: Vec<Duration>,
    pub(super) custodian: Custodian,
    quarantined: bool,
    driver: Option<Pid>,
    // The program that is to go on in this process, when the driver has ended.
    pub(super) upgrade: Option<OsString>,
}

impl Supervisor {
    fn run(&mut self) -> Result<i32, Fault> {
        loop {
            let mut driver = self.start()?;
            self.custodian.serves(driver.id(), if self.quarantined { QUARANTINED } else { "" });
            self.driver = i32::try_from(driver.id()).ok().map(Pid::from_raw);
            let code = self.watch(&mut driver)?;
            self.driver = None;
            if self.let_go || self.held.is_none() {
                return Ok(code);
            }
            if let Some(program) = self.upgrade.take() {
                self.go_on_as(&program);
                continue;
            }
            self.custodian.serves(0, "its driver died");
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
        reap();
        let refused = || Fault::new(FaultKind::Invalid, "no driver to be started");
        let (program, arguments) = self.options.command.split_first().ok_or_else(refused)?;
        let mut command = Command::new(program);
        // SAFETY: sigprocmask is async-signal-safe. Our mask would be inherited, and the driver deaf to those who ask it to end.
        unsafe {
            std::os::unix::process::CommandExt::pre_exec(&mut command, || SigSet::empty().thread_set_mask().map_err(Into::into));
        }
        if self.quarantined {
            command.env(QUARANTINE_VARIABLE, "1");
        }
        command
            .args(arguments)
            .env(HOLDER_VARIABLE, &self.options.socket)
            .env(SUPERVISOR_VARIABLE, std::process::id().to_string())
            .spawn()
            .map_err(|e| Fault::with(FaultKind::Local, format!("the driver {} cannot be started", program.display()), e))
    }

    // Until the driver has ended, with all its threads: two must never read one device.
    fn watch(&mut self, driver: &mut Child) -> Result<i32, Fault> {
        let pid = Pid::from_raw(i32::try_from(driver.id()).unwrap_or(i32::MAX));
        let exit = pidfd(pid)?;
        loop {
            let ready = self.wait(Some(exit.as_fd()), self.custodian.patience())?;
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
        let seconds = self.options.calm.as_secs();
        if !self.quarantined {
            self.quarantined = true;
            tracing::error!(seconds, "the driver died twice within this time: the volume is read-only from now on (quarantine)");
            return true;
        }
        tracing::error!(seconds, "the driver died in quarantine too: the next one is started later; its files wait");
        self.custodian.serves(0, "its driver died in quarantine too: the next one is started later");
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
            if let Some(program) = self.upgrade.take() {
                self.go_on_as(&program);
                break;
            }
        }
        self.deaths.clear();
        true
    }

    fn wait(&mut self, exit: Option<BorrowedFd<'_>>, timeout: PollTimeout) -> Result<Ready, Fault> {
        let mut fds = vec![PollFd::new(self.listener.as_fd(), PollFlags::POLLIN), PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        fds.extend(exit.map(|exit| PollFd::new(exit, PollFlags::POLLIN)));
        let keeper = self.custodian.line();
        let keeper_at = fds.len();
        fds.extend(keeper.map(|line| PollFd::new(line, PollFlags::POLLIN)));
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(Fault::with(FaultKind::Local, "the holder cannot wait", errno)),
        }
        let is = |at: usize| fds.get(at).and_then(PollFd::any).unwrap_or(false);
        let (ready, keeper_ended) = (Ready { request: is(0), signal: is(1), exit: exit.is_some() && is(2) }, is(keeper_at));
        drop(fds);
        // Nothing comes on that line unasked: it has ended.
        self.custodian.look(keeper_ended, self.held.as_ref().map(|held| (held.device.as_fd(), held.init)));
        Ok(ready)
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
            (Message::Keep { init, dir }, Some(device)) => {
                self.custodian.keep(device.as_fd(), init);
                self.keep(Kept { device, init, dir, hands: None });
                send(stream.as_fd(), &Message::Done, None)
            }
            (Message::LetGo, _) => {
                self.held = None;
                self.custodian.let_go();
                self.let_go = true;
                send(stream.as_fd(), &Message::Done, None)
            }
            (Message::Upgrade { program }, _) => {
                let answer = self.upgrade_to(program);
                send(stream.as_fd(), &answer, None)
            }
            (asked @ (Message::Flush(_) | Message::BringIn(_) | Message::Unmount { .. }), _) => self.hand_over(&asked, stream.as_fd()),
            (
                Message::Keep { .. }
                | Message::Kept(_)
                | Message::Nothing
                | Message::Done
                | Message::Failed(_)
                | Message::Refused(_)
                | Message::BroughtIn(_),
                _,
            ) => Err(Errno::EPROTO),
        }
    }

    // To the process that uses the mount, which is started when it is first needed, and again should it have died.
    fn hand_over(&mut self, asked: &Message, stream: BorrowedFd<'_>) -> Result<(), Errno> {
        let Some(held) = &mut self.held else { return Err(Errno::ENOTCONN) };
        if let Some(hands) = &held.hands
            && hands.pass(asked, stream).is_ok()
        {
            return Ok(());
        }
        let mut inherited = vec![self.listener.as_fd(), self.signals.as_fd(), held.device.as_fd()];
        // A copy of it there would hide our end from the keeper.
        inherited.extend(self.custodian.line());
        let hands = Hands::start(&held.dir, &self.env, &inherited)?;
        let passed = hands.pass(asked, stream);
        held.hands = Some(hands);
        passed
    }

    fn keep(&mut self, kept: Kept) {
        self.held = Some(kept);
        self.let_go = false;
        if let Some(mut ready) = self.options.ready.take()
            && let Err(error) = ready.write_all(b"1")
        {
            tracing::debug!(%error, "nobody waits for the mount any more");
        }
    }

    pub(super) fn needs(&self) -> &[PathBuf] {
        &self.options.needs
    }

    pub(super) fn end_driver(&self) {
        if let Some(driver) = self.driver
            && let Err(error) = kill(driver, Signal::SIGKILL)
        {
            tracing::warn!(%driver, %error, "the driver cannot be ended");
        }
    }

    // Asked only while no driver runs.
    fn mount_is_gone(&self) -> bool {
        self.held.as_ref().is_none_or(|held| crate::keeper::is_gone(held.device.as_fd()))
    }
}

struct Ready {
    request: bool,
    signal: bool,
    exit: bool,
}

// What ended of the processes that use the mount for a driver, before an exec too. Called while there is no driver.
fn reap() {
    while let Ok(status) = nix::sys::wait::waitpid(None, Some(nix::sys::wait::WaitPidFlag::WNOHANG)) {
        if status == nix::sys::wait::WaitStatus::StillAlive {
            break;
        }
    }
}

/// A descriptor that becomes readable when this process has ended, with all its threads.
pub(super) fn pidfd(pid: Pid) -> Result<OwnedFd, Fault> {
    // SAFETY: plain numbers; the call returns a new descriptor or -1.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) };
    if fd < 0 {
        return Err(Fault::with(FaultKind::Local, "a process cannot be watched", std::io::Error::last_os_error()));
    }
    // SAFETY: as above.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
