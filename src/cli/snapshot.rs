//! `holdfast snapshot create|list|show|rm`: names for full commits.

use super::at;
use super::context::{Answer, Context};
use super::control::{Ask, Reply, ask, find};
use super::exit::Exit;
use super::reader::{Reading, VolumeArgs};
use super::target::Which;
use super::unlock::KeyArgs;
use crate::config::show_size;
use crate::history::snapshot::{self, Naming, Snapshot, Wanted};
use crate::history::{self, Entry, What};
use crate::log::control::Chain;
use crate::store;
use crate::types::{Fault, FaultKind, Identity, Seq};
use crate::volume::AUTHOR;
use clap::{Args, Subcommand};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Serialize;
use std::io::{self, Write};

/// What to do with snapshots.
#[derive(Debug, Subcommand)]
pub enum SnapshotCommand {
    /// Name a commit: a new one when the volume is mounted here, else the newest full one
    Create(CreateArgs),
    /// List the snapshots of a volume
    List(VolumeArgs),
    /// Show one snapshot
    Show(NameArgs),
    /// Take a name away; its commit goes when the rules say so
    Rm(NameArgs),
}

/// Which volume, and the name.
#[derive(Debug, Args)]
pub struct NameArgs {
    /// The volume
    #[arg(value_name = "VOLUME", value_parser = Identity::parse)]
    volume: Identity,
    /// The snapshot's name
    #[arg(value_name = "NAME")]
    name: String,
    #[command(flatten)]
    key: KeyArgs,
}

/// Which volume, the name, and of which commit.
#[derive(Debug, Args)]
pub struct CreateArgs {
    #[command(flatten)]
    of: NameArgs,
    /// An older commit: a number, a time, another snapshot
    #[arg(long, value_name = "WHEN")]
    at: Option<String>,
}

#[derive(Serialize)]
struct Listed {
    volume: String,
    snapshots: Vec<Shown>,
}

/// A snapshot with what its commit holds.
#[derive(Serialize)]
struct Shown {
    snapshot: String,
    commit: Seq,
    cut: Timestamp,
    inodes: u64,
    bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    schedule: Option<String>,
}

impl Shown {
    fn new(found: Snapshot, entry: &Entry) -> Self {
        let (inodes, bytes) = match entry.what {
            What::Commit { inodes, bytes, .. } => (inodes, bytes),
            _ => (0, 0),
        };
        Self { snapshot: found.name, commit: found.seq, cut: at::timestamp(entry.time), inodes, bytes, schedule: found.schedule }
    }

    fn line(&self) -> String {
        let (cut, size) = (at::show(self.cut, &TimeZone::system()), show_size(self.bytes));
        let schedule = self.schedule.as_deref().map_or_else(String::new, |schedule| format!(", {schedule}"));
        format!("{}: commit {} of {cut}, {} files and directories, {size}{schedule}", self.snapshot, self.commit, self.inodes)
    }
}

impl Answer for Listed {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        if self.snapshots.is_empty() {
            return writeln!(out, "{} has no snapshots.", self.volume);
        }
        self.snapshots.iter().try_for_each(|shown| writeln!(out, "{}", shown.line()))
    }
}

#[derive(Serialize)]
struct One {
    volume: String,
    #[serde(flatten)]
    shown: Shown,
}

impl Answer for One {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{}", self.shown.line())
    }
}

#[derive(Serialize)]
struct Removed {
    volume: String,
    snapshot: String,
    commit: Seq,
}

impl Answer for Removed {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{} is no snapshot of {} any more; commit {} goes when the rules say so.", self.snapshot, self.volume, self.commit)
    }
}

pub(super) fn run(context: &Context, command: SnapshotCommand) -> Result<Exit, Fault> {
    match command {
        SnapshotCommand::Create(args) => context.answer(&context.run(create(context, &args))?)?,
        SnapshotCommand::List(args) => context.answer(&context.run(list(context, &args))?)?,
        SnapshotCommand::Show(args) => context.answer(&context.run(show(context, &args))?)?,
        SnapshotCommand::Rm(args) => context.answer(&context.run(remove(context, &args))?)?,
    }
    Ok(Exit::Done)
}

async fn create(context: &Context, args: &CreateArgs) -> Result<One, Fault> {
    let NameArgs { volume, name, key } = &args.of;
    snapshot::check_name(name).map_err(|error| Fault::new(FaultKind::Invalid, error.to_string()))?;
    let reading = Reading::start(context, volume, key).await?;
    let entry = match &args.at {
        Some(text) => reading.resolve(context, Some(text)).await?.0,
        None => newest(context, &reading).await?,
    };
    if !matches!(entry.what, What::Commit { full: true, .. }) {
        let why = format!("commit {} does not show every tier at one instant: `holdfast flush` makes one that does", entry.seq);
        return Err(Fault::new(FaultKind::Invalid, why));
    }
    let now = store::now(&*reading.books.store, &context.env).await?;
    let naming = Naming { name, seq: entry.seq, wanted: Wanted::Command };
    let claim = snapshot::create(&reading.reader, naming, AUTHOR, now).await?;
    let found = Snapshot { name: name.clone(), claim, seq: entry.seq, schedule: None, of_claim: None };
    Ok(One { volume: volume.to_string(), shown: Shown::new(found, &entry) })
}

/// A commit of this moment where the volume is mounted here; else the newest full one in the store.
async fn newest(context: &Context, reading: &Reading) -> Result<Entry, Fault> {
    match find(&context.settings.run_dir, &Which::Volume(reading.volume.clone())).await {
        Ok(socket) => match ask(&socket, Ask::Flush, |_| {}).await? {
            Reply::Flushed(flushed) => {
                let entry = history::commit(&reading.reader, flushed.commit).await?;
                entry.ok_or_else(|| {
                    let why = format!(
                        "the mount's commit {} is not in this store: is {} mounted from another one?",
                        flushed.commit, reading.volume
                    );
                    Fault::new(FaultKind::NotFound, why)
                })
            }
            _ => Err(Fault::new(FaultKind::Unknown, "the driver answered something else: is it another version?")),
        },
        Err(fault) if fault.kind == FaultKind::NotFound => snapshot::newest_full(&reading.reader).await,
        Err(fault) => Err(fault),
    }
}

async fn list(context: &Context, args: &VolumeArgs) -> Result<Listed, Fault> {
    let reading = Reading::start(context, &args.volume, &args.key).await?;
    let chain = Chain::read(reading.reader.site().clone()).await?;
    let mut all = Vec::new();
    for found in snapshot::snapshots(chain.state()) {
        let entry = entry(&reading, found.seq).await?;
        all.push(Shown::new(found, &entry));
    }
    Ok(Listed { volume: args.volume.to_string(), snapshots: all })
}

async fn show(context: &Context, args: &NameArgs) -> Result<One, Fault> {
    let reading = Reading::start(context, &args.volume, &args.key).await?;
    let chain = Chain::read(reading.reader.site().clone()).await?;
    let found = snapshot::find(chain.state(), &args.name)?;
    let entry = entry(&reading, found.seq).await?;
    Ok(One { volume: args.volume.to_string(), shown: Shown::new(found, &entry) })
}

async fn remove(context: &Context, args: &NameArgs) -> Result<Removed, Fault> {
    let reading = Reading::start(context, &args.volume, &args.key).await?;
    let chain = Chain::read(reading.reader.site().clone()).await?;
    let found = snapshot::find(chain.state(), &args.name)?;
    let now = store::now(&*reading.books.store, &context.env).await?;
    snapshot::unclaim(&reading.reader, found.claim, AUTHOR, now).await?;
    Ok(Removed { volume: args.volume.to_string(), snapshot: found.name, commit: found.seq })
}

async fn entry(reading: &Reading, seq: Seq) -> Result<Entry, Fault> {
    let missing = || Fault::new(FaultKind::Damaged, format!("commit {seq} is missing from the store, though a claim holds it"));
    history::commit(&reading.reader, seq).await?.ok_or_else(missing)
}
