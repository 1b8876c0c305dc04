//! For kernels before 6.9, which cannot send requests again: a journal of the requests read, so that a successor can end what the dead
//! driver left unanswered.
//!
//! Without it those who wait for such an answer would wait for ever, unkillable. With it they get EIO; the change may have been made
//! or not, as after a crash of a local disk. A WRITE so ended is an error that fsync reports. The successor cannot know which of the
//! newest requests had their answer: it ends them all, and the kernel passes over those that it does not wait for. A request that was
//! read and not yet written down here (microseconds) is not ended; only an abort of the mount does that.

use crate::types::{Fault, FaultKind};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// As many requests as are remembered: more than threads and pools can have in hand.
const SLOTS: u64 = 4096;

/// Numbers of requests, in a file beside the cache: what must survive is this process, not the machine.
#[derive(Debug)]
pub(super) struct Journal {
    file: File,
    next: AtomicU64,
}

impl Journal {
    /// For a connection that begins: empty.
    pub(super) fn create(dir: &Path) -> Result<Self, Fault> {
        let file = File::options().create(true).truncate(true).read(true).write(true).open(dir.join("requests"));
        file.map(|file| Self { file, next: AtomicU64::new(0) }).map_err(failed)
    }

    /// For a connection that goes on; what the driver before had read is ended on `device`. Returns how many waited for that.
    pub(super) fn take_over(dir: &Path, device: &OwnedFd) -> Result<(Self, u64), Fault> {
        let file = File::options().create(true).truncate(false).read(true).write(true).open(dir.join("requests")).map_err(failed)?;
        let mut bytes = vec![0; (SLOTS * 8) as usize];
        let mut length = 0;
        loop {
            match file.read_at(bytes.get_mut(length..).unwrap_or_default(), length as u64).map_err(failed)? {
                0 => break,
                more => length += more,
            }
        }
        let (words, _) = bytes.get(..length).unwrap_or_default().as_chunks::<8>();
        let requests = words.iter().map(|word| u64::from_ne_bytes(*word)).filter(|request| *request != 0);
        let ended = requests.filter(|request| end(device, *request)).count();
        file.set_len(0).map_err(failed)?;
        Ok((Self { file, next: AtomicU64::new(0) }, ended as u64))
    }

    /// A request was read: before anything is done for it.
    pub(super) fn note(&self, request: u64) {
        let slot = self.next.fetch_add(1, Ordering::Relaxed) % SLOTS;
        if let Err(error) = self.file.write_all_at(&request.to_ne_bytes(), slot * 8) {
            tracing::warn!(%error, "a request is not in the journal: should this driver die now, nobody ends it");
        }
    }
}

// Whether the kernel waited for it.
fn end(device: &OwnedFd, request: u64) -> bool {
    // fuse_out_header: length, error, request.
    let mut answer = [0u8; 16];
    answer[..4].copy_from_slice(&16u32.to_ne_bytes());
    answer[4..8].copy_from_slice(&(-libc::EIO).to_ne_bytes());
    answer[8..].copy_from_slice(&request.to_ne_bytes());
    nix::unistd::write(device.as_fd(), &answer).is_ok()
}

fn failed(error: std::io::Error) -> Fault {
    Fault::with(FaultKind::Local, "the journal of requests cannot be used", error)
}
