//! Data on demand: the frames behind ranges that are committed and not here, fetched once however many ask for them.

use super::blocks::Blocks;
use super::install::{Answer, Installer};
use super::moved::Moved;
use super::plan::{self, Frame, ReadAhead, Request};
use crate::cache::{Cache, Missing, ObjectId};
use crate::env::{Env, memory};
use crate::format::{names, record};
use crate::rpc;
use crate::store::Objects;
use crate::telemetry::Histogram;
use crate::types::{ByteRange, Fault, FaultKind, Ino, Seq};
use bytes::Bytes;
use futures::StreamExt;
use lru::LruCache;
use parking_lot::Mutex;
use std::collections::{BTreeSet, HashMap};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{Mutex as AsyncMutex, Notify, Semaphore, SemaphorePermit};

/// Requests of one fetch in flight.
const REQUESTS_IN_FLIGHT: usize = 8;
/// Requests of the prefetch in flight, and how many stored bytes each asks for: what it holds in memory, and what a read on a slow line
/// waits behind.
const AHEAD_IN_FLIGHT: usize = 4;
const AHEAD_REQUEST_BYTES_MAX: u64 = 4 << 20;
/// An answer of so many bytes is opened on a thread of its own: opening takes a millisecond for each MiB, a thread some tens of microseconds.
const LONG_BYTES: usize = 256 << 10;
/// Files whose reading direction is remembered.
const READERS: NonZeroUsize = NonZeroUsize::MIN.saturating_add(1023);
/// Commits whose inline frames are kept in memory.
const COMMITS: NonZeroUsize = NonZeroUsize::MIN.saturating_add(15);

/// Damaged objects that are remembered by name.
const DAMAGED_MAX: usize = 1000;

/// How long a read may wait for the store, and how much at once.
#[derive(Debug, Clone, Copy)]
pub struct FetchOptions {
    /// A read fails with EIO after so long without an answer.
    pub patience: Duration,
    /// Fetches at the same time; more wait.
    pub parallel: usize,
}

impl Default for FetchOptions {
    fn default() -> Self {
        Self { patience: Duration::from_secs(30), parallel: 16 }
    }
}

/// Fetches for one cache. Shared by reads, writes into partly absent pages, and prefetch.
#[derive(Debug)]
pub struct Fetcher {
    objects: Objects,
    cache: Arc<Cache>,
    installer: Installer,
    options: FetchOptions,
    permits: Semaphore,
    ahead_permits: Semaphore,
    ahead: Mutex<LruCache<Ino, ReadAhead>>,
    /// One fetch of a file at a time: the second one finds the bytes here.
    files: Mutex<HashMap<Ino, Arc<AsyncMutex<()>>>>,
    inline: Mutex<LruCache<Seq, Arc<[Bytes]>>>,
    /// One record is read at a time: until its frames are taken out, it takes tens of MiB.
    reading: AsyncMutex<()>,
    damaged: Mutex<BTreeSet<String>>,
    blocks: Blocks,
    waiting: Waiting,
    seconds: Histogram,
}

/// Reads that wait for the store: while there are any, the prefetch asks for nothing more.
#[derive(Debug, Default)]
struct Waiting {
    reads: AtomicUsize,
    none: Notify,
}

impl Waiting {
    /// One more, until the answer is dropped.
    fn enter(&self) -> impl Drop + '_ {
        struct Leave<'a>(&'a Waiting);
        impl Drop for Leave<'_> {
            fn drop(&mut self) {
                if self.0.reads.fetch_sub(1, Ordering::AcqRel) == 1 {
                    self.0.none.notify_waiters();
                }
            }
        }
        self.reads.fetch_add(1, Ordering::AcqRel);
        Leave(self)
    }

    async fn none(&self) {
        loop {
            let none = self.none.notified();
            if self.reads.load(Ordering::Acquire) == 0 {
                return;
            }
            none.await;
        }
    }
}

/// A fetch of a file, or a wait for one: also of who gave up.
struct Turn<'a> {
    fetcher: &'a Fetcher,
    ino: Ino,
    lock: Arc<AsyncMutex<()>>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut files = self.fetcher.files.lock();
        // This map's and ours: nobody else waits for the file.
        if files.get(&self.ino).is_some_and(|lock| Arc::strong_count(lock) <= 2) {
            files.remove(&self.ino);
        }
    }
}

/// An extent of a file to be brought here.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    pub(super) ino: Ino,
    pub(super) missing: Missing,
}

/// For whom a fetch is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// Somebody waits for the bytes.
    Read,
    /// Nobody does yet.
    Ahead,
}

/// Where a frame lies: in an object, or inline in a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Home {
    Object(ObjectId),
    Commit(Seq),
}

impl Fetcher {
    /// For this cache.
    #[must_use]
    pub fn new(objects: Objects, cache: Arc<Cache>, options: FetchOptions) -> Self {
        Self {
            permits: Semaphore::new(options.parallel.max(1)),
            ahead_permits: Semaphore::new(AHEAD_IN_FLIGHT),
            installer: Installer::new(objects.clone(), Arc::clone(&cache)),
            objects,
            cache,
            options,
            ahead: Mutex::new(LruCache::new(READERS)),
            files: Mutex::default(),
            inline: Mutex::new(LruCache::new(COMMITS)),
            reading: AsyncMutex::new(()),
            damaged: Mutex::default(),
            blocks: Blocks::default(),
            waiting: Waiting::default(),
            seconds: Histogram::default(),
        }
    }

    /// The objects it fetches from.
    #[must_use]
    pub fn objects(&self) -> &Objects {
        &self.objects
    }

    /// How long those waited who asked for bytes.
    #[must_use]
    pub fn seconds(&self) -> &Histogram {
        &self.seconds
    }

    /// Brings `range` of a file here, and what a sequential reader will want next. Gives up after the patience set.
    ///
    /// # Errors
    /// [`FaultKind::Unknown`]: the store did not answer in time; [`FaultKind::Damaged`]: an object is missing or not what it must
    /// be, named with the file; both concern just these ranges.
    pub async fn fetch(&self, ino: Ino, range: ByteRange, size: u64) -> Result<(), Fault> {
        let began = self.objects.env().monotonic();
        let widened = self.ahead.lock().get_or_insert_mut(ino, ReadAhead::default).widen(range.clone(), size);
        let ahead = widened != range;
        let sleep = self.objects.env().sleep(self.options.patience);
        let _waits = self.waiting.enter();
        let result = tokio::select! {
            biased;
            result = self.fetch_now(ino, widened) => result,
            () = sleep => Err(Fault::new(
                FaultKind::Unknown,
                format!("the store did not give the bytes within {} s; the read fails and works again when the store does", self.options.patience.as_secs()),
            )),
        };
        let took = self.objects.env().monotonic().saturating_sub(began);
        self.seconds.record(took);
        self.ahead.lock().get_or_insert_mut(ino, ReadAhead::default).arrived(took, result.is_ok());
        let Err(fault) = result else { return Ok(()) };
        // What was to be read ahead may have failed alone.
        if ahead && self.cache.missing(ino, range.clone())?.is_empty() {
            return Ok(());
        }
        tracing::warn!(ino, ?range, %fault, "a read failed: its bytes are not here");
        Err(fault)
    }

    /// Stored objects that were found damaged or missing, by name; at most [`DAMAGED_MAX`].
    #[must_use]
    pub fn damage(&self) -> Vec<String> {
        self.damaged.lock().iter().cloned().collect()
    }

    /// Keeps the name of a damaged object; `true` the first time.
    fn note_damage(&self, name: &str) -> bool {
        let mut damaged = self.damaged.lock();
        damaged.len() < DAMAGED_MAX && damaged.insert(name.to_owned())
    }

    pub(super) fn env(&self) -> &Env {
        self.objects.env()
    }

    /// A pause after the store did not answer.
    pub(super) async fn pause(&self) {
        self.objects.env().sleep(Duration::from_secs(5)).await;
    }

    /// Brings exactly `range` here, with all the store's own patience.
    ///
    /// # Errors
    /// As [`Self::fetch`].
    pub async fn fetch_now(&self, ino: Ino, range: ByteRange) -> Result<(), Fault> {
        let turn = Turn { fetcher: self, ino, lock: self.files.lock().entry(ino).or_default().clone() };
        let _turn = turn.lock.lock().await;
        let missing = self.cache.missing(ino, range)?;
        if missing.is_empty() { Ok(()) } else { self.fetch_missing(ino, missing).await }
    }

    /// Fetches extents of one file, wherever they lie.
    async fn fetch_missing(&self, ino: Ino, missing: Vec<Missing>) -> Result<(), Fault> {
        let _permit = permit(&self.permits).await?;
        let wanted: Vec<Wanted> = missing.into_iter().map(|missing| Wanted { ino, missing }).collect();
        let answers = self.answers(&wanted, Purpose::Read).await;
        // The others were still worth installing: only the damaged range fails.
        answers.into_iter().collect()
    }

    /// Brings extents of many files here, those that lie side by side in a pack by one request. Yields to reads. Gives one answer for
    /// each request; a file that is gone by now is no fault.
    pub(super) async fn bring(&self, wanted: &[Wanted]) -> Vec<Result<(), Fault>> {
        self.answers(wanted, Purpose::Ahead).await
    }

    async fn answers(&self, wanted: &[Wanted], purpose: Purpose) -> Vec<Result<(), Fault>> {
        let frames: Vec<Frame<Home>> = wanted.iter().map(|wanted| frame_of(&wanted.missing)).collect();
        let (bytes_max, in_flight) = match purpose {
            Purpose::Read => (plan::REQUEST_BYTES_MAX, REQUESTS_IN_FLIGHT),
            Purpose::Ahead => (AHEAD_REQUEST_BYTES_MAX, AHEAD_IN_FLIGHT),
        };
        let requests = plan::requests(&frames, bytes_max);
        futures::stream::iter(requests).map(|request| self.answer(wanted, request, purpose)).buffer_unordered(in_flight).collect().await
    }

    async fn answer(&self, wanted: &[Wanted], request: Request<Home>, purpose: Purpose) -> Result<(), Fault> {
        let _permit = match purpose {
            Purpose::Read => None,
            Purpose::Ahead => {
                self.waiting.none().await;
                Some(permit(&self.ahead_permits).await?)
            }
        };
        let id = match request.object {
            Home::Commit(seq) => return self.answer_inline(wanted, seq, &request.frames).await,
            Home::Object(id) => id,
        };
        let object = self.cache.object(id)?;
        let bytes = match purpose {
            Purpose::Read => self.blocks.range(&self.objects, (id, &object), request.range.clone()).await,
            Purpose::Ahead => self.objects.range(&object, request.range.clone()).await,
        };
        let bytes = match bytes {
            // What lies before the end of a truncated object is still good, for those who wait for it.
            Err(fault) if fault.kind == FaultKind::Damaged && purpose == Purpose::Read && request.frames.len() > 1 => Bytes::new(),
            bytes => bytes.inspect_err(|fault| {
                if fault.kind == FaultKind::Damaged && self.note_damage(&object.name) {
                    let ino = request.frames.first().map_or(0, |index| wanted[*index].ino);
                    tracing::error!(ino, object = %object.name, %fault, "a stored object of a file is damaged or missing");
                }
            })?,
        };
        self.objects.env().failpoint("hydrate.after_fetch_before_install");
        let wanted: Vec<Wanted> = request.frames.iter().map(|index| wanted[*index].clone()).collect();
        let refused = self.take(Answer { object: object.clone(), start: request.range.start, bytes, wanted }).await?;
        self.once_more(id, &object, refused).await
    }

    /// Opens and installs: a long answer on a thread beside those that talk to the store.
    async fn take(&self, answer: Answer) -> Result<Vec<Wanted>, Fault> {
        if answer.bytes.len() < LONG_BYTES {
            return self.installer.take(answer);
        }
        let installer = self.installer.clone();
        self.objects.env().blocking(move || installer.take(answer)).await
    }

    /// Frames that did not open, each by itself, from the store and not from what is kept of it.
    async fn once_more(&self, id: ObjectId, object: &rpc::ObjectRef, refused: Vec<Wanted>) -> Result<(), Fault> {
        let mut first_fault = None;
        for Wanted { ino, missing } in refused {
            let extent = &missing.extent;
            self.blocks.forget(id, extent.stored_offset);
            let range = extent.stored_offset..extent.stored_offset + u64::from(extent.stored_length);
            let stored = self.objects.range(object, range).await;
            match stored.and_then(|stored| self.installer.open(object, extent, &stored)) {
                Ok(plain) => self.installer.install(ino, &missing, &plain)?,
                Err(fault) => {
                    if self.note_damage(&object.name) {
                        tracing::error!(ino, object = %object.name, range = ?missing.range, %fault, "stored bytes of a file are damaged");
                    }
                    first_fault.get_or_insert(fault);
                }
            }
        }
        first_fault.map_or(Ok(()), Err)
    }

    async fn answer_inline(&self, wanted: &[Wanted], seq: Seq, frames: &[usize]) -> Result<(), Fault> {
        let name = names::commit(self.objects.incarnation(), seq);
        let inline = self.inline_frames(seq).await;
        let mut moved = None::<(Ino, Moved)>;
        for index in frames {
            let Wanted { ino, missing } = &wanted[*index];
            let extent = &missing.extent;
            let plain = match &inline {
                Ok(inline) => record::inline_frame(inline, &name, extent.frame, extent.plain_length, extent.checksum).map_err(Fault::from),
                Err(fault) => Err(Fault::new(fault.kind, fault.to_string())),
            };
            let plain = match plain {
                // Its record was freed, or another one lies under the freed number.
                Err(fault) if fault.kind == FaultKind::Damaged => {
                    let (_, moved) = match &mut moved {
                        Some(moved) if moved.0 == *ino => moved,
                        other => other.insert((*ino, Moved::of(&self.objects, *ino).await?)),
                    };
                    moved.read(&self.objects, missing).await?.ok_or(fault)?
                }
                plain => plain?,
            };
            self.installer.install(*ino, missing, &plain)?;
        }
        Ok(())
    }

    /// Copies: each frame as it was read would keep all of its record, whose deltas take many times as much.
    async fn inline_frames(&self, seq: Seq) -> Result<Arc<[Bytes]>, Fault> {
        let known = || self.inline.lock().get(&seq).cloned();
        if let Some(frames) = known() {
            return Ok(frames);
        }
        let _reading = self.reading.lock().await;
        if let Some(frames) = known() {
            return Ok(frames);
        }
        let whole = self.objects.commit(seq).await?;
        let frames: Arc<[Bytes]> = whole.inline_frames.iter().map(|frame| Bytes::copy_from_slice(frame)).collect();
        drop(whole);
        memory::give_back();
        self.inline.lock().put(seq, Arc::clone(&frames));
        Ok(frames)
    }
}

async fn permit(of: &Semaphore) -> Result<SemaphorePermit<'_>, Fault> {
    of.acquire().await.map_err(|error| Fault::with(FaultKind::Local, "the fetcher ended", error))
}

fn frame_of(missing: &Missing) -> Frame<Home> {
    let extent = &missing.extent;
    match extent.object {
        0 => Frame { object: Home::Commit(extent.inline_seq), offset: u64::from(extent.frame), length: 1 },
        id => Frame { object: Home::Object(id), offset: extent.stored_offset, length: extent.stored_length },
    }
}
