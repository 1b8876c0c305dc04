//! Ahead of demand: whole files in the background, newest first, until all is here or the cache has no room to spare.
//!
//! Prefetch never evicts what the application has read and stops short of the dirty reserve (protocol.md 7.4): it only ever
//! fills free room. It yields to reads: one file at a time, and a pause of its own while reads are waiting.

use super::fetch::Fetcher;
use crate::cache::Cache;
use crate::types::{Fault, FaultKind, Ino};
use std::sync::Arc;

/// Files asked for at once from the cache's list.
const BATCH: usize = 256;
/// Bytes of one file fetched in one step, so that a large one does not hold up what else changed.
const STEP_BYTES: u64 = 4 << 20;

/// What prefetch may use, asked again before every step.
pub trait Prefetch: Send + Sync {
    /// Bytes that may still be filled; 0 ends it.
    fn room(&self) -> u64;
    /// Whether the volume is being closed.
    fn stopped(&self) -> bool;
}

/// Fetches everything that is committed and not here. Returns the bytes still missing for want of room: 0 means all is here.
///
/// # Errors
/// The cache's own; a file whose objects are damaged is named in the log and passed over.
pub async fn prefetch(cache: &Arc<Cache>, fetcher: &Fetcher, limits: &dyn Prefetch) -> Result<u64, Fault> {
    let mut after: Ino = 0;
    loop {
        let files = cache.view(|view| view.files(after, BATCH))?;
        let Some(last) = files.last() else { return Ok(0) };
        after = last.ino;
        for file in files {
            let mut at = 0;
            while at < file.size {
                if limits.stopped() {
                    return Ok(file.size - at);
                }
                let end = file.size.min(at + STEP_BYTES);
                if limits.room() < end - at {
                    return Ok(file.size - at);
                }
                match fetcher.fetch_now(file.ino, at..end).await {
                    Ok(()) => {}
                    Err(fault) if fault.kind == FaultKind::Damaged => {
                        tracing::error!(ino = file.ino, %fault, "prefetch passes over damaged bytes")
                    }
                    // Removed meanwhile.
                    Err(fault) if fault.kind == FaultKind::NotFound => break,
                    // The store is away: what is read meanwhile waits by itself.
                    Err(fault) if fault.kind == FaultKind::Unknown => {
                        fetcher.pause().await;
                        continue;
                    }
                    Err(fault) => return Err(fault),
                }
                at = end;
            }
        }
    }
}
