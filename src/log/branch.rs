//! Branches: what a fenced writer had not committed, beside the log (protocol.md 1 to 3; docs/protocol-notes.md 4 and 26).
//!
//! A branch is the first number of its writer's epoch; it stands on the last record of that epoch that its cache knows to be in the log.
//! A claim of kind `branch` in the control chain holds that record, and says for ever that the epoch has its branch: when the claim is
//! released, a person has dropped the branch, and nobody makes it anew.

use super::control::{Chain, Refused, State};
use super::{At, LogError, Reader, Site};
use crate::format::{branch, names};
use crate::rpc::control_record::Kind;
use crate::rpc::{Branch, Claim};
use crate::types::{Epoch, Head, Intent, Seq, UnixNanos};

/// The kind of claim that holds the base of a branch.
pub const BRANCH: &str = "branch";

/// What a claim of a clone says that is made of the branch of `epoch`: it needs the packs of the branch.
#[must_use]
pub fn clone_reason(epoch: Epoch) -> String {
    format!("restore of branch {epoch}")
}

/// What the control chain says of a branch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claimed {
    /// Nobody has claimed its base.
    Never,
    /// This record holds its base.
    By(u64),
    /// It was claimed and released: a person dropped it.
    Dropped,
}

/// What `state` says of the branch of `epoch`.
#[must_use]
pub fn claimed(state: &State, epoch: Epoch) -> Claimed {
    let name = epoch.to_string();
    let ours = state.claims.iter().find(|(_, claim)| claim.kind == BRANCH && claim.name == name);
    match ours {
        Some((number, _)) => Claimed::By(*number),
        None if state.branches.contains(&name) => Claimed::Dropped,
        None => Claimed::Never,
    }
}

/// Claims the base of a branch, unless that was done before. `now` is the store's clock.
///
/// # Errors
/// [`LogError::Control`]: the base was retired, or the volume removed; the store does not answer, or these credentials may not.
pub async fn claim(chain: &mut Chain, author: &str, now: UnixNanos, epoch: Epoch, seq: Seq) -> Result<Claimed, LogError> {
    let claim = Claim { seq, kind: BRANCH.to_owned(), name: epoch.to_string(), reason: "fenced".to_owned(), expires: 0 };
    let decide = |state: &State| match claimed(state, epoch) {
        Claimed::Never => Ok(Kind::Claim(claim.clone())),
        Claimed::By(_) | Claimed::Dropped => Err(Refused::Already),
    };
    match chain.append(author, now, &decide).await {
        Ok(number) => Ok(Claimed::By(number)),
        Err(LogError::Control(Refused::Already)) => Ok(claimed(chain.state(), epoch)),
        Err(error) => Err(error),
    }
}

/// The record on which the branch of a cache stands: its head, or the commit that it was about to put, when that is in the log. What such a
/// commit froze is still dirty in the cache, and so in the branch once more: the same bytes over the same bytes.
///
/// # Errors
/// [`LogError::Retired`], or damage by name: the cache's head is not in this log. The store does not answer.
pub async fn base(reader: &Reader, head: Head, intent: Option<&Intent>) -> Result<Head, LogError> {
    if let Some(intent) = intent.filter(|intent| intent.seq == head.seq + 1)
        && let At::Record(record) = reader.at(intent.seq).await?
        && record.hash == intent.hash
    {
        return Ok(Head { seq: intent.seq, hash: intent.hash, epoch: intent.epoch });
    }
    match reader.at(head.seq).await? {
        At::Record(record) if record.hash == head.hash => Ok(head),
        At::Absent => Err(LogError::Retired { what: format!("record {}, on which this cache stands,", head.seq) }),
        At::Record(_) | At::Void(_) => {
            Err(LogError::damaged(reader.site().record_name(head.seq), "it is not the record that this cache stands on"))
        }
    }
}

/// The head in force of the branch of `epoch`, and its number; `None`: none is stored.
///
/// # Errors
/// The store does not answer, or the object is damaged.
pub async fn newest(site: &Site, epoch: Epoch) -> Result<Option<(u64, Branch)>, LogError> {
    let mut found = None;
    // They are numbered without a gap, and few: one, and one more for each time that something was written after the fence.
    for n in 1.. {
        let name = names::branch_head(site.incarnation(), epoch, n);
        let Some(bytes) = site.get(&name).await? else { break };
        found = Some((n, branch::decode(&bytes, site.sealer(), &name).map_err(LogError::undecodable)?));
    }
    Ok(found)
}
