//! A line to the keeper, the small process that holds the kernel's FUSE connections while drivers restart, and how one is started.
//!
//! The keeper itself is the program `holdfast-keeper`: its head, `src/keeper/main.rs`, says what it does and who starts what.
//! Here is the other side: what a supervisor, a driver and the commands ask of it.

mod line;
pub mod wire;

use crate::types::{Fault, FaultKind};
pub(crate) use line::is_gone;
use line::{listen_at, receive, send};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, connect, setsockopt, socket, sockopt};
use nix::sys::time::TimeVal;
use std::fs::{DirBuilder, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use wire::{Answer, Record, Request, Standing};

/// The program's file name; it lies beside `holdfast`.
pub const PROGRAM: &str = "holdfast-keeper";
/// Seconds that an answer may take: it comes at once, unless the keeper was stopped.
const PATIENCE: i64 = 5;

/// Where the keeper of a run directory listens.
#[must_use]
pub fn socket_path(run_dir: &Path) -> PathBuf {
    run_dir.join("keeper.socket")
}

/// The run directory, made for its owner alone when it is not there.
///
/// # Errors
/// It cannot be made.
pub fn make_run_dir(run_dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(run_dir)
}

/// A line to the keeper. What it kept or took is attended until it is dropped.
#[derive(Debug)]
pub struct Line {
    stream: OwnedFd,
    at: PathBuf,
}

impl AsFd for Line {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// What came of [`Line::take`].
#[derive(Debug)]
pub enum Taken {
    /// It holds no such mount.
    Nothing,
    /// This process attends it.
    Busy(u32),
    /// The live mount.
    Kept {
        /// Its descriptor.
        device: OwnedFd,
        /// What INIT agreed on.
        init: Vec<u8>,
        /// The driver that served it last, and may be alive; 0: none.
        driver: u32,
    },
}

/// What a keeper holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holding {
    /// Its process.
    pub process: u32,
    /// Its mounts.
    pub mounts: Vec<Standing>,
}

impl Line {
    /// A line to the keeper of this run directory; none when no keeper listens.
    ///
    /// # Errors
    /// The socket cannot be used.
    pub fn connect(run_dir: &Path) -> Result<Option<Self>, Fault> {
        let at = socket_path(run_dir);
        let failed = |errno: Errno| Fault::with(FaultKind::Local, format!("no line to the keeper at {}", at.display()), errno);
        let stream = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).map_err(failed)?;
        let patience = TimeVal::new(PATIENCE, 0);
        setsockopt(&stream, sockopt::ReceiveTimeout, &patience).map_err(failed)?;
        setsockopt(&stream, sockopt::SendTimeout, &patience).map_err(failed)?;
        match connect(stream.as_raw_fd(), &UnixAddr::new(&at).map_err(failed)?) {
            Ok(()) => Ok(Some(Self { stream, at })),
            Err(Errno::ENOENT | Errno::ECONNREFUSED) => Ok(None),
            Err(errno) => Err(failed(errno)),
        }
    }

    /// A line that is open already.
    #[must_use]
    pub fn from_stream(stream: OwnedFd, run_dir: &Path) -> Self {
        Self { stream, at: socket_path(run_dir) }
    }

    /// The same; a keeper is started when none listens, if there is a program for it. Of many who try at once one starts it.
    ///
    /// # Errors
    /// The program is not there or does not start, or others may write to the run directory; without a program: none listens.
    pub fn connect_or_start(run_dir: &Path, program: Option<&Path>) -> Result<Self, Fault> {
        if let Some(line) = Self::connect(run_dir)? {
            return Ok(line);
        }
        let Some(program) = program else {
            let at = socket_path(run_dir);
            let message = format!("no keeper listens at {}, and who runs it is to start it (--keeper-apart)", at.display());
            return Err(Fault::new(FaultKind::Local, message));
        };
        let cannot = |error: io::Error| Fault::with(FaultKind::Local, format!("the keeper {} cannot be started", program.display()), error);
        make_run_dir(run_dir).map_err(cannot)?;
        if std::fs::metadata(run_dir).map_err(cannot)?.mode() & 0o022 != 0 {
            let message = format!("others may write to {}: a keeper listens only where its user alone can put a socket", run_dir.display());
            return Err(Fault::new(FaultKind::Denied, message));
        }
        let lock = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(run_dir.join("keeper.lock"));
        let _lock = Flock::lock(lock.map_err(cannot)?, FlockArg::LockExclusive).map_err(|(_, errno)| cannot(errno.into()))?;
        if let Some(line) = Self::connect(run_dir)? {
            return Ok(line);
        }
        start(run_dir, program).map_err(cannot)?;
        // Its socket listened before it was started, so there is nothing to wait for.
        Self::connect(run_dir)?.ok_or_else(|| Fault::new(FaultKind::Local, format!("the keeper {} ended at once", program.display())))
    }

    /// Hands a mount over; this line attends it.
    ///
    /// # Errors
    /// Another process attends a mount on that directory, or the keeper is full or does not answer.
    pub fn keep(&self, record: &Record, device: BorrowedFd<'_>) -> Result<(), Fault> {
        match self.ask(&Request::Keep(record.clone()), Some(device))?.0 {
            Answer::Done => Ok(()),
            other => Err(self.confused(other)),
        }
    }

    /// The live mount on this directory; this line attends it from now on.
    ///
    /// # Errors
    /// The keeper does not answer.
    pub fn take(&self, dir: &Path) -> Result<Taken, Fault> {
        match self.ask(&Request::Take(bytes(dir)), None)? {
            (Answer::Kept(record, driver), Some(device)) => Ok(Taken::Kept { device, init: record.init, driver }),
            (Answer::Nothing, _) => Ok(Taken::Nothing),
            (Answer::Busy(process), _) => Ok(Taken::Busy(process)),
            (other, _) => Err(self.confused(other)),
        }
    }

    /// The mount is gone, or given up.
    ///
    /// # Errors
    /// The keeper does not answer.
    pub fn let_go(&self, dir: &Path) -> Result<(), Fault> {
        match self.ask(&Request::LetGo(bytes(dir)), None)?.0 {
            Answer::Done => Ok(()),
            other => Err(self.confused(other)),
        }
    }

    /// Says who serves the mount (0: nobody), with a word for a person.
    ///
    /// # Errors
    /// The keeper does not answer, or holds no such mount.
    pub fn serves(&self, dir: &Path, driver: u32, note: &str) -> Result<(), Fault> {
        match self.ask(&Request::Serves(bytes(dir), driver, note.as_bytes().to_vec()), None)?.0 {
            Answer::Done => Ok(()),
            other => Err(self.confused(other)),
        }
    }

    /// What it holds.
    ///
    /// # Errors
    /// The keeper does not answer.
    pub fn list(&self) -> Result<Holding, Fault> {
        let mut mounts: Vec<Standing> = Vec::new();
        loop {
            match self.ask(&Request::List(u32::try_from(mounts.len()).unwrap_or(u32::MAX)), None)?.0 {
                Answer::List(process, some, more) => {
                    let more = more && !some.is_empty();
                    mounts.extend(some);
                    if !more {
                        return Ok(Holding { process, mounts });
                    }
                }
                other => return Err(self.confused(other)),
            }
        }
    }

    /// Asks it to end, so that the keeper that is on disk now takes its place.
    ///
    /// # Errors
    /// A mount has nobody but this keeper.
    pub fn retire(&self) -> Result<(), Fault> {
        match self.ask(&Request::Retire, None)?.0 {
            Answer::Done => Ok(()),
            other => Err(self.confused(other)),
        }
    }

    fn ask(&self, request: &Request, beside: Option<BorrowedFd<'_>>) -> Result<(Answer, Option<OwnedFd>), Fault> {
        let lost = |errno: Errno| Fault::with(FaultKind::Local, format!("the keeper at {} does not answer", self.at.display()), errno);
        let odd = |malformed| Fault::with(FaultKind::Local, format!("the keeper at {}", self.at.display()), malformed);
        send(self.stream.as_fd(), &request.encode().map_err(odd)?, beside).map_err(lost)?;
        loop {
            match receive(self.stream.as_fd(), MsgFlags::empty()) {
                Ok(Some((packet, device))) => return Ok((Answer::decode(&packet).map_err(odd)?, device)),
                Ok(None) => return Err(lost(Errno::ECONNRESET)),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(lost(errno)),
            }
        }
    }

    fn confused(&self, answer: Answer) -> Fault {
        let at = self.at.display();
        match answer {
            Answer::Busy(process) => Fault::new(FaultKind::Busy, format!("{} attends that mount already (keeper at {at})", named(process))),
            Answer::Nothing => Fault::new(FaultKind::NotFound, format!("the keeper at {at} holds no such mount")),
            Answer::Refused(why) => Fault::new(FaultKind::Local, format!("the keeper at {at}: {}", String::from_utf8_lossy(&why))),
            other => Fault::new(FaultKind::Local, format!("the keeper at {at} answered {other:?}: is it another version?")),
        }
    }
}

/// A process of a keeper's answer, for a person.
#[must_use]
pub fn named(process: u32) -> String {
    if process == wire::UNSEEN { "a process of another container".to_owned() } else { format!("process {process}") }
}

fn bytes(path: &Path) -> Vec<u8> {
    path.as_os_str().as_bytes().to_vec()
}

// With the lock held: nobody else makes the socket now.
fn start(run_dir: &Path, program: &Path) -> io::Result<()> {
    let at = socket_path(run_dir);
    // Before the old socket goes: without the program nothing is changed.
    std::fs::metadata(program)?;
    let listener = listen_at(&at)?;
    let log = OpenOptions::new().create(true).append(true).mode(0o600).open(run_dir.join("keeper.log"))?;
    let mut command = Command::new(program);
    command.arg("--inherited").env_clear().stdin(Stdio::from(listener)).stdout(Stdio::null()).stderr(log);
    // SAFETY: sigprocmask is async-signal-safe. Our mask would be inherited.
    unsafe {
        std::os::unix::process::CommandExt::pre_exec(&mut command, || {
            nix::sys::signal::SigSet::empty().thread_set_mask().map_err(Into::into)
        });
    }
    // It goes to the background by itself.
    let status = command.status()?;
    if status.success() { Ok(()) } else { Err(io::Error::other(format!("it ended with {status}"))) }
}
