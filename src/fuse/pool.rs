//! Threads for what a handler must not wait for: fetches, flushes, whatever answers later.
//!
//! Handlers of fuser run on a few threads that read the device; one that waited for the store, or for the kernel to send
//! WRITEs, would stop the others or itself. A job here owns its reply.

use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

type Job = Box<dyn FnOnce() + Send>;

/// A bounded number of threads, started when there is work for them.
#[derive(Clone)]
pub(super) struct Pool {
    shared: Arc<Shared>,
}

struct Shared {
    name: &'static str,
    limit: usize,
    state: Mutex<State>,
    work: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    threads: usize,
    idle: usize,
    closed: bool,
}

impl Pool {
    /// At most `limit` threads, called `name`.
    pub(super) fn new(name: &'static str, limit: usize) -> Self {
        Self { shared: Arc::new(Shared { name, limit, state: Mutex::default(), work: Condvar::new() }) }
    }

    /// Runs the job soon, on another thread; in order of arrival when all are busy.
    pub(super) fn run(&self, job: impl FnOnce() + Send + 'static) {
        let mut state = self.shared.state.lock();
        state.jobs.push_back(Box::new(job));
        if state.idle >= state.jobs.len() || state.threads == self.shared.limit {
            drop(state);
            self.shared.work.notify_one();
            return;
        }
        state.threads += 1;
        drop(state);
        let shared = Arc::clone(&self.shared);
        let spawned = std::thread::Builder::new().name(self.shared.name.to_owned()).spawn(move || shared.serve());
        if let Err(error) = spawned {
            let threads = {
                let mut state = self.shared.state.lock();
                state.threads -= 1;
                state.threads
            };
            tracing::warn!(pool = self.shared.name, threads, %error, "no further thread");
            if threads == 0 {
                // Nobody would ever answer: better as a crash that a successor takes over than as a hang.
                tracing::error!(pool = self.shared.name, "not one thread can be started");
                std::process::abort();
            }
        }
    }

    /// As `run`, not before `delay` has passed.
    pub(super) fn run_after(&self, delay: Duration, job: impl FnOnce() + Send + 'static) {
        self.run(move || {
            pause(delay);
            job();
        });
    }

    /// Lets the threads end when their queue is empty.
    pub(super) fn close(&self) {
        self.shared.state.lock().closed = true;
        self.shared.work.notify_all();
    }
}

/// Waits on a thread that has nothing else to do.
pub(super) fn pause(duration: Duration) {
    let (lock, never) = (Mutex::new(()), Condvar::new());
    never.wait_for(&mut lock.lock(), duration);
}

impl Shared {
    fn serve(&self) {
        super::buffers::serve_writeback();
        let mut state = self.state.lock();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                drop(state);
                job();
                state = self.state.lock();
            } else if state.closed {
                state.threads -= 1;
                return;
            } else {
                state.idle += 1;
                self.work.wait(&mut state);
                state.idle -= 1;
            }
        }
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("name", &self.shared.name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;

    #[test]
    fn jobs_that_wait_for_one_another_all_run() {
        let pool = Pool::new("pool-test", 4);
        let meeting = Arc::new(Barrier::new(5));
        for _ in 0..4 {
            let meeting = Arc::clone(&meeting);
            pool.run(move || {
                meeting.wait();
            });
        }
        meeting.wait();
        pool.close();
    }

    #[test]
    fn more_jobs_than_threads_are_done_one_after_the_other() {
        let pool = Pool::new("pool-test", 1);
        let (done, wait) = std::sync::mpsc::channel();
        for n in 0..50 {
            let done = done.clone();
            pool.run(move || done.send(n).unwrap());
        }
        assert_eq!(wait.iter().take(50).collect::<Vec<_>>(), (0..50).collect::<Vec<_>>());
    }
}
