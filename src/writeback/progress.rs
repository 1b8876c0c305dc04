//! What write-back tells others while it works: status, metrics and `flush` read it; nothing decides by it but the pause after
//! a failure of the store, and when a checkpoint is due.

use super::plan::{CHECKPOINT_COMMITS, WAITS_FROM};
use crate::env::Env;
use crate::telemetry::Histogram;
use crate::types::{Fault, FaultKind, Seq, UnixNanos};
use parking_lot::Mutex;
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::watch;

/// A put that takes longer is told as trouble.
const SLOW: Duration = Duration::from_secs(3);

/// Shared between the loop, its uploads and whoever asks.
#[derive(Debug)]
pub struct Progress {
    state: Mutex<State>,
    cancelled: watch::Sender<bool>,
    // Asked for every create: no lock.
    over: AtomicBool,
    // Requests that a longer lag would not have saved.
    unavoidable: AtomicU64,
    // Commits after the newest checkpoint before the next one is due.
    checkpoint_every: AtomicU64,
    waits_from: AtomicU64,
    seals: Histogram,
    commits: Histogram,
}

/// A copy of what is known.
#[derive(Debug, Clone, Default)]
pub struct State {
    /// Newest commit of this process or, before the first, of the log.
    pub last_commit: Option<LastCommit>,
    /// Set while the store does not take what it is asked to take.
    pub store_trouble: Option<Trouble>,
    /// When the oldest change was made that is sealed and not yet known to be in the log, by the monotonic clock.
    pub sealed_since: Option<Duration>,
    /// Bytes of packs uploaded by this process.
    pub uploaded_bytes: u64,
    /// Commits by this process.
    pub commits: u64,
    /// Checkpoints by this process.
    pub checkpoints: u64,
    /// Another writer took the volume: nothing more will be committed from here.
    pub fenced: Option<String>,
    /// Write-back ended for another reason: nothing more will be committed from here.
    pub failed: Option<String>,
}

/// The newest commit.
#[derive(Debug, Clone, Copy)]
pub struct LastCommit {
    /// Its number.
    pub seq: Seq,
    /// The instant that it shows.
    pub cut_time: UnixNanos,
    /// Whether every tier is at that instant.
    pub full: bool,
}

/// Why nothing is stored at the moment.
#[derive(Debug, Clone)]
pub struct Trouble {
    /// Since when, by the monotonic clock.
    pub since: Duration,
    /// The newest cause.
    pub why: String,
    /// Tries so far.
    pub tries: u32,
    /// Monotonic instant of the next try.
    pub next_try: Duration,
}

impl Default for Progress {
    fn default() -> Self {
        Self {
            state: Mutex::default(),
            cancelled: watch::Sender::new(false),
            over: AtomicBool::new(false),
            unavoidable: AtomicU64::new(0),
            checkpoint_every: AtomicU64::new(CHECKPOINT_COMMITS),
            waits_from: AtomicU64::new(WAITS_FROM),
            seals: Histogram::default(),
            commits: Histogram::default(),
        }
    }
}

impl Progress {
    /// What is known now.
    #[must_use]
    pub fn state(&self) -> State {
        self.state.lock().clone()
    }

    /// How long seals took.
    #[must_use]
    pub fn seals(&self) -> &Histogram {
        &self.seals
    }

    /// How long it took from a seal to its commit.
    #[must_use]
    pub fn commits(&self) -> &Histogram {
        &self.commits
    }

    /// From now on a checkpoint is due after so many commits (at least 1, at most the 128 that hold otherwise): opening reads less, and
    /// writing costs more.
    pub fn set_checkpoint_every(&self, commits: u64) {
        self.checkpoint_every.store(commits.clamp(1, CHECKPOINT_COMMITS), Ordering::Relaxed);
    }

    pub(super) fn checkpoint_every(&self) -> u64 {
        self.checkpoint_every.load(Ordering::Relaxed)
    }

    /// From now on this many dirty bytes of the tier `scheduled` are left to its time when a commit is made for another tier (at most the
    /// 8 MiB that hold otherwise).
    pub fn set_waits_from(&self, bytes: u64) {
        self.waits_from.store(bytes.min(WAITS_FROM), Ordering::Relaxed);
    }

    pub(super) fn waits_from(&self) -> u64 {
        self.waits_from.load(Ordering::Relaxed)
    }

    /// Whether nothing more will be committed from here.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    pub(super) fn set_failed(&self, fault: &Fault) {
        self.state.lock().failed = Some(fault.to_string());
        self.over.store(true, Ordering::Release);
    }

    /// Gives up whatever waits for the store: the process ends and the cache stays to be resumed.
    pub fn cancel(&self) {
        self.cancelled.send_replace(true);
    }

    /// Whether [`Self::cancel`] was called.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        *self.cancelled.borrow()
    }

    pub(super) fn store_answered(&self) {
        if let Some(trouble) = self.state.lock().store_trouble.take() {
            tracing::info!(tries = trouble.tries, "the store answers again");
        }
    }

    pub(super) fn store_failed(&self, env: &Env, fault: &Fault, pause: Duration) {
        let mut state = self.state.lock();
        let next_try = env.monotonic() + pause;
        match &mut state.store_trouble {
            Some(trouble) => {
                trouble.tries += 1;
                trouble.why = fault.to_string();
                trouble.next_try = next_try;
            }
            None => {
                tracing::warn!(%fault, "the store does not take what is written; it stays dirty here and is tried again");
                state.store_trouble = Some(Trouble { since: env.monotonic(), why: fault.to_string(), tries: 1, next_try });
            }
        }
    }

    pub(super) fn uploaded(&self, bytes: u64) {
        self.state.lock().uploaded_bytes += bytes;
        // A full pack costs the same however long its bytes wait for others.
        if bytes >= super::plan::PACK_BYTES_TARGET {
            self.not_saved_by_waiting();
        }
    }

    pub(super) fn not_saved_by_waiting(&self) {
        self.unavoidable.fetch_add(1, Ordering::Relaxed);
    }

    /// Requests that a longer lag would not have saved: full packs, and looks for a successor.
    pub(super) fn unavoidable(&self) -> u64 {
        self.unavoidable.load(Ordering::Relaxed)
    }

    pub(super) fn committed(&self, last: LastCommit) {
        let mut state = self.state.lock();
        state.last_commit = Some(last);
        state.commits += 1;
    }

    /// Before the first commit of this process: what the log says.
    pub fn set_last_commit(&self, last: LastCommit) {
        self.state.lock().last_commit = Some(last);
    }

    pub(super) fn set_sealed(&self, since: Option<Duration>) {
        self.state.lock().sealed_since = since;
    }

    pub(super) fn checkpointed(&self) {
        self.state.lock().checkpoints += 1;
    }

    pub(super) fn set_fenced(&self, by: &Fault) {
        tracing::error!(fault = %by, "another writer has taken this volume: nothing more is committed from here, fsync fails, what was not committed becomes a branch");
        self.state.lock().fenced = Some(by.to_string());
        self.over.store(true, Ordering::Release);
    }

    /// Waits for a request to the store, unless cancelled first. One that has no answer for a while is told as trouble at once:
    /// the layers below try again for much longer than a person should have to wait for the news.
    pub(super) async fn watched<F: Future>(&self, env: &Env, what: &str, request: F) -> Result<F::Output, Fault> {
        tokio::pin!(request);
        loop {
            let slow = async {
                env.sleep(SLOW).await;
                let fault = Fault::new(FaultKind::Unknown, format!("the store has not answered PUT {what} for {} s", SLOW.as_secs()));
                self.store_failed(env, &fault, SLOW);
            };
            tokio::select! {
                biased;
                output = self.cancelled_or(&mut request) => return output,
                () = slow => {}
            }
        }
    }

    /// Waits for `future` unless cancelled first.
    ///
    /// # Errors
    /// [`FaultKind::Unknown`]: cancelled.
    pub async fn cancelled_or<F: Future>(&self, future: F) -> Result<F::Output, Fault> {
        let mut cancelled = self.cancelled.subscribe();
        tokio::select! {
            biased;
            _ = cancelled.wait_for(|cancelled| *cancelled) => {
                Err(Fault::new(FaultKind::Unknown, "given up: the driver is ending, what is not committed stays in the cache"))
            }
            output = future => Ok(output),
        }
    }
}
