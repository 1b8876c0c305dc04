//! `holdfast janitor run [VOLUME|--all]`: snapshots that are due, retention and gc, in one command for cron.

use super::context::Context;
use super::exit::Exit;
use super::gc::{Done, VolumesArgs, on_each};
use super::reader::Reading;
use super::retention::rules;
use crate::history::snapshot::{self, Naming, Wanted};
use crate::history::{Sweeping, sweep};
use crate::log::control::Chain;
use crate::policy::retention::Rules;
use crate::store;
use crate::types::{Fault, FaultKind, Identity, UnixNanos};
use clap::Subcommand;

/// What a janitor does.
#[derive(Debug, Subcommand)]
pub enum JanitorCommand {
    /// Make the snapshots that are due, retire what the rules do not keep, delete what nothing needs
    Run(VolumesArgs),
}

/// Stands in the control records.
const AUTHOR: &str = "janitor";

pub(super) fn run(context: &Context, command: JanitorCommand) -> Result<Exit, Fault> {
    let JanitorCommand::Run(args) = command;
    let rules = rules(context)?;
    on_each(context, &args, async |volume| one(context, volume, &args, rules).await)
}

async fn snapshot_of(reading: &Reading, name: &str, schedule: &str, now: UnixNanos) -> Result<(), Fault> {
    let newest = snapshot::newest_full(&reading.reader).await?;
    let naming = Naming { name, seq: newest.seq, wanted: Wanted::Schedule(schedule) };
    snapshot::create(&reading.reader, naming, AUTHOR, now).await.map(drop)
}

async fn one(context: &Context, volume: &Identity, args: &VolumesArgs, rules: &Rules) -> Result<Done, Fault> {
    let reading = Reading::start(context, volume, &args.key).await?;
    let now = store::now(&*reading.books.store, &context.env).await?;
    let chain = Chain::read(reading.reader.site().clone()).await?;
    let mut made = Vec::new();
    if let Some((name, schedule)) = snapshot::due(chain.state(), rules.snapshot, rules, now) {
        match snapshot_of(&reading, &name, schedule, now).await {
            Ok(()) => made.push(name),
            // Another janitor was faster, or there is nothing to name yet.
            Err(fault) if matches!(fault.kind, FaultKind::Exists | FaultKind::NotFound) => {}
            Err(fault) => return Err(fault),
        }
    }
    let sweeping = Sweeping { rules: Some(rules), planned: None, dry_run: false, author: AUTHOR, now };
    let swept = sweep(&reading.objects, &reading.reader, &sweeping).await?;
    // Of whoever may not delete: a controller, mostly.
    match store::sweep_clocks(&*reading.books.store, now).await {
        Ok(removed) => tracing::debug!(removed, "objects that had asked for the time"),
        Err(error) => tracing::warn!(%error, "objects that had asked for the time stay, below probe/"),
    }
    let mut done = Done::new(volume, &swept, false);
    done.snapshots = made;
    Ok(done)
}
