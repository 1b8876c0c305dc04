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
use std::io::ErrorKind;
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
    /// Opens a volume to read one moment of it. `cache` is a directory of its own (see [`reader_cache`]): of an opening that fails nothing is
    /// left there. What readers that were killed left beside it is removed.
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
        let left = ReaderDir::at(&cache.dir);
        let beside = cache.dir.clone();
        let work = move || {
            sweep(&beside);
            Ok::<_, Fault>(())
        };
        books.env.blocking(work).await?;
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
        left.keep();
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
                match objects_of(&mut books, later.identity(), local.origin().incarnation).await {
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

/// The directory of a reader's cache, removed with this: it holds nothing of its own.
#[derive(Debug)]
pub struct ReaderDir(PathBuf);

impl ReaderDir {
    /// What lies in `dir`, now or later.
    #[must_use]
    pub fn at(dir: &Path) -> Self {
        Self(dir.to_owned())
    }

    fn keep(mut self) {
        self.0 = PathBuf::new();
    }
}

impl Drop for ReaderDir {
    fn drop(&mut self) {
        if self.0.as_os_str().is_empty() {
            return;
        }
        match std::fs::remove_dir_all(&self.0) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                tracing::warn!(%error, dir = %self.0.display(), "a reader's cache is left behind: it may be deleted");
            }
            _ => {}
        }
    }
}

/// Removes what readers left that were killed, of all volumes whose caches lie together.
fn sweep(beside: &Path) {
    let Some(entries) = beside.parent().and_then(|dir| std::fs::read_dir(dir).ok()) else { return };
    for dir in entries.flatten().filter(|entry| entry.file_name().to_string_lossy().contains(READER)).map(|entry| entry.path()) {
        match Cache::remove_unused(&dir) {
            Ok(true) => tracing::info!(dir = %dir.display(), "the cache of a reader that was killed is removed"),
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, dir = %dir.display(), "the cache of a reader that was killed is not removed"),
        }
    }
}

/// What a reader's cache is called, behind the name of the volume's own.
const READER: &str = ".reader-";

/// That of a mount: its next driver goes on with it, so nobody else removes it while no driver has it.
const MOUNTED: &str = ".mounted-";

/// Where a reader's cache of one commit lies, beside the volume's own.
#[must_use]
pub fn reader_cache(base: &Path, random: [u8; 8]) -> PathBuf {
    beside(base, READER, random)
}

/// Where that of a mount lies. `place`: told by the mount's directory, which has one mount at a time.
#[must_use]
pub fn mounted_reader_cache(base: &Path, place: [u8; 8]) -> PathBuf {
    beside(base, MOUNTED, place)
}

fn beside(base: &Path, what: &str, which: [u8; 8]) -> PathBuf {
    let mut name = base.file_name().unwrap_or_default().to_owned();
    name.push(format!("{what}{}", hex::encode(which)));
    base.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::Env;
    use crate::types::{Incarnation, StoreId};

    #[test]
    fn only_readers_that_are_gone_are_swept_away() {
        let dir = tempfile::tempdir().unwrap();
        let make = |name: &str| {
            let mut options = CacheOptions::new(dir.path().join(name));
            (options.any_file_system, options.no_sync, options.log_bytes) = (true, true, 256 << 10);
            let origin = CacheOrigin {
                store_id: StoreId([1; 16]),
                incarnation: Incarnation([2; 16]),
                identity: Identity::parse("g/a").unwrap(),
                cache_id: CacheId([3; 16]),
            };
            Cache::create(Env::real(), options, &origin).unwrap()
        };
        let live = make("g~a.reader-01");
        for name in ["g~a", "g~a.aside-02", "g~a.mounted-05", "g~a.reader-03", "g~b.reader-04"] {
            drop(make(name));
        }
        sweep(&reader_cache(&dir.path().join("g~a"), [9; 8]));
        let mut names: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["g~a", "g~a.aside-02", "g~a.mounted-05", "g~a.reader-01"]);
        drop(live);
        drop(ReaderDir::at(&dir.path().join("g~a.reader-01")));
        ReaderDir::at(&dir.path().join("g~a")).keep();
        assert!(!dir.path().join("g~a.reader-01").exists() && dir.path().join("g~a").exists());
    }
}
