//! What a commit takes of memory however much it holds.

use super::*;
use std::sync::atomic::AtomicUsize;
use tokio::sync::Semaphore;

/// A store whose packs wait at a gate.
#[derive(Debug)]
struct Gate {
    inner: Arc<dyn Store>,
    open: Semaphore,
    waiting: AtomicUsize,
}

#[async_trait]
impl Store for Gate {
    async fn put_if_absent(&self, name: &str, body: Bytes) -> Result<Put, StoreError> {
        if name.contains("/packs/") {
            self.waiting.fetch_add(1, Ordering::SeqCst);
            let _through = self.open.acquire().await.unwrap();
            self.waiting.fetch_sub(1, Ordering::SeqCst);
            return self.inner.put_if_absent(name, body).await;
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

/// So many bytes that nothing compresses.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 1u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u8
    };
    (0..length).map(|_| next()).collect()
}

#[tokio::test]
async fn three_packs_of_a_commit_are_in_memory() {
    let mut gate = None;
    let world = World::on(SHAPE, |inner| {
        let store = Arc::new(Gate { inner, open: Semaphore::new(0), waiting: AtomicUsize::new(0) });
        gate = Some(Arc::clone(&store));
        store
    })
    .await;
    let gate = gate.unwrap();
    let (ino, bytes) = (world.make("f"), noise(12 << 20));
    for part in 0..6u64 {
        write(&world.cache, ino, part * bytes.len() as u64, &bytes);
    }
    let watch = async {
        while gate.waiting.load(Ordering::SeqCst) < 3 {
            tokio::task::yield_now().await;
        }
        // A fourth would come soon.
        let real = Env::real();
        let until = real.monotonic() + Duration::from_millis(500);
        while real.monotonic() < until {
            tokio::task::yield_now().await;
        }
        let waiting = gate.waiting.load(Ordering::SeqCst);
        gate.open.add_permits(1);
        waiting
    };
    let (head, waiting) = tokio::join!(world.writeback.flush(), watch);
    assert!(head.unwrap().is_some());
    assert_eq!((waiting, world.cache.dirty_bytes()), (3, 0));
}
