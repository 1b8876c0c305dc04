//! How a volume that is not mounted here stands, as the store tells it. The answer is [`judge`]d from plain data, like a mounted one's:
//! SAFE only when the log was closed, since only a holder knows what it has not committed.

use super::at;
use super::context::{Answer, Context};
use super::status::{CommitInfo, Verdict};
use super::unlock::{self, KeyArgs};
use crate::config::show_size;
use crate::history;
use crate::log::branch::BRANCH;
use crate::log::control::Purging;
use crate::log::lookup::Books;
use crate::log::{self, Lookup, Patience, Reader, Site, Tip};
use crate::peer::{self, Heard};
use crate::rpc::log_record::Kind;
use crate::types::{Epoch, Fault, FaultKind, Identity, Seq};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Serialize;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

/// What the newest records make of a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum StoredPhase {
    /// Nobody ever opened it.
    Empty,
    /// A writer has it, or ended without closing it.
    Open,
    /// Its last writer ended cleanly.
    Closed,
    /// Its removal has begun.
    Removing,
}

/// Who has it open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HeldBy {
    /// The machine, as it calls itself.
    pub host: String,
    /// The number of its `open`.
    pub record: Seq,
    /// When it opened it, by its own clock.
    pub since: Timestamp,
    /// What it says itself, asked now.
    pub says: Says,
}

/// The answer of a holder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", rename_all_fields = "snake_case", tag = "state")]
pub enum Says {
    /// It is mounted there.
    InUse,
    /// It is being unmounted there.
    Draining {
        /// In no commit yet.
        dirty_bytes: u64,
    },
    /// It has closed the log: since that was read.
    Closed,
    /// Nothing is known.
    Unknown {
        /// Why.
        why: String,
    },
}

impl From<Heard> for Says {
    fn from(heard: Heard) -> Self {
        match heard {
            Heard::Said(peer::Answer::InUse) => Self::InUse,
            Heard::Said(peer::Answer::Draining(dirty_bytes)) => Self::Draining { dirty_bytes },
            Heard::Said(peer::Answer::Closed) => Self::Closed,
            Heard::Said(peer::Answer::NotMine) => Self::Unknown { why: "it says that it does not hold it any more".to_owned() },
            Heard::Nowhere(why) => Self::Unknown { why: why.to_owned() },
            Heard::Unknown(why) => Self::Unknown { why },
        }
    }
}

/// How a volume stands in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StoredStatus {
    /// The volume's name.
    pub volume: String,
    /// Its incarnation (a uuid).
    pub incarnation: String,
    /// The store's URL.
    pub store: String,
    /// What the newest records make of it.
    pub phase: StoredPhase,
    /// The epoch in force; 0: none.
    pub epoch: Epoch,
    /// The newest commit; absent: there is none.
    pub head: Option<CommitInfo>,
    /// Absent: nobody has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held_by: Option<HeldBy>,
    /// Numbers of its branches: what fenced writers had not committed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub branches: Vec<Epoch>,
}

/// Whether it is safe.
#[must_use]
pub fn judge(status: &StoredStatus) -> Verdict {
    let restorable_to = status.head.as_ref().map(|head| head.cut);
    let everything = status
        .head
        .as_ref()
        .map_or_else(|| "nothing was ever written".to_owned(), |head| format!("everything is in commit {}", head.commit));
    let (safe, why) = match (status.phase, &status.held_by) {
        (StoredPhase::Removing, _) => (false, format!("it is being removed: `holdfast volume rm {} --undo` keeps it", status.volume)),
        (StoredPhase::Empty, _) => (true, "nothing was ever written".to_owned()),
        (StoredPhase::Closed, _) => (true, format!("closed: {everything}")),
        (StoredPhase::Open, holder) => {
            let host = holder.as_ref().map_or("an unknown host", |holder| holder.host.as_str());
            let why = match holder.as_ref().map(|holder| &holder.says) {
                Some(Says::InUse) => format!("in use on {host}: what it has not committed `holdfast status` tells there"),
                Some(Says::Draining { dirty_bytes }) => {
                    format!("{host} is unmounting it: {} are in no commit yet", show_size(*dirty_bytes))
                }
                Some(Says::Closed) => format!("{host} has just closed it: ask again"),
                Some(Says::Unknown { .. }) | None => {
                    format!("held by {host} and not closed: what it has not committed only it can tell, by `holdfast status` there")
                }
            };
            (false, why)
        }
    };
    Verdict { safe, restorable_to, why }
}

/// The answer with its verdict: what `--json` shows.
#[derive(Debug, Clone, Serialize)]
pub struct StoredReport {
    /// The answer.
    #[serde(flatten)]
    pub verdict: Verdict,
    /// What it was judged from.
    pub status: StoredStatus,
}

impl Answer for StoredReport {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        let Self { verdict, status } = self;
        let zone = TimeZone::system();
        writeln!(out, "{}  {}, not mounted here", if verdict.safe { "SAFE" } else { "NOT SAFE" }, status.volume)?;
        writeln!(out, "  {}", verdict.why)?;
        verdict.show_newest(status.head.as_ref(), &zone, out)?;
        if let Some(held) = &status.held_by {
            writeln!(out, "  held by         {}, epoch {}, since {}", held.host, status.epoch, at::show(held.since, &zone))?;
            if let Says::Unknown { why } = &held.says {
                writeln!(out, "  asked           {why}")?;
            }
        }
        if !status.branches.is_empty() {
            let (count, volume) = (status.branches.len(), &status.volume);
            writeln!(out, "  branches        {count}, in no commit: `holdfast branch list {volume}`")?;
        }
        writeln!(out, "  store           {}", status.store)
    }
}

/// Asks the store once. Does not wait for one that is away: a person who asks how things stand wants to hear that.
pub(super) async fn ask(context: &Context, volume: &Identity, key: &KeyArgs) -> Result<StoredReport, Fault> {
    let connected = unlock::connect(&context.settings, &context.env, None).await?;
    let unlocked = unlock::unlock(connected, &context.settings, key).await?;
    let store = unlocked.connected.url.to_string();
    let books = Books { store: unlocked.connected.store, env: context.env.clone(), sealer: unlocked.sealer };
    let absent = |why: &str| Fault::new(FaultKind::NotFound, format!("volume {volume} is not mounted here, and {why}"));
    let found = match log::lookup(&books, volume).await {
        Lookup::Found(found) => found,
        Lookup::Absent(_) => return Err(absent("there is none in the store")),
        Lookup::Damaged(why) => return Err(Fault::new(FaultKind::Damaged, format!("volume {volume} cannot be looked up: {why}"))),
        Lookup::Unknown(why) => return Err(Fault::new(FaultKind::Unknown, why)),
    };
    let patience = Patience { give_up: Some(Duration::ZERO), ..Patience::default() };
    let sealer = log::data_sealer(&books, &found.volume).await?;
    let site = Site::new(Arc::clone(&books.store), books.env.clone(), sealer, found.incarnation).with_patience(patience);
    let reader = Reader::new(site);
    let history::Standing { tip, chain } = history::standing(&reader).await?;
    let phase = match (chain.purging, tip.phase) {
        (Purging::Done, _) | (_, log::Phase::Fenced) => return Err(absent("it was removed from the store")),
        (Purging::Begun { .. }, _) => StoredPhase::Removing,
        (Purging::No, log::Phase::Empty) => StoredPhase::Empty,
        (Purging::No, log::Phase::Open) => StoredPhase::Open,
        (Purging::No, log::Phase::Closed) => StoredPhase::Closed,
    };
    let head = match history::newest(&reader).await {
        Ok(newest) => {
            let full = matches!(newest.what, history::What::Commit { full: true, .. });
            Some(CommitInfo { commit: newest.seq, cut: at::timestamp(newest.time), full })
        }
        Err(fault) if fault.kind == FaultKind::NotFound => None,
        Err(fault) => return Err(fault),
    };
    let held_by = held_by(&reader, &tip).await;
    let claimed = |claim: &crate::rpc::Claim| claim.name.parse().ok().filter(|_| claim.kind == BRANCH);
    let branches = chain.claims.values().filter_map(claimed).collect();
    let incarnation = crate::format::names::uuid(found.incarnation);
    let status = StoredStatus { volume: volume.to_string(), incarnation, store, phase, epoch: tip.epoch, head, held_by, branches };
    Ok(StoredReport { verdict: judge(&status), status })
}

/// Who has it open, and what he says when he is asked.
async fn held_by(reader: &Reader, tip: &Tip) -> Option<HeldBy> {
    let open = tip.open.as_ref().filter(|_| tip.phase == log::Phase::Open)?;
    let Some(Kind::Open(kind)) = &open.record.kind else { return None };
    let holder = kind.holder.clone().unwrap_or_default();
    let says = peer::ask(&holder, reader.site().sealer()).await.into();
    Some(HeldBy { host: holder.host, record: open.seq, since: at::timestamp(open.record.time), says })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(phase: StoredPhase) -> StoredStatus {
        StoredStatus {
            volume: "g/a".to_owned(),
            incarnation: "6f1c".to_owned(),
            store: "file:///s".to_owned(),
            phase,
            epoch: 3,
            head: Some(CommitInfo { commit: 17, cut: "2026-11-20T09:00:00Z".parse().unwrap(), full: true }),
            held_by: None,
            branches: Vec::new(),
        }
    }

    #[test]
    fn verdicts() {
        let says = |says| Some(HeldBy { host: "b".to_owned(), record: 12, since: Timestamp::UNIX_EPOCH, says });
        let held = |answer| StoredStatus { held_by: says(answer), ..stored(StoredPhase::Open) };
        let open = "held by b and not closed: what it has not committed only it can tell, by `holdfast status` there";
        let table = [
            (stored(StoredPhase::Closed), true, "closed: everything is in commit 17"),
            (StoredStatus { head: None, ..stored(StoredPhase::Closed) }, true, "closed: nothing was ever written"),
            (StoredStatus { head: None, ..stored(StoredPhase::Empty) }, true, "nothing was ever written"),
            (held(Says::Unknown { why: "silent".to_owned() }), false, open),
            (held(Says::InUse), false, "in use on b: what it has not committed `holdfast status` tells there"),
            (held(Says::Draining { dirty_bytes: 4096 }), false, "b is unmounting it: 4.00 KiB are in no commit yet"),
            (held(Says::Closed), false, "b has just closed it: ask again"),
            (stored(StoredPhase::Removing), false, "it is being removed: `holdfast volume rm g/a --undo` keeps it"),
        ];
        for (status, safe, why) in table {
            let verdict = judge(&status);
            assert_eq!((verdict.safe, verdict.why.as_str(), verdict.restorable_to), (safe, why, status.head.map(|head| head.cut)));
        }
    }
}
