//! One seed is one world: which faults it has, how many nodes and janitors, how they behave; then what happens.

use super::bugs::Bug;
use super::engine::{Kit, init};
use super::exec::{DAY, HOUR, MILLI, MINUTE, SECOND, Sim};
use super::janitor::Janitor;
use super::node::{Disk, Habits, Node};
use super::oracle::Oracle;
use super::store::{Faults, World};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// What became of a world.
#[derive(Debug)]
pub struct Report {
    pub seed: u64,
    pub steps: u64,
    pub digest: u64,
    pub violation: Option<String>,
    pub seen: BTreeMap<&'static str, u64>,
    pub trace: Vec<String>,
}

pub fn pick(sim: &Sim, of: &[u64]) -> u64 {
    of[sim.below(of.len() as u64) as usize]
}

/// Each fault is on in about half of the worlds: what hides behind another fault shows in a world without it.
fn faults(sim: &Sim) -> Faults {
    let some = |most: u64| if sim.permille(500) { sim.between(1, most) } else { 0 };
    Faults {
        lost_request: some(60),
        lost_reply: some(60),
        late: some(40),
        late_max: pick(sim, &[10 * SECOND, HOUR, 3 * DAY, 20 * DAY]),
        twice: some(30),
        throttled: some(30),
        stale_list: some(600),
        stale_for: pick(sim, &[MINUTE, HOUR, DAY]),
        stall: some(30),
        stall_for: pick(sim, &[MINUTE, HOUR, DAY, 30 * DAY]),
        latency_max: pick(sim, &[20 * MILLI, 200 * MILLI, 500 * MILLI]),
    }
}

/// Runs the world of a seed, with a bug planted or none.
pub fn run(seed: u64, bug: Bug, trace: bool) -> Report {
    let sim = Sim::new(seed, trace);
    let oracle = Arc::new(Mutex::new(Oracle::new(Kit::store_sealer())));
    let world = World::new(sim.clone(), faults(&sim), Arc::clone(&oracle));
    init(&world);
    let block = sim.between(4, 12);
    let values = Arc::new(AtomicU64::new(1));
    let habits = Habits {
        checkpoint_every: sim.between(3, 9),
        pause_max: pick(&sim, &[10 * SECOND, 2 * MINUTE, HOUR]),
        restores: pick(&sim, &[0, 300, 1000]),
        purges: pick(&sim, &[0, 0, 300, 700]),
        inline: pick(&sim, &[0, 0, 200, 600]),
        framed: pick(&sim, &[0, 0, 200, 600]),
        gather: sim.permille(500),
        readers: pick(&sim, &[0, 300, 1000]),
    };
    let nodes = sim.between(1, 4);
    let clone = sim.permille(250);
    let crash = pick(&sim, &[0, 1, 3, 8]);
    for id in 1..=nodes as usize {
        let skew = if sim.permille(200) { sim.between(0, 2 * DAY) as i64 - DAY as i64 } else { 0 };
        let volume = if clone && id == nodes as usize && nodes > 1 { "clone" } else { "vol" };
        sim.set_crash(id, crash);
        let node = Lives { kit: Kit::new(&world, id, skew, block, bug), habits: habits.clone(), values: Arc::clone(&values), volume };
        sim.spawn(0, node.run());
    }
    let dense = pick(&sim, &[0, MINUTE, HOUR, DAY]);
    let idle_max = pick(&sim, &[MINUTE, 10 * MINUTE, 2 * HOUR]);
    for id in 0..pick(&sim, &[0, 1, 1, 2, 2]) as usize {
        let kit = Kit::new(&world, 10 + id, 0, block, bug);
        sim.set_crash(10 + id, pick(&sim, &[0, 0, 2]));
        sim.spawn(0, tend(kit, if clone && id == 1 { "clone" } else { "vol" }, dense, idle_max));
    }
    sim.spawn(0, weather(world.clone(), nodes));
    let steps = sim.run(pick(&sim, &[6_000, 12_000, 12_000, 30_000]));
    let seen = oracle.lock().seen.clone();
    let report = Report { seed, steps, digest: sim.digest(), violation: sim.violation(), seen, trace: sim.trace() };
    sim.end();
    report
}

/// One node's processes, one after the other.
struct Lives {
    kit: Kit,
    habits: Habits,
    values: Arc<AtomicU64>,
    volume: &'static str,
}

impl Lives {
    async fn run(self) {
        let disk = Arc::new(Mutex::new(Disk::default()));
        let sim = self.kit.sim.clone();
        let between = pick(&sim, &[10 * SECOND, 10 * MINUTE, 10 * HOUR]);
        loop {
            let node = Node {
                kit: self.kit.clone(),
                disk: Arc::clone(&disk),
                habits: self.habits.clone(),
                values: Arc::clone(&self.values),
                volume: self.volume.to_owned(),
            };
            sim.spawn(self.kit.id, node.run());
            sim.ended(self.kit.id).await;
            if sim.take_crashed(self.kit.id) {
                let mut disk = disk.lock();
                match sim.below(10) {
                    0 => *disk = Disk::default(),
                    1..4 => disk.live = disk.durable.clone(),
                    _ => {}
                }
                if let Some(cache) = &disk.live {
                    for (key, value) in &cache.fsynced {
                        let there = cache.dirty.get(key).copied().max(cache.tree.get(key).map(|(value, _)| *value)).unwrap_or(0);
                        if there < *value && self.habits.restores == 0 {
                            sim.violate(format!("I8: node {} fsynced {key}={value} and has {there}", self.kit.id));
                        }
                    }
                }
            }
            if std::mem::take(&mut disk.lock().deleted) {
                sim.sleep(sim.between(HOUR, DAY)).await;
            }
            sim.sleep(sim.between(SECOND, between)).await;
        }
    }
}

async fn tend(kit: Kit, volume: &'static str, dense: u64, idle_max: u64) {
    loop {
        let janitor = Janitor { kit: kit.clone(), volume: volume.to_owned(), dense, idle_max };
        kit.sim.spawn(kit.id, janitor.run());
        kit.sim.ended(kit.id).await;
        kit.sim.sleep(kit.sim.between(SECOND, HOUR)).await;
    }
}

/// Pauses and partitions.
async fn weather(world: World, nodes: u64) {
    let sim = world.sim.clone();
    let calm = pick(&sim, &[MINUTE, 20 * MINUTE, 5 * HOUR]);
    loop {
        sim.sleep(sim.between(SECOND, calm)).await;
        let janitor = sim.permille(250);
        let node = if janitor { 10 + sim.below(2) } else { sim.between(1, nodes) } as usize;
        let long = pick(&sim, &[10 * SECOND, 5 * MINUTE, HOUR, DAY, 35 * DAY]);
        match sim.below(3) {
            0 => world.cut_off(node, sim.between(SECOND, long.min(DAY))),
            _ => sim.freeze(node, sim.between(SECOND, long)),
        }
    }
}
