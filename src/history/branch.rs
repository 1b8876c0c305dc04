//! The branches of a life of a volume: which there are, and the end of one.
//!
//! | step of `drop_branch` | a death right after it |
//! |---|---|
//! | 1 `retire` lists the branch's objects, unless a volume was restored from it | `history.branch_after_retire`: nothing is deleted; the same command goes on |
//! | 2 its claim is released: nobody makes it anew | `history.branch_after_release`: as 1 |
//! | 3 the objects are deleted | as 1 |

use super::removal::each_object;
use crate::format::names;
use crate::log::branch::{Claimed, claimed, clone_reason, newest};
use crate::log::control::{Chain, Refused, State};
use crate::log::inventory::ObjectId;
use crate::log::{Hint, LogError, Reader};
use crate::rpc::control_record::Kind as Control;
use crate::rpc::{self, Release, Retire};
use crate::types::{Epoch, Fault, FaultKind, UnixNanos};
use std::collections::{BTreeMap, BTreeSet};

/// A branch as the store has it.
#[derive(Debug, Clone, PartialEq)]
pub struct Branch {
    /// Its number: the epoch of the fenced writer.
    pub epoch: Epoch,
    /// What the control chain says of it.
    pub claimed: Claimed,
    /// What it shows; `None`: it is not stored yet, or its deletion began.
    pub head: Option<rpc::Branch>,
    /// Bytes of its own objects.
    pub stored: u64,
}

/// The branches of a life, by number.
///
/// # Errors
/// The store's faults; damage by name.
pub async fn branches(reader: &Reader) -> Result<Vec<Branch>, Fault> {
    let chain = Chain::read(reader.site().clone()).await?;
    let mut sums: BTreeMap<Epoch, u64> = BTreeMap::new();
    let prefix = names::branches_prefix(reader.site().incarnation());
    each_object(reader, &prefix, &mut |meta| {
        if let Some((_, epoch, _)) = names::parse_branch(&meta.name) {
            *sums.entry(epoch).or_default() += meta.size;
        }
    })
    .await?;
    for name in &chain.state().branches {
        if let Ok(epoch) = name.parse()
            && matches!(claimed(chain.state(), epoch), Claimed::By(_))
        {
            sums.entry(epoch).or_default();
        }
    }
    let mut found = Vec::new();
    for (epoch, stored) in sums {
        let head = newest(reader.site(), epoch).await?.map(|(_, head)| head);
        found.push(Branch { epoch, claimed: claimed(chain.state(), epoch), head, stored });
    }
    Ok(found)
}

/// Ends a branch: what is in it is gone. Gives the number of objects that were deleted.
///
/// # Errors
/// [`FaultKind::NotFound`]: there is none; [`FaultKind::Busy`]: a volume was restored from it, and reads its packs; the store's faults:
/// then the same call goes on.
pub async fn drop_branch(reader: &Reader, epoch: Epoch, author: &str, now: UnixNanos) -> Result<u64, Fault> {
    let (site, mut objects) = (reader.site(), BTreeSet::new());
    let mut chain = Chain::read_for_gc(site.clone()).await?;
    let prefix = names::branch(site.incarnation(), epoch, "");
    each_object(reader, &prefix, &mut |meta| {
        objects.insert(meta.name);
    })
    .await?;
    if objects.is_empty() && !matches!(claimed(chain.state(), epoch), Claimed::By(_)) {
        return Err(Fault::new(FaultKind::NotFound, format!("there is no branch {epoch}; `holdfast branch list` lists them")));
    }
    let read_log_to = reader.tip(Hint::default()).await?.seq;
    let retire = |state: &State| {
        let clone = state.claims.iter().find(|(_, claim)| claim.reason == clone_reason(epoch));
        if let Some((number, claim)) = clone {
            return Err(Refused::Held { claim: *number, seq: claim.seq, kind: claim.kind.clone(), name: claim.name.clone() });
        }
        let objects: Vec<String> = objects.iter().filter(|name| !is_retired(state, name)).cloned().collect();
        if objects.is_empty() {
            return Err(Refused::Already);
        }
        Ok(Control::Retire(Retire { seqs: Vec::new(), objects, moved: Vec::new(), read_log_to }))
    };
    match chain.append(author, now, &retire).await {
        Ok(_) | Err(LogError::Control(Refused::Already)) => {}
        Err(LogError::Control(Refused::Held { name, .. })) => {
            let why = format!("volume {name} was restored from branch {epoch} and reads its data: remove {name} first");
            return Err(Fault::new(FaultKind::Busy, why));
        }
        Err(error) => return Err(error.into()),
    }
    site.env().failpoint("history.branch_after_retire");
    if let Claimed::By(claim) = claimed(chain.state(), epoch) {
        chain.append(author, now, &|_| Ok(Control::Release(Release { claim }))).await?;
    }
    site.env().failpoint("history.branch_after_release");
    for name in &objects {
        site.delete(name).await?;
    }
    Ok(objects.len() as u64)
}

fn is_retired(state: &State, name: &str) -> bool {
    ObjectId::parse(name).is_some_and(|(_, id)| state.retired_objects.contains(&id))
}
