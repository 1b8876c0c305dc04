//! A scrub: the tree of the cache against the newest commit, then its clean data against their checksums, at a set rate.
//!
//! The tree comes first: a row whose change was never committed is found there, and then its data are dirty and not compared. The commit's
//! tree is read into a second, small database beside the cache, by the same code that fills a cache after a loss; so memory is bounded
//! whatever the number of files, and there is one definition of what a commit shows. What the compare calls odd while writers go on is
//! held against the deltas committed since, and looked at again before anything is changed (`cache/repair.rs`).
//!
//! An end of the volume ends a scrub first ([`Scrubs::end`]): whatever waits is given up, and nothing is changed any more.

use super::live::Volume;
use super::source;
use crate::cache::{Basis, Cache, CacheError, CacheOptions, CacheOrigin, Difference, Odd, Repair, SCRATCH, Scrubbed};
use crate::env::Env;
use crate::hydrate::{self, Fetcher};
use crate::log::{Reader, Site};
use crate::rpc::log_record::Kind;
use crate::types::{ByteRange, CacheId, Fault, FaultKind, Ino, Seq};
use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::watch;

/// Rows compared while the metadata wait.
const ROWS: usize = 64;
/// What a row counts as in the rate: about what comparing it costs beside reading a page.
const ROW_BYTES: u64 = 4096;
/// Bytes of one file looked at in one step.
const STEP_BYTES: u64 = 4 << 20;
/// Findings named in a report, at most: more are counted, and named in the log.
const NAMED_MAX: usize = 1000;
/// How often a repair begins anew because commits were made meanwhile.
const TRIES: u32 = 20;

/// Clean data that were not what was stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadData {
    /// The file.
    pub path: String,
    /// Its bytes.
    pub range: ByteRange,
    /// Why they could not be fetched anew; `None`: they were.
    pub left: Option<String>,
}

/// What a scrub found.
#[derive(Debug, Clone, Default)]
pub struct ScrubReport {
    /// The record whose tree was compared; `None`: there is no commit.
    pub commit: Option<Seq>,
    /// Inodes and names compared.
    pub rows: u64,
    /// Rows that differed, and were repaired.
    pub differences: Vec<Difference>,
    /// Rows that differed, also those not named.
    pub difference_count: u64,
    /// The commit that holds the repairs.
    pub repaired_in: Option<Seq>,
    /// Bytes of clean data compared.
    pub bytes: u64,
    /// Bytes of clean data whose frame is not here whole, so that its checksum says nothing of them.
    pub uncompared_bytes: u64,
    /// Clean data that differed.
    pub bad: Vec<BadData>,
    /// Bytes of them, also of those not named.
    pub bad_bytes: u64,
    /// Of these fetched anew from the store.
    pub healed_bytes: u64,
}

/// The scrubs of a volume: whose turn it is, and counts over the life of the process.
#[derive(Debug)]
pub struct Scrubs {
    turn: tokio::sync::Mutex<()>,
    ended: watch::Sender<bool>,
    bytes: AtomicU64,
    differences: AtomicU64,
}

impl Default for Scrubs {
    fn default() -> Self {
        Self {
            turn: tokio::sync::Mutex::default(),
            ended: watch::Sender::new(false),
            bytes: AtomicU64::new(0),
            differences: AtomicU64::new(0),
        }
    }
}

impl Scrubs {
    /// Bytes of clean data compared.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Rows of `meta.db` that differed from the newest commit.
    #[must_use]
    pub fn differences(&self) -> u64 {
        self.differences.load(Ordering::Relaxed)
    }

    /// Gives up the scrub under way, and waits until it changes nothing any more; none begins after this.
    pub(super) async fn end(&self) {
        self.ended.send_replace(true);
        drop(self.turn.lock().await);
    }
}

/// What the kernel may have in memory is not so any more.
#[derive(Debug, Clone)]
pub enum Outdated {
    /// An inode's attributes and bytes of its content.
    Content(Ino, ByteRange),
    /// What a name in a directory means.
    Name(Ino, Vec<u8>),
}

/// Tells the kernel; may wait for requests that the kernel waits for.
pub type TellKernel = Arc<dyn Fn(&Outdated) + Send + Sync>;

impl Volume {
    /// Looks at the whole cache once, so many bytes of its disk a second. `progress` is told bytes done and to do; `tell` what was repaired,
    /// on a thread of its own.
    ///
    /// # Errors
    /// [`FaultKind::Busy`]: another scrub is under way; [`FaultKind::Invalid`]: a reader's cache holds nothing of its own; the store's, when
    /// the newest commit cannot be read; the cache's; the disk has no room for the commit's tree; the volume is being closed.
    pub async fn scrub(&self, rate: u64, progress: &(dyn Fn(u64, u64) + Sync), tell: TellKernel) -> Result<ScrubReport, Fault> {
        if self.posix().is_read_only() {
            return Err(Fault::new(FaultKind::Invalid, "this mount is read-only: its cache ends with it and is not scrubbed"));
        }
        let Ok(_turn) = self.scrubs.turn.try_lock() else {
            return Err(Fault::new(FaultKind::Busy, "a scrub of this volume is under way: wait for its end"));
        };
        let Some(engine) = self.engine.engine.get() else {
            return Err(Fault::new(FaultKind::Unknown, "the log of this volume is not open: `holdfast status` tells why"));
        };
        let mut scrub = Scrub {
            volume: self,
            fetcher: &engine.fetcher,
            pace: Pace { rate: rate.max(1), due: self.env.monotonic() },
            report: ScrubReport::default(),
            progress,
            tell,
        };
        scrub.tree().await?;
        scrub.data().await?;
        if scrub.report.difference_count > 0 {
            scrub.report.repaired_in = scrub.unless_ended(self.flush()).await??.map(|commit| commit.seq);
        }
        Ok(scrub.report)
    }
}

fn given_up() -> Fault {
    Fault::new(FaultKind::Unknown, "the volume is being closed: the scrub is given up")
}

/// When the next bytes may be looked at. What a wait for the store took is not made up for.
struct Pace {
    rate: u64,
    due: Duration,
}

impl Pace {
    /// So many bytes were looked at; how long to sleep.
    fn spend(&mut self, env: &Env, bytes: u64) -> Duration {
        let now = env.monotonic();
        self.due = self.due.max(now) + Duration::from_secs_f64(bytes as f64 / self.rate as f64);
        self.due - now
    }
}

struct Scrub<'a> {
    volume: &'a Volume,
    fetcher: &'a Fetcher,
    pace: Pace,
    report: ScrubReport,
    progress: &'a (dyn Fn(u64, u64) + Sync),
    tell: TellKernel,
}

impl Scrub<'_> {
    /// Waits for what changes nothing here when it is given up.
    async fn unless_ended<T>(&self, work: impl Future<Output = T>) -> Result<T, Fault> {
        let mut ended = self.volume.scrubs.ended.subscribe();
        tokio::select! {
            biased;
            _ = ended.wait_for(|ended| *ended) => Err(given_up()),
            done = work => Ok(done),
        }
    }

    async fn spend(&mut self, bytes: u64) -> Result<(), Fault> {
        (self.progress)(self.report.bytes, self.volume.cache.cached_bytes().max(self.report.bytes));
        let wait = self.pace.spend(&self.volume.env, bytes);
        self.unless_ended(self.volume.env.sleep(wait)).await
    }

    /// Carried out to its end, on a thread that may wait.
    async fn on_cache<T: Send + 'static>(&self, work: impl FnOnce(&Cache) -> Result<T, CacheError> + Send + 'static) -> Result<T, Fault> {
        if *self.volume.scrubs.ended.borrow() {
            return Err(given_up());
        }
        let cache = Arc::clone(&self.volume.cache);
        self.volume.env.blocking(move || work(&cache)).await
    }

    async fn tell(&self, outdated: Outdated) -> Result<(), Fault> {
        let tell = Arc::clone(&self.tell);
        self.volume
            .env
            .blocking(move || {
                tell(&outdated);
                Ok::<_, CacheError>(())
            })
            .await
    }

    async fn tree(&mut self) -> Result<(), Fault> {
        let Some(basis) = self.on_cache(|cache| Ok(cache.basis())).await? else { return Ok(()) };
        let dir = self.volume.cache_dir().join(SCRATCH);
        let _ = std::fs::remove_dir_all(&dir);
        if !self.on_cache(|cache| Ok(cache.has_room_for_scratch())).await? {
            let message =
                "the cache's disk has no room for the tree of the newest commit, which a scrub compares with: make room and run it again";
            return Err(Fault::new(FaultKind::Full, message));
        }
        let compared = self.tree_against(basis, &dir).await;
        if let Err(error) = std::fs::remove_dir_all(&dir) {
            tracing::debug!(%error, "the tree of the commit is left in the cache's directory");
        }
        compared
    }

    async fn tree_against(&mut self, basis: Basis, dir: &Path) -> Result<(), Fault> {
        let objects = self.fetcher.objects().clone();
        let reader = Reader::new(Site::of(objects.clone()));
        let shown = self.unless_ended(source::read_at(&objects, &reader, basis.head.seq)).await??;
        if shown.last.is_none() {
            return Ok(());
        }
        let mut options = CacheOptions::new(dir);
        (options.log_bytes, options.any_file_system, options.no_sync) = (0, true, true);
        (options.hot_inodes, options.hot_names) = (64, 64);
        let origin = CacheOrigin { cache_id: CacheId([0; 16]), ..self.volume.cache.origin() };
        let env = self.volume.env.clone();
        let commit = self.volume.env.blocking(move || Cache::create(env, options, &origin)).await?;
        self.unless_ended(hydrate::load(&objects, &commit, shown.source)).await??;
        self.report.commit = Some(basis.head.seq);
        let mut against = Against { commit, reader, basis, now: basis, touched: HashSet::new() };
        self.compare(&mut against).await
    }

    async fn compare(&mut self, against: &mut Against) -> Result<(), Fault> {
        // Inodes before names, which need them.
        for mut at in [Cursor::Inode(0), Cursor::Name((0, 0))] {
            loop {
                let (theirs, basis) = (Arc::clone(&against.commit), against.basis);
                let (rows, odd);
                (rows, at, odd) = self
                    .on_cache(move |ours| {
                        let mut odd = Vec::new();
                        let rows = match &mut at {
                            Cursor::Inode(after) => ours.compare_inodes(&basis, &theirs, after, ROWS, &mut odd)?,
                            Cursor::Name(after) => ours.compare_names(&basis, &theirs, after, ROWS, &mut odd)?,
                        };
                        Ok((rows, at, odd))
                    })
                    .await?;
                if rows == 0 {
                    break;
                }
                self.report.rows += rows as u64;
                self.repair(against, odd).await?;
                self.spend(rows as u64 * ROW_BYTES).await?;
            }
        }
        Ok(())
    }

    async fn repair(&mut self, against: &mut Against, mut odd: Vec<Odd>) -> Result<(), Fault> {
        for _ in 0..TRIES {
            odd.retain(|odd| !against.touched.contains(odd));
            if odd.is_empty() {
                return Ok(());
            }
            let (now, theirs, what) = (against.now, Arc::clone(&against.commit), odd.clone());
            match self.on_cache(move |ours| ours.repair(&now, &theirs, &what)).await? {
                Repair::Moved => {
                    let Some(newer) = self.on_cache(|cache| Ok(cache.basis())).await? else { return Ok(()) };
                    let touched = self.unless_ended(self.touched_since(against, &newer)).await??;
                    against.touched.extend(touched);
                    against.now = newer;
                }
                Repair::Done(found) => {
                    for difference in found {
                        self.differs(difference).await?;
                    }
                    return Ok(());
                }
            }
        }
        Err(Fault::new(FaultKind::Busy, "commits are made faster than a scrub can read them: run it again when less is written"))
    }

    async fn differs(&mut self, difference: Difference) -> Result<(), Fault> {
        let Difference { path, ino, name, kept } = &difference;
        let became = if *kept { "what is here is kept" } else { "it is now as committed" };
        tracing::error!(path, ino, became, "meta.db differs from the newest commit; the next commit holds the repair");
        self.tell(Outdated::Content(*ino, 0..u64::MAX)).await?;
        if let Some(name) = name {
            self.tell(Outdated::Name(*ino, name.clone())).await?;
        }
        self.volume.scrubs.differences.fetch_add(1, Ordering::Relaxed);
        self.report.difference_count += 1;
        if self.report.differences.len() < NAMED_MAX {
            self.report.differences.push(difference);
        }
        Ok(())
    }

    /// What the commits since say anything of.
    async fn touched_since(&self, against: &Against, to: &Basis) -> Result<Vec<Odd>, Fault> {
        let (mut commits, mut touched) = (Vec::new(), Vec::new());
        let mut visit = |record: crate::log::Record| {
            if let Some(Kind::Commit(commit)) = record.record.kind {
                commits.push(commit);
            }
            Ok(())
        };
        let from = against.now.head;
        against.reader.walk((from.seq, from.hash), (to.head.seq, to.head.hash), &mut visit).await?;
        for commit in commits {
            for delta in self.fetcher.objects().deltas(&commit).await? {
                let inodes = delta.inodes.iter().map(|inode| inode.ino);
                let ends = delta.removed_inodes.iter().copied().chain(delta.extents.iter().map(|change| change.ino));
                touched.extend(inodes.chain(ends).map(Odd::Inode));
                let names = delta.names.iter().map(|name| (name.dir, &name.name));
                let gone = delta.removed_names.iter().map(|name| (name.dir, &name.name));
                touched.extend(names.chain(gone).map(|(dir, name)| Odd::Name { dir, name: name.to_vec() }));
            }
        }
        Ok(touched)
    }

    async fn data(&mut self) -> Result<(), Fault> {
        let mut after = Some(0);
        while after.is_some() {
            let files;
            (files, after) = self
                .on_cache(move |cache| {
                    let files = cache.clean_files(&mut after, ROWS)?;
                    Ok((files, after))
                })
                .await?;
            for ino in files {
                self.file(ino).await?;
            }
        }
        Ok(())
    }

    async fn file(&mut self, ino: Ino) -> Result<(), Fault> {
        let mut from = Some(0);
        while let Some(at) = from {
            let done = match self.on_cache(move |cache| cache.scrub(ino, at, STEP_BYTES)).await {
                // Removed meanwhile.
                Err(fault) if fault.kind == FaultKind::NotFound => return Ok(()),
                done => done?,
            };
            let Scrubbed { checked: bytes, dropped, uncompared, next } = done;
            self.report.uncompared_bytes += uncompared;
            self.report.bytes += bytes;
            self.volume.scrubs.bytes.fetch_add(bytes, Ordering::Relaxed);
            for range in dropped {
                self.heal(ino, range).await?;
            }
            self.spend(bytes).await?;
            from = next;
        }
        Ok(())
    }

    async fn heal(&mut self, ino: Ino, range: ByteRange) -> Result<(), Fault> {
        let path = self.on_cache(move |cache| Ok(cache.view(|view| view.show_path(ino)))).await?;
        tracing::error!(path, ?range, "cached bytes were not what was stored");
        self.tell(Outdated::Content(ino, range.clone())).await?;
        let left = match self.unless_ended(self.fetcher.fetch_now(ino, range.clone())).await? {
            Ok(()) => None,
            Err(fault) => Some(fault.to_string()),
        };
        let length = range.end - range.start;
        self.report.bad_bytes += length;
        self.report.healed_bytes += if left.is_none() { length } else { 0 };
        if self.report.bad.len() < NAMED_MAX {
            self.report.bad.push(BadData { path, range, left });
        }
        Ok(())
    }
}

/// What the tree is compared with.
struct Against {
    commit: Arc<Cache>,
    reader: Reader,
    /// What was read.
    basis: Basis,
    /// What is known now.
    now: Basis,
    /// What the commits between these two say anything of.
    touched: HashSet<Odd>,
}

#[derive(Clone, Copy)]
enum Cursor {
    Inode(Ino),
    Name((Ino, u64)),
}
