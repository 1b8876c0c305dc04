//! What a running driver answers: status, flush, unmount, metrics.

use super::at;
use super::control::{Bad, ControlHandler, Different, Flushed, ProgressSink, Scrubbed, Unmounted};
use super::status::{BranchState, BranchStatus, CommitInfo, Fence, Phase, Trouble, VolumeStatus, judge};
use super::wishes::Wishes;
use crate::env::Env;
use crate::format::names as objects;
use crate::fuse::Mount;
use crate::peer;
use crate::store::{Counters, Snapshot};
use crate::telemetry::{Metrics, names};
use crate::types::{Fault, FaultKind};
use crate::volume::{BadData, Outdated, Volume, Waiting};
use crate::writeback::{BranchNews, BranchPhase, Lag, LastCommit};
use async_trait::async_trait;
use parking_lot::Mutex;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::watch;

/// What a driver is made of.
#[derive(Debug)]
pub(super) struct DriverParts {
    pub(super) volume: Arc<Volume>,
    pub(super) dir: PathBuf,
    pub(super) store: String,
    pub(super) counters: Arc<Counters>,
    pub(super) metrics: Metrics,
    pub(super) fence: Arc<OnceLock<Fence>>,
    pub(super) env: Env,
    /// Where other machines ask about the volume.
    pub(super) answers: Option<SocketAddr>,
}

/// The driver, as its control socket and its metrics see it.
#[derive(Debug)]
pub(super) struct Driver {
    parts: DriverParts,
    mount: watch::Sender<Option<Arc<Mount>>>,
    phase: Mutex<Phase>,
    /// The outcome of the drain, for those who asked for the unmount.
    drained: watch::Sender<Option<Outcome>>,
    /// Of other machines, for full commits.
    wishes: Wishes,
}

/// How a drain ended: the newest commit, or why not everything is in one.
type Outcome = Result<Option<CommitInfo>, (FaultKind, String)>;

/// How long an unmount waits for a driver that is about to serve what the kernel has mounted.
const MOUNTED_SOON: Duration = Duration::from_secs(30);
/// How often progress is told while something drains.
const PROGRESS_EVERY: Duration = Duration::from_millis(250);

impl Driver {
    pub(super) fn new(parts: DriverParts) -> Arc<Self> {
        let (mount, phase, drained) = (watch::Sender::new(None), Mutex::new(Phase::Opening), watch::Sender::new(None));
        let wishes = Wishes::new(parts.env.clone());
        let driver = Arc::new(Self { parts, mount, phase, drained, wishes });
        let weak = Arc::downgrade(&driver);
        driver.parts.metrics.on_export(move |metrics| {
            if let Some(driver) = weak.upgrade() {
                driver.measure(metrics);
            }
        });
        driver
    }

    pub(super) fn metrics(&self) -> Metrics {
        self.parts.metrics.clone()
    }

    pub(super) fn mounted(&self, mount: Arc<Mount>) {
        *self.phase.lock() = Phase::Mounted;
        self.mount.send_replace(Some(mount));
    }

    fn mount(&self) -> Option<Arc<Mount>> {
        self.mount.borrow().clone()
    }

    // What the kernel has mounted already is served in a moment: whoever sees the mount may ask for its end.
    async fn mount_soon(&self) -> Result<Option<Arc<Mount>>, Fault> {
        let mut said = self.mount.subscribe();
        if said.borrow().is_none() && crate::fuse::find(&self.parts.dir)?.is_none() {
            return Ok(None);
        }
        tokio::select! {
            mounted = said.wait_for(Option::is_some) => Ok(mounted.ok().and_then(|mount| mount.clone())),
            () = self.parts.env.sleep(MOUNTED_SOON) => Ok(None),
        }
    }

    /// Commits everything and closes the log, after the mount is gone.
    pub(super) async fn drain(&self) -> Result<Option<CommitInfo>, Fault> {
        *self.phase.lock() = Phase::Draining;
        self.parts.volume.close().await?;
        Ok(self.head())
    }

    /// Tells those who asked for the unmount how it ended.
    pub(super) fn finished(&self, outcome: &Result<Option<CommitInfo>, Fault>) {
        let told = match outcome {
            Ok(head) => Ok(head.clone()),
            Err(fault) => Err((fault.kind, fault.to_string())),
        };
        self.drained.send_replace(Some(told));
    }

    /// Ends without waiting for the store; the cache stays to be resumed.
    pub(super) fn give_up(&self) {
        self.parts.volume.cancel();
    }

    fn head(&self) -> Option<CommitInfo> {
        let volume = &self.parts.volume;
        let last = volume.progress().and_then(|progress| progress.last_commit).or_else(|| volume.report().hydrated)?;
        Some(info(last))
    }

    /// Age of the oldest change that is in no commit: still open, or sealed and on its way.
    fn age_of_dirt(&self) -> Option<Duration> {
        let volume = &self.parts.volume;
        let open = volume.cache().changed().then(|| volume.cache().oldest_dirty()).flatten();
        let sealed = volume.progress().and_then(|progress| progress.sealed_since);
        let since = open.into_iter().chain(sealed).min()?;
        Some(self.parts.env.monotonic().saturating_sub(since))
    }

    fn standing(&self) -> VolumeStatus {
        let DriverParts { volume, dir, store, env, fence, answers, .. } = &self.parts;
        let (cache, sizes, origin) = (volume.cache(), volume.sizes(), volume.cache().origin());
        let progress = volume.progress().unwrap_or_default();
        let space = cache.view(|view| view.space());
        let since = |at: Duration| env.monotonic().saturating_sub(at).as_secs();
        let lag = volume.lag();
        let report = volume.report();
        let fenced = report.fenced.or_else(|| progress.fenced.clone()).map(|what| Trouble { what, seconds: 0 });
        let failed = report.failed.or_else(|| progress.failed.clone()).or_else(|| self.spoiled()).map(|what| Trouble { what, seconds: 0 });
        let (of_store, of_here) = not_open_yet(report.waiting, env);
        VolumeStatus {
            volume: volume.identity().to_string(),
            incarnation: objects::uuid(origin.incarnation),
            store: store.clone(),
            fence: fence.get().copied(),
            answers: answers.map(|address| address.to_string()),
            directory: Some(dir.display().to_string()),
            phase: *self.phase.lock(),
            read_only: volume.posix().is_read_only(),
            pid: std::process::id(),
            version: super::handover::version(),
            epoch: cache.head().map_or(0, |head| head.epoch),
            head: self.head(),
            dirty_bytes: cache.dirty_bytes(),
            oldest_dirty_seconds: self.age_of_dirt().map(|age| age.as_secs()),
            lag_milliseconds: milliseconds(lag.in_force.max(lag.of_dirty)),
            lag_reason: why_wider(lag),
            dirty_limit_bytes: sizes.dirty_max,
            cache_bytes: cache.cached_bytes(),
            cache_limit_bytes: sizes.cache_max,
            left_bytes: space.bytes.saturating_sub(cache.cached_bytes()),
            inodes: space.inodes,
            bytes: space.bytes,
            capacity_bytes: sizes.capacity,
            resend: self.mount().is_none_or(|mount| mount.can_resend()),
            quarantined: super::drive::quarantined(),
            fenced,
            store_trouble: progress.store_trouble.map(|trouble| Trouble { what: trouble.why, seconds: since(trouble.since) }).or(of_store),
            local_trouble: failed.or(of_here),
            damaged_cache: report.damaged,
            damaged_cache_lost: report.lost,
            damage: volume.damage(),
            branches: volume.branches().into_iter().map(|news| branch(news, volume.identity().as_str())).collect(),
        }
    }

    /// Files with bytes that are in no commit and gone from the cache's disk.
    fn spoiled(&self) -> Option<String> {
        let cache = self.parts.volume.cache();
        let spoiled = cache.spoiled();
        let (ino, ranges) = spoiled.first()?;
        let name = cache.view(|view| view.show_path(*ino));
        let ranges: Vec<String> = ranges.iter().take(3).map(|range| format!("{} to {}", range.start, range.end)).collect();
        let next = "reading them is EIO until they are written anew or cut off";
        let more = if spoiled.len() > 1 { format!(", and {} more files", spoiled.len() - 1) } else { String::new() };
        Some(format!("bytes that are in no commit are gone from the cache's disk: {} of {name}{more}; {next}", ranges.join(", ")))
    }

    fn measure(&self, metrics: &Metrics) {
        let status = self.standing();
        let volume = [status.volume.as_str()];
        metrics.gauge(&names::CACHE_DIRTY_BYTES, &volume).set_count(status.dirty_bytes);
        metrics.gauge(&names::CACHE_DIRTY_AGE_SECONDS, &volume).set(self.age_of_dirt().map_or(0.0, |age| age.as_secs_f64()));
        metrics.gauge(&names::CACHE_DIRTY_LIMIT_BYTES, &volume).set_count(status.dirty_limit_bytes);
        metrics.gauge(&names::CACHE_STORED_BYTES, &volume).set_count(status.cache_bytes);
        metrics.gauge(&names::CACHE_LIMIT_BYTES, &volume).set_count(status.cache_limit_bytes);
        metrics.gauge(&names::CACHE_INODES, &volume).set_count(status.inodes);
        let cache = self.parts.volume.cache();
        metrics.counter(&names::CACHE_DROPPED_BYTES, &volume).raise_to(cache.dropped_bytes());
        metrics.gauge(&names::CACHE_SPOILED_FILES, &volume).set_count(cache.spoiled().len() as u64);
        let scrubs = self.parts.volume.scrubs();
        metrics.counter(&names::VOLUME_SCRUBBED_BYTES, &volume).raise_to(scrubs.bytes());
        metrics.counter(&names::VOLUME_SCRUB_DIFFERENCES, &volume).raise_to(scrubs.differences());
        metrics.gauge(&names::LOG_EPOCH, &volume).set_count(status.epoch);
        metrics.gauge(&names::LOG_FENCED, &volume).set_count(u64::from(status.fenced.is_some()));
        metrics.gauge(&names::HYDRATE_LEFT_BYTES, &volume).set_count(status.left_bytes);
        metrics.gauge(&names::WRITEBACK_LAG_SECONDS, &volume).set(status.lag_milliseconds as f64 / 1000.0);
        metrics.gauge(&names::VOLUME_SAFE, &volume).set_count(u64::from(judge(&status).safe));
        if let Some(head) = &status.head {
            metrics.gauge(&names::WRITEBACK_LAST_COMMIT_SEQ, &volume).set_count(head.commit);
            metrics.gauge(&names::WRITEBACK_LAST_COMMIT_TIME, &volume).set(head.cut.as_millisecond() as f64 / 1e3);
        }
        let budget = self.parts.volume.lag().budget.requests_per_hour;
        metrics.gauge(&names::WRITEBACK_REQUEST_BUDGET, &volume).set_count(budget.map_or(0, std::num::NonZeroU64::get));
        metrics.counter(&names::WRITEBACK_REQUESTS, &volume).raise_to(self.parts.volume.requests());
        if let Some(progress) = self.parts.volume.progress() {
            metrics.counter(&names::WRITEBACK_COMMITS, &volume).raise_to(progress.commits);
            metrics.counter(&names::WRITEBACK_CHECKPOINTS, &volume).raise_to(progress.checkpoints);
            metrics.counter(&names::WRITEBACK_PACKED_BYTES, &volume).raise_to(progress.uploaded_bytes);
        }
        self.parts.volume.timings(&mut |desc, histogram| metrics.attach(desc, &volume, histogram));
        if let Some(mount) = self.mount() {
            metrics.attach(&names::FUSE_SYNC_SECONDS, &volume, mount.sync_seconds());
            mount.request_seconds(&mut |opcode, histogram| {
                metrics.attach(&names::FUSE_REQUEST_SECONDS, &[&status.volume, opcode], histogram);
            });
        }
        self.measure_store(metrics);
    }

    fn measure_store(&self, metrics: &Metrics) {
        let Snapshot { requests, time, bytes_up, bytes_down } = self.parts.counters.snapshot();
        for (verb, result, count) in requests.into_iter().filter(|(_, _, count)| *count > 0) {
            metrics.counter(&names::STORE_REQUESTS, &[verb.name(), result.name()]).raise_to(count);
        }
        for (verb, time) in time.into_iter().filter(|(_, time)| !time.is_zero()) {
            let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
            metrics.counter(&names::STORE_REQUEST_SECONDS, &[verb.name()]).raise_to(nanos);
        }
        metrics.counter(&names::STORE_SENT_BYTES, &[]).raise_to(bytes_up);
        metrics.counter(&names::STORE_RECEIVED_BYTES, &[]).raise_to(bytes_down);
    }

    async fn with_progress<T>(&self, progress: &ProgressSink, work: impl Future<Output = T>) -> T {
        let cache = self.parts.volume.cache();
        let total = cache.dirty_bytes();
        tokio::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return done,
                () = self.parts.env.sleep(PROGRESS_EVERY) => {
                    let left = cache.dirty_bytes();
                    progress.report(total.saturating_sub(left), total.max(left));
                }
            }
        }
    }
}

fn branch(news: BranchNews, volume: &str) -> BranchStatus {
    let state = match &news.phase {
        BranchPhase::Storing => BranchState::Storing,
        BranchPhase::Safe => BranchState::Safe,
        BranchPhase::Unclaimed(_) => BranchState::Unclaimed,
        BranchPhase::Dropped => BranchState::Dropped,
        BranchPhase::Stuck(_) => BranchState::Stuck,
    };
    BranchStatus { branch: news.epoch, state, told: news.told(volume), cache: news.cache.display().to_string() }
}

/// Why a log is not open yet: what the store says, and what is missing here.
fn not_open_yet(waiting: Option<Waiting>, env: &Env) -> (Option<Trouble>, Option<Trouble>) {
    let Some(Waiting { why, store, since }) = waiting else { return (None, None) };
    let trouble = Some(Trouble { what: why, seconds: env.monotonic().saturating_sub(since).as_secs() });
    if store { (trouble, None) } else { (None, trouble) }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn why_wider(lag: Lag) -> Option<String> {
    let budget = lag.budget.requests_per_hour.filter(|_| lag.in_force > lag.asked)?;
    Some(format!("the request budget of {budget} an hour asks for it, the policy for {} ms", milliseconds(lag.asked)))
}

fn info(last: LastCommit) -> CommitInfo {
    CommitInfo { commit: last.seq, cut: at::timestamp(last.cut_time), full: last.full }
}

impl peer::Answering for Driver {
    fn wished(&self, wish: [u8; 16]) -> peer::Wish {
        self.wishes.heard(wish, &self.parts.volume)
    }

    fn answer(&self) -> peer::Answer {
        let volume = &self.parts.volume;
        if volume.report().fenced.is_some() || volume.progress().is_some_and(|progress| progress.fenced.is_some()) {
            return peer::Answer::NotMine;
        }
        match (&*self.drained.borrow(), *self.phase.lock()) {
            (Some(Ok(_)), _) => peer::Answer::Closed,
            (_, Phase::Draining) => peer::Answer::Draining(volume.cache().dirty_bytes()),
            (_, Phase::Opening | Phase::Mounted) => peer::Answer::InUse,
        }
    }
}

#[async_trait]
impl ControlHandler for Driver {
    async fn status(&self) -> Result<VolumeStatus, Fault> {
        Ok(self.standing())
    }

    async fn flush(&self, progress: &ProgressSink) -> Result<Flushed, Fault> {
        let volume = &self.parts.volume;
        if volume.posix().is_read_only() {
            let why = "this mount only looks at the volume: what was written elsewhere is committed by the mount that wrote it";
            return Err(Fault::new(FaultKind::Invalid, why));
        }
        let before = volume.progress().unwrap_or_default().uploaded_bytes;
        self.with_progress(progress, volume.flush()).await?;
        let after = volume.progress().unwrap_or_default().uploaded_bytes;
        let head =
            self.head().ok_or_else(|| Fault::new(FaultKind::NotFound, "nothing was ever written to this volume: there is no commit"))?;
        Ok(Flushed { commit: head.commit, full: head.full, cut: head.cut, uploaded: after - before })
    }

    async fn scrub(&self, rate: u64, progress: &ProgressSink) -> Result<Scrubbed, Fault> {
        let mount = self.mount();
        let tell = move |outdated: &Outdated| mount.iter().for_each(|mount| mount.forget(outdated));
        let report = self.parts.volume.scrub(rate, &|done, total| progress.report(done, total), Arc::new(tell)).await?;
        let different = |found: &crate::cache::Difference| Different { path: found.path.clone(), kept: found.kept };
        let bad = |bad: BadData| Bad { offset: bad.range.start, length: bad.range.end - bad.range.start, path: bad.path, left: bad.left };
        Ok(Scrubbed {
            commit: report.commit,
            rows: report.rows,
            differences: report.differences.iter().map(different).collect(),
            difference_count: report.difference_count,
            repaired_in: report.repaired_in,
            bytes: report.bytes,
            uncompared_bytes: report.uncompared_bytes,
            bad: report.bad.into_iter().map(bad).collect(),
            bad_bytes: report.bad_bytes,
            healed_bytes: report.healed_bytes,
        })
    }

    async fn unmount(&self, progress: &ProgressSink) -> Result<Unmounted, Fault> {
        let Some(mount) = self.mount_soon().await? else {
            return Err(Fault::new(FaultKind::Busy, "the volume is not mounted yet: try again when it is"));
        };
        // In use: refused, and nothing has changed.
        self.parts.env.blocking(move || mount.unmount(false)).await?;
        let mut drained = self.drained.subscribe();
        let outcome = self.with_progress(progress, async { drained.wait_for(Option::is_some).await.map(|told| told.clone()) }).await;
        match outcome {
            Ok(Some(Ok(head))) => {
                let uploaded = self.parts.volume.progress().unwrap_or_default().uploaded_bytes;
                Ok(Unmounted { commit: head.as_ref().map(|head| head.commit), cut: head.map(|head| head.cut), uploaded })
            }
            Ok(Some(Err((kind, why)))) => Err(Fault::new(kind, why)),
            Ok(None) | Err(_) => Err(Fault::new(FaultKind::Unknown, "the driver ended while it drained; the cache keeps the rest")),
        }
    }
}
