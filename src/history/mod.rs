//! What the store holds over time: the records of a volume's log, and which commit a moment means. Needs no mount.

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
            What::Commit { full: commit.full, inodes: totals.inodes, bytes: totals.bytes, uploaded: totals.uploaded }
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
    commit_at_or_before(reader, tip.seq).await
}

/// The commit that shows the volume as of `time`: the newest one whose instant is not after it. Found by halving, so the records' clocks
/// are taken to be ascending; where a clock was set back, a commit near the jump may be missed, never one invented.
///
/// # Errors
/// [`FaultKind::NotFound`]: the volume is younger than that, or (a time after the newest commit) nothing shows that moment yet; both name
/// the nearest commit.
pub async fn at_time(reader: &Reader, time: UnixNanos) -> Result<Entry, Fault> {
    let tip = reader.tip(Hint::default()).await?;
    if tip.phase == Phase::Empty {
        return Err(Fault::new(FaultKind::NotFound, "the volume has no commit yet"));
    }
    let (mut low, mut high) = (0, tip.seq);
    // Invariant: every record up to `low` is not after `time`; every one above `high` is.
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        match entry(reader, middle).await? {
            Some(found) if found.time <= time => low = middle,
            Some(_) => high = middle - 1,
            // Retired: what is kept lies above or below; the records' order decides, so look at its lower half only when needed.
            None => high = middle - 1,
        }
    }
    if low == 0 {
        return Err(Fault::new(FaultKind::NotFound, "the volume has no commit that old; the oldest is shown by `holdfast history`"));
    }
    commit_at_or_before(reader, low).await
}

async fn commit_at_or_before(reader: &Reader, seq: Seq) -> Result<Entry, Fault> {
    let mut at = seq;
    while at > 0 {
        if let Some(found) = entry(reader, at).await?
            && matches!(found.what, What::Commit { .. })
        {
            return Ok(found);
        }
        at -= 1;
    }
    Err(Fault::new(FaultKind::NotFound, "the volume has no commit up to there"))
}
