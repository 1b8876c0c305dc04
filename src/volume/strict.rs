//! fsyncs of the `strict` tier: answered when a commit holds what they are about (protocol.md 5.6). The changes are durable here before
//! anybody waits, and nobody's thread does.

use super::late::Late;
use super::ops::{Answer, PosixError};
use crate::cache::Cache;
use crate::env::{Env, Task};
use crate::policy::{Policy, show_duration};
use crate::types::Ino;
use crate::writeback::paths_of;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Inodes whose answer is remembered.
const KNOWN_MAX: usize = 4096;

/// Which fsyncs wait, and the line to the task that lets them wait.
#[derive(Debug)]
pub(super) struct Strict {
    policy: Policy,
    cache: Arc<Cache>,
    known: Mutex<Known>,
    waiting: mpsc::UnboundedSender<Waiting>,
}

/// What was found out while no name changed.
#[derive(Debug, Default)]
struct Known {
    names_changed: u64,
    waits: HashMap<Ino, Option<Duration>>,
}

struct Waiting {
    ino: Ino,
    wait: Duration,
    answer: Answer,
}

impl std::fmt::Debug for Waiting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Waiting").field("ino", &self.ino).finish_non_exhaustive()
    }
}

impl Strict {
    /// Under this policy; with the task that serves it as long as it is there. `None`: nothing is `strict`.
    pub(super) fn start(env: &Env, policy: &Policy, cache: &Arc<Cache>, late: &Arc<Late>) -> Option<(Self, Task<()>)> {
        if !policy.has_strict() {
            return None;
        }
        let (send, mut receive) = mpsc::unbounded_channel();
        let (world, late) = (env.clone(), Arc::clone(late));
        let task = env.spawn(async move {
            while let Some(waiting) = receive.recv().await {
                drop(world.spawn(answer(waiting, Arc::clone(&late), world.clone())));
            }
        });
        let strict = Self { policy: policy.clone(), cache: Arc::clone(cache), known: Mutex::default(), waiting: send };
        Some((strict, task))
    }

    /// Answers when a commit holds what an fsync of this inode is about: at once, when it is not `strict`.
    pub(super) fn after_commit(&self, ino: Ino, answer: Answer) {
        let Some(wait) = self.wait_of(ino) else { return answer(Ok(())) };
        if let Err(unserved) = self.waiting.send(Waiting { ino, wait, answer }) {
            // The volume is closed.
            (unserved.0.answer)(Err(PosixError::Io));
        }
    }

    // Looking a path up costs about as much as an fsync of a fast disk: it is done once for as long as all names are what they are.
    fn wait_of(&self, ino: Ino) -> Option<Duration> {
        let names_changed = self.cache.names_changed();
        {
            let mut known = self.known.lock();
            if known.names_changed != names_changed || known.waits.len() >= KNOWN_MAX {
                *known = Known { names_changed, waits: HashMap::new() };
            }
            if let Some(wait) = known.waits.get(&ino) {
                return *wait;
            }
        }
        let found = self.cache.view(|view| {
            let is_dir = view.attr(ino)?.is_some_and(|attr| attr.is_dir());
            paths_of(view, ino).map(|paths| paths.iter().filter_map(|path| self.policy.sync_wait(path, is_dir)).max())
        });
        let wait = match found {
            Ok(wait) => wait,
            Err(error) => {
                // What is not known must not be promised.
                tracing::warn!(ino, %error, "the tier of an fsync is not known: it waits for a commit");
                return Some(crate::policy::Tier::WAIT);
            }
        };
        let mut known = self.known.lock();
        if known.names_changed == names_changed {
            known.waits.insert(ino, wait);
        }
        wait
    }
}

async fn answer(waiting: Waiting, late: Arc<Late>, env: Env) {
    let Waiting { ino, wait, answer } = waiting;
    let committed = async {
        // On a mount that was taken over the log may not be open yet.
        let writeback = late.get().await.and_then(|engine| engine.writeback.clone());
        match writeback {
            Some(writeback) => writeback.sync().await.map_err(|fault| fault.to_string()),
            None => Err("nothing more is committed from here".to_owned()),
        }
    };
    let committed = tokio::select! {
        biased;
        committed = committed => committed,
        () = env.sleep(wait) => Err(format!("no commit within {}", show_duration(wait))),
    };
    answer(committed.map_err(|why| {
        tracing::warn!(
            ino,
            why,
            "an fsync of the strict tier ends with EIO; what was written stays here and is committed when that is possible"
        );
        PosixError::Io
    }));
}
