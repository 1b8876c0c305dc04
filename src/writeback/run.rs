//! The loop of one volume: asks the plan, obeys, and answers those who wait for a commit.

use super::branch::{Brancher, Branches};
use super::checkpoint::Tail;
use super::commit::{Committer, Done, blocking};
use super::domain::{Classifier, judge_lost};
use super::inbox::{Inbox, Waiters, Wanted};
use super::kernel::{KernelPages, NoKernel};
use super::plan::{self, Action, Situation};
use super::progress::Progress;
use super::survey::{Now, Survey, Surveyed};
use crate::cache::{Cache, Head};
use crate::env::Env;
use crate::log::Writer;
use crate::store::plan::{Budget, Spending};
use crate::store::{Counters, Objects};
use crate::types::{Fault, FaultKind};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

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
    /// How old what is dirty now may become by its tiers, when these wait longer.
    pub of_dirty: Duration,
    /// What makes it wider.
    pub budget: Budget,
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
            lag: Mutex::new(Lag { in_force: budget.lag(lag, (0, 0)), asked: lag, of_dirty: lag, budget }),
            requests: Arc::clone(&requests),
            dirty_max,
        });
        let kernel = Arc::new(NoKernel);
        let now = Now::of(objects.env());
        judge_lost(&cache, classifier.policy());
        let survey = classifier.policy().has_times().then(|| Survey::new(&cache, now));
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
            closed: None,
            landed: landed.into_iter().map(|object| object.name).collect(),
            looked: now.monotonic,
            scheduled: None,
        };
        let run = Loop {
            handle: Arc::clone(&handle),
            committer,
            kernel_seen: Duration::ZERO,
            failures: 0,
            missed: 0,
            relieved: false,
            survey,
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
        self.wait(Wanted::Full).await
    }

    /// Everything that was fsynced here before the call is in a commit when this returns. The commit begins at once, or when the one
    /// under way is stored; who waits at that time shares it.
    ///
    /// # Errors
    /// The loop ended before that; what was not committed stays in the cache.
    pub async fn sync(&self) -> Result<(), Fault> {
        self.wait(Wanted::Synced).await.map(drop)
    }

    async fn wait(&self, wanted: Wanted) -> Result<Option<Head>, Fault> {
        let receive = self.inbox.lock().wait(wanted)?;
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
    /// Where tiers have times of their own.
    survey: Option<Survey>,
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
        self.handle.inbox.lock().end(why);
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
        let (wanted, sync_waits, drain) = {
            let mut inbox = self.handle.inbox.lock();
            if let Some(fault) = inbox.failed.take() {
                return Err(fault);
            }
            let (wanted, sync_waits) = inbox.waiting();
            (wanted, sync_waits, inbox.drain)
        };
        let surveyed = self.survey().await?;
        let (situation, step) = self.situation(surveyed, wanted || drain, sync_waits);
        let action = plan::next(situation);
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
                let waiters = self.handle.inbox.lock().take();
                let with_kernel = action == Action::Seal;
                self.committer.kernel = Arc::clone(&self.handle.kernel.lock());
                // What the kernel gets from now on is not in this cut, however long the upload takes.
                let asked = Now::of(&self.handle.env);
                if let Some(survey) = &mut self.survey {
                    survey.sealing(&self.handle.cache, asked, with_kernel);
                }
                let done = self.committer.commit(with_kernel, plan::leaves_scheduled(situation)).await;
                if let Some(survey) = &mut self.survey {
                    survey.sealed(done.as_ref().ok(), self.handle.cache.left_behind(), self.committer.classifier.policy());
                }
                if with_kernel {
                    self.kernel_seen = asked.monotonic;
                }
                self.relieved = !with_kernel && done.is_ok();
                if done.is_ok() {
                    self.account();
                }
                let full = done.as_ref().is_ok_and(|done| done.full) && with_kernel;
                let missed = done.as_ref().ok().and_then(|done| done.missed.clone());
                self.answer(waiters, done, with_kernel)?;
                match missed {
                    Some(why) if wanted || drain => self.missed(&why).await,
                    None if with_kernel => self.missed = 0,
                    _ => {}
                }
                if drain && full {
                    return self.committer.close().await.map(|()| false);
                }
            }
        }
        Ok(true)
    }

    /// Tells those who waited, or lets them wait for the next commit.
    fn answer(&mut self, mut waiters: Waiters, done: Result<Done, Fault>, with_kernel: bool) -> Result<(), Fault> {
        if let Ok(done) = &done {
            let head = self.handle.cache.head();
            if done.full && with_kernel {
                waiters.committed(Wanted::Full, head);
            }
            // The kernel sends what an fsync is about before the fsync.
            if done.synced {
                waiters.committed(Wanted::Synced, head);
            }
        }
        self.handle.inbox.lock().put_back(waiters);
        if done?.again {
            self.handle.wake.notify_one();
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
            self.handle.inbox.lock().refuse_flushes(&(FaultKind::Unknown, told));
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

    /// What is known of the tiers where these have times of their own.
    async fn survey(&mut self) -> Result<Option<Surveyed>, Fault> {
        let Some(survey) = self.survey.take() else { return Ok(None) };
        let handle = Arc::clone(&self.handle);
        let (cache, now) = (Arc::clone(&handle.cache), Now::of(&handle.env));
        let mut classifier = std::mem::replace(&mut self.committer.classifier, Classifier::built_in());
        let (survey, classifier) = blocking(&handle.env, move || Ok((survey.look(&cache, &mut classifier, now), classifier))).await?;
        self.committer.classifier = classifier;
        let survey = survey.or_else(|error| {
            tracing::warn!(%error, "which tiers changed is not known: all counts as continuous");
            Ok::<_, Fault>(Survey::new(&handle.cache, now))
        })?;
        let lag = handle.lag();
        // A budget that widens the lag delays those too that can wait.
        let floor = if lag.in_force > lag.asked { lag.in_force } else { Duration::ZERO };
        let oldest = handle.cache.changed().then(|| handle.cache.oldest_dirty().unwrap_or(now.monotonic));
        let continuous = self.committer.classifier.policy().continuous_lag().unwrap_or(lag.asked).max(floor);
        let mut surveyed = survey.says(oldest, continuous, floor, now);
        // A change of a more urgent tier may come at any time, and it is not told.
        surveyed.again = surveyed.again.min(lag.asked / 2);
        handle.lag.lock().of_dirty = surveyed.at_most;
        self.survey = Some(survey);
        Ok(Some(surveyed))
    }

    /// The situation, and after how long to look again at the latest.
    fn situation(&self, surveyed: Option<Surveyed>, flush_wanted: bool, sync_waits: bool) -> (Situation, Duration) {
        let handle = &self.handle;
        let lag = handle.lag().in_force;
        let now = handle.env.monotonic();
        let age = |at: Duration| now.saturating_sub(at);
        let oldest_dirty = if handle.cache.changed() {
            Some(handle.cache.oldest_dirty().map_or(lag, age))
        } else {
            self.committer.checkpoint_unnamed.then_some(lag)
        };
        let by_name = self.committer.classifier.policy().schedules_by_name();
        let scheduled_waits = by_name && surveyed.as_ref().is_some_and(|surveyed| surveyed.scheduled_waits);
        // A checkpoint that is to be named is no change of any tier.
        let surveyed = surveyed.filter(|_| !self.committer.checkpoint_unnamed);
        let Surveyed { dirty, kernel_within, again, .. } = surveyed.unwrap_or_else(|| Surveyed::continuous(oldest_dirty, lag));
        let kernel_may_hold = handle.kernel.lock().any().then(|| now.saturating_sub(self.kernel_seen));
        let situation = Situation {
            oldest_dirty,
            kernel_may_hold: kernel_may_hold.filter(|_| kernel_within.is_some()),
            dirty_permille: handle.cache.dirty_bytes().saturating_mul(1000) / handle.dirty_max.max(1),
            due: plan::due_in(dirty),
            kernel_within: kernel_within.unwrap_or(lag),
            flush_wanted,
            sync_waits,
            relieved: self.relieved,
            left_behind: handle.cache.left_behind(),
            scheduled_waits,
        };
        (situation, again.min(plan::LOOK_EVERY / 4))
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
}
