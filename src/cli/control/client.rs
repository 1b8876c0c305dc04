//! The asking side.

use super::{Ask, Progress, Reply, Request, VERSION, resolve, socket_path};
use crate::cli::status::VolumeStatus;
use crate::cli::target::Which;
use crate::fuse;
use crate::types::{Fault, FaultKind};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

/// A driver that is in order tells its status at once. One that does not (stopped, or waiting for a disk) must hold up nobody.
const STATUS_MAX: Duration = Duration::from_secs(5);

/// Asks the driver at a socket and waits for its last line; `progress` sees the lines before it.
///
/// # Errors
/// Nobody is there (`NotFound`), the driver went away before it answered, or does not tell its status in time (`Unknown`), or its own
/// fault.
pub async fn ask(socket: &Path, ask: Ask, mut progress: impl FnMut(Progress)) -> Result<Reply, Fault> {
    if ask != Ask::Status {
        return once(socket, ask, &mut progress).await;
    }
    let answered = async {
        match once(socket, ask, &mut progress).await {
            // A driver at its end takes connections that it does not answer any more. What changes nothing is asked again: it is gone by now.
            Err(fault) if fault.kind == FaultKind::Unknown => once(socket, ask, &mut progress).await,
            answered => answered,
        }
    };
    let silent = |_| Fault::new(FaultKind::Unknown, format!("its driver is there and has not answered for {} s", STATUS_MAX.as_secs()));
    tokio::time::timeout(STATUS_MAX, answered).await.map_err(silent)?
}

async fn once(socket: &Path, ask: Ask, progress: &mut impl FnMut(Progress)) -> Result<Reply, Fault> {
    let lost =
        |error| Fault::with(FaultKind::Unknown, "the driver of the mount does not answer; `holdfast status` tells how it stands", error);
    let mut stream = UnixStream::connect(socket).await.map_err(|error| match error.kind() {
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => Fault::new(
            FaultKind::NotFound,
            format!("no driver answers at {}: nothing is mounted there by holdfast, or it has ended", socket.display()),
        ),
        ErrorKind::PermissionDenied => Fault::with(FaultKind::Denied, "a driver is asked as root, or as the user that it runs as", error),
        _ => lost(error),
    })?;
    let mut line = serde_json::to_vec(&Request { version: VERSION, ask }).map_err(|error| lost(error.into()))?;
    line.push(b'\n');
    stream.write_all(&line).await.map_err(lost)?;
    let mut lines = BufReader::new(stream).lines();
    while let Some(line) = lines.next_line().await.map_err(lost)? {
        match serde_json::from_str(&line).map_err(|error| lost(error.into()))? {
            Reply::Progress(seen) => progress(seen),
            other => return other.check(),
        }
    }
    Err(Fault::new(FaultKind::Unknown, "the driver of the mount ended before it answered; `holdfast status` tells how it stands"))
}

/// The sockets in a run directory, in order. None when there is no such directory.
///
/// # Errors
/// The directory cannot be read.
pub fn sockets(run_dir: &Path) -> Result<Vec<PathBuf>, Fault> {
    let entries = match std::fs::read_dir(run_dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Fault::with(FaultKind::Denied, format!("the run directory {} cannot be read", run_dir.display()), error)),
    };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "sock"));
    paths.sort();
    Ok(paths)
}

/// What the drivers of a machine said.
#[derive(Debug, Default)]
pub struct Asked {
    /// The status of every mount that answers.
    pub answered: Vec<(PathBuf, VolumeStatus)>,
    /// Those whose driver is there and does not answer.
    pub silent: Vec<Silent>,
}

/// A mount whose driver is there and does not answer, as far as others know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Silent {
    /// Its driver's socket.
    pub socket: PathBuf,
    /// Where it is mounted; absent: the kernel does not have it mounted, or not yet.
    pub directory: Option<PathBuf>,
    /// The volume, by the kernel's table of mounts.
    pub volume: Option<String>,
    /// Why nothing is known.
    pub why: String,
}

impl Silent {
    /// Of the driver at this socket.
    #[must_use]
    pub fn new(run_dir: &Path, socket: PathBuf, fault: &Fault) -> Self {
        let table = fuse::all_mounts().unwrap_or_default();
        let mounted = table.into_iter().rev().find(|mounted| mounted.kind == fuse::TYPE && socket_path(run_dir, &mounted.dir) == socket);
        let volume = mounted.as_ref().and_then(|mounted| mounted.identity()).map(str::to_owned);
        Self { socket, directory: mounted.map(|mounted| mounted.dir), volume, why: fault.to_string() }
    }

    /// Its directory for people, or what else is known of it.
    #[must_use]
    pub fn shown(&self) -> String {
        self.directory.as_ref().unwrap_or(&self.socket).display().to_string()
    }
}

/// Asks every driver how its mount stands, all at once. Sockets of drivers that are gone are passed over.
///
/// # Errors
/// The run directory cannot be read, or a driver is another user's.
pub async fn ask_all(run_dir: &Path) -> Result<Asked, Fault> {
    let mut asked = Asked::default();
    let sockets = sockets(run_dir)?;
    let replies = futures::future::join_all(sockets.iter().map(|socket| ask(socket, Ask::Status, |_| {}))).await;
    for (socket, reply) in sockets.into_iter().zip(replies) {
        match reply {
            Ok(Reply::Status(status)) => asked.answered.push((socket, *status)),
            Ok(_) => return Err(Fault::new(FaultKind::Unknown, format!("the driver at {} answered something else", socket.display()))),
            Err(fault) if fault.kind == FaultKind::NotFound => {}
            Err(fault) if fault.kind == FaultKind::Unknown => asked.silent.push(Silent::new(run_dir, socket, &fault)),
            Err(fault) => return Err(fault),
        }
    }
    Ok(asked)
}

/// The socket of a mount, by its directory or its volume. By its volume, a mount that only looks at it (of an older commit, mostly) is
/// none: it cannot say how the volume stands.
///
/// # Errors
/// The volume is not mounted here, or more than once (two stores may each have one of that name).
pub async fn find(run_dir: &Path, which: &Which) -> Result<PathBuf, Fault> {
    let volume = match which {
        Which::Dir(dir) => {
            let resolved = resolve(dir)
                .map_err(|error| Fault::with(FaultKind::NotFound, format!("there is no directory {}", dir.display()), error))?;
            let socket = socket_path(run_dir, &resolved);
            if !socket.exists() {
                return Err(Fault::new(FaultKind::NotFound, format!("nothing is mounted at {} by holdfast", resolved.display())));
            }
            return Ok(socket);
        }
        Which::Volume(volume) => volume.as_str(),
    };
    let Asked { answered, silent } = ask_all(run_dir).await?;
    let answered = answered
        .into_iter()
        .filter(|(_, status)| status.volume == volume && !status.read_only)
        .map(|(socket, status)| (socket, status.directory));
    let silent = silent.into_iter().filter(|one| one.volume.as_deref() == Some(volume)).map(|one| (one.socket.clone(), Some(one.shown())));
    let mut mounted: Vec<(PathBuf, Option<String>)> = answered.chain(silent).collect();
    match mounted.len() {
        // `mnt` may have meant `./mnt`; a volume of that name would have come first.
        0 => match resolve(Path::new(volume)).map(|dir| socket_path(run_dir, &dir)) {
            Ok(socket) if socket.exists() => Ok(socket),
            _ => Err(Fault::new(FaultKind::NotFound, format!("the volume {volume} is not mounted on this machine"))),
        },
        1 => Ok(mounted.swap_remove(0).0),
        _ => {
            let dirs: Vec<&str> = mounted.iter().filter_map(|(_, directory)| directory.as_deref()).collect();
            Err(Fault::new(
                FaultKind::Invalid,
                format!("the volume {volume} is mounted more than once ({}): name the directory", dirs.join(", ")),
            ))
        }
    }
}
