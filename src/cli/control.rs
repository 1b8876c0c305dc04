//! How a command reaches the driver of a running mount: a Unix socket in the run directory, one JSON object a line.
//!
//! ```text
//! -> {"version":1,"ask":"flush"}
//! <- {"reply":"progress","done":1048576,"total":8388608}          (none, one or many)
//! <- {"reply":"flushed","commit":17,"full":true,"cut":"2026-11-20T09:00:00Z","uploaded":8388608}
//! ```
//! A request is answered by any number of progress lines and one last line, a fault or the answer; then the driver closes. What
//! was asked is carried out even if the asker goes away. Fields are only ever added, and what is not known is read past; an
//! ask that is not known is refused. Only root and the user that the driver runs as are heard (credentials of the peer, not the
//! socket's mode alone).

mod client;
mod server;
#[cfg(test)]
mod tests;
mod wire;

pub use client::{Asked, Silent, ask, ask_all, find, sockets};
pub use server::{ControlHandler, ControlServer, ProgressSink};
pub use wire::{Ask, Bad, Different, Flushed, Progress, Reply, Request, Scrubbed, Unmounted, VERSION};

use sha2::{Digest, Sha256};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The socket of the mount at `dir` (absolute, as [`resolve`] gives it). A digest, because a socket's path has 107 bytes at most.
#[must_use]
pub fn socket_path(run_dir: &Path, dir: &Path) -> PathBuf {
    let digest = Sha256::digest(dir.as_os_str().as_bytes());
    run_dir.join(format!("{}.sock", hex::encode(digest.iter().take(8).copied().collect::<Vec<u8>>())))
}

/// A mount's directory as an absolute path without links. The last part is not looked at: a mount whose driver is gone would not
/// answer.
///
/// # Errors
/// A parent does not exist.
pub fn resolve(dir: &Path) -> std::io::Result<PathBuf> {
    let absolute = std::path::absolute(dir)?;
    match (absolute.parent(), absolute.file_name()) {
        (Some(parent), Some(name)) => Ok(parent.canonicalize()?.join(name)),
        // The root, or a path that ends in `..`.
        _ => absolute.canonicalize(),
    }
}
