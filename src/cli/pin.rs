//! `holdfast pin add|list|rm`: commits that stay for a reason, or for a time.

use super::at;
use super::context::{Answer, Context};
use super::exit::Exit;
use super::reader::{Reading, VolumeArgs};
use super::unlock::KeyArgs;
use crate::history::snapshot::{PIN, pin, unclaim};
use crate::log::control::Chain;
use crate::policy::parse_duration;
use crate::rpc::Claim;
use crate::store;
use crate::types::{Fault, FaultKind, Identity, Seq};
use crate::volume::AUTHOR;
use clap::{Args, Subcommand};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Serialize;
use std::io::{self, Write};
use std::time::Duration;

/// What to do with pins.
#[derive(Debug, Subcommand)]
pub enum PinCommand {
    /// Keep a commit
    Add(AddArgs),
    /// List the pins of a volume
    List(VolumeArgs),
    /// Take a pin out; its commit goes when the rules say so
    Rm(RmArgs),
}

/// Which commit, why, and for how long.
#[derive(Debug, Args)]
pub struct AddArgs {
    /// The volume
    #[arg(value_name = "VOLUME", value_parser = Identity::parse)]
    volume: Identity,
    /// The commit: a number, a time, a snapshot [default: the newest]
    #[arg(long, value_name = "WHEN")]
    at: Option<String>,
    /// Why it is kept
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// For how long, such as `30d` [default: until it is taken out]
    #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
    for_time: Option<Duration>,
    #[command(flatten)]
    key: KeyArgs,
}

fn duration(text: &str) -> Result<Duration, String> {
    let found = parse_duration(text).filter(|duration| !duration.is_zero());
    found.ok_or_else(|| "a time is a whole number and s, min, h or d, such as `30d`".to_owned())
}

/// Which pin.
#[derive(Debug, Args)]
pub struct RmArgs {
    /// The volume
    #[arg(value_name = "VOLUME", value_parser = Identity::parse)]
    volume: Identity,
    /// The pin's number, as `pin list` shows it
    #[arg(value_name = "PIN")]
    pin: u64,
    #[command(flatten)]
    key: KeyArgs,
}

#[derive(Serialize)]
struct Listed {
    volume: String,
    pins: Vec<Pinned>,
}

#[derive(Serialize)]
struct Pinned {
    pin: u64,
    commit: Seq,
    reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<Timestamp>,
}

impl Pinned {
    fn new(pin: u64, claim: &Claim) -> Self {
        let until = (claim.expires != 0).then(|| at::timestamp(claim.expires));
        Self { pin, commit: claim.seq, reason: claim.reason.clone(), until }
    }

    fn line(&self) -> String {
        let until = self.until.map_or_else(String::new, |until| format!(", until {}", at::show(until, &TimeZone::system())));
        format!("pin {}: commit {}{until}: {}", self.pin, self.commit, self.reason.escape_debug())
    }
}

impl Answer for Listed {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        if self.pins.is_empty() {
            return writeln!(out, "{} has no pins.", self.volume);
        }
        self.pins.iter().try_for_each(|pinned| writeln!(out, "{}", pinned.line()))
    }
}

#[derive(Serialize)]
struct One {
    volume: String,
    #[serde(flatten)]
    pinned: Pinned,
}

impl Answer for One {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{}", self.pinned.line())
    }
}

#[derive(Serialize)]
struct Removed {
    volume: String,
    pin: u64,
}

impl Answer for Removed {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "Pin {} of {} is taken out.", self.pin, self.volume)
    }
}

pub(super) fn run(context: &Context, command: PinCommand) -> Result<Exit, Fault> {
    match command {
        PinCommand::Add(args) => context.answer(&context.run(add(context, &args))?)?,
        PinCommand::List(args) => context.answer(&context.run(list(context, &args))?)?,
        PinCommand::Rm(args) => context.answer(&context.run(remove(context, &args))?)?,
    }
    Ok(Exit::Done)
}

async fn add(context: &Context, args: &AddArgs) -> Result<One, Fault> {
    let reading = Reading::start(context, &args.volume, &args.key).await?;
    let seq = reading.resolve(context, args.at.as_deref()).await?.0.seq;
    let now = store::now(&*reading.books.store, &context.env).await?;
    let expires = args.for_time.map_or(0, |time| now.saturating_add(i64::try_from(time.as_nanos()).unwrap_or(i64::MAX)));
    let number = pin(&reading.reader, seq, &args.reason, expires, AUTHOR, now).await?;
    let claim = Claim { seq, reason: args.reason.clone(), expires, ..Claim::default() };
    Ok(One { volume: args.volume.to_string(), pinned: Pinned::new(number, &claim) })
}

async fn list(context: &Context, args: &VolumeArgs) -> Result<Listed, Fault> {
    let reading = Reading::start(context, &args.volume, &args.key).await?;
    let chain = Chain::read(reading.reader.site().clone()).await?;
    let pins = chain.state().claims.iter().filter(|(_, claim)| claim.kind == PIN);
    Ok(Listed { volume: args.volume.to_string(), pins: pins.map(|(number, claim)| Pinned::new(*number, claim)).collect() })
}

async fn remove(context: &Context, args: &RmArgs) -> Result<Removed, Fault> {
    let reading = Reading::start(context, &args.volume, &args.key).await?;
    let chain = Chain::read(reading.reader.site().clone()).await?;
    if chain.state().claims.get(&args.pin).is_none_or(|claim| claim.kind != PIN) {
        let why = format!("volume {} has no pin {}; `holdfast pin list` lists them", args.volume, args.pin);
        return Err(Fault::new(FaultKind::NotFound, why));
    }
    let now = store::now(&*reading.books.store, &context.env).await?;
    unclaim(&reading.reader, args.pin, AUTHOR, now).await?;
    Ok(Removed { volume: args.volume.to_string(), pin: args.pin })
}
