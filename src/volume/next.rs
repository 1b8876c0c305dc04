//! A restore that a person asked for on the next mount is carried out before the mount's own `open` (see `in_place`).

use super::in_place::{InPlace, InPlaceParams, asked, restore_in_place, withdraw};
use super::open::{OpenParams, Report, set_aside};
use crate::cache::Cache;
use crate::log::Reader;
use crate::log::control::Chain;
use crate::rpc;
use crate::store;
use crate::types::{Fault, FaultKind};
use std::sync::Arc;

/// Carries it out, if `chain` asks for anything; `true`: the log has grown. Nobody else has the volume. The cache that was here is set aside: what it
/// had in no commit becomes a branch.
///
/// # Errors
/// As [`restore_in_place`]; [`FaultKind::Denied`] when these credentials may not write the control chain. What was asked for stays so.
pub(super) async fn carry_out(
    params: &OpenParams,
    reader: &Reader,
    chain: Option<Chain>,
    cache: &mut Option<Arc<Cache>>,
    report: &mut Report,
) -> Result<bool, Fault> {
    let OpenParams { books, identity, host, installation, boot_id, .. } = params;
    let Some(mut chain) = chain else { return Ok(false) };
    // Somebody may have been waited for since it was read.
    chain.refresh().await?;
    let Some((_, seq)) = asked(chain.state()) else { return Ok(false) };
    let holder = rpc::Holder { host: host.clone(), installation: installation.clone(), boot_id: boot_id.clone(), ..rpc::Holder::default() };
    let (volume, scratch) = (identity.clone(), params.cache.dir.clone());
    let in_place = InPlaceParams { books: books.clone(), volume, seq, holder, even_if_held_by: None, admitted: true, scratch };
    let told = |fault: Fault| {
        let why = "the restore that was asked for on this mount was not carried out";
        Fault::new(fault.kind, format!("{why} (`holdfast restore {identity} --withdraw` takes it back): {fault}"))
    };
    let InPlace { commit, before, .. } = restore_in_place(&in_place, &|_| {}).await.map_err(told)?;
    books.env.failpoint("volume.asked_after_commit");
    if let Some(cache) = cache.take() {
        cache.close()?;
        drop(cache);
        report.set_aside = Some(set_aside(&params.cache.dir, &books.env)?);
    }
    let now = store::now(&*books.store, &books.env).await?;
    match withdraw(reader, identity, now).await {
        // Somebody took it back while it was carried out: the same number undoes it.
        Err(fault) if fault.kind == FaultKind::NotFound => {}
        withdrawn => drop(withdrawn.map_err(told)?),
    }
    books.env.failpoint("volume.asked_after_release");
    tracing::warn!(volume = %identity, from = seq, commit, before, "the volume goes on from an older commit, as was asked for");
    let undo = format!("`holdfast restore {identity} --at {before} --in-place` undoes it");
    (params.tell)(&format!("{identity} goes on from commit {seq}, as was asked for: that is commit {commit} now; {undo}"));
    Ok(true)
}
