//! Ahead of demand: all that is committed and not here, many files by one request, until all is here or the cache has no room to spare.
//!
//! Files are taken in the order of their numbers, which is nearly that of their packs: what is missing of many of them is asked for together,
//! so that a pack is read in a few large pieces however small its files are. Prefetch never evicts what the application has read and stops
//! short of the dirty reserve (protocol.md 7.4): it only ever fills free room. While a read waits it asks for nothing more.

use super::fetch::{Fetcher, Wanted};
use crate::cache::{Cache, CacheError};
use crate::types::{Fault, FaultKind, Ino};
use futures::future::BoxFuture;
use futures::stream::FuturesOrdered;
use futures::{FutureExt, StreamExt};
use std::sync::Arc;

/// Files asked for at once from the cache's list.
const BATCH: usize = 256;
/// Bytes that one step brings here, and files that it looks at: what it keeps in memory of what is missing.
const STEP_BYTES: u64 = 32 << 20;
const STEP_FILES: usize = 4096;
/// Steps under way: at the end of one alone, a core would wait. Requests in flight are bounded for all of them together.
const STEPS: usize = 2;

/// What prefetch may use, asked again before every step.
pub trait Prefetch: Send + Sync {
    /// Bytes that may still be filled; 0 ends it.
    fn room(&self) -> u64;
    /// Whether the volume is being closed.
    fn stopped(&self) -> bool;
}

/// Where the next step begins: everything below is here, or was passed over.
#[derive(Debug, Clone, Copy, Default)]
struct Place {
    /// The file in hand, and how much of it was looked at.
    ino: Ino,
    offset: u64,
}

/// What one step brings.
#[derive(Debug, Default)]
struct Step {
    wanted: Vec<Wanted>,
    bytes: u64,
    /// Where the one after it begins; `None`: nothing is left.
    next: Option<Place>,
}

/// How a run ends.
#[derive(Debug, Clone, Copy)]
enum Stop {
    /// All is here.
    Done,
    /// The store did not answer to the step that begins here.
    Away(Place),
    /// So many bytes found no room.
    NoRoom(u64),
}

/// Fetches everything that is committed and not here. Returns the bytes of the step that found no room, 0 when all is here.
///
/// # Errors
/// The cache's own; a file whose objects are damaged is named in the log and passed over.
pub async fn prefetch(cache: &Arc<Cache>, fetcher: &Fetcher, limits: &dyn Prefetch) -> Result<u64, Fault> {
    let mut place = Place::default();
    loop {
        match run(cache, fetcher, limits, place).await? {
            Stop::Done => return Ok(0),
            Stop::NoRoom(bytes) => return Ok(bytes),
            Stop::Away(again) => {
                // What is read meanwhile waits by itself.
                fetcher.pause().await;
                place = again;
            }
        }
    }
}

/// Step after step from a place on, the next one begun while the last answers of the one before are opened.
async fn run(cache: &Arc<Cache>, fetcher: &Fetcher, limits: &dyn Prefetch, from: Place) -> Result<Stop, Fault> {
    let (mut under_way, mut bytes_under_way) = (FuturesOrdered::new(), 0);
    let (mut place, mut looking) = (from, Some(look(cache, fetcher, from).boxed()));
    // One at a time where there is no room for more.
    let mut steps = STEPS;
    loop {
        let may_begin = under_way.len() < steps;
        tokio::select! {
            biased;
            Some((begun, bytes, answered)) = under_way.next() => {
                bytes_under_way -= bytes;
                if !answered? {
                    return Ok(Stop::Away(begun));
                }
            }
            Some(step) = found(&mut looking), if may_begin => {
                let (step, begun) = (step?, place);
                let bytes = step.bytes;
                // What is under way may not be in the cache's account yet.
                if limits.stopped() || limits.room() < bytes_under_way + bytes {
                    if limits.stopped() || bytes_under_way == 0 {
                        return Ok(Stop::NoRoom(bytes));
                    }
                    steps = 1;
                    looking = Some(look(cache, fetcher, begun).boxed());
                    continue;
                }
                bytes_under_way += bytes;
                looking = step.next.map(|next| {
                    place = next;
                    look(cache, fetcher, next).boxed()
                });
                under_way.push_back(async move { (begun, bytes, bring(fetcher, &step).await) }.boxed());
            }
            else => return Ok(Stop::Done),
        }
    }
}

/// What is looked for, if anything is.
async fn found(looking: &mut Option<BoxFuture<'_, Result<Step, Fault>>>) -> Option<Result<Step, Fault>> {
    let step = looking.as_mut()?.await;
    *looking = None;
    Some(step)
}

/// The step that begins at a place, on a thread that may wait for the disk.
async fn look(cache: &Arc<Cache>, fetcher: &Fetcher, place: Place) -> Result<Step, Fault> {
    let cache = Arc::clone(cache);
    fetcher.env().blocking(move || gather(&cache, place)).await
}

/// `false`: the store did not answer, try again.
async fn bring(fetcher: &Fetcher, step: &Step) -> Result<bool, Fault> {
    let mut answered = true;
    for answer in fetcher.bring(&step.wanted).await {
        match answer {
            Ok(()) => {}
            Err(fault) if fault.kind == FaultKind::Damaged => tracing::error!(%fault, "prefetch passes over damaged bytes"),
            Err(fault) if fault.kind == FaultKind::Unknown => answered = false,
            Err(fault) => return Err(fault),
        }
    }
    Ok(answered)
}

/// What is missing from `place` on, up to a step's worth.
fn gather(cache: &Cache, mut place: Place) -> Result<Step, Fault> {
    let mut step = Step { next: Some(place), ..Step::default() };
    let mut looked_at = 0;
    while looked_at < STEP_FILES {
        // The file in hand is asked for again: it may have grown, or be gone.
        let files = cache.view(|view| view.files(place.ino.saturating_sub(1), BATCH))?;
        let Some(last) = files.last().map(|file| file.ino) else {
            step.next = None;
            return Ok(step);
        };
        looked_at += files.len();
        for file in files {
            let mut at = if file.ino == place.ino { place.offset } else { 0 };
            while at < file.size {
                if step.bytes >= STEP_BYTES {
                    step.next = Some(Place { ino: file.ino, offset: at });
                    return Ok(step);
                }
                let end = file.size.min(at + STEP_BYTES);
                match cache.missing(file.ino, at..end) {
                    Ok(missing) => {
                        step.bytes += missing.iter().map(|missing| missing.range.end - missing.range.start).sum::<u64>();
                        step.wanted.extend(missing.into_iter().map(|missing| Wanted { ino: file.ino, missing }));
                    }
                    // Removed meanwhile.
                    Err(CacheError::NoInode(_)) => break,
                    Err(error) => return Err(error.into()),
                }
                at = end;
            }
        }
        place = Place { ino: last + 1, offset: 0 };
        step.next = Some(place);
    }
    Ok(step)
}

#[cfg(test)]
#[path = "ahead_tests.rs"]
mod tests;
