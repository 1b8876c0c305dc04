//! Who waits for a commit, and what else the loop is told.

use crate::cache::Head;
use crate::types::{Fault, FaultKind};
use tokio::sync::oneshot;

type Told = Result<Option<Head>, (FaultKind, String)>;

/// Somebody who waits for a commit; or why there will be none.
pub(super) type Waiter = oneshot::Sender<Told>;

/// What a waiter wants of the commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// Everything written before, also what the kernel holds.
    Full,
    /// Everything that was fsynced here before.
    Synced,
}

/// The loop's letters.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    flushes: Vec<Waiter>,
    syncs: Vec<Waiter>,
    pub(super) drain: bool,
    pub(super) failed: Option<Fault>,
    ended: Option<(FaultKind, String)>,
}

/// Those who wait for one commit.
#[derive(Debug)]
pub(super) struct Waiters {
    flushes: Vec<Waiter>,
    syncs: Vec<Waiter>,
}

impl Inbox {
    /// Somebody begins to wait.
    ///
    /// # Errors
    /// The loop has ended.
    pub(super) fn wait(&mut self, wanted: Wanted) -> Result<oneshot::Receiver<Told>, Fault> {
        if let Some((kind, why)) = &self.ended {
            return Err(Fault::new(*kind, why.clone()));
        }
        let (send, receive) = oneshot::channel();
        match wanted {
            Wanted::Full => self.flushes.push(send),
            Wanted::Synced => self.syncs.push(send),
        }
        Ok(receive)
    }

    /// Whether anybody waits for a full commit, and whether any fsync waits still.
    pub(super) fn waiting(&mut self) -> (bool, bool) {
        self.syncs.retain(|waiter| !waiter.is_closed());
        (!self.flushes.is_empty(), !self.syncs.is_empty())
    }

    /// Those who wait now, for the commit that begins now.
    pub(super) fn take(&mut self) -> Waiters {
        Waiters { flushes: std::mem::take(&mut self.flushes), syncs: std::mem::take(&mut self.syncs) }
    }

    /// They wait for the next one.
    pub(super) fn put_back(&mut self, waiters: Waiters) {
        self.flushes.extend(waiters.flushes);
        self.syncs.extend(waiters.syncs);
    }

    /// Those who wait for a full commit are told that there is none for now.
    pub(super) fn refuse_flushes(&mut self, why: &(FaultKind, String)) {
        tell(&mut self.flushes, &Err(why.clone()));
    }

    /// There will be no commit any more.
    pub(super) fn end(&mut self, why: (FaultKind, String)) {
        let told = Err(why.clone());
        self.ended = Some(why);
        tell(&mut self.flushes, &told);
        tell(&mut self.syncs, &told);
    }
}

impl Waiters {
    /// A commit is stored, or was not needed.
    pub(super) fn committed(&mut self, wanted: Wanted, head: Option<Head>) {
        let waiters = match wanted {
            Wanted::Full => &mut self.flushes,
            Wanted::Synced => &mut self.syncs,
        };
        tell(waiters, &Ok(head));
    }
}

fn tell(waiters: &mut Vec<Waiter>, told: &Told) {
    for waiter in waiters.drain(..) {
        // Who has waited long enough is gone.
        let _ = waiter.send(told.clone());
    }
}
