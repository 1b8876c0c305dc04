//! Connections taken one after the other, and no more at once than there are slots: by the exporter, and by whoever else listens.

use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Interval;

/// The pause after a connection could not be taken.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Takes connections from one listener.
#[derive(Debug)]
pub struct Acceptor {
    slots: Arc<Semaphore>,
    retry: Interval,
    what: &'static str,
}

impl Acceptor {
    /// With these slots; `what` is said in the log when a connection could not be taken: "a connection to ...".
    #[must_use]
    pub fn new(slots: Arc<Semaphore>, what: &'static str) -> Self {
        Self { slots, retry: tokio::time::interval(RETRY_INTERVAL), what }
    }

    /// The next connection that `accept` gives, with its slot, to be kept as long as it is answered. `None`: the slots were closed.
    pub async fn next<S, F: Future<Output = io::Result<S>>>(&mut self, accept: impl Fn() -> F) -> Option<(OwnedSemaphorePermit, S)> {
        // The slot is taken before the connection is: what is too much waits in the kernel's queue.
        let slot = Arc::clone(&self.slots).acquire_owned().await.ok()?;
        loop {
            match accept().await {
                Ok(stream) => return Some((slot, stream)),
                Err(error) => {
                    // Out of descriptors, mostly: the next accept would fail at once too.
                    tracing::warn!(%error, "a connection to {} was not taken", self.what);
                    self.retry.tick().await;
                }
            }
        }
    }
}
