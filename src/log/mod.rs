//! The commit log and the control chain: open, append, fence, intent, adopt, claim, retire.
//!
//! ```text
//! lookup      identity -> incarnation: found | absent | damaged | unknown      (protocol.md 10)
//! read        where the log ends, and its records with their hashes            (1.5, 1.7)
//! write       open, prepare -> intent -> put -> resolve, close, fence          (1.1 to 1.3, 1.9, 1.10)
//! nameable    which packs a commit may name                                    (3)
//! checkpoint  the index that makes a checkpoint, and which one counts          (3)
//! control     the second chain: claims, retirements, attachments, purge        (2)
//! inventory   what lies there, and what of it is needed: 40 bytes an object
//! plan        what stays, what may go: pure                                    (3)
//! block       markers, and the only place that deletes numbers                 (1.5)
//! branch      what a fenced writer leaves: its base, its claim, its head       (2, 3)
//! protocol    every rule above: its crash window, failpoint and test
//! ```
//! Everything here is straight-line async code over a [`Store`] and an [`Env`]: no runtime, no task of its own, no shared state. Any await
//! may be the last thing a process does. `tests/sim.rs` drives this same code through seeded worlds.

pub mod block;
pub mod branch;
pub mod checkpoint;
pub mod control;
mod error;
pub mod inventory;
pub mod lookup;
mod nameable;
pub mod plan;
pub mod protocol;
mod read;
mod write;

#[cfg(test)]
mod tests;

pub use crate::types::{Head, Intent};
pub use error::LogError;
pub use lookup::{Lookup, create, data_sealer, lookup};
pub use nameable::{Approved, Framed, Nameable};
pub use read::{At, Hint, Phase, Reader, Record, Tip, objects_named};
pub use write::{CacheState, OpenReport, Outcome, Prepared, Writer, WriterParams, fence};

use crate::env::Env;
use crate::format::names;
use crate::format::seal::Sealer;
use crate::store::{Objects, Put, Store, StoreError};
use crate::types::{BLOCK, Incarnation, Seq};
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;

/// How long to go on asking a store that does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// The first pause; each next one is twice as long.
    pub first: Duration,
    /// The longest pause.
    pub longest: Duration,
    /// Give up after this much time; `None`: never (drop the future to cancel).
    pub give_up: Option<Duration>,
}

impl Default for Patience {
    fn default() -> Self {
        Self { first: Duration::from_millis(100), longest: Duration::from_secs(5), give_up: None }
    }
}

/// Where one incarnation's log and control chain lie, and how they are reached. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Site {
    objects: Objects,
    patience: Patience,
    block: u64,
}

impl Site {
    /// The place of `incarnation`, whose objects `sealer` seals.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, env: Env, sealer: Sealer, incarnation: Incarnation) -> Self {
        Self::of(Objects::new(store, sealer, incarnation, env))
    }

    /// The place of the incarnation whose objects these are.
    #[must_use]
    pub fn of(objects: Objects) -> Self {
        Self { objects, patience: Patience::default(), block: BLOCK }
    }

    /// The same objects, for whoever reads and stores more than records.
    #[must_use]
    pub fn objects(&self) -> &Objects {
        &self.objects
    }

    /// With another patience.
    #[must_use]
    pub fn with_patience(mut self, patience: Patience) -> Self {
        self.patience = patience;
        self
    }

    /// With blocks of another length: for simulated worlds, where 1,024 records are a long life. All users of one store must agree.
    #[must_use]
    pub fn with_block(mut self, numbers: u64) -> Self {
        self.block = numbers.max(1);
        self
    }

    /// The incarnation.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        self.objects.incarnation()
    }

    /// What its objects are sealed with.
    #[must_use]
    pub fn sealer(&self) -> &Sealer {
        self.objects.sealer()
    }

    /// Clock and chance.
    #[must_use]
    pub fn env(&self) -> &Env {
        self.objects.env()
    }

    /// The store.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn Store> {
        self.objects.store()
    }

    /// The block that holds a number.
    #[must_use]
    pub fn block_of(&self, seq: Seq) -> u64 {
        seq / self.block
    }

    /// The first number of a block (numbers begin at 1).
    #[must_use]
    pub fn first_of(&self, block: u64) -> Seq {
        (block * self.block).max(1)
    }

    /// The last number of a block.
    #[must_use]
    pub fn last_of(&self, block: u64) -> Seq {
        (block + 1) * self.block - 1
    }

    /// The object name of a log record.
    #[must_use]
    pub fn record_name(&self, seq: Seq) -> String {
        names::commit(self.incarnation(), seq)
    }

    /// The bytes of an object, asked for until the store answers.
    pub(crate) async fn get(&self, name: &str) -> Result<Option<Bytes>, LogError> {
        let mut pause = Pause::new(self);
        loop {
            match self.store().get(name).await {
                Ok(found) => return Ok(found),
                Err(error) => pause.after(error).await?,
            }
        }
    }

    /// Whether an object is there, and its size, asked for until the store answers.
    pub(crate) async fn size(&self, name: &str) -> Result<Option<u64>, LogError> {
        let mut pause = Pause::new(self);
        loop {
            match self.store().head(name).await {
                Ok(found) => return Ok(found.map(|meta| meta.size)),
                Err(error) => pause.after(error).await?,
            }
        }
    }

    /// Deletes an object, tried until the store answers.
    pub(crate) async fn delete(&self, name: &str) -> Result<(), LogError> {
        let mut pause = Pause::new(self);
        loop {
            match self.store().delete(name).await {
                Ok(()) => return Ok(()),
                Err(error) => pause.after(error).await?,
            }
        }
    }

    /// Puts these bytes under a name that only one of several may win, and finds out who did. Only these bytes are ever tried, so a reply
    /// that got lost, or an early attempt that lands late, is still this put (protocol.md 1.3).
    pub(crate) async fn create(&self, name: &str, bytes: &Bytes) -> Result<Created, LogError> {
        let mut pause = Pause::new(self);
        loop {
            match self.store().put_if_absent(name, bytes.clone()).await {
                Ok(Put::Stored) => return Ok(Created::Ours),
                Ok(Put::Exists) => match self.get(name).await? {
                    Some(there) if there == *bytes => return Ok(Created::Ours),
                    Some(there) => return Ok(Created::Theirs(there)),
                    // Deleted between the two requests, or a store that answers a conflict of two puts like this: ask again.
                    None => pause.contended(name).await?,
                },
                Err(error) => pause.after(error).await?,
            }
        }
    }
}

/// Whose bytes stand under a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Created {
    /// Exactly ours.
    Ours,
    /// Somebody else's.
    Theirs(Bytes),
}

/// The pauses between attempts of one request.
struct Pause<'a> {
    site: &'a Site,
    began: Duration,
    next: Duration,
}

impl<'a> Pause<'a> {
    fn new(site: &'a Site) -> Self {
        Self { site, began: site.env().monotonic(), next: site.patience.first }
    }

    /// Waits before the next attempt, or says why there is none.
    async fn after(&mut self, error: StoreError) -> Result<(), LogError> {
        let wanted = match &error {
            StoreError::Unreachable { .. } => None,
            StoreError::Throttled { retry_after, .. } => *retry_after,
            StoreError::Denied { .. } | StoreError::NoBucket { .. } | StoreError::Unsupported { .. } => {
                return Err(LogError::Refused(error));
            }
        };
        let waited = self.site.env().monotonic().saturating_sub(self.began);
        if self.site.patience.give_up.is_some_and(|limit| waited >= limit) {
            return Err(LogError::Unreachable(error));
        }
        let pause = self.next.max(wanted.unwrap_or_default());
        self.next = (self.next * 2).min(self.site.patience.longest);
        // Half of it by chance, so that many nodes do not come back in step.
        let half = u64::try_from(pause.as_nanos() / 2).unwrap_or(u64::MAX);
        let jitter = Duration::from_nanos(self.site.env().random_below(half.max(1)));
        self.site.env().sleep(pause / 2 + jitter).await;
        Ok(())
    }

    async fn contended(&mut self, name: &str) -> Result<(), LogError> {
        let why = "it said that the object exists, then that it does not".to_owned();
        self.after(StoreError::Unreachable { verb: "PUT", name: name.to_owned(), why }).await
    }
}
