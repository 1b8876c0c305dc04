//! What the store holds over time: the records of a volume's log, which commit a moment means, branches, the end of a life.
//! Needs no mount.

mod branch;
mod removal;

pub use branch::{Branch, branches, drop_branch};
pub use removal::{Standing, begin, delete, end, extent_of, standing, undo};

use crate::log::{At, Hint, Phase, Reader, Tip};
use crate::rpc::{Holder, log_record::Kind};
use crate::types::{Epoch, Fault, FaultKind, Seq, UnixNanos};
use futures::StreamExt;

/// Records read side by side.
const READ_AHEAD: usize = 16;

/// One record of the log.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Its number.
    pub seq: Seq,
    /// The term of its writer.
    pub epoch: Epoch,
    /// When its writer made it, by the writer's clock; of a commit, the instant it shows.
    pub time: UnixNanos,
    /// What it is.
    pub what: What,
}

/// What a record is.
#[derive(Debug, Clone, PartialEq)]
pub enum What {
    /// A writer began.
    Open {
        /// Who.
        holder: Holder,
    },
    /// A commit.
    Commit {
        /// Every tier at one instant.
        full: bool,
        /// Inodes of the volume.
        inodes: u64,
        /// Bytes of its files.
        bytes: u64,
        /// Bytes of the packs it named first.
        uploaded: u64,
        /// What its writer said of it: of a restored volume's first, where it came from.
        note: String,
    },
    /// A writer ended cleanly.
    Close,
    /// The last record of a purged life.
    Fence,
    /// Bytes that an administrator's record skips.
    Void,
}

/// The end of a log and some records before it.
#[derive(Debug, Clone)]
pub struct History {
    /// The end.
    pub tip: Tip,
    /// Records, newest first.
    pub entries: Vec<Entry>,
}

/// The newest `limit` records up to `before` (exclusive; `None`: from the end), newest first. Retired ones are left out.
///
/// # Errors
/// The store's faults; damage by name.
pub async fn list(reader: &Reader, before: Option<Seq>, limit: usize) -> Result<History, Fault> {
    let tip = reader.tip(Hint::default()).await?;
    let top = before.map_or(tip.seq, |before| before.saturating_sub(1).min(tip.seq));
    let lowest = top.saturating_sub(limit as u64);
    let mut read = futures::stream::iter((lowest + 1..=top).rev()).map(|seq| entry(reader, seq)).buffered(READ_AHEAD);
    let mut entries = Vec::new();
    while let Some(entry) = read.next().await {
        entries.extend(entry?);
    }
    Ok(History { tip, entries })
}

/// The commit of this number; `None`: there is none, or the number is of a record that is no commit.
///
/// # Errors
/// As [`entry`].
pub async fn commit(reader: &Reader, seq: Seq) -> Result<Option<Entry>, Fault> {
    Ok(entry(reader, seq).await?.filter(|entry| matches!(entry.what, What::Commit { .. })))
}

/// The record of a number; `None`: retired, or none yet.
///
/// # Errors
/// As [`list`].
pub async fn entry(reader: &Reader, seq: Seq) -> Result<Option<Entry>, Fault> {
    let record = match reader.at(seq).await? {
        At::Record(record) => record,
        At::Void(_) => return Ok(Some(Entry { seq, epoch: 0, time: 0, what: What::Void })),
        At::Absent => return Ok(None),
    };
    let (mut time, epoch) = (record.record.time, record.epoch());
    let what = match record.record.kind {
        Some(Kind::Open(open)) => What::Open { holder: open.holder.unwrap_or_default() },
        Some(Kind::Commit(commit)) => {
            time = commit.cut_time;
            let totals = commit.totals.unwrap_or_default();
            What::Commit { full: commit.full, inodes: totals.inodes, bytes: totals.bytes, uploaded: totals.uploaded, note: commit.note }
        }
        Some(Kind::Close(_)) => What::Close,
        Some(Kind::Fence(_)) | None => What::Fence,
    };
    Ok(Some(Entry { seq, epoch, time, what }))
}

/// The newest commit.
///
/// # Errors
/// [`FaultKind::NotFound`]: there is none.
pub async fn newest(reader: &Reader) -> Result<Entry, Fault> {
    let tip = reader.tip(Hint::default()).await?;
    let newest = newest_of(tip.seq, &|seq| entry(reader, seq)).await?;
    newest.ok_or_else(|| Fault::new(FaultKind::NotFound, "the volume has no commit yet"))
}

/// A commit that shows the volume as of `time`: its own instant is not after it, and the next one's is, or there is none. Where a clock was
/// set, several may be so: the search goes from the end of the log back in growing steps, so that what a wrong clock once wrote far back
/// does not hide what the right one writes now. The newest commit is found by any time that is not before it.
///
/// # Errors
/// [`FaultKind::NotFound`]: the volume is younger than that.
pub async fn at_time(reader: &Reader, time: UnixNanos) -> Result<Entry, Fault> {
    let tip = reader.tip(Hint::default()).await?;
    if tip.phase == Phase::Empty {
        return Err(Fault::new(FaultKind::NotFound, "the volume has no commit yet"));
    }
    not_after(tip.seq, time, &|seq| entry(reader, seq)).await
}

/// [`at_time`] among the records up to `end`.
async fn not_after<F>(end: Seq, time: UnixNanos, entry: &dyn Fn(Seq) -> F) -> Result<Entry, Fault>
where
    F: Future<Output = Result<Option<Entry>, Fault>>,
{
    let mut end = end;
    loop {
        // Back from the end, until a record is not after `time`; then halve between it and the last one that was.
        let (mut low, mut high, mut step) = (end, end, 1);
        // What is retired lies below what is kept, mostly: it counts as after.
        while low > 0 && entry(low).await?.is_none_or(|found| found.time > time) {
            high = low - 1;
            low = high.saturating_sub(step);
            step *= 2;
        }
        // Every record above `high` that was looked at is after `time`; `low` is not, or 0.
        while low < high {
            let middle = low + (high - low).div_ceil(2);
            match entry(middle).await? {
                Some(found) if found.time <= time => low = middle,
                Some(_) | None => high = middle - 1,
            }
        }
        let found = match low {
            0 => None,
            low => newest_of(low, entry).await?,
        };
        match found {
            Some(found) if found.time <= time => return Ok(found),
            // An `open` by a clock that was far behind stands after it: look below.
            Some(found) => end = found.seq - 1,
            None => {
                let why = "the volume has no commit that old; the oldest is shown by `holdfast history`";
                return Err(Fault::new(FaultKind::NotFound, why));
            }
        }
    }
}

async fn newest_of<F>(seq: Seq, entry: &dyn Fn(Seq) -> F) -> Result<Option<Entry>, Fault>
where
    F: Future<Output = Result<Option<Entry>, Fault>>,
{
    for at in (1..=seq).rev() {
        if let Some(found) = entry(at).await?
            && matches!(found.what, What::Commit { .. })
        {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests;
