//! The world's executor: one thread at a time, virtual time, every choice from one seed. A poll is a step; any step of a node may be its
//! last. Work that may wait has a thread of its own (`strand`), which runs only while its task is polled.

use super::strand::{self, Strand};
use futures::FutureExt;
use futures::future::BoxFuture;
use holdfast::env::{Abort, Clock, Env, Failpoints, Random, Tasks, Wait};
use holdfast::types::UnixNanos;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

/// Nanoseconds.
pub const MILLI: u64 = 1_000_000;
pub const SECOND: u64 = 1000 * MILLI;
pub const MINUTE: u64 = 60 * SECOND;
pub const HOUR: u64 = 60 * MINUTE;
pub const DAY: u64 = 24 * HOUR;
/// 2026-01-01.
pub const BEGINNING: i64 = (1_767_225_600 * SECOND) as i64;

/// SplitMix64: small, and the same everywhere.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

type Task = BoxFuture<'static, ()>;

enum Timer {
    Wake(Waker),
    Do(Box<dyn FnOnce() + Send>),
    Thaw(usize),
}

struct Slot {
    node: usize,
    future: Option<Task>,
}

#[derive(Default)]
struct Node {
    frozen: bool,
    parked: Vec<usize>,
    // Permille of its polls that kill it.
    crash: u64,
    crashed: bool,
    awake_since: u64,
    waiting: Vec<Waker>,
    // Called with its last breath, before anything of it is dropped.
    last: Option<Arc<dyn Fn() + Send + Sync>>,
    doomed: bool,
}

struct State {
    now: u64,
    rng: Rng,
    timers: BTreeMap<(u64, u64), Timer>,
    timer_ids: u64,
    tasks: BTreeMap<usize, Slot>,
    task_ids: usize,
    nodes: BTreeMap<usize, Node>,
    digest: u64,
    stopped: Option<String>,
    trace: Option<Vec<String>>,
}

/// A world's time, chance and tasks. Cheap to clone.
#[derive(Clone)]
pub struct Sim {
    state: Arc<Mutex<State>>,
    woken: Arc<Mutex<Vec<usize>>>,
}

struct TaskWaker {
    id: usize,
    woken: Arc<Mutex<Vec<usize>>>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.woken.lock().push(self.id);
    }
}

impl Sim {
    pub fn new(seed: u64, trace: bool) -> Self {
        let state = State {
            now: 0,
            rng: Rng::new(seed),
            timers: BTreeMap::new(),
            timer_ids: 0,
            tasks: BTreeMap::new(),
            task_ids: 0,
            nodes: BTreeMap::new(),
            digest: 0xcbf2_9ce4_8422_2325,
            stopped: None,
            trace: trace.then(Vec::new),
        };
        Self { state: Arc::new(Mutex::new(state)), woken: Arc::default() }
    }

    pub fn now(&self) -> u64 {
        self.state.lock().now
    }

    /// The store's clock.
    pub fn store_time(&self) -> UnixNanos {
        BEGINNING + self.now() as i64
    }

    pub fn next(&self) -> u64 {
        self.state.lock().rng.next()
    }

    pub fn below(&self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.next() % bound }
    }

    pub fn between(&self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    pub fn permille(&self, p: u64) -> bool {
        p > 0 && self.below(1000) < p
    }

    /// Folds an event into the digest, and into the trace of a replay.
    pub fn note(&self, event: impl FnOnce() -> String) {
        let mut state = self.state.lock();
        let text = event();
        let mut digest = state.digest ^ state.now;
        for byte in text.bytes() {
            digest = (digest ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        state.digest = digest;
        let now = state.now;
        if let Some(trace) = &mut state.trace {
            trace.push(format!("{:>16.3} {text}", now as f64 / SECOND as f64));
        }
    }

    pub fn digest(&self) -> u64 {
        let state = self.state.lock();
        state.digest ^ state.rng.0
    }

    pub fn trace(&self) -> Vec<String> {
        self.state.lock().trace.clone().unwrap_or_default()
    }

    /// Ends the world: an invariant does not hold.
    pub fn violate(&self, what: String) {
        self.note(|| format!("VIOLATION {what}"));
        self.state.lock().stopped.get_or_insert(what);
    }

    pub fn violation(&self) -> Option<String> {
        self.state.lock().stopped.clone()
    }

    fn at(&self, when: u64, timer: Timer) {
        let mut state = self.state.lock();
        state.timer_ids += 1;
        let key = (when.max(state.now), state.timer_ids);
        state.timers.insert(key, timer);
    }

    pub fn after(&self, delay: u64, action: impl FnOnce() + Send + 'static) {
        let when = self.now() + delay;
        self.at(when, Timer::Do(Box::new(action)));
    }

    pub fn sleep(&self, nanos: u64) -> impl Future<Output = ()> + Send + 'static {
        let sim = self.clone();
        let deadline = self.now() + nanos;
        let mut armed = false;
        std::future::poll_fn(move |context: &mut Context<'_>| {
            if sim.now() >= deadline {
                return Poll::Ready(());
            }
            if !armed {
                armed = true;
                sim.at(deadline, Timer::Wake(context.waker().clone()));
            }
            Poll::Pending
        })
    }

    /// A task of a node; 0 is the world itself, which neither crashes nor sleeps.
    pub fn spawn(&self, node: usize, future: impl Future<Output = ()> + Send + 'static) {
        self.start(node, future.boxed());
    }

    fn start(&self, node: usize, future: Task) -> usize {
        let mut state = self.state.lock();
        state.task_ids += 1;
        let id = state.task_ids;
        state.tasks.insert(id, Slot { node, future: Some(future) });
        state.nodes.entry(node).or_default();
        self.woken.lock().push(id);
        id
    }

    fn abort(&self, id: usize) {
        let slot = {
            let mut state = self.state.lock();
            let slot = state.tasks.remove(&id);
            if let Some(slot) = &slot {
                state.nodes.entry(slot.node).or_default().waiting.drain(..).for_each(Waker::wake);
            }
            slot
        };
        drop(slot);
    }

    /// What is to be done when a node is killed, before anything of it is dropped.
    pub fn at_last(&self, node: usize, last: Arc<dyn Fn() + Send + Sync>) {
        let mut state = self.state.lock();
        let entry = state.nodes.entry(node).or_default();
        (entry.last, entry.doomed) = (Some(last), false);
    }

    /// Kills a node from within: this step is its last, and nothing that it does in it from here on has happened.
    pub fn doom(&self, node: usize) {
        let last = {
            let mut state = self.state.lock();
            let entry = state.nodes.entry(node).or_default();
            entry.doomed = true;
            entry.last.take()
        };
        if let Some(last) = last {
            last();
        }
    }

    /// Whether this step is the node's last.
    pub fn is_doomed(&self, node: usize) -> bool {
        self.state.lock().nodes.get(&node).is_some_and(|node| node.doomed)
    }

    /// Permille of a node's polls that end it.
    pub fn set_crash(&self, node: usize, permille: u64) {
        self.state.lock().nodes.entry(node).or_default().crash = permille;
    }

    /// Ends all tasks of a node; requests on their way stay on their way.
    pub fn kill(&self, node: usize) {
        let last = self.state.lock().nodes.entry(node).or_default().last.take();
        if let Some(last) = last {
            last();
        }
        let dead: Vec<Slot> = {
            let mut state = self.state.lock();
            let ids: Vec<usize> = state.tasks.iter().filter(|(_, slot)| slot.node == node).map(|(id, _)| *id).collect();
            let entry = state.nodes.entry(node).or_default();
            (entry.crashed, entry.doomed) = (true, false);
            entry.parked.clear();
            entry.waiting.drain(..).for_each(Waker::wake);
            ids.iter().filter_map(|id| state.tasks.remove(id)).collect()
        };
        drop(dead);
    }

    pub fn take_crashed(&self, node: usize) -> bool {
        let mut state = self.state.lock();
        std::mem::take(&mut state.nodes.entry(node).or_default().crashed)
    }

    /// Completes when a node has no task left.
    pub fn ended(&self, node: usize) -> impl Future<Output = ()> + Send + 'static {
        let sim = self.clone();
        std::future::poll_fn(move |context: &mut Context<'_>| {
            let mut state = sim.state.lock();
            if !state.tasks.values().any(|slot| slot.node == node) {
                return Poll::Ready(());
            }
            state.nodes.entry(node).or_default().waiting.push(context.waker().clone());
            Poll::Pending
        })
    }

    /// Suspends a node, as SIGSTOP or a paused machine would.
    pub fn freeze(&self, node: usize, nanos: u64) {
        let until = {
            let mut state = self.state.lock();
            let entry = state.nodes.entry(node).or_default();
            if entry.frozen {
                return;
            }
            entry.frozen = true;
            state.now + nanos
        };
        self.note(|| format!("freeze {node} for {}s", nanos / SECOND));
        self.at(until, Timer::Thaw(node));
    }

    /// Since when a node runs without a pause; `None`: it does not run now.
    pub fn awake_since(&self, node: usize) -> Option<u64> {
        let state = self.state.lock();
        state.nodes.get(&node).filter(|node| !node.frozen).map(|node| node.awake_since)
    }

    /// Runs until nothing is left, the steps are used up, or an invariant is broken. Returns the steps taken.
    pub fn run(&self, steps: u64) -> u64 {
        let mut ready: Vec<usize> = Vec::new();
        for step in 0..steps {
            ready.append(&mut self.woken.lock());
            ready.sort_unstable();
            ready.dedup();
            if self.state.lock().stopped.is_some() {
                return step;
            }
            if ready.is_empty() {
                if !self.advance() {
                    return step;
                }
                continue;
            }
            let chosen = ready.swap_remove(self.below(ready.len() as u64) as usize);
            self.poll(chosen);
        }
        steps
    }

    /// Drops everything that is still to happen: tasks hold the world, which would hold them for ever.
    pub fn end(&self) {
        let (tasks, timers, nodes) = {
            let mut state = self.state.lock();
            (std::mem::take(&mut state.tasks), std::mem::take(&mut state.timers), std::mem::take(&mut state.nodes))
        };
        drop((tasks, timers, nodes));
    }

    fn advance(&self) -> bool {
        let timer = {
            let mut state = self.state.lock();
            let Some(((when, _), timer)) = state.timers.pop_first() else { return false };
            state.now = when;
            timer
        };
        match timer {
            Timer::Wake(waker) => waker.wake(),
            Timer::Do(action) => action(),
            Timer::Thaw(node) => {
                let mut state = self.state.lock();
                let now = state.now;
                let entry = state.nodes.entry(node).or_default();
                entry.frozen = false;
                entry.awake_since = now;
                self.woken.lock().append(&mut entry.parked);
            }
        }
        true
    }

    fn poll(&self, id: usize) {
        let mut future = {
            let mut state = self.state.lock();
            let State { tasks, nodes, rng, .. } = &mut *state;
            let Some(slot) = tasks.get_mut(&id) else { return };
            let node = nodes.entry(slot.node).or_default();
            if node.frozen {
                node.parked.push(id);
                return;
            }
            let number = slot.node;
            if node.crash > 0 && rng.next() % 1000 < node.crash {
                drop(state);
                self.note(|| format!("crash {number}"));
                self.kill(number);
                return;
            }
            let Some(future) = slot.future.take() else { return };
            future
        };
        let waker = Waker::from(Arc::new(TaskWaker { id, woken: Arc::clone(&self.woken) }));
        let done = future.as_mut().poll(&mut Context::from_waker(&waker)).is_ready();
        let (dropped, doomed) = {
            let mut state = self.state.lock();
            let State { tasks, nodes, .. } = &mut *state;
            let doomed = tasks.get(&id).map(|slot| slot.node).filter(|node| nodes.get(node).is_some_and(|node| node.doomed));
            let dropped = if done {
                if let Some(slot) = tasks.remove(&id) {
                    nodes.entry(slot.node).or_default().waiting.drain(..).for_each(Waker::wake);
                }
                Some(future)
            } else if let Some(slot) = tasks.get_mut(&id) {
                slot.future = Some(future);
                None
            } else {
                // Aborted meanwhile.
                Some(future)
            };
            (dropped, doomed)
        };
        drop(dropped);
        if let Some(node) = doomed {
            self.kill(node);
        }
    }

    /// A node's environment: its own wrong clock, the world's chance.
    pub fn env(&self, skew: i64) -> Env {
        let part = Arc::new(Part { sim: self.clone(), skew });
        Env::new(Arc::clone(&part) as Arc<dyn Clock>, part, Failpoints::none())
    }

    /// The same for a process of the engine: its tasks and threads are the node's.
    pub fn env_of(&self, node: usize, skew: i64, failpoints: Failpoints) -> Env {
        let part = Arc::new(Part { sim: self.clone(), skew });
        let tasks = OfNode { sim: self.clone(), node };
        Env::new(Arc::clone(&part) as Arc<dyn Clock>, part, failpoints).with_tasks(Arc::new(tasks))
    }
}

/// A node's tasks and threads.
struct OfNode {
    sim: Sim,
    node: usize,
}

impl Tasks for OfNode {
    fn spawn(&self, task: BoxFuture<'static, ()>) -> Abort {
        let (sim, id) = (self.sim.clone(), self.sim.start(self.node, task));
        Box::new(move || sim.abort(id))
    }

    fn block(&self, work: Box<dyn FnOnce() + Send>) {
        let sim = self.sim.clone();
        self.sim.spawn(self.node, async move {
            if let Some(panicked) = Strand::new(work).await {
                sim.violate(panicked);
            }
        });
    }

    fn waiter(&self) -> Arc<dyn Wait> {
        Arc::new(strand::OnStrand)
    }
}

struct Part {
    sim: Sim,
    skew: i64,
}

impl Clock for Part {
    fn now(&self) -> UnixNanos {
        self.sim.store_time() + self.skew
    }

    fn monotonic(&self) -> Duration {
        Duration::from_nanos(self.sim.now())
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        self.sim.sleep(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX / 4)).boxed()
    }
}

impl Random for Part {
    fn fill(&self, bytes: &mut [u8]) {
        let mut state = self.sim.state.lock();
        for chunk in bytes.chunks_mut(8) {
            let word = state.rng.next().to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }
}
