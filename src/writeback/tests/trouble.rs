//! The loop when something does not answer: the kernel, the store, this machine.

use super::*;
use crate::writeback::plan::CHECKPOINT_COMMITS;

/// A kernel that cannot be asked at first.
#[derive(Debug)]
struct Deaf {
    cache: Arc<Cache>,
    ino: Ino,
    failures: AtomicU64,
}

impl KernelPages for Deaf {
    fn any(&self) -> bool {
        true
    }

    fn bring_in(&self) -> Brought {
        let left = self.failures.load(Ordering::Relaxed);
        if left > 0 {
            self.failures.store(left - 1, Ordering::Relaxed);
            return Brought { missed: Some("the holder does not answer".to_owned()), ..Brought::default() };
        }
        write(&self.cache, self.ino, 0, b"held by the kernel");
        Brought::default()
    }
}

async fn flush_before_a_deaf_kernel(failures: u64) -> (World, Result<u64, FaultKind>) {
    let world = World::new(SHAPE).await;
    let ino = world.make("f");
    let kernel = Arc::new(Deaf { cache: Arc::clone(&world.cache), ino, failures: AtomicU64::new(failures) });
    world.writeback.mounted(Arc::clone(&kernel) as _);
    let flushed = {
        let (flush, time) = (world.writeback.flush(), async {
            loop {
                world.go(Duration::from_secs(1)).await;
            }
        });
        tokio::select! {
            biased;
            flushed = flush => flushed,
            () = time => unreachable!(),
        }
    };
    let left = kernel.failures.load(Ordering::Relaxed);
    (world, flushed.map(|_| left).map_err(|fault| fault.kind))
}

#[tokio::test]
async fn flush_waits_until_the_kernel_could_be_asked() {
    let (world, flushed) = flush_before_a_deaf_kernel(3).await;
    assert_eq!(flushed, Ok(0), "every failed try came before the answer");
    let mut out = Vec::new();
    let ino = world.cache.view(|view| view.lookup(ROOT, b"f")).unwrap().unwrap().0;
    world.cache.read(ino, 0, 18, &mut out).unwrap();
    assert_eq!(out, b"held by the kernel");
}

#[tokio::test]
async fn flush_says_so_when_the_kernel_can_not_be_asked() {
    let (_, flushed) = flush_before_a_deaf_kernel(10_000).await;
    assert_eq!(flushed, Err(FaultKind::Unknown));
}

/// A machine on which no seal succeeds.
#[derive(Debug)]
struct Broken;

impl KernelPages for Broken {
    fn any(&self) -> bool {
        true
    }

    fn bring_in(&self) -> Brought {
        panic!("as a thread that dies");
    }
}

/// Time goes on, second by second; whether the writer has found out within 29 s.
async fn fenced_in_time(world: &World) -> bool {
    for _ in 0..29 {
        if world.fenced() {
            break;
        }
        world.clock.advance(Duration::from_secs(1));
        // It may be fenced, and then wait for its end, instead of going to sleep again.
        tokio::select! {
            () = world.clock.settled() => {}
            () = async { while !world.fenced() { tokio::task::yield_now().await } } => {}
        }
        for _ in 0..64 {
            tokio::task::yield_now().await;
        }
    }
    world.fenced()
}

#[tokio::test]
async fn fenced_writer_that_can_seal_nothing_knows_within_30_s() {
    let world = World::new(SHAPE).await;
    world.writeback.mounted(Arc::new(Broken));
    let ino = world.make("f");
    write(&world.cache, ino, 0, b"of nobody");
    // By now it waits long between two tries.
    for _ in 0..100 {
        world.go(Duration::from_secs(1)).await;
    }
    Writer::open(world.site.clone(), params(2)).await.unwrap();
    assert!(fenced_in_time(&world).await);
}

/// A store that does not answer: puts of checkpoints never, or nothing after the next commit.
#[derive(Debug)]
struct Silent {
    inner: Arc<dyn Store>,
    checkpoints: AtomicBool,
    after_commit: AtomicBool,
    dead: AtomicBool,
}

impl Silent {
    async fn answer(&self) {
        if self.dead.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
    }
}

#[async_trait]
impl Store for Silent {
    async fn put_if_absent(&self, name: &str, body: Bytes) -> Result<Put, StoreError> {
        self.answer().await;
        if name.contains("/checkpoints/") && self.checkpoints.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        let put = self.inner.put_if_absent(name, body).await;
        if name.contains("/commits/") && self.after_commit.load(Ordering::Relaxed) {
            self.dead.store(true, Ordering::Relaxed);
        }
        put
    }
    async fn get(&self, name: &str) -> Result<Option<Bytes>, StoreError> {
        self.answer().await;
        self.inner.get(name).await
    }
    async fn get_range(&self, name: &str, range: Range<u64>) -> Result<Option<Bytes>, StoreError> {
        self.answer().await;
        self.inner.get_range(name, range).await
    }
    async fn head(&self, name: &str) -> Result<Option<ObjectMeta>, StoreError> {
        self.answer().await;
        self.inner.head(name).await
    }
    async fn list(&self, prefix: &str, start_after: Option<&str>, limit: usize) -> Result<Vec<ObjectMeta>, StoreError> {
        self.inner.list(prefix, start_after, limit).await
    }
    async fn delete(&self, name: &str) -> Result<(), StoreError> {
        self.inner.delete(name).await
    }
}

/// One commit before a checkpoint is due.
async fn before_a_checkpoint() -> (World, Arc<Silent>, Ino) {
    let mut silent = None;
    let world = World::on(SHAPE, |inner| {
        let [checkpoints, after_commit, dead] = [(); 3].map(|()| AtomicBool::new(false));
        let store = Arc::new(Silent { inner, checkpoints, after_commit, dead });
        silent = Some(Arc::clone(&store));
        store
    })
    .await;
    let ino = world.make("f");
    for n in 1..CHECKPOINT_COMMITS {
        write(&world.cache, ino, n, b"x");
        world.writeback.flush().await.unwrap();
    }
    write(&world.cache, ino, 0, b"last");
    (world, silent.unwrap(), ino)
}

#[tokio::test]
async fn fenced_writer_whose_checkpoint_does_not_end_knows_within_30_s() {
    let (world, store, ino) = before_a_checkpoint().await;
    store.checkpoints.store(true, Ordering::Relaxed);
    world.go(Duration::from_secs(1)).await;
    write(&world.cache, ino, 0, b"of nobody");
    Writer::open(world.site.clone(), params(2)).await.unwrap();
    assert!(fenced_in_time(&world).await);
}

#[tokio::test]
async fn giving_up_ends_a_checkpoint_whose_store_is_gone() {
    let (world, store, _) = before_a_checkpoint().await;
    store.after_commit.store(true, Ordering::Relaxed);
    world.clock.advance(Duration::from_secs(1));
    while world.writeback.progress().state().commits < CHECKPOINT_COMMITS {
        tokio::task::yield_now().await;
    }
    world.writeback.cancel();
    assert!(matches!(world.task.await.unwrap(), Ended::Cancelled));
}
