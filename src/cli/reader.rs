//! A commit of a volume, to be looked at without a mount: its metadata in a cache of its own, its data as it is read.

use super::at::{self, At, Resolved};
use super::before::{Before, before_change};
use super::context::Context;
use super::unlock::{self, KeyArgs};
use crate::cache::{Cache, CacheOptions, ReadOutcome};
use crate::history::{self, Entry, What};
use crate::log::Reader;
use crate::log::control::Chain;
use crate::log::lookup::Books;
use crate::store::Objects;
use crate::types::{Attr, Fault, FaultKind, Identity, Ino, ROOT, show_name};
use crate::volume::{HydrateMode, Moment, ReaderDir, RunOptions, Volume, reader_cache, reader_of};
use clap::Args;
use jiff::tz::TimeZone;
use std::sync::Arc;

/// Which volume.
#[derive(Debug, Args)]
pub struct VolumeArgs {
    /// The volume
    #[arg(value_name = "VOLUME", value_parser = Identity::parse)]
    pub(super) volume: Identity,
    #[command(flatten)]
    pub(super) key: KeyArgs,
}

/// The log of a volume that must exist.
#[derive(Debug)]
pub(super) struct Reading {
    pub(super) books: Books,
    pub(super) objects: Objects,
    pub(super) reader: Reader,
    pub(super) volume: Identity,
}

impl Reading {
    pub(super) async fn start(context: &Context, volume: &Identity, key: &KeyArgs) -> Result<Self, Fault> {
        let connected = unlock::connect(&context.settings, &context.env, None).await?;
        let unlocked = unlock::unlock(connected, &context.settings, key).await?;
        let books = Books { store: unlocked.connected.store, env: context.env.clone(), sealer: unlocked.sealer };
        let (objects, reader) = reader_of(&books, volume, &|why| context.say(&format!("waiting for the store: {why}"))).await?;
        Ok(Self { books, objects, reader, volume: volume.clone() })
    }

    /// The commit that `--at` means; without one the newest.
    pub(super) async fn resolve(&self, context: &Context, at: Option<&str>) -> Result<(Entry, Resolved), Fault> {
        let now = context.now();
        let asked = at.map(|text| at::parse(text, &now).map_err(|error| Fault::new(FaultKind::Invalid, error.to_string()))).transpose()?;
        let entry = match &asked {
            None => history::newest(&self.reader).await?,
            Some(asked) => find(&self.reader, &self.volume, asked).await?,
        };
        let resolved = Resolved::new(asked, entry.seq, at::timestamp(entry.time), !matches!(entry.what, What::Commit { full: false, .. }));
        Ok((entry, resolved))
    }
}

/// A moment of a volume by one of the two ways to say it, already looked at for what is typed wrong.
#[derive(Debug, Clone, Copy)]
pub(super) enum When<'a> {
    /// `--at`; without it the newest commit.
    At(Option<&'a str>),
    /// `--before-change`, of this path.
    BeforeChange(&'a [u8]),
}

impl Reading {
    /// The commit that is meant; which one that is, is told on standard error when anything was asked for.
    pub(super) async fn find(&self, context: &Context, when: When<'_>) -> Result<Entry, Fault> {
        let zone = TimeZone::system();
        match when {
            When::At(at) => {
                let (entry, resolved) = self.resolve(context, at).await?;
                if at.is_some() {
                    context.say(&resolved.line(&zone));
                }
                Ok(entry)
            }
            When::BeforeChange(path) => {
                let Before { entry, changed } = before_change(context, self, path).await?;
                let shown = |entry: &Entry| format!("commit {} of {}", entry.seq, at::show(at::timestamp(entry.time), &zone));
                let path = show_name(path);
                context.say(&format!("`{path}` last changed in {}; before that: {}", shown(&changed), shown(&entry)));
                Ok(entry)
            }
        }
    }
}

/// The commit that was asked for. What was retired is never shown, also while it still lies in the store.
///
/// # Errors
/// [`FaultKind::Stale`]: it was retired; [`FaultKind::NotFound`]: there is none.
pub(super) async fn find(reader: &Reader, volume: &Identity, asked: &At) -> Result<Entry, Fault> {
    let chain = Chain::read(reader.site().clone()).await?;
    let seq = match asked {
        At::Time(time) => {
            let time = i64::try_from(time.as_nanosecond()).unwrap_or(i64::MAX);
            return history::at_time(reader, &chain.state().retired_seqs, time).await;
        }
        At::Seq(seq) => *seq,
        At::Name(name) => history::snapshot::find(chain.state(), name)?.seq,
    };
    if chain.state().retired_seqs.contains(&seq) {
        let why = format!("commit {seq} of volume {volume} was retired; `holdfast history {volume}` lists those that are kept");
        return Err(Fault::new(FaultKind::Stale, why));
    }
    history::commit(reader, seq)
        .await?
        .ok_or_else(|| Fault::new(FaultKind::NotFound, format!("volume {volume} has no commit {seq}; `holdfast history` lists them")))
}

/// One commit's tree.
#[derive(Debug)]
pub(super) struct Tree {
    pub(super) volume: Arc<Volume>,
    // After the volume, whose files it has.
    _dir: ReaderDir,
}

impl Tree {
    pub(super) async fn open(context: &Context, reading: &Reading, moment: Moment) -> Result<Self, Fault> {
        let dir = reader_cache(&context.settings.cache_of(&reading.volume), context.env.random());
        let run = RunOptions { hydrate: HydrateMode::Metadata, ..RunOptions::default() };
        let volume = Volume::open_reader(&reading.books, &reading.volume, CacheOptions::new(&dir), moment, run, &|_| {}).await?;
        Ok(Self { volume, _dir: ReaderDir::at(&dir) })
    }

    pub(super) fn cache(&self) -> &Arc<Cache> {
        self.volume.cache()
    }

    /// The inode of a path.
    pub(super) fn find(&self, path: &[u8]) -> Result<Attr, Fault> {
        let mut ino = ROOT;
        for part in path.split(|byte| *byte == b'/').filter(|part| !part.is_empty()) {
            ino = match self.cache().view(|view| view.lookup(ino, part))? {
                Some((ino, _)) => ino,
                None => {
                    return Err(Fault::new(FaultKind::NotFound, format!("there is no `{}` in this commit", show_name(path))));
                }
            };
        }
        let attr = self.cache().view(|view| view.attr(ino))?;
        attr.ok_or_else(|| Fault::new(FaultKind::Damaged, format!("a name points to inode {ino}, which does not exist")))
    }

    /// Reads a file from `offset`, fetching what is not here; empty at its end. Called on a thread that may wait.
    pub(super) fn read(&self, ino: Ino, offset: u64, length: usize, out: &mut Vec<u8>) -> Result<(), Fault> {
        loop {
            match self.cache().read(ino, offset, length, out)? {
                ReadOutcome::Done => return Ok(()),
                ReadOutcome::Absent(ranges) => self.volume.fetch(ino, &ranges)?,
            }
        }
    }

    /// Ends it; nothing is left behind.
    pub(super) async fn close(self) -> Result<(), Fault> {
        self.volume.close().await
    }
}
