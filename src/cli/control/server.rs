//! The answering side: the driver implements [`ControlHandler`] and keeps a [`ControlServer`] while its mount lives.

use super::wire::{Flushed, Progress, Scrubbed, Unmounted};
use super::{Ask, Reply, Request, VERSION, socket_path};
use crate::cli::status::VolumeStatus;
use crate::telemetry::{Acceptor, names};
use crate::types::{Fault, FaultKind};
use async_trait::async_trait;
use nix::fcntl::{Flock, FlockArg};
use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::OwnedWriteHalf;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tracing::Instrument;

const CONNECTIONS_MAX: usize = 16;
const REQUEST_BYTES_MAX: u64 = 64 << 10;
const REQUEST_TIME_MAX: Duration = Duration::from_secs(10);

/// What a driver answers. Each is carried out to its end even if the asker goes away.
#[async_trait]
pub trait ControlHandler: Send + Sync + 'static {
    /// How the volume stands; must answer at once, whatever the store does.
    async fn status(&self) -> Result<VolumeStatus, Fault>;
    /// Everything written before this call is in a commit when it returns.
    async fn flush(&self, progress: &ProgressSink) -> Result<Flushed, Fault>;
    /// Drains, closes the log and unmounts. The process ends after the answer.
    async fn unmount(&self, progress: &ProgressSink) -> Result<Unmounted, Fault>;
    /// Compares the cache with the newest commit and its checksums, so many bytes a second.
    async fn scrub(&self, rate: u64, progress: &ProgressSink) -> Result<Scrubbed, Fault>;
}

/// Where a handler reports how far it is. Only the newest report is kept for an asker that reads slowly.
#[derive(Debug, Clone)]
pub struct ProgressSink(watch::Sender<Option<Progress>>);

impl ProgressSink {
    /// A sink that nobody reads, for callers without an asker.
    #[must_use]
    pub fn nowhere() -> Self {
        Self(watch::Sender::new(None))
    }

    /// So many bytes of so many are stored.
    pub fn report(&self, done: u64, total: u64) {
        self.0.send_replace(Some(Progress { done, total }));
    }
}

/// A listening driver. Dropped, it listens no more and its socket is gone.
#[derive(Debug)]
pub struct ControlServer {
    path: PathBuf,
    task: JoinHandle<()>,
    slots: Arc<Semaphore>,
    // Held as long as the socket is ours; the kernel lets go of it when the process dies, however it dies.
    _lock: Flock<File>,
}

impl ControlServer {
    /// Listens for the mount at `dir` (as `resolve` gives it). The socket of a driver that was killed is replaced.
    ///
    /// # Errors
    /// Another driver serves this directory (`Busy`), or the run directory cannot be used.
    pub fn start(run_dir: &Path, dir: &Path, handler: Arc<dyn ControlHandler>) -> Result<Self, Fault> {
        let path = socket_path(run_dir, dir);
        let cannot =
            |error: std::io::Error| Fault::with(FaultKind::Local, format!("the control socket {} cannot be made", path.display()), error);
        DirBuilder::new().recursive(true).mode(0o700).create(run_dir).map_err(cannot)?;
        let lock =
            OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path.with_extension("lock")).map_err(cannot)?;
        let lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
            nix::errno::Errno::EWOULDBLOCK => Fault::new(
                FaultKind::Busy,
                format!("another driver serves {} already (it holds the lock beside {})", dir.display(), path.display()),
            ),
            other => cannot(other.into()),
        })?;
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(cannot(error)),
            _ => {}
        }
        let listener = UnixListener::bind(&path).map_err(cannot)?;
        std::fs::set_permissions(&path, Permissions::from_mode(0o600)).map_err(cannot)?;
        let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let task = tokio::spawn(serve(listener, handler, Arc::clone(&slots)));
        Ok(Self { path, task, slots, _lock: lock })
    }

    /// The socket.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes no more requests and returns when those that were taken are answered: before a process ends.
    pub async fn close(self) {
        self.task.abort();
        let all = u32::try_from(CONNECTIONS_MAX).unwrap_or(u32::MAX);
        let _ = self.slots.acquire_many(all).await;
    }
}

impl Drop for ControlServer {
    fn drop(&mut self) {
        self.task.abort();
        // The lock file stays: to remove it would let two drivers lock two files of one name.
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn serve(listener: UnixListener, handler: Arc<dyn ControlHandler>, slots: Arc<Semaphore>) {
    let mut connections = Acceptor::new(slots, "the control socket");
    while let Some((slot, (stream, _))) = connections.next(|| listener.accept()).await {
        let handler = Arc::clone(&handler);
        let connection = async move {
            let _slot = slot;
            if let Err(error) = answer(stream, &*handler).await {
                tracing::debug!(%error, "the asker went away");
            }
        };
        tokio::spawn(connection.instrument(tracing::info_span!(names::SPAN_CONTROL)));
    }
}

async fn answer(stream: UnixStream, handler: &dyn ControlHandler) -> std::io::Result<()> {
    let peer = stream.peer_cred()?.uid();
    let (read, mut write) = stream.into_split();
    let last = if peer == 0 || peer == nix::unistd::geteuid().as_raw() {
        let mut line = String::new();
        let mut read = BufReader::new(read.take(REQUEST_BYTES_MAX));
        match tokio::time::timeout(REQUEST_TIME_MAX, read.read_line(&mut line)).await {
            Ok(read) => read?,
            Err(late) => return Err(late.into()),
        };
        match parse(&line) {
            Ok(ask) => carry_out(ask, handler, &mut write).await,
            Err(fault) => Reply::from(&fault),
        }
    } else {
        tracing::warn!(peer, "a stranger asked at the control socket and was refused");
        Reply::from(&Fault::new(FaultKind::Denied, "a driver is asked as root, or as the user that it runs as"))
    };
    send(&mut write, &last).await?;
    write.shutdown().await
}

fn parse(line: &str) -> Result<Ask, Fault> {
    #[derive(serde::Deserialize)]
    struct Version {
        version: u32,
    }
    let invalid = |what: String| Fault::new(FaultKind::Invalid, what);
    // The version first: a newer ask may not be readable here at all.
    let version: Version = serde_json::from_str(line).map_err(|error| invalid(format!("this is no request to a driver: {error}")))?;
    if version.version > VERSION {
        let message =
            format!("the driver is of an older version (it knows requests of version {VERSION}): use its own command, or mount again");
        return Err(Fault::new(FaultKind::TooNew, message));
    }
    let request: Request =
        serde_json::from_str(line).map_err(|error| invalid(format!("the driver does not know this request: {error}")))?;
    Ok(request.ask)
}

/// Carries out what was asked, with its progress on the way, to the end: an asker that is gone does not stop it.
async fn carry_out(ask: Ask, handler: &dyn ControlHandler, write: &mut OwnedWriteHalf) -> Reply {
    let (sender, mut reports) = watch::channel(None);
    let sink = ProgressSink(sender);
    let mut sent = None;
    let work = async move {
        let outcome = match ask {
            Ask::Status => handler.status().await.map(|status| Reply::Status(Box::new(status))),
            Ask::Flush => handler.flush(&sink).await.map(Reply::Flushed),
            Ask::Unmount => handler.unmount(&sink).await.map(Reply::Unmounted),
            Ask::Scrub { rate } => handler.scrub(rate, &sink).await.map(Reply::Scrubbed),
        };
        outcome.unwrap_or_else(|fault| Reply::from(&fault))
    };
    tokio::pin!(work);
    loop {
        let last = tokio::select! {
            last = &mut work => Some(last),
            Ok(()) = reports.changed() => None,
        };
        // A report may have come with the end itself.
        let report = *reports.borrow_and_update();
        if let Some(progress) = report.filter(|_| report != sent) {
            sent = report;
            let _ = send(write, &Reply::Progress(progress)).await;
        }
        if let Some(last) = last {
            return last;
        }
    }
}

async fn send(write: &mut OwnedWriteHalf, reply: &Reply) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(reply)?;
    line.push(b'\n');
    write.write_all(&line).await
}
