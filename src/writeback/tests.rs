//! The loop on a store in memory and a cache in a temporary directory, in a world whose clock goes only when a test says so.

use super::{
    BranchNews, BranchPhase, Brancher, Branches, Brought, Classifier, Ended, Kept, KernelPages, Lag, NoKernel, Parts, QUIET_MAX, Tail,
    WriteBack,
};
use crate::cache::{Cache, CacheError, CacheOptions, CacheOrigin, NewInode, SavedReply, Update, WriteOutcome};
use crate::env::{Clock, Env, Failpoints, Random};
use crate::format::seal::{Cipher, Sealer};
use crate::log::branch::{self, Claimed};
use crate::log::control::Chain;
use crate::log::{Hint, Site, Writer, WriterParams};
use crate::policy::Policy;
use crate::rpc::control_record::Kind as Control;
use crate::rpc::{Holder, Release};
use crate::store::plan::Budget;
use crate::store::{Counters, Counting, Memory, ObjectMeta, Objects, Put, Store, StoreError};
use crate::types::{CacheId, FaultKind, Identity, Incarnation, Ino, ROOT, StoreId, UnixNanos, WriterId};
use async_trait::async_trait;
use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt};
use parking_lot::Mutex;
use std::num::NonZeroU64;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

mod memory;
mod parts;
mod scheduled;
mod seams;
mod tiers;
mod trouble;

const LIFE: Incarnation = Incarnation([5; 16]);
const CACHE: CacheId = CacheId([3; 16]);

/// Time goes when the test says so.
struct Stepped {
    at: Arc<Mutex<Timers>>,
    chance: AtomicU64,
    asleep: Arc<watch::Sender<()>>,
}

#[derive(Default)]
struct Timers {
    now: Duration,
    /// What the wall clock was set forward by, or back.
    set: i64,
    waiting: Vec<(Duration, oneshot::Sender<()>)>,
}

impl Stepped {
    fn new() -> Arc<Self> {
        let at = Timers { now: Duration::from_secs(1_000_000), ..Timers::default() };
        Arc::new(Self { at: Arc::new(Mutex::new(at)), chance: AtomicU64::new(1), asleep: Arc::new(watch::Sender::new(())) })
    }

    fn advance(&self, by: Duration) {
        let mut at = self.at.lock();
        at.now += by;
        let now = at.now;
        let (due, later) = std::mem::take(&mut at.waiting).into_iter().partition(|(until, _)| *until <= now);
        at.waiting = later;
        drop(at);
        let due: Vec<(Duration, oneshot::Sender<()>)> = due;
        for (_, timer) in due {
            // Somebody else was faster: nobody waits for it any more.
            let _ = timer.send(());
        }
    }

    /// How long until the next who waits for time goes on.
    fn next(&self) -> Duration {
        let mut at = self.at.lock();
        at.waiting.retain(|(_, timer)| !timer.is_closed());
        at.waiting.iter().map(|(until, _)| until.saturating_sub(at.now)).min().unwrap()
    }

    /// Waits until somebody waits for time to go on: the loop has nothing else to do.
    async fn settled(&self) {
        let quiet = |at: &mut Timers| {
            at.waiting.retain(|(_, timer)| !timer.is_closed());
            !at.waiting.is_empty()
        };
        self.asleep.subscribe().wait_for(|()| quiet(&mut self.at.lock())).await.unwrap();
    }
}

impl Clock for Stepped {
    fn now(&self) -> UnixNanos {
        let at = self.at.lock();
        i64::try_from(at.now.as_nanos()).unwrap() + at.set
    }

    fn monotonic(&self) -> Duration {
        self.at.lock().now
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        let (at, asleep) = (Arc::clone(&self.at), Arc::clone(&self.asleep));
        async move {
            let (send, receive) = oneshot::channel();
            {
                let mut at = at.lock();
                let until = at.now + duration;
                at.waiting.push((until, send));
            }
            asleep.send_replace(());
            let _ = receive.await;
        }
        .boxed()
    }
}

impl Random for Stepped {
    fn fill(&self, bytes: &mut [u8]) {
        for byte in bytes.chunks_mut(8) {
            let n = self.chance.fetch_add(1, Ordering::Relaxed).to_be_bytes();
            byte.copy_from_slice(&n[8 - byte.len()..]);
        }
    }
}

/// A cache, a store, and the loop between them.
struct World {
    _dir: tempfile::TempDir,
    clock: Arc<Stepped>,
    site: Site,
    requests: Arc<Counters>,
    cache: Arc<Cache>,
    writeback: Arc<WriteBack>,
    task: JoinHandle<Ended>,
}

struct Shape {
    lag: Duration,
    budget: Option<u64>,
    dirty_max: u64,
    policy: &'static str,
}

const SHAPE: Shape = Shape { lag: Duration::from_secs(1), budget: None, dirty_max: 1 << 30, policy: crate::policy::BUILT_IN };

fn params(writer: u8) -> WriterParams {
    let holder = Holder { cache_id: Bytes::copy_from_slice(CACHE.as_bytes()), ..Holder::default() };
    WriterParams { writer: WriterId([writer; 16]), holder, cache: None, hint: Hint::default() }
}

impl World {
    async fn new(shape: Shape) -> Self {
        Self::on(shape, |store| store).await
    }

    async fn on(shape: Shape, wrap: impl FnOnce(Arc<dyn Store>) -> Arc<dyn Store>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock = Stepped::new();
        let env = Env::new(Arc::clone(&clock) as _, Arc::clone(&clock) as _, Failpoints::none());
        let requests = Arc::new(Counters::default());
        let memory = Arc::new(Memory::new(env.clone()));
        let store = wrap(Arc::new(Counting::new(memory, Arc::clone(&requests), env.clone())));
        let sealer = Sealer::new(Cipher::None, &[1; 32], StoreId([1; 16]), Some(LIFE));
        let site = Site::new(Arc::clone(&store), env.clone(), sealer.clone(), LIFE);
        let objects = Objects::new(store, sealer, LIFE, env.clone());
        let identity = Identity::parse("a/b").unwrap();
        let origin = CacheOrigin { store_id: StoreId([1; 16]), incarnation: LIFE, identity, cache_id: CACHE };
        let mut options = CacheOptions::new(dir.path().join("cache"));
        (options.log_bytes, options.any_file_system, options.no_sync) = (4 << 20, true, true);
        let cache = Cache::create(env, options, &origin).unwrap();
        let (writer, _) = Writer::open(site.clone(), params(1)).await.unwrap();
        cache.set_epoch(writer.epoch()).unwrap();
        cache.set_head(writer.head()).unwrap();
        let (writeback, run) = WriteBack::new(Parts {
            objects,
            cache: Arc::clone(&cache),
            writer,
            tail: Tail::after(None),
            classifier: Classifier::new(Policy::parse(shape.policy).unwrap()),
            landed: Vec::new(),
            lag: shape.lag,
            budget: Budget { requests_per_hour: shape.budget.and_then(NonZeroU64::new) },
            requests: Arc::clone(&requests),
            dirty_max: shape.dirty_max,
            branches: Arc::default(),
            host: "here".to_owned(),
        });
        cache.on_stir({
            let writeback = Arc::downgrade(&writeback);
            move || writeback.upgrade().into_iter().for_each(|writeback| writeback.stirred())
        });
        let task = tokio::spawn(run.run());
        clock.settled().await;
        Self { _dir: dir, clock, site, requests, cache, writeback, task }
    }

    fn make(&self, name: &str) -> Ino {
        make(&self.cache, name)
    }

    fn fenced(&self) -> bool {
        self.writeback.progress().state().fenced.is_some()
    }

    async fn go(&self, by: Duration) {
        // Who was stirred looks first, and waits for another time.
        for _ in 0..8 {
            tokio::task::yield_now().await;
        }
        self.clock.advance(by);
        self.clock.settled().await;
        // An upload has a timer of its own.
        while self.writeback.progress().state().sealed_since.is_some() {
            tokio::task::yield_now().await;
            self.clock.settled().await;
        }
    }
}

fn make(cache: &Cache, name: &str) -> Ino {
    let new = NewInode { mode: libc::S_IFREG | 0o644, ..NewInode::default() };
    let make = |update: &mut Update<'_>| -> Result<(Ino, SavedReply), CacheError> {
        let attr = update.new_inode(&new)?;
        update.set_name(ROOT, name.as_bytes(), attr.ino)?;
        Ok((attr.ino, SavedReply::Empty))
    };
    cache.update(None, make).unwrap()
}

fn write(cache: &Cache, ino: Ino, offset: u64, data: &[u8]) {
    assert_eq!(cache.write(None, ino, offset, data).unwrap(), WriteOutcome::Done);
}

#[tokio::test]
async fn always_writing_costs_no_more_than_the_budget_and_idle_nothing() {
    let asked = Duration::from_secs(1);
    let world = World::new(Shape { budget: Some(360), ..SHAPE }).await;
    let ino = world.make("f");
    let (before, hours) = (world.requests.total(), 2);
    for second in 0..hours * 3600u64 {
        // Too much to stand in the commit: a pack and a record each time. Compressible, so that this test is quick.
        write(&world.cache, ino, second % 64 * 4096, &vec![second as u8; 128 << 10]);
        world.go(asked).await;
    }
    // Apart from looks for a successor, which safety asks for and not the lag.
    let spent = world.requests.total() - before - world.writeback.progress().unavoidable();
    assert!(spent <= 360 * hours, "{spent} requests in {hours} h");
    assert!(spent > 300 * hours, "{spent} requests in {hours} h: the budget is there to be used");
    let Lag { in_force, asked: policy, .. } = world.writeback.lag();
    assert_eq!(policy, asked);
    assert!(in_force >= Duration::from_secs(20), "{in_force:?}");
    // What is dirty still goes, and then nothing more.
    world.go(in_force).await;
    world.go(in_force).await;
    assert!(!world.cache.changed());
    let idle = world.requests.total();
    for _ in 0..3600 {
        world.go(asked).await;
    }
    assert_eq!(world.requests.total(), idle, "an idle volume asks nothing");
}

#[tokio::test]
async fn a_quiet_volume_sleeps_until_something_stirs() {
    let world = World::new(SHAPE).await;
    let second = Duration::from_secs(1);
    let ino = world.make("f");
    for round in 0..3 {
        world.go(second).await;
        world.go(second).await;
        assert!(!world.cache.changed(), "the lag is kept after a quiet time, round {round}");
        world.go(second).await;
        assert!(world.clock.next() > QUIET_MAX - 5 * second, "nobody looks while nothing can have happened");
        world.go(QUIET_MAX / 2).await;
        match round {
            0 => write(&world.cache, ino, 0, b"content"),
            _ => drop(world.make(&format!("f{round}"))),
        }
        world.go(second / 2).await;
        assert!(world.cache.changed());
    }
}

#[tokio::test]
async fn budget_never_delays_a_flush() {
    let world = World::new(Shape { budget: Some(1), ..SHAPE }).await;
    let ino = world.make("f");
    write(&world.cache, ino, 0, b"at once");
    world.go(Duration::from_secs(60)).await;
    assert!(world.cache.changed(), "one request an hour");
    assert!(world.writeback.flush().await.unwrap().is_some());
    assert!(!world.cache.changed());
}

#[tokio::test]
async fn fenced_writer_with_a_long_lag_knows_within_30_s() {
    let world = World::new(Shape { lag: Duration::from_secs(3600), ..SHAPE }).await;
    // Idle for long, then dirty.
    world.go(Duration::from_secs(600)).await;
    let ino = world.make("f");
    write(&world.cache, ino, 0, b"of nobody");
    world.go(Duration::from_secs(1)).await;
    Writer::open(world.site.clone(), params(2)).await.unwrap();
    for _ in 0..28 {
        if world.fenced() {
            break;
        }
        world.clock.advance(Duration::from_secs(1));
        // It may be fenced, and then wait for its end, instead of going to sleep again.
        tokio::select! {
            () = world.clock.settled() => {}
            () = async { while !world.fenced() { tokio::task::yield_now().await } } => {}
        }
    }
    assert!(world.writeback.progress().state().fenced.is_some(), "after 29 s");
    world.writeback.drain();
    match world.task.await.unwrap() {
        Ended::Failed(fault) => assert_eq!(fault.kind, FaultKind::Fenced),
        other => panic!("{other:?}"),
    }
    // What it had not committed is beside the log, on what it knew of that, and held by a claim.
    let (_, left) = branch::newest(&world.site, 1).await.unwrap().expect("a branch");
    assert_eq!((left.base_seq, left.host.as_str()), (1, "here"));
    let chain = Chain::read(world.site.clone()).await.unwrap();
    assert_eq!(branch::claimed(chain.state(), 1), Claimed::By(1));
    assert!(world.cache.changed(), "the cache keeps it too");
}

/// The kernel in front of a cache that is kept at its limit: each time it is asked it sends more than the limit again.
#[derive(Debug)]
struct Flooding {
    cache: Arc<Cache>,
    ino: Ino,
    brought: AtomicBool,
}

impl KernelPages for Flooding {
    fn any(&self) -> bool {
        true
    }

    fn bring_in(&self) -> Brought {
        write(&self.cache, self.ino, 0, &[1; 8192]);
        self.brought.store(true, Ordering::Relaxed);
        Brought::default()
    }
}

/// The kernel in front of a writer that never pauses: bringing its bytes in takes a while.
struct Slow {
    cache: Arc<Cache>,
    clock: Arc<Stepped>,
    ino: Ino,
    cuts: Mutex<Vec<Duration>>,
}

impl std::fmt::Debug for Slow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Slow")
    }
}

impl KernelPages for Slow {
    fn any(&self) -> bool {
        true
    }

    fn bring_in(&self) -> Brought {
        let mut cuts = self.cuts.lock();
        write(&self.cache, self.ino, cuts.len() as u64 * 4096, &[1; 4096]);
        cuts.push(self.clock.monotonic());
        self.clock.advance(Duration::from_millis(400));
        Brought::default()
    }
}

#[tokio::test]
async fn the_lag_counts_from_cut_to_cut_however_long_a_commit_takes() {
    let world = World::new(SHAPE).await;
    let (cache, clock, ino) = (Arc::clone(&world.cache), Arc::clone(&world.clock), world.make("f"));
    let kernel = Arc::new(Slow { cache, clock, ino, cuts: Mutex::default() });
    world.writeback.mounted(Arc::clone(&kernel) as _);
    while kernel.cuts.lock().len() < 5 {
        world.go(Duration::from_millis(100)).await;
    }
    let cuts = kernel.cuts.lock().clone();
    let between: Vec<Duration> = cuts.windows(2).skip(1).map(|pair| pair[1] - pair[0]).collect();
    assert!(between.iter().all(|period| *period <= Duration::from_millis(1100)), "{between:?}");
}

/// A store during each of whose puts the application writes to the limit again.
#[derive(Debug)]
struct Busy {
    cache: Arc<Cache>,
    ino: Ino,
}

impl Busy {
    fn write(&self) {
        write(&self.cache, self.ino, 1 << 20, &[2; 8192]);
    }
}

#[tokio::test]
async fn flush_is_answered_while_writers_keep_the_volume_at_its_limit() {
    let world = World::new(Shape { dirty_max: 4096, ..SHAPE }).await;
    let (ino, other) = (world.make("kernel"), world.make("f"));
    let kernel = Arc::new(Flooding { cache: Arc::clone(&world.cache), ino, brought: AtomicBool::new(false) });
    world.writeback.mounted(Arc::clone(&kernel) as _);
    let busy = Busy { cache: Arc::clone(&world.cache), ino: other };
    busy.write();
    let (flush, seals) = (world.writeback.flush(), async {
        // Whenever a commit is done there is as much dirty as before.
        loop {
            let commits = world.writeback.progress().state().commits;
            while world.writeback.progress().state().commits == commits {
                tokio::task::yield_now().await;
            }
            busy.write();
        }
    });
    tokio::select! {
        flushed = flush => assert!(flushed.unwrap().is_some()),
        () = seals => {}
    }
    assert!(kernel.brought.load(Ordering::Relaxed), "a full commit has what the kernel held");
}

#[tokio::test]
async fn more_pieces_than_one_pack_may_have_frames_are_committed() {
    let world = World::new(SHAPE).await;
    let ino = world.make("f");
    for page in 0..crate::format::limits::FRAMES_MAX as u64 + 100 {
        write(&world.cache, ino, page * 2 * 4096, b"x");
    }
    assert!(world.writeback.flush().await.unwrap().is_some());
    assert_eq!(world.cache.dirty_bytes(), 0);
}

/// A store whose credentials may not write the control chain, as long as a test says so.
#[derive(Debug)]
struct NoControl {
    inner: Arc<dyn Store>,
    denied: AtomicBool,
}

#[async_trait]
impl Store for NoControl {
    async fn put_if_absent(&self, name: &str, body: Bytes) -> Result<Put, StoreError> {
        if name.contains("/control/") && self.denied.load(Ordering::Relaxed) {
            return Err(StoreError::Denied { verb: "PUT", name: name.to_owned(), why: "a test".to_owned() });
        }
        self.inner.put_if_absent(name, body).await
    }
    async fn get(&self, name: &str) -> Result<Option<Bytes>, StoreError> {
        self.inner.get(name).await
    }
    async fn get_range(&self, name: &str, range: Range<u64>) -> Result<Option<Bytes>, StoreError> {
        self.inner.get_range(name, range).await
    }
    async fn head(&self, name: &str) -> Result<Option<ObjectMeta>, StoreError> {
        self.inner.head(name).await
    }
    async fn list(&self, prefix: &str, start_after: Option<&str>, limit: usize) -> Result<Vec<ObjectMeta>, StoreError> {
        self.inner.list(prefix, start_after, limit).await
    }
    async fn delete(&self, name: &str) -> Result<(), StoreError> {
        self.inner.delete(name).await
    }
}

#[tokio::test]
async fn branch_that_may_not_be_claimed_keeps_its_cache() {
    let world = World::new(Shape { lag: Duration::from_secs(3600), ..SHAPE }).await;
    let ino = world.make("f");
    write(&world.cache, ino, 0, b"of nobody");
    let store = Arc::new(NoControl { inner: Arc::clone(world.site.store()), denied: AtomicBool::new(true) });
    let objects = world.site.objects().with_store(Arc::clone(&store) as _);
    let (cache, branches) = (Arc::clone(&world.cache), Arc::new(Branches::default()));
    let mut brancher = Brancher::new(objects, cache, Classifier::built_in(), Arc::default(), Arc::clone(&branches), "here".to_owned());
    let kernel: Arc<dyn KernelPages> = Arc::new(NoKernel);
    let kept = brancher.store(&kernel).await.unwrap();
    assert!(kept == Kept::Unclaimed && !kept.cache_may_go(), "{kept:?}");
    assert!(matches!(&branches.list()[..], [BranchNews { epoch: 1, phase: BranchPhase::Unclaimed(_), .. }]), "{branches:?}");
    let (_, first) = branch::newest(&world.site, 1).await.unwrap().expect("it is stored all the same");
    // Somebody gave it the right to: the same branch is claimed, and nothing of it is stored anew.
    store.denied.store(false, Ordering::Relaxed);
    assert_eq!(brancher.store(&kernel).await.unwrap(), Kept::Safe);
    assert_eq!(branch::newest(&world.site, 1).await.unwrap(), Some((1, first)));
    // A person drops it: it is not made again.
    let mut chain = Chain::read(world.site.clone()).await.unwrap();
    chain.append("a person", 0, &|_| Ok(Control::Release(Release { claim: 1 }))).await.unwrap();
    assert_eq!(brancher.store(&kernel).await.unwrap(), Kept::Dropped);
}
