//! FUSE requests to operations of a volume and back; the only user of fuser.
//!
//! | file | |
//! |---|---|
//! | `mount.rs` | mount(2), the table of mounts, the kernel's knobs |
//! | `session.rs` | INIT, and taking a live connection over |
//! | `shell.rs`, `work.rs` | the handlers, and what of them may have to wait |
//! | `kernel.rs`, `outside.rs`, `closer.rs` | the mount seen from outside, by handle: what the kernel still holds |
//! | `holder/` | the second holder of the descriptor, which restarts the driver and uses the mount for it |
//! | `journal.rs` | what a kernel that cannot resend needs |
//! | `errno.rs`, `attr.rs` | words |

mod attr;
mod buffers;
mod closer;
mod errno;
mod holder;
mod journal;
mod kernel;
mod mount;
mod notify;
mod outside;
mod pool;
mod session;
mod shell;
mod times;
mod work;

pub use holder::{CALM, Custody, HOLDER_VARIABLE, Held, HoldOptions, Holder, QUARANTINE_VARIABLE, hold};
pub use mount::{Knobs, Mounted, TYPE, all_mounts, find};
pub use session::Init;

use crate::env::Env;
use crate::telemetry::Histogram;
use crate::types::{Fault, FaultKind};
use crate::volume::{Outdated, Posix};
use crate::writeback::{Brought, KernelPages};
use journal::Journal;
use mount::MountPoint;
use outside::Outside;
use parking_lot::Mutex;
use session::Prepared;
use shell::Shell;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use work::{Hands, Work};

/// Key of the connection's number in the cache's state.
const CONNECTION: &str = "fuse.connection";

impl KernelPages for Work {
    fn any(&self) -> bool {
        self.any_writable()
    }

    fn bring_in(&self) -> Brought {
        Self::bring_in(self)
    }
}

/// How a volume is mounted.
#[derive(Debug, Clone)]
pub struct MountOptions {
    /// Where.
    pub dir: PathBuf,
    /// The volume's identity, for the table of mounts.
    pub identity: String,
    /// Threads that read the device.
    pub threads: usize,
    /// Nothing may be changed.
    pub read_only: bool,
    /// Mount over a directory that is not empty.
    pub over_files: bool,
    /// Honour set-user-id and set-group-id of programs on it.
    pub suid: bool,
    /// Honour device files on it.
    pub devices: bool,
}

impl MountOptions {
    /// The defaults.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>, identity: impl Into<String>) -> Self {
        Self { dir: dir.into(), identity: identity.into(), threads: 4, read_only: false, over_files: false, suid: false, devices: false }
    }
}

/// A volume that the kernel serves from us.
#[derive(Debug)]
pub struct Mount {
    options: MountOptions,
    work: Arc<Work>,
    device: String,
    connection: OwnedFd,
    session: Mutex<Option<JoinHandle<std::io::Result<()>>>>,
}

impl Mount {
    /// Mounts, and serves from the moment it returns. With a holder, a successor can take the mount over.
    ///
    /// # Errors
    /// Says which of the directory, the device, the rights or the kernel is in the way, and what to do.
    pub fn start(env: &Env, posix: &Arc<Posix>, options: &MountOptions, holder: Option<&Holder>) -> Result<Self, Fault> {
        detach_dead_mount(options)?;
        let connection = next_connection(posix)?;
        let source = mount::source_name(&options.identity);
        let point = MountPoint {
            dir: &options.dir,
            source: &source,
            read_only: options.read_only || posix.is_read_only(),
            over_files: options.over_files,
            suid: options.suid,
            devices: options.devices,
        };
        let hands = match holder {
            Some(holder) => Hands::Holder(holder.clone()),
            None => Hands::Own(Outside::new(&options.dir, env.clone())),
        };
        let work = Arc::new(Work::new(Arc::clone(posix), env.clone(), hands, connection, None, options.threads));
        let device = point.mount()?;
        let begun = session::begin(Shell::new(Arc::clone(&work)), device, options.threads).and_then(|prepared| {
            let init = work.init().ok_or_else(|| Fault::new(FaultKind::Local, "the kernel sent no INIT"))?;
            if !init.can_resend() {
                work.keep_journal(Journal::create(posix.cache().dir())?);
            }
            if let Some(holder) = holder {
                holder.keep(prepared.device(), init, &options.dir)?;
            }
            Ok(prepared)
        });
        match begun.and_then(|prepared| Self::serve(options, work, prepared)) {
            Ok(mount) => Ok(mount),
            Err(error) => {
                if let Err(error) = mount::unmount(&options.dir, true) {
                    tracing::warn!(%error, "a mount that could not be served is left behind");
                }
                Err(error)
            }
        }
    }

    /// Takes over the mount of a driver that died: asks the kernel for what was under way, then serves.
    ///
    /// # Errors
    /// The volume's cache does not belong to this mount, or the connection cannot be joined.
    pub fn resume(env: &Env, posix: &Arc<Posix>, options: &MountOptions, held: &Held) -> Result<Self, Fault> {
        let connection = stored_connection(posix)?.ok_or_else(|| {
            Fault::new(
                FaultKind::Damaged,
                format!("the cache has never served {}: the mount cannot be resumed from it", options.dir.display()),
            )
        })?;
        let hands = Hands::Holder(held.holder.clone());
        let work = Arc::new(Work::new(Arc::clone(posix), env.clone(), hands, connection, Some(held.init), options.threads));
        if !held.init.can_resend() {
            let (journal, ended) = Journal::take_over(posix.cache().dir(), &held.device)?;
            tracing::warn!(ended, "this kernel (before 6.9) cannot send requests again: those under way at the crash end with EIO");
            work.keep_journal(journal);
        }
        let prepared = session::resume(Shell::new(Arc::clone(&work)), &held.device, held.init, options.threads)?;
        Self::serve(options, work, prepared)
    }

    fn serve(options: &MountOptions, work: Arc<Work>, prepared: Prepared) -> Result<Self, Fault> {
        let (connection, session) = prepared.serve(work.muster(), options.threads.max(1))?;
        let device = find(&options.dir)?.map(|mounted| mounted.device).unwrap_or_default();
        let mount = Self { options: options.clone(), work, device, connection, session: Mutex::new(Some(session)) };
        let knobs = mount.tune();
        tracing::info!(dir = %mount.options.dir.display(), read_ahead = knobs.read_ahead, kernel_share = knobs.kernel_share, "serving");
        Ok(mount)
    }

    /// Watches the supervisor that started this driver: should it die, a keeper gets the mount, and starts another.
    ///
    /// # Errors
    /// It cannot be watched.
    pub fn watch_supervisor(&self, custody: Custody) -> Result<(), Fault> {
        let Some(init) = self.work.init() else { return Ok(()) };
        holder::watch_supervisor(custody, self.connection.try_clone()?, init)
    }

    /// Whether a successor can have requests under way sent again: the kernel's word.
    #[must_use]
    pub fn can_resend(&self) -> bool {
        self.work.init().is_some_and(|init| init.can_resend())
    }

    /// Where.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.options.dir
    }

    /// Something has changed behind the kernel's back: it asks anew. Waits for requests that the kernel waits for: not to be called by who
    /// holds up an answer.
    pub fn forget(&self, outdated: &Outdated) {
        let device = self.connection.as_fd();
        let told = match outdated {
            Outdated::Content(ino, range) => notify::content(device, *ino, range),
            Outdated::Name(dir, name) => notify::name(device, *dir, name),
        };
        if let Err(error) = told {
            tracing::warn!(?outdated, %error, "the kernel could not be told of a repair: it may show what it has until the next mount");
        }
    }

    /// Sets the kernel's knobs and returns what they are: to be called about once a minute, since the kernel keeps the share
    /// as a ratio of its memory.
    pub fn tune(&self) -> Knobs {
        mount::tune(&self.device)
    }

    /// How long requests of each kind took.
    pub fn request_seconds(&self, tell: &mut dyn FnMut(&'static str, &Histogram)) {
        times::Op::ALL.into_iter().for_each(|op| tell(op.name(), self.work.times().of(op)));
    }

    /// How long fsyncs took, until their answer.
    #[must_use]
    pub fn sync_seconds(&self) -> &Histogram {
        self.work.times().syncs()
    }

    /// What the kernel holds, for whoever is about to cut.
    #[must_use]
    pub fn kernel_pages(&self) -> Arc<dyn KernelPages> {
        Arc::clone(&self.work) as Arc<dyn KernelPages>
    }

    /// Waits until the mount is gone, whoever unmounted it.
    ///
    /// # Errors
    /// The connection failed.
    pub fn wait(&self) -> Result<(), Fault> {
        let Some(session) = self.session.lock().take() else { return Ok(()) };
        let ended = session.join().map_err(|_| Fault::new(FaultKind::Local, "the session's thread died"))?;
        self.work.close();
        ended.map_err(|e| Fault::with(FaultKind::Local, format!("the connection of {} failed", self.options.dir.display()), e))
    }

    /// Unmounts: the kernel sends what it holds first. `lazy`: also when it is in use; it ends when its last user does.
    ///
    /// # Errors
    /// It is in use.
    pub fn unmount(&self, lazy: bool) -> Result<(), Fault> {
        self.work.unmount(lazy)?.map_err(|errno| mount::unmount_refused(&self.options.dir, errno))
    }
}

/// Unmounts whatever is mounted there, ours or not; for a command that has no [`Mount`].
///
/// # Errors
/// It is in use, or nothing is mounted there.
pub fn unmount(dir: &Path, lazy: bool) -> Result<(), Fault> {
    mount::unmount(dir, lazy)
}

/// Ends the connection of a mount that nobody serves: whoever waits for it gets an error, and the directory is taken away.
///
/// # Errors
/// Nothing is mounted there, or it is not allowed.
pub fn abort(dir: &Path) -> Result<(), Fault> {
    mount::abort(dir)
}

/// Whether a mount could lie at the options' directory, before anything is started or made for it. A dead mount of the same volume
/// is taken away.
///
/// # Errors
/// Says what is in the way, and what to do.
pub fn check_place(options: &MountOptions) -> Result<(), Fault> {
    detach_dead_mount(options)?;
    let MountOptions { dir, read_only, over_files, suid, devices, .. } = options;
    let source = mount::source_name(&options.identity);
    MountPoint { dir, source: &source, read_only: *read_only, over_files: *over_files, suid: *suid, devices: *devices }.check()
}

// A driver that died between mounting and handing the descriptor to its holder has left a mount that nobody can serve.
fn detach_dead_mount(options: &MountOptions) -> Result<(), Fault> {
    let source = mount::source_name(&options.identity);
    let ours = find(&options.dir)?.is_some_and(|mounted| mounted.identity() == Some(&source));
    if ours && std::fs::metadata(&options.dir).is_err_and(|e| e.raw_os_error() == Some(libc::ENOTCONN)) {
        tracing::warn!(dir = %options.dir.display(), "taking away a dead mount of this volume");
        mount::unmount(&options.dir, true)?;
    }
    Ok(())
}

fn stored_connection(posix: &Posix) -> Result<Option<u64>, Fault> {
    let stored = posix.cache().get_state(CONNECTION)?;
    Ok(stored.and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes))
}

// Numbers of requests begin anew with each connection: answers saved for an older one must never meet them.
fn next_connection(posix: &Posix) -> Result<u64, Fault> {
    let connection = stored_connection(posix)?.unwrap_or(0) + 1;
    posix.cache().set_state(CONNECTION, &connection.to_le_bytes())?;
    posix.cache().forget_replies(connection)?;
    Ok(connection)
}
