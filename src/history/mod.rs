//! What the store holds over time: the records of a volume's log, which commit a moment means, snapshots, retention, gc, branches, the end of
//! a life.
//! Needs no mount.

mod branch;
mod deletion;
mod removal;
pub mod retention;
pub mod snapshot;
mod survey;
mod sweep;

pub use branch::{Branch, branches, drop_branch};
pub use removal::{Standing, begin, delete, end, extent_of, standing, undo};
pub use sweep::{Sweeping, Swept, sweep};

use crate::log::{At, Hint, Phase, Reader, Tip};
use crate::rpc::{Holder, log_record::Kind};
use crate::types::{Epoch, Fault, FaultKind, Seq, SeqSet, UnixNanos};
use futures::StreamExt;
use std::ops::Range;

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
pub async fn list(reader: &Reader, retired: &SeqSet, before: Option<Seq>, limit: usize) -> Result<History, Fault> {
    let tip = reader.tip(Hint::default()).await?;
    let top = before.map_or(tip.seq, |before| before.saturating_sub(1).min(tip.seq));
    let left = retired.others(top);
    let newest = left.into_iter().rev().flat_map(Iterator::rev).take(limit);
    let mut read = futures::stream::iter(newest).map(|seq| entry(reader, seq)).buffered(READ_AHEAD);
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
    newest.map(|(_, entry)| entry).ok_or_else(|| Fault::new(FaultKind::NotFound, "the volume has no commit yet"))
}

/// A commit that shows the volume as of `time`: its own instant is not after it, and the next one's is, or there is none. Where a clock was
/// set, several may be so: the search goes from the end of the log back in growing steps, so that what a wrong clock once wrote far back
/// does not hide what the right one writes now. The newest commit is found by any time that is not before it. Retired records are passed over.
///
/// # Errors
/// [`FaultKind::NotFound`]: the volume is younger than that, or what it had then was retired.
pub async fn at_time(reader: &Reader, retired: &SeqSet, time: UnixNanos) -> Result<Entry, Fault> {
    let tip = reader.tip(Hint::default()).await?;
    if tip.phase == Phase::Empty {
        return Err(Fault::new(FaultKind::NotFound, "the volume has no commit yet"));
    }
    let left = Left::of(retired, tip.seq);
    not_after(left.count(), time, &|place| entry(reader, left.seq(place))).await
}

/// The records that are not retired, by their place in order, from 1.
struct Left {
    /// Each run, and how many records are before it.
    runs: Vec<(u64, Range<Seq>)>,
}

impl Left {
    fn of(retired: &SeqSet, last: Seq) -> Self {
        let mut before = 0;
        let run = |run: Range<Seq>| {
            let start = before;
            before += run.end - run.start;
            (start, run)
        };
        Self { runs: retired.others(last).into_iter().map(run).collect() }
    }

    fn count(&self) -> u64 {
        self.runs.last().map_or(0, |(before, run)| before + run.end - run.start)
    }

    fn seq(&self, place: u64) -> Seq {
        let at = self.runs.partition_point(|(before, _)| *before < place);
        at.checked_sub(1).and_then(|at| self.runs.get(at)).map_or(0, |(before, run)| run.start + (place - before - 1))
    }
}

/// [`at_time`] among the first `end` records, which `entry` gives by their place.
async fn not_after<F>(end: u64, time: UnixNanos, entry: &(dyn Fn(u64) -> F + Sync)) -> Result<Entry, Fault>
where
    F: Future<Output = Result<Option<Entry>, Fault>>,
{
    let mut end = end;
    loop {
        // Back from the end, until a record is not after `time`; then halve between it and the last one that was.
        let (mut low, mut high, mut step) = (end, end, 1);
        // What was retired a moment ago counts as after.
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
            Some((_, found)) if found.time <= time => return Ok(found),
            // An `open` by a clock that was far behind stands after it: look below.
            Some((place, _)) => end = place - 1,
            None => {
                let why = "the volume has no commit that old; the oldest is shown by `holdfast history`";
                return Err(Fault::new(FaultKind::NotFound, why));
            }
        }
    }
}

/// The last commit at or before a place, and its own.
async fn newest_of<F>(end: u64, entry: &(dyn Fn(u64) -> F + Sync)) -> Result<Option<(u64, Entry)>, Fault>
where
    F: Future<Output = Result<Option<Entry>, Fault>>,
{
    for place in (1..=end).rev() {
        if let Some(found) = entry(place).await?
            && matches!(found.what, What::Commit { .. })
        {
            return Ok(Some((place, found)));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests;
