//! `holdfast restore VOLUME --at WHEN --to NEW|--in-place`: a new volume that begins with a commit of another, or the volume itself goes on
//! from an older commit.

use super::at::{self, At};
use super::context::{Answer, Context};
use super::drive;
use super::exit::Exit;
use super::reader::{Reading, When};
use super::unlock::KeyArgs;
use crate::config::show_size;
use crate::format::names;
use crate::history;
use crate::rpc;
use crate::store;
use crate::types::{Epoch, Fault, FaultKind, Identity, Seq};
use crate::volume::{InPlace, InPlaceParams, Restorable, RestoreParams, Restored, ask, restore, restore_in_place, withdraw};
use clap::{ArgGroup, Args};
use indicatif::ProgressBar;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Serialize;
use std::ffi::OsString;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

/// Which commit of which volume, and the name of the new one.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("moment").args(["at", "before_change"]))]
pub struct RestoreArgs {
    /// The volume that has the commit
    #[arg(value_name = "VOLUME", value_parser = Identity::parse)]
    volume: Identity,
    /// The commit: a number, an RFC 3339 time, `10:00`, `yesterday`, `2h ago` [default: the newest]
    #[arg(long, value_name = "WHEN")]
    at: Option<String>,
    /// Instead: the newest commit before this path last changed
    #[arg(long, value_name = "PATH", conflicts_with = "at")]
    before_change: Option<OsString>,
    /// The volume to make
    #[arg(long, value_name = "NEW", value_parser = Identity::parse, required_unless_present_any = ["in_place", "on_next_mount", "withdraw"])]
    to: Option<Identity>,
    /// Instead of a new volume one more commit of this one, with the tree of the older commit; nobody may have it mounted
    #[arg(long, conflicts_with = "to", requires = "moment")]
    in_place: bool,
    /// The same, carried out when the volume is next mounted: it may be mounted now
    #[arg(long, conflicts_with_all = ["to", "in_place"], requires = "moment")]
    on_next_mount: bool,
    /// Take back what was asked for with --on-next-mount
    #[arg(long, conflicts_with_all = ["to", "in_place", "on_next_mount", "moment"])]
    withdraw: bool,
    /// In place: the host that has the volume open and is gone for good
    #[arg(long, value_name = "HOST", requires = "in_place")]
    even_if_held_by: Option<String>,
    #[command(flatten)]
    key: KeyArgs,
}

/// A volume that was made from a commit or a branch of another.
#[derive(Serialize)]
pub(super) struct Made {
    volume: String,
    incarnation: String,
    commit: Seq,
    from: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    from_commit: Option<Seq>,
    #[serde(skip_serializing_if = "Option::is_none")]
    from_branch: Option<Epoch>,
    cut: Timestamp,
    inodes: u64,
    bytes: u64,
    uploaded: u64,
}

impl Answer for Made {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        let Self { volume, from, inodes, bytes, uploaded, .. } = self;
        let what = match (self.from_commit, self.from_branch) {
            (Some(commit), _) => format!("commit {commit}"),
            (None, branch) => format!("branch {}", branch.unwrap_or_default()),
        };
        writeln!(out, "{volume} is {what} of {from}, of {}.", at::show(self.cut, &TimeZone::system()))?;
        let (bytes, uploaded) = (show_size(*bytes), show_size(*uploaded));
        writeln!(out, "{inodes} files and directories, {bytes}; {uploaded} written, the data is shared with {from}.")
    }
}

/// A volume that goes on from an older commit.
#[derive(Serialize)]
struct Back {
    volume: String,
    commit: Seq,
    from_commit: Seq,
    cut: Timestamp,
    before: Seq,
    #[serde(skip_serializing_if = "Option::is_none")]
    pin: Option<u64>,
    inodes: u64,
    bytes: u64,
    uploaded: u64,
}

impl Answer for Back {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        let Self { volume, commit, from_commit, before, inodes, bytes, uploaded, .. } = self;
        let cut = at::show(self.cut, &TimeZone::system());
        if commit == before {
            return writeln!(out, "Commit {commit} of {volume} shows what commit {from_commit} of {cut} does: nothing is to be restored.");
        }
        writeln!(out, "{volume} goes on from commit {from_commit} of {cut}: that is commit {commit} now.")?;
        let (bytes, uploaded) = (show_size(*bytes), show_size(*uploaded));
        writeln!(out, "{inodes} files and directories, {bytes}; {uploaded} written, the data stays where it is.")?;
        let pin = self.pin.map_or_else(String::new, |pin| format!("; pin {pin} keeps it for 30 days"));
        writeln!(out, "Undone by `holdfast restore {volume} --at {before} --in-place`{pin}.")
    }
}

/// What is to happen on the next mount, or is not any more.
#[derive(Serialize)]
struct Asked {
    volume: String,
    from_commit: Seq,
    state: &'static str,
}

impl Answer for Asked {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        let Self { volume, from_commit, state } = self;
        match *state {
            "asked" => {
                writeln!(out, "{volume} goes back to commit {from_commit} when it is next mounted.")?;
                writeln!(out, "Until then `holdfast restore {volume} --withdraw` takes that back.")
            }
            _ => writeln!(out, "{volume} does not go back to commit {from_commit}."),
        }
    }
}

/// Records a restore for the next mount, or takes the record back.
async fn later(context: &Context, args: &RestoreArgs) -> Result<Asked, Fault> {
    let reading = Reading::start(context, &args.volume, &args.key).await?;
    let now = || store::now(&*reading.books.store, &context.env);
    let (from_commit, state) = if args.withdraw {
        (withdraw(&reading.reader, &reading.volume, now().await?).await?, "withdrawn")
    } else {
        let seq = resolve(context, &reading, args).await?;
        ask(&reading.reader, &reading.volume, seq, now().await?).await?;
        (seq, "asked")
    };
    Ok(Asked { volume: reading.volume.to_string(), from_commit, state })
}

pub(super) fn run(context: &Context, args: &RestoreArgs) -> Result<Exit, Fault> {
    let RestoreArgs { volume, to, .. } = args;
    if let Some(text) = &args.at {
        // What is typed wrong is said before the store is asked.
        at::parse(text, &context.now()).map_err(|error| Fault::new(FaultKind::Invalid, error.to_string()))?;
    }
    if to.as_ref() == Some(volume) {
        let why = format!("volume {volume} cannot be restored into itself: give the new one another name, or say --in-place");
        return Err(Fault::new(FaultKind::Invalid, why));
    }
    if args.on_next_mount || args.withdraw {
        context.answer(&context.run(later(context, args))?)?;
        return Ok(Exit::Done);
    }
    let Some(to) = to else {
        context.answer(&context.run(back(context, args))?)?;
        return Ok(Exit::Done);
    };
    let made = context.run(async {
        let reading = Reading::start(context, volume, &args.key).await?;
        let seq = resolve(context, &reading, args).await?;
        make(context, &reading, Restorable::Commit(seq), to).await
    })?;
    context.answer(&made)?;
    Ok(Exit::Done)
}

/// Makes one more commit of the volume.
async fn back(context: &Context, args: &RestoreArgs) -> Result<Back, Fault> {
    let reading = Reading::start(context, &args.volume, &args.key).await?;
    let seq = resolve(context, &reading, args).await?;
    let params = InPlaceParams {
        books: reading.books.clone(),
        volume: reading.volume.clone(),
        seq,
        holder: rpc::Holder { cache_id: Default::default(), ..drive::holder([0; 16]) },
        even_if_held_by: args.even_if_held_by.clone(),
        admitted: false,
        scratch: context.settings.cache_of(&reading.volume),
    };
    let made = restore_in_place(&params, &|why| context.say(&format!("waiting for the store: {why}"))).await?;
    let InPlace { commit, before, pin, cut, inodes, bytes, uploaded } = made;
    let (volume, cut) = (reading.volume.to_string(), at::timestamp(cut));
    Ok(Back { volume, commit, from_commit: seq, cut, before, pin, inodes, bytes, uploaded })
}

/// Makes the new volume, and shows that it goes on.
pub(super) async fn make(context: &Context, reading: &Reading, what: Restorable, to: &Identity) -> Result<Made, Fault> {
    let bar = context.draws().then(|| ProgressBar::new_spinner().with_message(format!("writing the metadata of {to}")));
    if let Some(bar) = &bar {
        bar.enable_steady_tick(Duration::from_millis(100));
    }
    let (books, holder) = (reading.books.clone(), drive::holder(context.env.random()));
    let params = RestoreParams { books, from: reading.volume.clone(), what, to: to.clone(), holder };
    let made = restore(&params, &|why| context.say(&format!("waiting for the store: {why}"))).await;
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    let Restored { incarnation, commit, cut, inodes, bytes, uploaded } = made?;
    let (from_commit, from_branch) = match what {
        Restorable::Commit(seq) => (Some(seq), None),
        Restorable::Branch(epoch) => (None, Some(epoch)),
    };
    let (volume, incarnation, from) = (to.to_string(), names::uuid(incarnation), reading.volume.to_string());
    Ok(Made { volume, incarnation, commit, from, from_commit, from_branch, cut: at::timestamp(cut), inodes, bytes, uploaded })
}

/// The commit that is meant; `now` means the newest. A time after it is refused: whether the volume changed since then only its holder knows.
async fn resolve(context: &Context, reading: &Reading, args: &RestoreArgs) -> Result<Seq, Fault> {
    if let Some(path) = &args.before_change {
        return Ok(reading.find(context, When::BeforeChange(path.as_bytes())).await?.seq);
    }
    let (entry, resolved) = reading.resolve(context, args.at.as_deref()).await?;
    let now = context.now();
    if let Some(text) = args.at.as_deref().filter(|text| text.trim() != "now")
        && let Ok(At::Time(time)) = at::parse(text, &now)
    {
        let newest = history::newest(&reading.reader).await?;
        if time > at::timestamp(newest.time) && entry.seq == newest.seq {
            return Err(Fault::new(
                FaultKind::NotFound,
                format!(
                    "{} is after the newest commit of volume {}, commit {} of {}: restore that one with --at {}",
                    at::show(time, now.time_zone()),
                    reading.volume,
                    newest.seq,
                    at::show(at::timestamp(newest.time), now.time_zone()),
                    newest.seq
                ),
            ));
        }
        context.say(&resolved.line(&TimeZone::system()));
    }
    Ok(entry.seq)
}
