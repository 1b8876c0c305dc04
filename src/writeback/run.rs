//! The loop of one volume: asks the plan, obeys, and answers those who wait for a commit.

use super::branch::{Brancher, Branches};
use super::checkpoint::Tail;
use super::commit::{Committer, Done, blocking};
use super::domain::Classifier;
use super::plan::{self, Action, Situation};
use super::progress::Progress;
use crate::cache::{Cache, Head};
use crate::env::Env;
use crate::log::Writer;
use crate::store::plan::{Budget, Spending};
use crate::store::{Counters, Objects};
use crate::types::{Fault, FaultKind, Ino};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, oneshot};

/// What the kernel holds of files that are open for writing, and how to bring it in.
pub trait KernelPages: Send + Sync + std::fmt::Debug {
    /// Whether any file is open for writing, so that the kernel may hold bytes that the driver has not seen.
    fn any(&self) -> bool;
    /// Brings everything in, as of the call. Blocks.
    fn bring_in(&self) -> Brought;
}

/// What came of asking the kernel for its pages.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Brought {
    /// For each file the size that the kernel knew before (protocol.md 6.2).
    pub sizes: Vec<(Ino, u64)>,
    /// Why not everything came, if so: what programs wrote last may still be in the kernel alone.
    pub missed: Option<String>,
}

/// No kernel in front: everything written has arrived.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoKernel;

impl KernelPages for NoKernel {
    fn any(&self) -> bool {
        false
    }
    fn bring_in(&self) -> Brought {
        Brought::default()
    }
}

/// What a volume gives to its write-back.
#[derive(Debug)]
pub struct Parts {
    /// The incarnation's objects.
    pub objects: Objects,
    /// The local truth.
    pub cache: Arc<Cache>,
    /// The writer of the epoch in force.
    pub writer: Writer,
    /// The commits since the newest checkpoint.
    pub tail: Tail,
    /// To which tier a path belongs.
    pub classifier: Classifier,
    /// Packs of a commit that landed when the process before this one ended, as [`crate::log::OpenReport`] says.
    pub landed: Vec<crate::rpc::ObjectRef>,
    /// How old a change may become.
    pub lag: Duration,
    /// What that may cost in requests.
    pub budget: Budget,
    /// Where the requests of `objects` and `writer` are counted, and no others.
    pub requests: Arc<Counters>,
    /// Bytes that may be dirty before new work is refused.
    pub dirty_max: u64,
    /// Where it is told how the branch goes that is made when another writer takes the volume.
    pub branches: Arc<Branches>,
    /// This machine, as that branch names it.
    pub host: String,
}

/// The handle of a volume's write-back: ask for a flush, ask how it goes.
#[derive(Debug)]
pub struct WriteBack {
    env: Env,
    cache: Arc<Cache>,
    progress: Arc<Progress>,
    wake: Notify,
    inbox: Mutex<Inbox>,
    kernel: Mutex<Arc<dyn KernelPages>>,
    lag: Mutex<Lag>,
    requests: Arc<Counters>,
    dirty_max: u64,
}

/// How old a change may become before it is sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lag {
    /// What counts: as asked, or wider.
    pub in_force: Duration,
    /// What the policy asks for.
    pub asked: Duration,
    /// What makes it wider.
    pub budget: Budget,
}

/// Somebody who waits for a full commit; or why there will be none.
type Waiter = oneshot::Sender<Result<Option<Head>, (FaultKind, String)>>;

#[derive(Debug, Default)]
struct Inbox {
    flushes: Vec<Waiter>,
    drain: bool,
    failed: Option<Fault>,
    ended: Option<(FaultKind, String)>,
}

/// How the loop ended.
#[derive(Debug)]
pub enum Ended {
    /// Everything is committed and the log has its `close`.
    Closed,
    /// Given up: what is not committed stays in the cache.
    Cancelled,
    /// Another writer has the volume, or the cache or store is damaged: nothing more is committed from here.
    Failed(Fault),
}

impl WriteBack {
    /// The handle, and the loop to be driven by whoever owns the volume.
    #[must_use]
    pub fn new(parts: Parts) -> (Arc<Self>, Loop) {
        let Parts { objects, cache, writer, tail, classifier, landed, lag, budget, requests, dirty_max, branches, host } = parts;
        let progress = Arc::new(Progress::default());
        let handle = Arc::new(Self {
            env: objects.env().clone(),
            cache: Arc::clone(&cache),
            progress: Arc::clone(&progress),
            wake: Notify::new(),
            inbox: Mutex::default(),
            kernel: Mutex::new(Arc::new(NoKernel)),
            lag: Mutex::new(Lag { in_force: budget.lag(lag, (0, 0)), asked: lag, budget }),
            requests: Arc::clone(&requests),
            dirty_max,
        });
        let kernel = Arc::new(NoKernel);
        let looked = objects.env().monotonic();
        let committer = Committer {
            objects,
            cache,
            kernel,
            progress,
            writer,
            classifier,
            tail,
            policy_recorded: false,
            checkpoint_unnamed: false,
            reuse_due: true,
            landed: landed.into_iter().map(|object| object.name).collect(),
            looked,
        };
        let run = Loop {
            handle: Arc::clone(&handle),
            committer,
            kernel_seen: Duration::ZERO,
            failures: 0,
            missed: 0,
            relieved: false,
            spending: Spending::default(),
            accounted: requests.total(),
            branches,
            host,
        };
        (handle, run)
    }

    /// From now on pages of this mount are brought in before each seal.
    pub fn mounted(&self, kernel: Arc<dyn KernelPages>) {
        *self.kernel.lock() = kernel;
    }

    /// Something changed, or was opened for writing, after a quiet time ([`Cache::on_stir`]).
    pub fn stirred(&self) {
        self.wake.notify_one();
    }

    /// How it goes.
    #[must_use]
    pub fn progress(&self) -> &Arc<Progress> {
        &self.progress
    }

    /// How old a change may become before it is sealed.
    #[must_use]
    pub fn lag(&self) -> Lag {
        *self.lag.lock()
    }

    /// Requests that write-back made.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.requests.total()
    }

    /// Everything that was written before the call is in a full commit when this returns; its head. `None`: nothing was ever committed.
    ///
    /// # Errors
    /// The loop ended before that; what was not committed stays in the cache.
    pub async fn flush(&self) -> Result<Option<Head>, Fault> {
        let (send, receive) = oneshot::channel();
        {
            let mut inbox = self.inbox.lock();
            if let Some((kind, why)) = &inbox.ended {
                return Err(Fault::new(*kind, why.clone()));
            }
            inbox.flushes.push(send);
        }
        self.wake.notify_one();
        match receive.await {
            Ok(Ok(head)) => Ok(head),
            Ok(Err((kind, why))) => Err(Fault::new(kind, why)),
            Err(_) => Err(Fault::new(FaultKind::Unknown, "write-back ended before everything was committed; the rest stays in the cache")),
        }
    }

    /// Commits everything, appends `close`, and ends the loop. Nothing must be written any more.
    pub fn drain(&self) {
        self.inbox.lock().drain = true;
        self.wake.notify_one();
    }

    /// Ends the loop before its next commit: what the cache says is not to be believed.
    pub fn fail(&self, fault: Fault) {
        self.inbox.lock().failed.get_or_insert(fault);
        self.wake.notify_one();
    }

    /// Gives up whatever waits for the store and ends the loop; the cache stays to be resumed.
    pub fn cancel(&self) {
        self.progress.cancel();
        self.wake.notify_one();
    }
}

/// The loop itself.
#[derive(Debug)]
pub struct Loop {
    handle: Arc<WriteBack>,
    committer: Committer,
    /// When the kernel was last asked for its pages.
    kernel_seen: Duration,
    /// In a row.
    failures: u32,
    /// Tries in a row to bring the kernel's pages in for somebody who waits.
    missed: u32,
    /// A seal without the kernel made room while somebody waited for a full commit.
    relieved: bool,
    spending: Spending,
    /// Requests so far that `spending` knows, or that it need not know.
    accounted: u64,
    branches: Arc<Branches>,
    host: String,
}

impl Loop {
    /// Runs until drained, cancelled or failed.
    pub async fn run(mut self) -> Ended {
        let ended = loop {
            if self.handle.progress.is_cancelled() {
                break Ended::Cancelled;
            }
            match self.step().await {
                Ok(true) => self.failures = 0,
                Ok(false) => break Ended::Closed,
                Err(_) if self.handle.progress.is_cancelled() => break Ended::Cancelled,
                // The disk, credentials or the store may come back: what was sealed is dirty again and is sealed anew.
                Err(fault) if matches!(fault.kind, FaultKind::Local | FaultKind::Unknown | FaultKind::Denied | FaultKind::Full) => {
                    let pause = plan::backoff(self.failures);
                    self.failures += 1;
                    self.handle.progress.store_failed(&self.handle.env, &fault, pause);
                    match self.pause(pause).await {
                        Ok(()) => {}
                        Err(_) if self.handle.progress.is_cancelled() => break Ended::Cancelled,
                        Err(fault) => break Ended::Failed(fault),
                    }
                }
                Err(fault) => break Ended::Failed(fault),
            }
        };
        let why = match &ended {
            Ended::Closed => (FaultKind::Unknown, "the volume is closed".to_owned()),
            Ended::Cancelled => (FaultKind::Unknown, "write-back was given up; what is not committed stays in the cache".to_owned()),
            Ended::Failed(fault) => {
                self.handle.progress.set_failed(fault);
                tracing::error!(%fault, "nothing more is committed from here; what is not committed stays in the cache");
                (fault.kind, fault.to_string())
            }
        };
        {
            let mut inbox = self.handle.inbox.lock();
            inbox.ended = Some(why.clone());
            for waiter in inbox.flushes.drain(..) {
                let _ = waiter.send(Err(why.clone()));
            }
        }
        if matches!(&ended, Ended::Failed(fault) if fault.kind == FaultKind::Fenced) {
            self.branch().await;
        }
        ended
    }

    /// Leaves what fails alone for a while. With anything dirty it goes on looking for a successor meanwhile: the failure may be here, and last.
    async fn pause(&mut self, pause: Duration) -> Result<(), Fault> {
        let handle = &self.handle;
        let over = handle.progress.cancelled_or(handle.env.sleep(pause));
        if !handle.cache.changed() {
            return over.await;
        }
        let since = handle.cache.oldest_dirty().unwrap_or_else(|| handle.env.monotonic());
        tokio::select! {
            biased;
            over = over => over,
            fault = self.committer.watch(since) => Err(fault),
        }
    }

    /// Another writer has the volume: what was not committed goes beside the log, and once more when the mount ends, with what the kernel
    /// still brought (protocol.md 7.5: no WRITE is refused).
    async fn branch(self) {
        let Self { handle, committer, branches, host, .. } = self;
        let (objects, cache, progress) = (committer.objects, committer.cache, Arc::clone(&handle.progress));
        let mut brancher = Brancher::new(objects, cache, committer.classifier, Arc::clone(&progress), branches, host);
        loop {
            let last = handle.inbox.lock().drain;
            let kernel = Arc::clone(&handle.kernel.lock());
            if let Err(fault) = brancher.store(&kernel).await {
                tracing::error!(%fault, "what was not committed stays in this cache");
            }
            while !last && !handle.inbox.lock().drain {
                if progress.cancelled_or(handle.wake.notified()).await.is_err() {
                    return;
                }
            }
            if last {
                return;
            }
        }
    }

    /// One decision. `false`: drained and closed.
    async fn step(&mut self) -> Result<bool, Fault> {
        let (wanted, drain) = {
            let mut inbox = self.handle.inbox.lock();
            if let Some(fault) = inbox.failed.take() {
                return Err(fault);
            }
            (!inbox.flushes.is_empty(), inbox.drain)
        };
        let situation = self.situation(wanted || drain);
        let action = plan::next(situation);
        let step = (situation.lag / 2).min(plan::LOOK_EVERY / 4);
        match action {
            // Something will stir; the long rest only bounds what a lost word could cost.
            Action::Idle => self.rest(plan::QUIET_MAX).await,
            Action::Wait(duration) => {
                if let Some(age) = situation.oldest_dirty {
                    self.committer.look(age).await?;
                }
                self.rest(duration.min(step)).await;
            }
            Action::Seal | Action::SealWithoutKernel => {
                let flushes = std::mem::take(&mut self.handle.inbox.lock().flushes);
                let with_kernel = action == Action::Seal;
                self.committer.kernel = Arc::clone(&self.handle.kernel.lock());
                // What the kernel gets from now on is not in this cut, however long the upload takes.
                let asked = self.handle.env.monotonic();
                let done = self.committer.commit(with_kernel).await;
                if with_kernel {
                    self.kernel_seen = asked;
                }
                self.relieved = !with_kernel && done.is_ok();
                if done.is_ok() {
                    self.account();
                }
                let full = done.as_ref().is_ok_and(|done| done.full) && with_kernel;
                let missed = done.as_ref().ok().and_then(|done| done.missed.clone());
                self.answer(flushes, done, with_kernel)?;
                match missed {
                    Some(why) if wanted || drain => self.missed(&why).await,
                    None if with_kernel => self.missed = 0,
                    _ => {}
                }
                if drain && full {
                    return self.close().await.map(|()| false);
                }
            }
        }
        Ok(true)
    }

    /// Tells those who waited, or lets them wait for the next commit.
    fn answer(&mut self, flushes: Vec<Waiter>, done: Result<Done, Fault>, with_kernel: bool) -> Result<(), Fault> {
        match done {
            Ok(done) if done.full && with_kernel => {
                let head = self.handle.cache.head();
                for waiter in flushes {
                    let _ = waiter.send(Ok(head));
                }
            }
            Ok(done) => {
                self.handle.inbox.lock().flushes.extend(flushes);
                if done.again {
                    self.handle.wake.notify_one();
                }
            }
            Err(fault) => {
                self.handle.inbox.lock().flushes.extend(flushes);
                return Err(fault);
            }
        }
        Ok(())
    }

    /// Somebody waits for a full commit, and what the kernel holds did not all come. It is asked again soon; who has waited through many
    /// tries is told, as nothing here says when it will be better. A drain goes on: its mount is gone or ends with its last user.
    async fn missed(&mut self, why: &str) {
        self.missed += 1;
        if self.missed >= plan::KERNEL_TRIES {
            self.missed = 0;
            let told = format!(
                "not all that programs wrote is in a commit: what the kernel holds of files open for writing cannot be brought in ({why}); \
                 close or fsync them, then flush again"
            );
            for waiter in self.handle.inbox.lock().flushes.drain(..) {
                let _ = waiter.send(Err((FaultKind::Unknown, told.clone())));
            }
        }
        self.rest(plan::KERNEL_AGAIN).await;
    }

    /// What the commit took widens the lag of those after it.
    fn account(&mut self) {
        let handle = &self.handle;
        let all = handle.requests.total().saturating_sub(handle.progress.unavoidable());
        if all > self.accounted {
            self.spending.commit(all - self.accounted);
            self.accounted = all;
        }
        let mut lag = handle.lag.lock();
        lag.in_force = lag.budget.lag(lag.asked, self.spending.spent());
    }

    fn situation(&self, flush_wanted: bool) -> Situation {
        let handle = &self.handle;
        let lag = handle.lag().in_force;
        let now = handle.env.monotonic();
        let age = |at: Duration| now.saturating_sub(at);
        let kernel_may_hold = handle.kernel.lock().any().then(|| now.saturating_sub(self.kernel_seen));
        Situation {
            oldest_dirty: if handle.cache.changed() {
                Some(handle.cache.oldest_dirty().map_or(lag, age))
            } else {
                self.committer.checkpoint_unnamed.then_some(lag)
            },
            kernel_may_hold,
            dirty_permille: handle.cache.dirty_bytes().saturating_mul(1000) / handle.dirty_max.max(1),
            flush_wanted,
            relieved: self.relieved,
            left_behind: handle.cache.left_behind(),
            lag,
        }
    }

    /// Waits for something to happen.
    async fn rest(&self, at_most: Duration) {
        let sleep = self.handle.env.sleep(at_most.max(Duration::from_millis(10)));
        tokio::select! {
            biased;
            () = self.handle.wake.notified() => {}
            () = sleep => {}
        }
    }

    async fn close(&mut self) -> Result<(), Fault> {
        let prepared = self.committer.writer.prepare_close()?;
        let head = self.committer.put(&prepared).await?;
        let cache = Arc::clone(&self.handle.cache);
        blocking(&self.handle.env, move || {
            cache.set_head(head)?;
            cache.set_intent(None)
        })
        .await
    }
}
