//! How anything leaves the store: listed by a stored `retire` first, then deleted.

use crate::log::control::{Chain, Refused, State};
use crate::log::inventory::ObjectId;
use crate::log::{LogError, Site};
use crate::rpc::Retire;
use crate::rpc::control_record::Kind as Control;
use crate::types::{Fault, Seq, UnixNanos};
use futures::{StreamExt, TryStreamExt};

/// Objects that one `retire` record lists: each name has about a hundred bytes, a record at most 4 MiB.
const OBJECTS_AT_ONCE: usize = 10_000;
/// Numbers that one lists: at most ten bytes each, together with the objects below 4 MiB.
const SEQS_AT_ONCE: usize = 200_000;
/// Requests side by side.
const SIDE_BY_SIDE: usize = 16;

/// What to retire.
#[derive(Debug)]
pub(super) struct Retiring {
    pub(super) seqs: Vec<Seq>,
    pub(super) objects: Vec<ObjectId>,
    /// How far the log was read.
    pub(super) h: Seq,
}

/// Appends as many `retire` records as it takes, the numbers first: once a commit is retired nobody can claim it, and what only it needs may
/// go. `allowed` is asked before each, with what the chain says then.
pub(super) async fn retire(
    chain: &mut Chain,
    site: &Site,
    (author, now): (&str, UnixNanos),
    retiring: &Retiring,
    allowed: &(dyn Fn(&State) -> Result<(), Refused> + Sync),
) -> Result<(), LogError> {
    let mut records: Vec<Retire> = Vec::new();
    let record = || Retire { seqs: Vec::new(), objects: Vec::new(), moved: Vec::new(), read_log_to: retiring.h };
    records.extend(retiring.seqs.chunks(SEQS_AT_ONCE).map(|seqs| Retire { seqs: seqs.to_vec(), ..record() }));
    for (n, ids) in retiring.objects.chunks(OBJECTS_AT_ONCE).enumerate() {
        let names = ids.iter().map(|id| id.name(site.incarnation())).collect();
        match records.last_mut().filter(|_| n == 0) {
            Some(last) => last.objects = names,
            None => records.push(Retire { objects: names, ..record() }),
        }
    }
    for retire in records {
        let decide = |state: &State| allowed(state).map(|()| Control::Retire(retire.clone()));
        chain.append(author, now, &decide).await?;
    }
    Ok(())
}

/// Deletes objects that stored records list. `told` hears of each how many are gone.
pub(super) async fn remove(site: &Site, objects: &[ObjectId], told: &(dyn Fn(u64) + Sync)) -> Result<u64, Fault> {
    let mut gone = 0;
    let deletion = |id: &ObjectId| {
        let name = id.name(site.incarnation());
        async move { site.delete(&name).await }
    };
    let mut deletions = futures::stream::iter(objects).map(deletion).buffer_unordered(SIDE_BY_SIDE);
    while let Some(()) = deletions.try_next().await? {
        gone += 1;
        told(gone);
        site.env().failpoint("history.in_deletion");
    }
    Ok(gone)
}
