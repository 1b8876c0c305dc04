//! Closes files of our own mount without waiting: up to kernel 6.15 a close takes the inode's lock, which an fsync holds until its answer.
//! One that waits for a commit would have it wait for itself, if the cut before it waited for a close.

use super::pool::Pool;
use parking_lot::{Condvar, Mutex};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

const THREADS: usize = 8;
/// Files that may wait to be closed: a process has 1,024 descriptors unless it asked for more.
const WAITING_MAX: usize = 512;
/// How long somebody waits for some of them to be closed.
const PATIENCE: Duration = Duration::from_secs(1);

/// See the module's head.
pub(super) struct Closer {
    pool: Pool,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    waiting: Mutex<Waiting>,
    closed: Condvar,
}

#[derive(Default)]
struct Waiting {
    files: usize,
    /// Somebody has waited in vain: others do not before it goes on.
    stuck: bool,
}

impl State {
    fn wait_for(&self, most: usize) -> bool {
        let mut waiting = self.waiting.lock();
        let patience = if waiting.stuck { Duration::ZERO } else { PATIENCE };
        self.closed.wait_while_for(&mut waiting, |waiting| waiting.files > most, patience);
        waiting.stuck = waiting.files > most;
        !waiting.stuck
    }
}

impl Closer {
    pub(super) fn new() -> Self {
        Self { pool: Pool::new("fuse-close", THREADS), state: Arc::default() }
    }

    /// Whether another file may be opened that is to be closed here.
    pub(super) fn has_room(&self) -> bool {
        self.state.wait_for(WAITING_MAX)
    }

    /// Closes it soon.
    pub(super) fn close(&self, file: OwnedFd) {
        self.state.waiting.lock().files += 1;
        let state = Arc::clone(&self.state);
        self.pool.run(move || {
            drop(file);
            state.waiting.lock().files -= 1;
            state.closed.notify_all();
        });
    }

    /// Waits a while until all are closed: the mount is busy until then.
    pub(super) fn settle(&self) {
        self.state.wait_for(0);
    }
}

impl std::fmt::Debug for Closer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Closer").finish_non_exhaustive()
    }
}

impl Drop for Closer {
    fn drop(&mut self) {
        self.pool.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn closes_soon_and_bounds_what_waits() {
        let closer = Closer::new();
        let (mut reader, writer) = std::io::pipe().unwrap();
        closer.close(writer.into());
        assert_eq!(reader.read(&mut [0]).unwrap(), 0, "closed");
        closer.settle();
        assert!(closer.has_room());
        closer.state.waiting.lock().files = WAITING_MAX + 1;
        assert!(!closer.has_room());
        assert!(!closer.has_room());
        closer.state.waiting.lock().files = 0;
        assert!(closer.has_room());
    }
}
