//! Planted bugs: each breaks one rule, outside the engine: in a store, a disk or a kernel that lies to it, or in what its next process finds.
//! A world that cannot find them checks nothing.

use super::super::exec::{SECOND, Sim};
use super::super::store::{NodeStore, World};
use super::judge::Log;
use super::machine::Machine;
use async_trait::async_trait;
use bytes::Bytes;
use holdfast::cache::Cache;
use holdfast::format::names;
use holdfast::store::{ObjectMeta, Put, Store, StoreError};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    None,
    /// fsync returns, and the ring log was not flushed.
    DropFsync,
    /// A batch says that data files are durable, and they were not flushed.
    DropDataSync,
    /// A pack is said to be stored, and arrives after the commit that names it.
    CommitBeforePack,
    /// A writer does not see that its number is taken.
    SkipFence,
    /// A file changed, and it is not on the list of what is to be committed.
    LoseDirtyBit,
    /// The old name of a rename is not on the list of what went.
    ForgetRename,
    /// An operation is answered before its record is in the log.
    AckBeforeLog,
    /// Packs are adopted without looking whether they are there.
    AdoptUnchecked,
    /// A cache goes on whose head is not the log's.
    ResumeDiverged,
    /// A request that is sent again is carried out again.
    AnswerTwice,
    /// An fsync of the tier `strict` is answered when it is durable here.
    StrictHere,
    /// What is `local` is committed.
    LocalLeaks,
    /// Paths of another tier are taken for `local` ones.
    LocalSwallows,
    /// Paths of another tier wait for the time of one.
    WaitsTooMuch,
    /// A janitor takes what no commit has named yet for garbage.
    SweepUnnamed,
    /// A janitor retires what only an older commit needs, and that is kept.
    RetireNeeded,
    /// The release of a claim is said to be stored, and is not.
    ReleaseLost,
    /// The kernel is asked for the sizes of its files, and not for its pages.
    NotBrought,
    /// Files are taken to be longer than the kernel says: what did not come yet is a hole.
    SizeTooLarge,
    /// The size of a file is told though not all of its pages came.
    SizesOfMissed,
}

impl Bug {
    /// With the number of worlds in which it must be found.
    pub const ALL: &'static [(Self, u64)] = &[
        (Self::DropFsync, 40),
        (Self::DropDataSync, 40),
        (Self::CommitBeforePack, 40),
        (Self::SkipFence, 40),
        (Self::LoseDirtyBit, 40),
        (Self::ForgetRename, 40),
        (Self::AckBeforeLog, 40),
        (Self::AdoptUnchecked, 400),
        (Self::ResumeDiverged, 40),
        (Self::AnswerTwice, 2000),
        (Self::StrictHere, 40),
        (Self::LocalLeaks, 40),
        (Self::LocalSwallows, 40),
        (Self::WaitsTooMuch, 400),
        (Self::SweepUnnamed, 400),
        (Self::RetireNeeded, 400),
        (Self::ReleaseLost, 400),
        (Self::NotBrought, 400),
        (Self::SizeTooLarge, 400),
        (Self::SizesOfMissed, 400),
    ];

    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.iter().map(|(bug, _)| *bug).find(|bug| format!("{bug:?}") == name)
    }
}

/// A store that lies to its node as the bug wants it.
#[derive(Debug)]
pub struct Lying {
    store: Arc<NodeStore<Log>>,
    bug: Bug,
    world: Sent,
    node: usize,
}

/// What one machine has tried to put, by name.
#[derive(Clone)]
pub struct Sent {
    sim: Sim,
    world: World<Log>,
    tried: Arc<Mutex<BTreeMap<String, Bytes>>>,
}

impl std::fmt::Debug for Sent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sent")
    }
}

impl Sent {
    pub fn new(world: &World<Log>) -> Self {
        Self { sim: world.sim.clone(), world: world.clone(), tried: Arc::default() }
    }
}

/// The store of one machine.
pub fn store(machine: &Machine) -> Arc<dyn Store> {
    let store = machine.world.node(machine.id);
    match machine.bug {
        Bug::CommitBeforePack | Bug::SkipFence | Bug::AdoptUnchecked | Bug::ReleaseLost => {
            Arc::new(Lying { store, bug: machine.bug, world: machine.sent.clone(), node: machine.id })
        }
        _ => store,
    }
}

#[async_trait]
impl Store for Lying {
    async fn put_if_absent(&self, name: &str, body: Bytes) -> Result<Put, StoreError> {
        let pack = names::parse_pack(name).is_some();
        if self.bug == Bug::CommitBeforePack && pack {
            let (world, node, name) = (self.world.world.clone(), self.node, name.to_owned());
            self.world.sim.after(30 * SECOND, move || world.land(node, &name, &body));
            return Ok(Put::Stored);
        }
        if self.bug == Bug::ReleaseLost && self.world.world.oracle.lock().is_release(name, &body) {
            return Ok(Put::Stored);
        }
        if pack || names::parse_commit(name).is_some() {
            self.world.tried.lock().insert(name.to_owned(), body.clone());
        }
        match self.store.put_if_absent(name, body).await {
            Ok(Put::Exists) if self.bug == Bug::SkipFence && names::parse_commit(name).is_some() => Ok(Put::Stored),
            done => done,
        }
    }

    async fn get(&self, name: &str) -> Result<Option<Bytes>, StoreError> {
        let found = self.store.get(name).await?;
        let own = self.world.tried.lock().get(name).cloned().filter(|_| self.bug == Bug::SkipFence && found.is_some());
        Ok(own.or(found))
    }

    async fn get_range(&self, name: &str, range: Range<u64>) -> Result<Option<Bytes>, StoreError> {
        self.store.get_range(name, range).await
    }

    async fn head(&self, name: &str) -> Result<Option<ObjectMeta>, StoreError> {
        let found = self.store.head(name).await?;
        let tried = self.world.tried.lock().get(name).map(Bytes::len);
        let tried = tried.filter(|_| self.bug == Bug::AdoptUnchecked && found.is_none() && names::parse_pack(name).is_some());
        Ok(tried.map(|size| ObjectMeta { name: name.to_owned(), size: size as u64, modified: 0 }).or(found))
    }

    async fn list(&self, prefix: &str, start_after: Option<&str>, limit: usize) -> Result<Vec<ObjectMeta>, StoreError> {
        self.store.list(prefix, start_after, limit).await
    }

    async fn delete(&self, name: &str) -> Result<(), StoreError> {
        self.store.delete(name).await
    }
}

/// What the next process finds on the disk, where the bug is of the one before.
pub fn before_life(machine: &Arc<Machine>, crashed: bool) {
    let dir = machine.disk.lock().dir.join("cache");
    if !Cache::exists(&dir) {
        return;
    }
    match machine.bug {
        Bug::LoseDirtyBit if crashed => alter(&dir, "UPDATE files SET changed=0"),
        Bug::ForgetRename if crashed => alter(&dir, "DELETE FROM gone_names"),
        Bug::ResumeDiverged => follow(machine),
        _ => {}
    }
}

fn alter(dir: &Path, sql: &str) {
    let db = rusqlite::Connection::open(dir.join("meta.db")).expect("the database of a cache");
    db.execute(sql, []).expect("a change of it");
}

fn with_cache(machine: &Arc<Machine>, change: impl FnOnce(&Cache)) {
    let (cache, _) = Cache::open(machine.sim.env(0), machine.cache()).expect("a cache that was left behind");
    change(&cache);
}

/// The cache's head is the log's, whatever it holds.
fn follow(machine: &Arc<Machine>) {
    let Some((_, seq, truth)) = machine.world.oracle.lock().head() else { return };
    with_cache(machine, |cache| {
        if cache.head().is_some_and(|head| head.seq < seq) {
            let _ = cache.set_intent(None);
            let _ = cache.set_head(holdfast::types::Head { seq, hash: truth.hash, epoch: truth.epoch });
        }
    });
}
