//! The loop when something does not answer: the kernel, the store, this machine.

use super::*;

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
