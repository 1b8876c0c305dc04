//! The connection: what is agreed in INIT, and how a successor joins a connection that has had its INIT.
//!
//! **Taking over.** `fuser::Session::from_fd` insists on reading an INIT; on a live descriptor it would answer somebody's
//! request with an error. So it is given one end of a socket pair in which a made-up INIT waits; it answers into the pair,
//! which is thrown away (the kernel has had its answer from the first driver); then the live descriptor is laid over that
//! same number by dup3. From then on all its reads and writes are on the real device: no proxy, no cost, no patch.
//!
//! Before the first read the kernel is asked to send again what the dead driver had read and not answered; after it, a new
//! request could be carried out twice.
//!
//! **Threads first.** With a connection of its own, too, a session reads from such a pair first: one made-up request for each
//! thread, which makes its buffer fit for what comes from the kernel (`buffers.rs`). The device is laid over the pair when
//! all threads are.

use super::buffers::Muster;
use super::shell::Shell;
use crate::types::{Fault, FaultKind};
use fuser::{Config, InitFlags, KernelConfig, Session, SessionACL};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use serde::{Deserialize, Serialize};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::thread::JoinHandle;

/// Largest READ and WRITE: larger ones are not faster, and cost memory for every thread (measured).
pub(super) const REQUEST_MAX: u32 = 1 << 20;
/// READs ahead and WRITEs behind that the kernel may have under way.
const BACKGROUND_MAX: u16 = 64;
/// FUSE_NOTIFY_RESEND.
const NOTIFY_RESEND: u32 = 7;

/// Without these the promises do not hold, so the mount is refused.
const REQUIRED: InitFlags = InitFlags::FUSE_WRITEBACK_CACHE
    .union(InitFlags::FUSE_EXPORT_SUPPORT)
    .union(InitFlags::FUSE_ATOMIC_O_TRUNC)
    .union(InitFlags::FUSE_POSIX_ACL)
    .union(InitFlags::FUSE_DONT_MASK)
    .union(InitFlags::FUSE_MAX_PAGES)
    .union(InitFlags::FUSE_NO_OPENDIR_SUPPORT)
    .union(InitFlags::FUSE_EXPLICIT_INVAL_DATA);
/// These make it faster or finer.
const WISHED: InitFlags = InitFlags::FUSE_PARALLEL_DIROPS
    .union(InitFlags::FUSE_DO_READDIRPLUS)
    .union(InitFlags::FUSE_READDIRPLUS_AUTO)
    .union(InitFlags::FUSE_HANDLE_KILLPRIV_V2)
    .union(InitFlags::FUSE_CACHE_SYMLINKS)
    .union(InitFlags::FUSE_ASYNC_DIO)
    .union(InitFlags::FUSE_HAS_RESEND);

/// What the kernel offered in the one INIT of a connection: kept by the second holder for a successor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Init {
    /// Minor version of its protocol.
    pub minor: u32,
    /// Its capabilities.
    pub capabilities: u64,
}

impl Init {
    /// Whether a successor can have requests under way sent again (kernel 6.9 and later). Without it they end with an error.
    #[must_use]
    pub fn can_resend(&self) -> bool {
        self.capabilities & InitFlags::FUSE_HAS_RESEND.bits() != 0
    }

    /// For a keeper, which does not look into it.
    #[must_use]
    pub(super) fn to_bytes(self) -> Vec<u8> {
        [self.minor.to_le_bytes().as_slice(), &self.capabilities.to_le_bytes()].concat()
    }

    /// From a keeper; none: these are not ours.
    #[must_use]
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (minor, capabilities) = bytes.split_first_chunk::<4>()?;
        Some(Self { minor: u32::from_le_bytes(*minor), capabilities: u64::from_le_bytes(capabilities.try_into().ok()?) })
    }
}

/// Agrees with the kernel on the mode of this connection.
pub(super) fn negotiate(config: &mut KernelConfig) -> io::Result<Init> {
    let mut offered = config.capabilities();
    // For the test of what is done without it.
    if std::env::var_os("HOLDFAST_PRETEND_OLD_KERNEL").is_some() {
        offered.remove(InitFlags::FUSE_HAS_RESEND);
    }
    let init = Init { minor: config.kernel_abi().1, capabilities: offered.bits() };
    if let Err(missing) = config.add_capabilities(REQUIRED) {
        tracing::error!(?missing, "this kernel's FUSE is too old: Linux 5.10 or later is needed, 6.9 for restarts without a trace");
        return Err(io::Error::from_raw_os_error(libc::EPROTO));
    }
    for flag in WISHED.intersection(offered | !InitFlags::FUSE_HAS_RESEND).iter() {
        if config.add_capabilities(flag).is_err() {
            tracing::warn!(?flag, "this kernel's FUSE does not have it");
        }
    }
    let refused = |_: u32| io::Error::from_raw_os_error(libc::EPROTO);
    config.set_max_write(REQUEST_MAX).map_err(refused)?;
    if let Err(most) = config.set_max_readahead(REQUEST_MAX) {
        // Raised by the mount's knob afterwards.
        config.set_max_readahead(most).map_err(refused)?;
    }
    config.set_max_background(BACKGROUND_MAX).map_err(|_| io::Error::from_raw_os_error(libc::EPROTO))?;
    Ok(init)
}

fn config(threads: usize) -> Config {
    let mut config = Config::default();
    config.acl = SessionACL::All;
    config.n_threads = Some(threads.max(1));
    // With a cloned descriptor for each thread, requests being carried out belong to that clone and end with an error when
    // the process dies, instead of waiting for a successor.
    config.clone_fd = false;
    config
}

/// A session whose INIT is done and whose threads are still to be started.
pub(super) struct Prepared {
    session: Session<Shell>,
    device: OwnedFd,
    // Its other end is what the session reads from until its threads are ready.
    ours: OwnedFd,
}

impl Prepared {
    /// The connection.
    pub(super) fn device(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }

    /// Starts the threads, makes each of them ready, and has them read the device. Returns the connection, and who ends with it.
    pub(super) fn serve(self, muster: &Muster, threads: usize) -> Result<(OwnedFd, JoinHandle<io::Result<()>>), Fault> {
        let Self { session, device, ours } = self;
        let number = session.as_fd().as_raw_fd();
        let started = std::thread::Builder::new()
            .name("fuse-session".to_owned())
            .spawn(move || session.run())
            .map_err(failed("no thread to serve the mount"))?;
        let sent = (0..threads).try_for_each(|_| nix::unistd::write(&ours, &made_up_bmap()).map(drop));
        let ready = sent.is_ok() && muster.wait_for(threads);
        let laid = if ready { lay(device.as_fd(), number) } else { Err(io::Error::from(io::ErrorKind::TimedOut)) };
        // Unless the device is laid over it, the threads meet the end of the pair now.
        drop(ours);
        muster.dismiss();
        laid.map_err(failed("making the threads that serve the mount ready"))?;
        Ok((device, started))
    }
}

fn failed(step: &'static str) -> impl Fn(io::Error) -> Fault {
    move |error| Fault::with(FaultKind::Local, format!("the FUSE connection: {step}"), error)
}

// A message is one read.
fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?)
}

// From now on that number, which somebody owns, is this file.
fn lay(file: BorrowedFd<'_>, number: RawFd) -> io::Result<()> {
    // SAFETY: both are open descriptors; the second stays its owner's.
    let laid = unsafe { libc::dup3(file.as_raw_fd(), number, libc::O_CLOEXEC) };
    if laid < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// On a descriptor just mounted: reads and answers INIT.
pub(super) fn begin(shell: Shell, device: OwnedFd, threads: usize) -> Result<Prepared, Fault> {
    let session = Session::from_fd(shell, device, SessionACL::All, config(threads)).map_err(failed("INIT"))?;
    let device = session.as_fd().try_clone_to_owned().map_err(failed("another descriptor of it"))?;
    let (ours, theirs) = pair().map_err(failed("a socket pair"))?;
    lay(theirs.as_fd(), session.as_fd().as_raw_fd()).map_err(failed("laying a socket over the device"))?;
    Ok(Prepared { session, device, ours })
}

/// On the live descriptor of a driver that died.
pub(super) fn resume(shell: Shell, device: &OwnedFd, init: Init, threads: usize) -> Result<Prepared, Fault> {
    if init.can_resend() {
        resend(device.as_fd()).map_err(failed("asking for the requests under way"))?;
    }
    let (ours, theirs) = pair().map_err(failed("a socket pair"))?;
    nix::unistd::write(&ours, &made_up_init(init)).map_err(|e| failed("the made-up INIT")(e.into()))?;
    let session = Session::from_fd(shell, theirs, SessionACL::All, config(threads)).map_err(failed("the made-up INIT"))?;
    let mut thrown_away = [0; 256];
    nix::unistd::read(&ours, &mut thrown_away).map_err(|e| failed("the answer to the made-up INIT")(e.into()))?;
    let device = device.try_clone().map_err(failed("another descriptor of it"))?;
    Ok(Prepared { session, device, ours })
}

// fuse_in_header (40 bytes) and fuse_init_in (64 bytes).
fn made_up_init(init: Init) -> [u8; 104] {
    const OPCODE_INIT: u32 = 26;
    let mut words: [u32; 26] = header(104, OPCODE_INIT);
    words[10] = 7; // major version
    words[11] = init.minor;
    words[12] = REQUEST_MAX; // max_readahead
    words[13] = init.capabilities as u32 | InitFlags::FUSE_INIT_EXT.bits() as u32;
    words[14] = (init.capabilities >> 32) as u32;
    to_bytes(words)
}

// fuse_in_header and fuse_bmap_in (16 bytes): the kernel sends none to a file system without a block device, so it can mean this.
fn made_up_bmap() -> [u8; 56] {
    const OPCODE_BMAP: u32 = 37;
    to_bytes(header::<14>(56, OPCODE_BMAP))
}

fn header<const WORDS: usize>(length: u32, opcode: u32) -> [u32; WORDS] {
    let mut words = [0; WORDS];
    words[0] = length;
    words[1] = opcode;
    words[2] = 2; // the request's number
    words[4] = 1; // the root's
    words
}

fn to_bytes<const WORDS: usize, const BYTES: usize>(words: [u32; WORDS]) -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    for (slot, word) in bytes.chunks_exact_mut(4).zip(words) {
        slot.copy_from_slice(&word.to_ne_bytes());
    }
    bytes
}

fn resend(device: BorrowedFd<'_>) -> io::Result<()> {
    // fuse_out_header: length, the notification as its "error", request 0.
    let mut message = [0u8; 16];
    message[..4].copy_from_slice(&16u32.to_ne_bytes());
    message[4..8].copy_from_slice(&NOTIFY_RESEND.to_ne_bytes());
    nix::unistd::write(device, &message)?;
    Ok(())
}
