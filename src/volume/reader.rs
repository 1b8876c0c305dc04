//! A volume opened to be read only: the newest commit, an older one, or a branch.

use super::late::{Engine, Late};
use super::limits::Sizes;
use super::live::{Flavor, RunOptions, Volume};
use super::open::{self, Report};
use super::ops::NoLimits;
use super::{HydrateMode, source};
use crate::cache::{Cache, CacheOptions, CacheOrigin, Head};
use crate::hydrate::{self, Fetcher};
use crate::log::lookup::Books;
use crate::log::{self, Hint, Lookup, Phase, Reader, Site};
use crate::store::Objects;
use crate::types::{CacheId, Epoch, Fault, FaultKind, Identity, Seq};
use parking_lot::Mutex;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a reader is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// The newest commit.
    Newest,
    /// The commit of this number.
    Commit(Seq),
    /// What the writer of this epoch had not committed, on what it had.
    Branch(Epoch),
}

impl Volume {
    /// Opens a volume to read one moment of it. `cache` is a directory of its own.
    ///
    /// # Errors
    /// As [`Self::open`]; [`FaultKind::NotFound`]: no such volume, commit or branch.
    pub async fn open_reader(
        books: &Books,
        identity: &Identity,
        cache: CacheOptions,
        at: Moment,
        run: RunOptions,
        waiting: &(dyn Fn(&str) + Sync),
    ) -> Result<Arc<Self>, Fault> {
        let (objects, reader) = reader_of(books, identity, waiting).await?;
        let tip = reader.tip(Hint::default()).await?;
        if tip.phase == Phase::Fenced {
            return Err(Fault::new(FaultKind::NotFound, format!("there is no volume {identity}: it was removed")));
        }
        let shown = match at {
            Moment::Commit(seq) => source::read_at(&objects, &reader, seq).await?,
            Moment::Branch(epoch) => source::read_branch(&objects, &reader, epoch).await?.0,
            Moment::Newest => {
                if tip.phase == Phase::Empty {
                    return Err(Fault::new(FaultKind::NotFound, format!("volume {identity} has no commit yet")));
                }
                let head = Head { seq: tip.seq, hash: tip.hash, epoch: tip.epoch };
                source::read(&objects, &reader, tip.checkpoint, head).await?
            }
        };
        let origin = CacheOrigin {
            store_id: books.sealer.store(),
            incarnation: objects.incarnation(),
            identity: identity.clone(),
            cache_id: CacheId(books.env.random()),
        };
        let (env, dir) = (books.env.clone(), cache.dir.clone());
        let cache = objects.env().blocking(move || Cache::create(env, cache, &origin)).await?;
        if shown.last.is_some() {
            hydrate::load(&objects, &cache, shown.source).await?;
        }
        let late = Arc::new(Late::default());
        let fetcher = Arc::new(Fetcher::new(objects, Arc::clone(&cache), run.fetch));
        late.set(Engine { fetcher, writeback: None, run: Mutex::new(None) });
        let sizes = Sizes { cache_max: u64::MAX, dirty_max: u64::MAX, capacity: None };
        let report = Report { hydrated: shown.last, ..Report::default() };
        let volume = Self::build(&books.env, identity, &dir, cache, late, sizes, Arc::new(NoLimits), run, Flavor::Reader, report)?;
        if run.hydrate == HydrateMode::Eager {
            volume.hydrate_all().await?;
        }
        Ok(volume)
    }
}

/// The objects and the log of a volume that must exist.
///
/// # Errors
/// [`FaultKind::NotFound`]: proven absent.
pub async fn reader_of(books: &Books, identity: &Identity, waiting: &(dyn Fn(&str) + Sync)) -> Result<(Objects, Reader), Fault> {
    let found = match open::look_up(books, identity, waiting).await? {
        Lookup::Found(found) => found,
        Lookup::Absent(_) => return Err(Fault::new(FaultKind::NotFound, format!("there is no volume {identity} in this store"))),
        Lookup::Damaged(why) | Lookup::Unknown(why) => return Err(Fault::new(FaultKind::Unknown, why)),
    };
    let sealer = log::data_sealer(books, &found.volume).await?;
    let objects = Objects::new(Arc::clone(&books.store), sealer, found.incarnation, books.env.clone());
    Ok((objects.clone(), Reader::new(Site::of(objects))))
}

/// Where a reader's cache of one commit lies, beside the volume's own.
#[must_use]
pub fn reader_cache(base: &Path, random: [u8; 8]) -> PathBuf {
    let mut name = base.file_name().unwrap_or_default().to_owned();
    name.push(format!(".reader-{}", hex::encode(random)));
    base.with_file_name(name)
}
