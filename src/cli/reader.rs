//! A commit of a volume, to be looked at without a mount: its metadata in a cache of its own, its data as it is read.

use super::at::{self, At, Resolved};
use super::context::Context;
use super::unlock::{self, KeyArgs};
use crate::cache::{Cache, CacheOptions, ReadOutcome};
use crate::history::{self, Entry};
use crate::log::Reader;
use crate::log::lookup::Books;
use crate::types::{Attr, Fault, FaultKind, Identity, Ino, ROOT};
use crate::volume::{HydrateMode, Moment, RunOptions, Volume, reader_cache, reader_of};
use std::path::PathBuf;
use std::sync::Arc;

/// The log of a volume that must exist.
#[derive(Debug)]
pub(super) struct Reading {
    pub(super) books: Books,
    pub(super) reader: Reader,
    pub(super) volume: Identity,
}

impl Reading {
    pub(super) async fn start(context: &Context, volume: &Identity, key: &KeyArgs) -> Result<Self, Fault> {
        let connected = unlock::connect(&context.settings, &context.env, None).await?;
        let unlocked = unlock::unlock(connected, &context.settings, key).await?;
        let books = Books { store: unlocked.connected.store, env: context.env.clone(), sealer: unlocked.sealer };
        let (_, reader) = reader_of(&books, volume, &|why| context.say(&format!("waiting for the store: {why}"))).await?;
        Ok(Self { books, reader, volume: volume.clone() })
    }

    /// The commit that `--at` means; without one the newest.
    pub(super) async fn resolve(&self, context: &Context, at: Option<&str>) -> Result<(Entry, Resolved), Fault> {
        let now = context.now();
        let asked = at.map(|text| at::parse(text, &now).map_err(|error| Fault::new(FaultKind::Invalid, error.to_string()))).transpose()?;
        let entry = match &asked {
            None => history::newest(&self.reader).await?,
            Some(At::Seq(seq)) => history::commit(&self.reader, *seq).await?.ok_or_else(|| {
                Fault::new(FaultKind::NotFound, format!("volume {} has no commit {seq}; `holdfast history` lists them", self.volume))
            })?,
            Some(At::Time(time)) => history::at_time(&self.reader, i64::try_from(time.as_nanosecond()).unwrap_or(i64::MAX)).await?,
        };
        let resolved = Resolved::new(asked, entry.seq, at::timestamp(entry.time));
        Ok((entry, resolved))
    }
}

/// One commit's tree.
#[derive(Debug)]
pub(super) struct Tree {
    pub(super) volume: Arc<Volume>,
    dir: PathBuf,
}

impl Tree {
    pub(super) async fn open(context: &Context, reading: &Reading, moment: Moment) -> Result<Self, Fault> {
        let dir = reader_cache(&context.settings.cache_of(&reading.volume), context.env.random());
        let run = RunOptions { hydrate: HydrateMode::Metadata, ..RunOptions::default() };
        let volume = Volume::open_reader(&reading.books, &reading.volume, CacheOptions::new(&dir), moment, run, &|_| {}).await?;
        Ok(Self { volume, dir })
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
                    return Err(Fault::new(
                        FaultKind::NotFound,
                        format!("there is no `{}` in this commit", super::target::show_name(path)),
                    ));
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
        let closed = self.volume.close().await;
        std::fs::remove_dir_all(&self.dir)?;
        closed
    }
}
