//! A volume opened to be read only: the newest commit, an older one, or a branch.

use super::late::{Engine, Late};
use super::limits::Sizes;
use super::live::{Flavor, RunOptions, Volume};
use super::open::{self, Report};
use super::ops::NoLimits;
use super::resume::AGAIN;
use super::{HydrateMode, source};
use crate::cache::{Cache, CacheOptions, CacheOrigin, Head};
use crate::env::Env;
use crate::hydrate::{self, Fetcher};
use crate::log::lookup::Books;
use crate::log::{self, Hint, Lookup, Phase, Reader, Site};
use crate::store::Objects;
use crate::types::{CacheId, Epoch, Fault, FaultKind, Identity, Incarnation, Seq, UnixNanos};
use crate::writeback::LastCommit;
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

/// Key of the commit that is shown, in the cache's state.
const SHOWN: &str = "reader.shown";
const UNLIMITED: Sizes = Sizes { cache_max: u64::MAX, dirty_max: u64::MAX, capacity: None };

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
        if let Some(last) = shown.last {
            let cache = Arc::clone(&cache);
            books.env.blocking(move || cache.set_state(SHOWN, &encode(last))).await?;
        }
        let late = Arc::new(Late::default());
        let fetcher = Arc::new(Fetcher::new(objects, Arc::clone(&cache), run.fetch));
        late.set(Engine { fetcher, writeback: None, run: Mutex::new(None) });
        let report = Report { hydrated: shown.last, ..Report::default() };
        let volume = Self::build(&books.env, identity, &dir, cache, late, UNLIMITED, Arc::new(NoLimits), run, Flavor::Reader, report)?;
        if run.hydrate == HydrateMode::Eager {
            volume.hydrate_all().await?;
        }
        Ok(volume)
    }

    /// Takes over a live mount that is only read: it goes on from the cache of the driver before, with the moment that was found then, as
    /// the kernel knows names, attributes and pages of that one. `books` is asked again for as long as it fails; what is not in the cache
    /// waits for it.
    ///
    /// # Errors
    /// The cache is not there or cannot be read.
    pub async fn resume_reader<F: Future<Output = Result<Books, Fault>> + Send + 'static>(
        env: Env,
        identity: &Identity,
        cache: CacheOptions,
        run: RunOptions,
        mut books: impl FnMut() -> F + Send + 'static,
    ) -> Result<Arc<Self>, Fault> {
        let (world, dir) = (env.clone(), cache.dir.clone());
        let (cache, recovered) = env.blocking(move || Cache::open(world, cache)).await?;
        tracing::info!(?recovered, "taking over a live mount that is only read");
        let report = Report { hydrated: cache.get_state(SHOWN)?.and_then(|bytes| decode(&bytes)), ..Report::default() };
        let late = Arc::new(Late::default());
        // Nothing is ever committed from here: nobody need wait to know that.
        late.fail();
        let local = Arc::clone(&cache);
        let volume = Self::build(&env, identity, &dir, cache, late, UNLIMITED, Arc::new(NoLimits), run, Flavor::ResumedReader, report)?;
        let later = Arc::clone(&volume);
        let task = env.spawn(async move {
            loop {
                match objects_of(&mut books, &later.identity, local.origin().incarnation).await {
                    Ok(objects) => {
                        let fetcher = Arc::new(Fetcher::new(objects, local, run.fetch));
                        later.engine.set(Engine { fetcher, writeback: None, run: Mutex::new(None) });
                        later.report.lock().waiting = None;
                        return;
                    }
                    Err(fault) => later.waits("the store could not be read", &fault),
                }
                later.env.sleep(AGAIN).await;
            }
        });
        volume.tasks.lock().push(task);
        Ok(volume)
    }
}

/// The objects of this life of the volume.
async fn objects_of<F>(books: &mut impl FnMut() -> F, identity: &Identity, life: Incarnation) -> Result<Objects, Fault>
where
    F: Future<Output = Result<Books, Fault>>,
{
    let (objects, _) = reader_of(&books().await?, identity, &|_| {}).await?;
    if objects.incarnation() == life {
        return Ok(objects);
    }
    Err(Fault::new(FaultKind::NotFound, format!("volume {identity} was removed and made anew: what is not in this cache cannot be read")))
}

fn encode(last: LastCommit) -> Vec<u8> {
    [last.seq.to_le_bytes().as_slice(), &last.cut_time.to_le_bytes(), &[u8::from(last.full)]].concat()
}

fn decode(bytes: &[u8]) -> Option<LastCommit> {
    let (seq, rest) = bytes.split_first_chunk()?;
    let (cut_time, full) = rest.split_first_chunk()?;
    Some(LastCommit { seq: Seq::from_le_bytes(*seq), cut_time: UnixNanos::from_le_bytes(*cut_time), full: full == [1] })
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

/// Where a reader's cache of one commit lies, beside the volume's own. `which`: by chance, or told by the mount's place.
#[must_use]
pub fn reader_cache(base: &Path, which: [u8; 8]) -> PathBuf {
    let mut name = base.file_name().unwrap_or_default().to_owned();
    name.push(format!(".reader-{}", hex::encode(which)));
    base.with_file_name(name)
}
