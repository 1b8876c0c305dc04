//! The simulated store: put if absent is linearizable; everything around it is not kind. A request may get lost, its reply may, it may land a
//! month later or twice, be throttled; a listing may be stale; a node may be cut off. What was sent stays sent when its sender dies.

use super::exec::{MILLI, SECOND, Sim};
use super::life::{Exists, Get};
use super::oracle::Oracle;
use async_trait::async_trait;
use bytes::Bytes;
use futures::channel::oneshot;
use holdfast::format::names;
use holdfast::store::{ObjectMeta, Put, Store, StoreError};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// What can go wrong, in permille of requests.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    pub lost_request: u64,
    pub lost_reply: u64,
    pub late: u64,
    pub late_max: u64,
    pub twice: u64,
    pub throttled: u64,
    pub stale_list: u64,
    pub stale_for: u64,
    pub latency_max: u64,
    /// A node stops just before it sends a record of the log: what it read is old when it goes on.
    pub stall: u64,
    pub stall_for: u64,
}

#[derive(Clone, Debug)]
struct Object {
    bytes: Bytes,
    at: u64,
    modified: i64,
}

/// Is told of everything that the store applies, in its order; `Err`: an invariant does not hold.
pub trait Judge: Send + 'static {
    fn stored(&mut self, now: u64, name: &str, bytes: &Bytes, exists: Exists<'_>, get: Get<'_>) -> Result<(), String>;
    fn deleted(&mut self, name: &str) -> Result<(), String>;
}

/// Requests by verb.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    pub put: u64,
    pub get: u64,
    pub head: u64,
    pub list: u64,
    pub delete: u64,
}

impl Counts {
    pub fn all(&self) -> u64 {
        self.put + self.get + self.head + self.list + self.delete
    }
}

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Object>,
    deleted: Vec<(String, u64, u64)>,
    cut_off: BTreeMap<usize, u64>,
    trouble: BTreeMap<usize, u64>,
    counts: BTreeMap<usize, Counts>,
    injected: BTreeMap<&'static str, u64>,
}

/// All nodes' store.
pub struct World<J = Oracle> {
    pub sim: Sim,
    pub faults: Faults,
    pub oracle: Arc<Mutex<J>>,
    state: Arc<Mutex<State>>,
}

impl<J> Clone for World<J> {
    fn clone(&self) -> Self {
        Self { sim: self.sim.clone(), faults: self.faults.clone(), oracle: Arc::clone(&self.oracle), state: Arc::clone(&self.state) }
    }
}

impl<J: Judge> World<J> {
    pub fn new(sim: Sim, faults: Faults, oracle: Arc<Mutex<J>>) -> Self {
        Self { sim, faults, oracle, state: Arc::default() }
    }

    /// One node's access.
    pub fn node(&self, node: usize) -> Arc<NodeStore<J>> {
        Arc::new(NodeStore { world: self.clone(), node })
    }

    /// Counts a fault that happened.
    pub fn inject(&self, what: &'static str) {
        *self.state.lock().injected.entry(what).or_default() += 1;
    }

    /// Faults that happened.
    pub fn injected(&self) -> BTreeMap<&'static str, u64> {
        self.state.lock().injected.clone()
    }

    pub fn cut_off(&self, node: usize, nanos: u64) {
        let until = self.sim.now() + nanos;
        self.sim.note(|| format!("cut off {node} for {}s", nanos / SECOND));
        self.state.lock().cut_off.insert(node, until);
        self.inject("partition");
    }

    /// When a request of the node last failed.
    pub fn trouble(&self, node: usize) -> u64 {
        self.state.lock().trouble.get(&node).copied().unwrap_or(0)
    }

    pub fn counts(&self, node: usize) -> Counts {
        self.state.lock().counts.get(&node).cloned().unwrap_or_default()
    }

    pub fn bytes(&self, name: &str) -> Option<Bytes> {
        self.state.lock().objects.get(name).map(|object| object.bytes.clone())
    }

    /// Stores an object at once, past all faults and checks: to prepare a world.
    pub fn plant(&self, name: &str, bytes: Bytes) {
        let object = Object { bytes, at: self.sim.now(), modified: self.sim.store_time() };
        self.state.lock().objects.insert(name.to_owned(), object);
    }

    /// Something that was sent arrives.
    pub fn land(&self, node: usize, name: &str, bytes: &Bytes) {
        self.apply_put(node, name, bytes);
    }

    fn apply_put(&self, node: usize, name: &str, bytes: &Bytes) -> Put {
        let stored = {
            let mut state = self.state.lock();
            let absent = !state.objects.contains_key(name);
            if absent {
                let object = Object { bytes: bytes.clone(), at: self.sim.now(), modified: self.sim.store_time() };
                state.objects.insert(name.to_owned(), object);
            }
            absent
        };
        let sum = crc32fast::hash(bytes);
        self.sim.note(|| format!("{node} put {name} {sum:08x} {}", if stored { "stored" } else { "exists" }));
        if stored {
            let exists = |name: &str| self.state.lock().objects.contains_key(name);
            let get = |name: &str| self.bytes(name);
            if let Err(what) = self.oracle.lock().stored(self.sim.now(), name, bytes, &exists, &get) {
                self.sim.violate(what);
            }
        }
        if stored { Put::Stored } else { Put::Exists }
    }

    fn apply_delete(&self, node: usize, name: &str) {
        let gone = {
            let mut state = self.state.lock();
            let gone = state.objects.remove(name);
            if let Some(object) = &gone {
                let now = self.sim.now();
                state.deleted.push((name.to_owned(), object.bytes.len() as u64, now));
                if state.deleted.len() > 64 {
                    state.deleted.remove(0);
                }
            }
            gone.is_some()
        };
        if gone {
            self.sim.note(|| format!("{node} delete {name}"));
            if let Err(what) = self.oracle.lock().deleted(name) {
                self.sim.violate(what);
            }
        }
    }

    fn is_cut_off(&self, node: usize) -> bool {
        self.state.lock().cut_off.get(&node).is_some_and(|until| *until > self.sim.now())
    }
}

/// The janitors of the worlds of the whole engine.
const JANITORS: Range<usize> = 20..30;

/// One node's access to the store.
pub struct NodeStore<J = Oracle> {
    world: World<J>,
    node: usize,
}

impl<J> fmt::Debug for NodeStore<J> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeStore({})", self.node)
    }
}

impl<J: Judge> NodeStore<J> {
    fn latency(&self) -> u64 {
        self.world.sim.between(MILLI, self.world.faults.latency_max.max(2 * MILLI))
    }

    async fn fail(&self, verb: &'static str, name: &str) -> StoreError {
        let sim = &self.world.sim;
        sim.sleep(sim.between(SECOND, 5 * SECOND)).await;
        self.world.state.lock().trouble.insert(self.node, sim.now());
        StoreError::Unreachable { verb, name: name.to_owned(), why: "no answer".into() }
    }

    /// Everything before the store sees the request. `Err`: it never does.
    async fn send(&self, verb: &'static str, name: &str) -> Result<(), StoreError> {
        let World { sim, faults, .. } = &self.world;
        if verb == "PUT" && name.contains("/commits/") && sim.permille(faults.stall) {
            self.world.inject("stall before a record");
            sim.freeze(self.node, sim.between(SECOND, faults.stall_for));
            sim.sleep(MILLI).await;
        }
        if self.world.is_cut_off(self.node) || sim.permille(faults.lost_request) {
            self.world.inject("request lost");
            return Err(self.fail(verb, name).await);
        }
        sim.sleep(self.latency()).await;
        if sim.permille(faults.throttled) {
            self.world.inject("throttled");
            self.world.state.lock().trouble.insert(self.node, sim.now());
            return Err(StoreError::Throttled { verb, name: name.to_owned(), retry_after: None });
        }
        Ok(())
    }

    /// Everything after.
    async fn reply(&self, verb: &'static str, name: &str) -> Result<(), StoreError> {
        let World { sim, faults, .. } = &self.world;
        if self.world.is_cut_off(self.node) || sim.permille(faults.lost_reply) {
            self.world.inject("reply lost");
            return Err(self.fail(verb, name).await);
        }
        sim.sleep(self.latency()).await;
        Ok(())
    }

    /// A change lands by itself, whatever happens to its sender meanwhile.
    async fn change<T: Send + 'static>(
        &self,
        verb: &'static str,
        name: &str,
        apply: impl Fn() -> T + Send + Sync + 'static,
    ) -> Result<T, StoreError> {
        let (sim, faults) = (self.world.sim.clone(), self.world.faults.clone());
        self.send(verb, name).await?;
        let apply = Arc::new(apply);
        if sim.permille(faults.late) {
            self.world.inject("late");
            let delay = sim.between(SECOND, faults.late_max.max(2 * SECOND));
            sim.after(delay, move || {
                apply();
            });
            return Err(self.fail(verb, name).await);
        }
        if sim.permille(faults.twice) {
            self.world.inject("twice");
            let again = Arc::clone(&apply);
            sim.after(sim.between(SECOND, faults.late_max.max(2 * SECOND)), move || {
                again();
            });
        }
        let (sender, receiver) = oneshot::channel();
        sim.after(sim.between(0, 2 * MILLI), move || {
            let _ = sender.send(apply());
        });
        let result = receiver.await;
        self.reply(verb, name).await?;
        result.map_err(|_| StoreError::Unreachable { verb, name: name.to_owned(), why: "connection closed".into() })
    }

    fn count(&self, add: impl FnOnce(&mut Counts)) {
        add(self.world.state.lock().counts.entry(self.node).or_default());
    }
}

#[async_trait]
impl<J: Judge> Store for NodeStore<J> {
    async fn put_if_absent(&self, name: &str, body: Bytes) -> Result<Put, StoreError> {
        self.count(|counts| counts.put += 1);
        let (world, node, owned) = (self.world.clone(), self.node, name.to_owned());
        self.change("PUT", name, move || world.apply_put(node, &owned, &body)).await
    }

    async fn get(&self, name: &str) -> Result<Option<Bytes>, StoreError> {
        self.count(|counts| counts.get += 1);
        self.send("GET", name).await?;
        let found = self.world.bytes(name);
        if found.is_none() && JANITORS.contains(&self.node) && (name.contains("/packs/") || names::parse_checkpoint_part(name).is_some()) {
            self.world.inject("a janitor misses what another one deleted");
        }
        self.reply("GET", name).await?;
        Ok(found)
    }

    async fn get_range(&self, name: &str, range: Range<u64>) -> Result<Option<Bytes>, StoreError> {
        let found = self.get(name).await?;
        Ok(found.map(|bytes| bytes.slice(range.start as usize..(range.end as usize).min(bytes.len()))))
    }

    async fn head(&self, name: &str) -> Result<Option<ObjectMeta>, StoreError> {
        self.count(|counts| counts.head += 1);
        self.send("HEAD", name).await?;
        let found = self.world.state.lock().objects.get(name).map(|object| ObjectMeta {
            name: name.to_owned(),
            size: object.bytes.len() as u64,
            modified: object.modified,
        });
        self.reply("HEAD", name).await?;
        Ok(found)
    }

    async fn list(&self, prefix: &str, start_after: Option<&str>, limit: usize) -> Result<Vec<ObjectMeta>, StoreError> {
        self.count(|counts| counts.list += 1);
        self.send("LIST", prefix).await?;
        let World { sim, faults, .. } = &self.world;
        let stale = sim.permille(faults.stale_list);
        let horizon = sim.now().saturating_sub(if stale { faults.stale_for } else { 0 });
        let mut found: BTreeMap<String, ObjectMeta> = BTreeMap::new();
        let mut hidden = BTreeSet::new();
        {
            let state = self.world.state.lock();
            for (name, object) in state.objects.range(prefix.to_owned()..).take_while(|(name, _)| name.starts_with(prefix)) {
                let meta = ObjectMeta { name: name.clone(), size: object.bytes.len() as u64, modified: object.modified };
                if stale && object.at > horizon {
                    hidden.insert(name.clone());
                }
                found.insert(name.clone(), meta);
            }
            for (name, size, at) in state.deleted.iter().filter(|(name, _, at)| stale && *at > horizon && name.starts_with(prefix)) {
                let meta = ObjectMeta { name: name.clone(), size: *size, modified: (*at) as i64 };
                found.entry(name.clone()).or_insert(meta);
            }
        }
        hidden.retain(|_| sim.permille(700));
        if !hidden.is_empty() {
            self.world.inject("stale listing");
        }
        found.retain(|name, _| !hidden.contains(name) && start_after.is_none_or(|after| name.as_str() > after));
        self.reply("LIST", prefix).await?;
        Ok(found.into_values().take(limit).collect())
    }

    async fn delete(&self, name: &str) -> Result<(), StoreError> {
        self.count(|counts| counts.delete += 1);
        let (world, node, owned) = (self.world.clone(), self.node, name.to_owned());
        self.change("DELETE", name, move || world.apply_delete(node, &owned)).await
    }
}
