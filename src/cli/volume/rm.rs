//! `holdfast volume rm VOLUME`: the end of a life of a volume, in two steps with a grace between them.

use crate::cli::at;
use crate::cli::context::{Answer, Context};
use crate::cli::exit::Exit;
use crate::cli::reader::Reading;
use crate::cli::unlock::KeyArgs;
use crate::config::show_size;
use crate::history::{self, Standing};
use crate::log::control::{Chain, Purging};
use crate::log::lookup::{Found, Lookup, earlier, lookup};
use crate::log::{self, Phase, Reader, Site};
use crate::policy::parse_duration;
use crate::rpc::log_record::Kind;
use crate::store;
use crate::types::{Fault, FaultKind, Identity, UnixNanos};
use crate::volume::{AUTHOR, CLONE, release};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Serialize;
use std::io::{self, BufRead, Write};
use std::sync::Arc;
use std::time::Duration;

/// What to remove, and what a person says about it.
#[derive(Debug, Args)]
pub struct RmArgs {
    /// The volume
    #[arg(value_name = "VOLUME", value_parser = Identity::parse)]
    volume: Identity,
    /// Its name once more, instead of typing it when asked
    #[arg(long, value_name = "VOLUME", conflicts_with = "undo")]
    yes: Option<String>,
    /// How long the removal can be undone; nothing is deleted before
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = grace)]
    grace: Duration,
    /// Take a removal back that has begun and not ended
    #[arg(long)]
    undo: bool,
    /// The host that has the volume open and is gone for good: what it had not committed is lost
    #[arg(long, value_name = "HOST")]
    even_if_held_by: Option<String>,
    #[command(flatten)]
    key: KeyArgs,
}

fn grace(text: &str) -> Result<Duration, String> {
    parse_duration(text).ok_or_else(|| "a grace is a whole number and s, min, h or d, such as `24h`; `0s`: none".to_owned())
}

/// How far it got.
#[derive(Serialize)]
struct Answered {
    volume: String,
    /// `removing`, `removed` or `kept`.
    state: &'static str,
    /// When it can be ended, and not be undone any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<Timestamp>,
    /// Objects deleted by this command.
    deleted: u64,
}

impl Answer for Answered {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        let Self { volume, until, deleted, .. } = self;
        match (self.state, until) {
            ("kept", _) => writeln!(out, "{volume} is kept."),
            ("removed", _) => writeln!(out, "{volume} is removed; {deleted} objects were deleted."),
            (_, until) => {
                let until = until.map_or_else(String::new, |until| at::show(until, &TimeZone::system()));
                writeln!(out, "{volume} is being removed; nothing is deleted yet, and nobody can mount it to write.")?;
                writeln!(out, "Until {until}: `holdfast volume rm {volume} --undo` keeps it. After that: the same command again ends it.")
            }
        }
    }
}

/// What a sweep did.
struct Swept {
    deleted: u64,
    /// There was nothing left to do.
    done_before: bool,
}

/// One life of the volume.
struct Life {
    found: Found,
    reader: Reader,
}

pub(super) fn run(context: &Context, args: &RmArgs) -> Result<Exit, Fault> {
    let answered = context.run(remove(context, args))?;
    context.answer(&answered)?;
    Ok(Exit::Done)
}

async fn remove(context: &Context, args: &RmArgs) -> Result<Answered, Fault> {
    let reading = Reading::start(context, &args.volume, &args.key).await?;
    let Lookup::Found(found) = lookup(&reading.books, &args.volume).await else {
        return Err(Fault::new(FaultKind::Unknown, format!("the store does not say any more whether there is a volume {}", args.volume)));
    };
    let now = store::now(&*reading.books.store, &context.env).await?;
    let mut left = 0;
    // Lives whose removal was cut short, and which a newer one followed.
    for number in 1..found.number {
        if let Some(found) = earlier(&reading.books, &args.volume, number).await? {
            let life = life(&reading, found).await?;
            if history::standing(&life.reader).await?.chain.purging == Purging::Done {
                left += sweep(context, &reading, &life, now).await?.deleted;
            }
        }
    }
    let life = life(&reading, found).await?;
    let standing = history::standing(&life.reader).await?;
    let answered = |state, until, deleted| Ok(Answered { volume: args.volume.to_string(), state, until, deleted });
    let until = |at: UnixNanos| at::timestamp(at.saturating_add(nanos(args.grace)));
    match (standing.chain.purging, args.undo) {
        (Purging::Begun { .. }, true) => {
            history::undo(&life.reader, AUTHOR, now).await?;
            answered("kept", None, left)
        }
        (_, true) => Err(Fault::new(FaultKind::Invalid, format!("no removal of volume {} is under way that could be undone", args.volume))),
        (Purging::Done, false) => match sweep(context, &reading, &life, now).await? {
            Swept { done_before: true, .. } if left == 0 => {
                Err(Fault::new(FaultKind::NotFound, format!("there is no volume {}: it was removed", args.volume)))
            }
            swept => answered("removed", None, left + swept.deleted),
        },
        (Purging::Begun { at, .. }, false) if !standing.chain.purge_due(now, nanos(args.grace)) => {
            answered("removing", Some(until(at)), left)
        }
        (purging, false) => {
            check(&reading, args, &standing).await?;
            confirm(context, args, &reading, &life, &standing).await?;
            if purging == Purging::No {
                history::begin(&life.reader, AUTHOR, now).await?;
                // From here on nobody opens it; somebody may have while the name was typed.
                if let Err(fault) = check(&reading, args, &history::standing(&life.reader).await?).await {
                    history::undo(&life.reader, AUTHOR, now).await?;
                    return Err(fault);
                }
            }
            if purging == Purging::No && !args.grace.is_zero() {
                return answered("removing", Some(until(now)), left);
            }
            history::end(&life.reader, AUTHOR, now, nanos(args.grace)).await?;
            let deleted = left + sweep(context, &reading, &life, now).await?.deleted;
            answered("removed", None, deleted)
        }
    }
}

fn nanos(duration: Duration) -> UnixNanos {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

async fn life(reading: &Reading, found: Found) -> Result<Life, Fault> {
    let sealer = log::data_sealer(&reading.books, &found.volume).await?;
    let site = Site::new(Arc::clone(&reading.books.store), reading.books.env.clone(), sealer, found.incarnation);
    Ok(Life { found, reader: Reader::new(site) })
}

/// What comes after the last point of return, as often as it takes: the fence, the deletion, the release of the origin.
async fn sweep(context: &Context, reading: &Reading, life: &Life, now: UnixNanos) -> Result<Swept, Fault> {
    history::end(&life.reader, AUTHOR, now, 0).await?;
    let bar = context.draws().then(|| {
        let style =
            ProgressStyle::with_template("{bar:30} {pos} of {len} objects deleted").unwrap_or_else(|_| ProgressStyle::default_bar());
        ProgressBar::new(0).with_style(style)
    });
    let told = |done, total| {
        if let Some(bar) = &bar {
            bar.set_length(total);
            bar.set_position(done);
        }
    };
    let deleted = history::delete(&life.reader, AUTHOR, now, &told).await;
    if let Some(bar) = &bar {
        bar.finish_and_clear();
    }
    let deleted = deleted?;
    let released = release_origin(reading, &life.found).await?;
    Ok(Swept { deleted, done_before: deleted == 0 && !released })
}

/// A clone that is gone needs its origin's commit no more.
async fn release_origin(reading: &Reading, found: &Found) -> Result<bool, Fault> {
    let Some(origin) = &found.volume.origin else { return Ok(false) };
    let sealer = log::data_sealer(&reading.books, &found.volume).await?;
    let Some(sealer) = sealer.origin() else { return Ok(false) };
    let Some(incarnation) = sealer.incarnation() else { return Ok(false) };
    let site = Site::new(Arc::clone(&reading.books.store), reading.books.env.clone(), sealer, incarnation);
    let mut chain = Chain::read(site).await?;
    if !chain.state().claims.get(&origin.claim).is_some_and(|claim| claim.kind == CLONE && claim.name == found.volume.identity) {
        return Ok(false);
    }
    release(&mut chain, &reading.books, origin.claim).await?;
    Ok(true)
}

/// Who stands in the way.
async fn check(reading: &Reading, args: &RmArgs, standing: &Standing) -> Result<(), Fault> {
    let volume = &args.volume;
    if let Some((uid, _)) = standing.chain.attached.first_key_value() {
        return Err(Fault::new(FaultKind::Busy, format!("volume {volume} is attached (claim {uid}): detach it first")));
    }
    if let Some(open) = standing.tip.open.as_ref().filter(|_| standing.tip.phase == Phase::Open) {
        let host = match &open.record.kind {
            Some(Kind::Open(open)) => open.holder.clone().unwrap_or_default().host,
            _ => String::new(),
        };
        if args.even_if_held_by.as_ref() != Some(&host) {
            return Err(Fault::new(
                FaultKind::Busy,
                format!(
                    "volume {volume} is held by host {host} (since record {}) and was not closed there; unmount it there, or, if that \
                     machine is gone for good, say so with --even-if-held-by {host}: what it had not committed is lost",
                    open.seq
                ),
            ));
        }
    }
    for (number, claim) in &standing.chain.claims {
        if claim.kind == CLONE && !is_stale(reading, *number, &claim.name).await? {
            return Err(Fault::new(
                FaultKind::Busy,
                format!(
                    "volume {} reads data of commit {} of {volume}: remove {} first (where there is none, its restore did not end: run that \
                     again)",
                    claim.name, claim.seq, claim.name
                ),
            ));
        }
        if claim.kind == CLONE {
            let mut chain = Chain::read(reading.reader.site().clone()).await?;
            release(&mut chain, &reading.books, *number).await?;
        }
    }
    Ok(())
}

/// A claim for a restore that can never end: its name means a volume that lives and came to be in another way.
async fn is_stale(reading: &Reading, number: u64, name: &str) -> Result<bool, Fault> {
    let Ok(identity) = Identity::parse(name) else { return Ok(false) };
    let Lookup::Found(there) = lookup(&reading.books, &identity).await else { return Ok(false) };
    let of = there.volume.origin.as_ref();
    if of.is_some_and(|of| of.claim == number && of.incarnation == *reading.reader.site().incarnation().as_bytes()) {
        return Ok(false);
    }
    let life = life(reading, there).await?;
    Ok(history::standing(&life.reader).await?.tip.phase != Phase::Fenced)
}

/// Says what will be lost, and wants the name typed.
async fn confirm(context: &Context, args: &RmArgs, reading: &Reading, life: &Life, standing: &Standing) -> Result<(), Fault> {
    let volume = args.volume.as_str();
    match &args.yes {
        Some(name) if name == volume => return Ok(()),
        Some(name) => {
            return Err(Fault::new(FaultKind::Invalid, format!("--yes {name} is not the name of the volume, {volume}: nothing was done")));
        }
        None => {}
    }
    let (objects, stored) = history::extent_of(&life.reader).await?;
    context.say(&format!(
        "All of {volume} will be lost: {} records, {objects} objects, {} in the store.",
        standing.tip.seq,
        show_size(stored)
    ));
    match history::newest(&reading.reader).await {
        Ok(newest) => {
            if let history::What::Commit { inodes, bytes, .. } = newest.what {
                let cut = at::show(at::timestamp(newest.time), &TimeZone::system());
                context.say(&format!(
                    "The newest commit is {} of {cut}: {inodes} files and directories, {}.",
                    newest.seq,
                    show_size(bytes)
                ));
            }
        }
        Err(fault) if fault.kind == FaultKind::NotFound => context.say("There is no commit in it."),
        Err(fault) => return Err(fault),
    }
    context.say("Type its name to remove it:");
    let mut line = String::new();
    let read = io::stdin().lock().read_line(&mut line);
    read.map_err(|error| Fault::with(FaultKind::Local, "standard input cannot be read", error))?;
    if line.trim() == volume {
        return Ok(());
    }
    Err(Fault::new(FaultKind::Invalid, format!("the name {volume} was not typed: nothing was done")))
}
