//! `holdfast gc VOLUME|--all`: deletes what no kept commit needs. No commit is retired by it.

use super::context::{Answer, Context};
use super::exit::{self, Exit};
use super::reader::Reading;
use super::unlock::KeyArgs;
use super::volume::live_volumes;
use crate::config::show_size;
use crate::history::{Sweeping, Swept, sweep};
use crate::store;
use crate::types::{Fault, Identity};
use crate::volume::AUTHOR;
use clap::Args;
use serde::Serialize;
use std::io::{self, Write};

/// Which volumes.
#[derive(Debug, Clone, Args)]
pub struct VolumesArgs {
    /// The volume
    #[arg(value_name = "VOLUME", value_parser = Identity::parse, required_unless_present = "all")]
    pub(super) volume: Option<Identity>,
    /// Every volume of the store
    #[arg(long, conflicts_with = "volume")]
    pub(super) all: bool,
    #[command(flatten)]
    pub(super) key: KeyArgs,
}

/// Which volumes, and whether it is meant.
#[derive(Debug, Args)]
pub struct GcArgs {
    #[command(flatten)]
    of: VolumesArgs,
    /// Say what would be deleted, and delete nothing
    #[arg(long)]
    dry_run: bool,
}

/// What was done to one volume.
#[derive(Serialize)]
pub(super) struct Done {
    volume: String,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    dry_run: bool,
    /// Records that were retired.
    retired: u64,
    /// Commits that are left.
    kept: u64,
    /// Objects that were deleted, and their bytes.
    deleted: u64,
    bytes: u64,
    /// Records that were deleted.
    freed: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) snapshots: Vec<String>,
}

impl Done {
    pub(super) fn new(volume: &Identity, swept: &Swept, dry_run: bool) -> Self {
        let Swept { retired, kept, objects, bytes, freed } = *swept;
        Self { volume: volume.to_string(), dry_run, retired, kept, deleted: objects, bytes, freed, snapshots: Vec::new() }
    }

    pub(super) fn line(&self) -> String {
        let Self { volume, retired, kept, deleted, freed, .. } = self;
        let made = self.snapshots.iter().map(|name| format!("snapshot {name}; ")).collect::<String>();
        let (would, records) = if self.dry_run { (" would be", String::new()) } else { ("", format!(" and {freed} records")) };
        format!(
            "{volume}: {made}{retired} records{would} retired, {kept} commits kept, {deleted} objects ({}){records}{would} deleted",
            show_size(self.bytes)
        )
    }
}

impl Answer for Done {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{}", self.line())
    }
}

/// What was done to each volume.
#[derive(Serialize)]
struct Each {
    volumes: Vec<Outcome>,
}

/// One volume: what was done, or why not.
#[derive(Serialize)]
#[serde(untagged)]
enum Outcome {
    Done(Done),
    Failed { volume: String, error: String, exit_code: u8 },
}

impl Outcome {
    fn failed(volume: &Identity, fault: &Fault) -> Self {
        Self::Failed { volume: volume.to_string(), error: fault.to_string(), exit_code: exit::code(fault.kind) }
    }
}

impl Answer for Each {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        for outcome in &self.volumes {
            match outcome {
                Outcome::Done(done) => writeln!(out, "{}", done.line())?,
                Outcome::Failed { volume, error, .. } => writeln!(out, "{volume}: failed: {error}")?,
            }
        }
        Ok(())
    }
}

impl Each {
    /// The first failure decides: a cron job must see it, and the other volumes had their turn.
    fn exit(&self) -> Exit {
        let failed = self.volumes.iter().find_map(|outcome| match outcome {
            Outcome::Failed { exit_code, .. } => Some(*exit_code),
            Outcome::Done(_) => None,
        });
        failed.map_or(Exit::Done, Exit::Code)
    }
}

/// The volumes that are meant, by name.
async fn volumes(context: &Context, args: &VolumesArgs) -> Result<Vec<Identity>, Fault> {
    match &args.volume {
        Some(volume) => Ok(vec![volume.clone()]),
        None => live_volumes(context, &args.key).await,
    }
}

/// Does its work on each volume that is meant, and answers with what came of it. With `--all` a failure keeps no other volume from its turn.
pub(super) fn on_each(context: &Context, args: &VolumesArgs, work: impl AsyncFn(&Identity) -> Result<Done, Fault>) -> Result<Exit, Fault> {
    let each = context.run(async {
        let mut each = Each { volumes: Vec::new() };
        for volume in volumes(context, args).await? {
            each.volumes.push(match work(&volume).await {
                Ok(done) => Outcome::Done(done),
                Err(fault) if args.all => Outcome::failed(&volume, &fault),
                Err(fault) => return Err(fault),
            });
        }
        Ok(each)
    })?;
    context.answer(&each)?;
    Ok(each.exit())
}

pub(super) fn run(context: &Context, args: &GcArgs) -> Result<Exit, Fault> {
    on_each(context, &args.of, async |volume| one(context, volume, args).await)
}

async fn one(context: &Context, volume: &Identity, args: &GcArgs) -> Result<Done, Fault> {
    let reading = Reading::start(context, volume, &args.of.key).await?;
    let now = store::now(&*reading.books.store, &context.env).await?;
    let sweeping = Sweeping { rules: None, planned: None, dry_run: args.dry_run, author: AUTHOR, now };
    let swept = sweep(&reading.objects, &reading.reader, &sweeping).await?;
    Ok(Done::new(volume, &swept, args.dry_run))
}
