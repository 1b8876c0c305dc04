//! Clock, randomness, ids, failpoints and who runs when: all that is not determined by the input, real and simulated.
//!
//! Nothing else in the crate reads a clock, draws a random number or sleeps (clippy.toml bans it): an [`Env`] is passed in,
//! so that a simulated world owns time and chance, and one seed is one world. The engine (log, cache, hydrate, write-back, volume) starts
//! its tasks and threads by it too.

mod failpoint;
pub mod memory;
mod real;
mod tasks;

pub use failpoint::Failpoints;
pub use tasks::{Abort, NotEnded, Task, Tasks, Wait, Waiter};

use crate::types::{Fault, FaultKind, UnixNanos};
use futures::future::BoxFuture;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Wall clock, monotonic clock and timers.
pub trait Clock: Send + Sync {
    /// The wall clock. May jump, also backwards; never used for order or safety.
    fn now(&self) -> UnixNanos;
    /// Time since some fixed instant; never goes back.
    fn monotonic(&self) -> Duration;
    /// Completes after `duration`.
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()>;
}

/// Random bytes: in the real world from the operating system.
pub trait Random: Send + Sync {
    /// Fills the buffer.
    fn fill(&self, bytes: &mut [u8]);
}

/// Everything undetermined, passed to whoever needs it. Cheap to clone.
#[derive(Clone)]
pub struct Env {
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    failpoints: Failpoints,
    tasks: Arc<dyn Tasks>,
}

impl Env {
    /// The real world. Failpoints are armed by `HOLDFAST_FAILPOINTS` (see [`Failpoints`]).
    #[must_use]
    pub fn real() -> Self {
        Self::new(Arc::new(real::SystemClock::new()), Arc::new(real::SystemRandom), Failpoints::from_environment())
    }

    /// A world made of given parts, in which tokio runs the tasks.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, random: Arc<dyn Random>, failpoints: Failpoints) -> Self {
        Self { clock, random, failpoints, tasks: Arc::new(tasks::Tokio) }
    }

    /// The same, in which somebody else runs the tasks.
    #[must_use]
    pub fn with_tasks(self, tasks: Arc<dyn Tasks>) -> Self {
        Self { tasks, ..self }
    }

    /// See [`Clock::now`].
    #[must_use]
    pub fn now(&self) -> UnixNanos {
        self.clock.now()
    }

    /// See [`Clock::monotonic`].
    #[must_use]
    pub fn monotonic(&self) -> Duration {
        self.clock.monotonic()
    }

    /// See [`Clock::sleep`].
    pub fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        self.clock.sleep(duration)
    }

    /// Starts a task.
    pub fn spawn<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static) -> Task<T> {
        Task::spawn(&*self.tasks, future)
    }

    /// Starts work on a thread where it may wait for the disk.
    pub fn block<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Task<T> {
        Task::block(&*self.tasks, work)
    }

    /// Does work on a thread where it may wait for the disk, and gives what comes of it.
    ///
    /// # Errors
    /// The work's own; [`FaultKind::Local`]: its thread panicked, or was given up.
    pub async fn blocking<T, E>(&self, work: impl FnOnce() -> Result<T, E> + Send + 'static) -> Result<T, Fault>
    where
        T: Send + 'static,
        E: Send + 'static,
        Fault: From<E>,
    {
        match self.block(work).await {
            Ok(done) => done.map_err(Fault::from),
            Err(error) => Err(Fault::with(FaultKind::Local, "a thread did not end", error)),
        }
    }

    /// For threads that are to wait for what tasks do; called where tasks can be started.
    #[must_use]
    pub fn waiter(&self) -> Waiter {
        Waiter(self.tasks.waiter())
    }

    /// Random bytes.
    #[must_use]
    pub fn random<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        self.random.fill(&mut bytes);
        bytes
    }

    /// A uniformly random number below `bound` (with a bias below 2^-32 for bounds up to 2^32); 0 for bound 0.
    #[must_use]
    pub fn random_below(&self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { u64::from_le_bytes(self.random()) % bound }
    }

    /// Passes the failpoint `name` (module.window): nothing happens unless a test armed it.
    pub fn failpoint(&self, name: &'static str) {
        self.failpoints.pass(name);
    }
}

impl fmt::Debug for Env {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Env")
    }
}
