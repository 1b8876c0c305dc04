//! A mount in the custody of a keeper as well: its supervisor hands it over, takes it up again, and sees to it that a keeper runs.
//!
//! The supervisor has the descriptor too and goes on alone when there is no keeper, says so, and tries again: a keeper that cannot be
//! started is no reason to refuse or to end a mount.

use super::super::session::Init;
use super::supervisor::pidfd;
use super::{HOLDER_VARIABLE, SUPERVISOR_VARIABLE};
use crate::env::Env;
use crate::keeper::wire::{Record, Restart};
use crate::keeper::{Line, Taken, is_gone, named};
use crate::types::{Fault, FaultKind};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{Pid, getppid};
use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How often a supervisor without a keeper tries to get one.
const AGAIN: Duration = Duration::from_secs(1);
/// In the environment of a supervisor that goes on as another program: the number of its line to the keeper.
pub(super) const LINE_VARIABLE: &str = "HOLDFAST_KEEPER_LINE";

/// Which keeper, and what it is told.
#[derive(Debug, Clone)]
pub struct Custody {
    /// Where it listens.
    pub run_dir: PathBuf,
    /// What is started when none does; none: others see to it that one does.
    pub program: Option<PathBuf>,
    /// The mount's directory, absolute: its name there.
    pub dir: PathBuf,
    /// The volume's identity.
    pub volume: String,
    /// The directory of its cache.
    pub cache: PathBuf,
    /// Where a successor's log goes.
    pub log: PathBuf,
    /// The command of a supervisor like this one; none: whoever started this one starts the next (a unit, a container, `csi`).
    pub restart: Option<Vec<std::ffi::OsString>>,
    /// Says a line to the person who waits.
    pub say: fn(&str),
}

impl Custody {
    fn record(&self, init: Init) -> Record {
        let bytes = |text: &OsStr| text.as_bytes().to_vec();
        let ours = [LINE_VARIABLE, HOLDER_VARIABLE, SUPERVISOR_VARIABLE, super::QUARANTINE_VARIABLE];
        let environment = std::env::vars_os().filter(|(name, _)| !ours.iter().any(|own| name == own));
        let restart = self.restart.as_ref().map(|command| Restart {
            cwd: std::env::current_dir().map_or_else(|_| b"/".to_vec(), |dir| dir.into_os_string().into_vec()),
            log: bytes(self.log.as_os_str()),
            arguments: command.iter().map(|word| bytes(word)).collect(),
            environment: environment.map(|(name, value)| [name.as_bytes(), b"=", value.as_bytes()].concat()).collect(),
        });
        Record {
            dir: bytes(self.dir.as_os_str()),
            volume: self.volume.as_bytes().to_vec(),
            cache: bytes(self.cache.as_os_str()),
            init: init.to_bytes(),
            restart,
        }
    }

    // Without the command when the environment is too long for a message.
    fn hand_over(&self, line: &Line, device: BorrowedFd<'_>, init: Init) -> Result<(), Fault> {
        let mut record = self.record(init);
        if crate::keeper::wire::Request::Keep(record.clone()).encode().is_err() {
            tracing::warn!("the environment is too long for the keeper: it holds the mount, but cannot start a supervisor for it");
            record.restart = None;
        }
        line.keep(&record, device)
    }
}

/// For a driver: should its supervisor die, puts the mount into a keeper's hands, unless one has it. The keeper starts the next
/// supervisor, that one ends this driver and starts another. Until then this driver serves on.
///
/// # Errors
/// The supervisor cannot be watched.
pub(in super::super) fn watch_supervisor(custody: Custody, device: OwnedFd, init: Init) -> Result<(), Fault> {
    let supervisor = supervisor()?;
    let watch = move || {
        super::super::buffers::serve_writeback();
        if let Some(supervisor) = supervisor {
            let mut fds = [PollFd::new(supervisor.as_fd(), PollFlags::POLLIN)];
            while let Err(nix::errno::Errno::EINTR) = poll(&mut fds, PollTimeout::NONE) {}
        }
        tracing::error!("the supervisor died: the keeper is to start another");
        // Until a successor ends this driver: the keeper may die before it has started one.
        loop {
            if let Err(fault) = hand_back(&custody, device.as_fd(), init) {
                tracing::error!(%fault, "nobody but this driver has the mount");
            }
            super::super::pool::pause(AGAIN);
        }
    };
    let thread = std::thread::Builder::new().name("fuse-custody".to_owned()).spawn(watch);
    thread.map(drop).map_err(|error| Fault::with(FaultKind::Local, "no thread to watch the supervisor", error))
}

// Whoever started this driver; none: it is dead already, and our parent is whoever takes up orphans.
fn supervisor() -> Result<Option<OwnedFd>, Fault> {
    let named = std::env::var(SUPERVISOR_VARIABLE).ok().and_then(|number| number.parse().ok());
    let pid = named.map_or_else(getppid, Pid::from_raw);
    let watched = pidfd(pid);
    // Asked after the descriptor was opened: while it is our parent, that number is nobody else's.
    if getppid() != pid {
        return Ok(None);
    }
    watched.map(Some)
}

fn hand_back(custody: &Custody, device: BorrowedFd<'_>, init: Init) -> Result<(), Fault> {
    let line = Line::connect_or_start(&custody.run_dir, custody.program.as_deref())?;
    if line.list()?.mounts.iter().any(|mount| mount.dir == custody.dir.as_os_str().as_bytes()) {
        return Ok(());
    }
    custody.hand_over(&line, device, init)?;
    // And hangs up: from now on nobody attends it.
    line.serves(&custody.dir, std::process::id(), "its supervisor died")
}

/// The supervisor's side.
#[derive(Debug)]
pub(super) struct Custodian {
    env: Env,
    custody: Option<Custody>,
    line: Option<Line>,
    again: Duration,
    driver: u32,
    note: String,
    said: bool,
}

impl Custodian {
    pub(super) fn new(env: &Env, custody: Option<Custody>) -> Self {
        Self { env: env.clone(), custody, line: None, again: Duration::ZERO, driver: 0, note: String::new(), said: false }
    }

    /// The live mount that another supervisor has left, its driver ended; none: there is nothing to take up.
    ///
    /// # Errors
    /// [`FaultKind::Busy`]: another supervisor attends it.
    pub(super) fn adopt(&mut self, socket: &Path) -> Result<Option<(OwnedFd, Init, Vec<u8>)>, Fault> {
        let Some(custody) = self.custody.clone() else { return Ok(None) };
        self.line = inherited(&custody.run_dir);
        if self.line.is_none() {
            self.connect();
        }
        let Some(line) = &self.line else { return Ok(None) };
        let taken = match line.take(&custody.dir) {
            Ok(taken) => taken,
            Err(fault) => {
                self.lost(&fault);
                return Ok(None);
            }
        };
        match taken {
            Taken::Nothing => Ok(None),
            Taken::Busy(process) => {
                let dir = custody.dir.display();
                Err(Fault::new(FaultKind::Busy, format!("{dir} is mounted already: {} attends it", named(process))))
            }
            Taken::Kept { device, init, driver } => {
                let Some(init) = Init::from_bytes(&init) else {
                    return Err(Fault::new(FaultKind::Damaged, "the keeper's record of the connection is of another version"));
                };
                if is_gone(device.as_fd()) {
                    line.let_go(&custody.dir)?;
                    return Ok(None);
                }
                end_orphan(driver, socket)?;
                tracing::warn!(dir = %custody.dir.display(), "taking a mount up from the keeper");
                // With our own command, not the one before. From here on the mount has us alone: a keeper that dies now is no reason to.
                if let Err(fault) = custody.hand_over(line, device.as_fd(), init) {
                    self.lost(&fault);
                }
                Ok(Some((device, init, custody.dir.as_os_str().as_bytes().to_vec())))
            }
        }
    }

    /// Something comes on it only when it ends.
    pub(super) fn line(&self) -> Option<BorrowedFd<'_>> {
        self.line.as_ref().map(AsFd::as_fd)
    }

    /// How long a supervisor may wait for other things.
    pub(super) fn patience(&self) -> PollTimeout {
        match (&self.custody, &self.line) {
            (Some(_), None) => PollTimeout::try_from(AGAIN).unwrap_or(PollTimeout::ZERO),
            _ => PollTimeout::NONE,
        }
    }

    pub(super) fn keep(&mut self, device: BorrowedFd<'_>, init: Init) {
        let (Some(custody), Some(line)) = (&self.custody, &self.line) else { return };
        let kept = custody.hand_over(line, device, init).and_then(|()| line.serves(&custody.dir, self.driver, &self.note));
        if let Err(fault) = kept {
            self.lost(&fault);
        }
    }

    pub(super) fn serves(&mut self, driver: u32, note: &str) {
        (self.driver, self.note) = (driver, note.to_owned());
        let (Some(custody), Some(line)) = (&self.custody, &self.line) else { return };
        match line.serves(&custody.dir, driver, note) {
            // Not mounted yet.
            Err(fault) if fault.kind == FaultKind::NotFound => {}
            Err(fault) => self.lost(&fault),
            Ok(()) => {}
        }
    }

    pub(super) fn let_go(&mut self) {
        let (Some(custody), Some(line)) = (&self.custody, &self.line) else { return };
        if let Err(fault) = line.let_go(&custody.dir) {
            // It sees by itself that the mount is gone.
            tracing::debug!(%fault, "the keeper was not told");
        }
    }

    /// Sees to it that a keeper has the mount. `ended`: the line has.
    pub(super) fn look(&mut self, ended: bool, held: Option<(BorrowedFd<'_>, Init)>) {
        if ended {
            tracing::warn!("the keeper is gone: another is started");
            self.line = None;
            self.again = Duration::ZERO;
        }
        if self.custody.is_none() || self.line.is_some() || self.env.monotonic() < self.again {
            return;
        }
        self.connect();
        if let Some((device, init)) = held {
            self.keep(device, init);
        }
    }

    fn connect(&mut self) {
        let Some(custody) = &self.custody else { return };
        match Line::connect_or_start(&custody.run_dir, custody.program.as_deref()) {
            Ok(line) => {
                self.line = Some(line);
                self.said = false;
            }
            Err(fault) => {
                let line = format!("no keeper, so this mount ends should its own two processes die at once: {fault}");
                if !std::mem::replace(&mut self.said, true) {
                    (custody.say)(&line);
                }
                self.again = self.env.monotonic() + AGAIN;
            }
        }
    }

    fn lost(&mut self, fault: &Fault) {
        tracing::warn!(%fault, "the keeper does not have this mount; it is tried again");
        self.line = None;
        self.again = self.env.monotonic() + AGAIN;
    }
}

// The line of the program that this process was before.
fn inherited(run_dir: &Path) -> Option<Line> {
    let number: i32 = std::env::var(LINE_VARIABLE).ok()?.parse().ok()?;
    // SAFETY: said by ourselves, before this program was put in the place of the other; nobody else has used the number since.
    let stream = unsafe {
        std::env::remove_var(LINE_VARIABLE);
        (libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) == 0).then(|| OwnedFd::from_raw_fd(number))
    };
    Some(Line::from_stream(stream?, run_dir))
}

/// Two drivers must never read one device: the one whose supervisor died is ended, and waited for with all its threads. It is known
/// by the socket of its holder in its environment, looked at while its number cannot become another's.
fn end_orphan(driver: u32, socket: &Path) -> Result<(), Fault> {
    let Some(pid) = i32::try_from(driver).ok().filter(|pid| *pid > 0) else { return Ok(()) };
    // It ended by itself.
    let Ok(process) = pidfd(Pid::from_raw(pid)) else { return Ok(()) };
    let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let ours = [HOLDER_VARIABLE.as_bytes(), b"=", socket.as_os_str().as_bytes()].concat();
    if !environment.split(|byte| *byte == 0).any(|variable| variable == ours) {
        return Ok(());
    }
    tracing::warn!(driver, "the driver of the supervisor before is ended");
    // SAFETY: plain numbers and no memory.
    unsafe { libc::syscall(libc::SYS_pidfd_send_signal, process.as_raw_fd(), libc::SIGKILL, std::ptr::null::<libc::c_void>(), 0) };
    let mut fds = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
    loop {
        match poll(&mut fds, PollTimeout::NONE) {
            Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(Fault::with(FaultKind::Local, "the driver before cannot be waited for", errno)),
            Ok(_) => return Ok(()),
        }
    }
}
