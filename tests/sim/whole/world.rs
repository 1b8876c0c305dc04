//! One seed is one world: which faults the store has, how many machines fight for the volume, how they behave; then what happens.

use super::super::engine::Kit;
use super::super::exec::{MILLI, MINUTE, Rng, SECOND, Sim};
use super::super::store::{Faults, World};
use super::super::world::{Report, pick};
use super::bugs::Bug;
use super::janitor::{self, JANITOR, Janitor};
use super::judge::Log;
use super::life;
use super::machine::{Habits, Machine};
use super::person;
use super::tiers::{MIXED, TIMED, Tiers};
use holdfast::format::{marker::Marker, names};
use holdfast::policy::BUILT_IN;
use holdfast::volume::Sizes;
use parking_lot::Mutex;
use std::path::PathBuf;
use std::sync::Arc;

/// Memory, where there is some: nothing here waits for a disk. A restore in place lays trees out in caches that want a real one.
fn scratch(wide: Wide) -> tempfile::TempDir {
    if wide.restores > 0 {
        return tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory for a world");
    }
    let memory = PathBuf::from("/dev/shm");
    let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    made.expect("a directory for a world")
}

fn faults(sim: &Sim) -> Faults {
    let some = |most: u64| if sim.permille(500) { sim.between(1, most) } else { 0 };
    Faults {
        lost_request: some(40),
        lost_reply: some(40),
        late: some(30),
        late_max: pick(sim, &[10 * SECOND, 10 * MINUTE]),
        twice: some(20),
        throttled: some(30),
        stale_list: some(600),
        stale_for: pick(sim, &[MINUTE, 10 * MINUTE]),
        stall: some(20),
        stall_for: pick(sim, &[10 * SECOND, 5 * MINUTE]),
        latency_max: pick(sim, &[20 * MILLI, 200 * MILLI, SECOND]),
    }
}

fn habits(sim: &Sim, seed: u64, wide: Wide) -> Habits {
    let habits = Habits {
        think: pick(sim, &[20 * MILLI, 200 * MILLI, SECOND, 4 * SECOND]),
        apps: sim.between(1, 3),
        crash: pick(sim, &[0, 1, 1, 3]),
        failpoints: pick(sim, &[0, 500, 1000]).max(wide.restores.min(500)),
        power: pick(sim, &[0, 300, 700]),
        take_over: pick(sim, &[0, 300, 1000]),
        write: pick(sim, &[200, 8_000, 40_000]),
        sizes: Sizes {
            cache_max: pick(sim, &[300 << 10, 4 << 20, 64 << 20]),
            dirty_max: pick(sim, &[200 << 10, 2 << 20, 32 << 20]),
            capacity: None,
        },
        life: pick(sim, &[20 * SECOND, MINUTE, 5 * MINUTE]),
        policy: wide.policy.unwrap_or(POLICIES[(seed / 3 % POLICIES.len() as u64) as usize]),
        checkpoint_every: wide.checkpoint_every,
        restores: wide.restores,
        kernel: wide.kernel,
        tiers: wide.policy.map(|policy| Arc::new(Tiers::new(policy))),
    };
    // What of a file survives the power, and of a tier a commit, are two questions.
    let timed = habits.tiers.as_ref().is_some_and(|tiers| tiers.is_timed());
    Habits { power: if timed { 0 } else { habits.power }, ..habits }
}

/// What a world has beside that. Chosen apart from everything else, and in two worlds of seven only: the others are what they were before
/// there was any of it, and so are the seeds that are kept.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wide {
    /// Paths of several tiers.
    pub policy: Option<&'static str>,
    /// Commits after which a checkpoint is due.
    pub checkpoint_every: Option<u64>,
    /// The rules of the janitors, and how many there are.
    pub rules: &'static str,
    pub janitors: u64,
    /// A person goes back to older commits: permille of mounts before which one is asked for.
    pub restores: u64,
    /// The kernel holds writes back.
    pub kernel: bool,
}

impl Wide {
    fn of(seed: u64) -> Self {
        // A third one came later, and not where a seed was kept.
        if seed % 7 == 4 && seed > 7 {
            return Self { policy: Some(TIMED), checkpoint_every: Some(3 + seed % 5), ..Self::default() };
        }
        if !matches!(seed % 7, 0 | 5) {
            return Self::default();
        }
        let mut rng = Rng::new(!seed);
        let mut one_of = |most: u64| rng.next() % most;
        let policy = (one_of(10) < 6).then_some(MIXED);
        let checkpoint_every = (one_of(10) < 8).then(|| 2 + one_of(9));
        let rules = RULES[one_of(RULES.len() as u64) as usize];
        Self {
            policy,
            checkpoint_every,
            rules,
            janitors: one_of(3),
            restores: [0, 300, 700, 1000][one_of(4) as usize],
            kernel: one_of(2) == 0,
        }
    }
}

/// Mostly the built-in one.
const POLICIES: [&str; 4] = [BUILT_IN, "* strict wait=20s", BUILT_IN, "* debounced quiet=2s max=20s"];

/// From almost nothing to almost everything.
const RULES: [&str; 3] =
    ["keep_all=0s last=commits:1 min_keep=1", "keep_all=30s last=commits:3 min_keep=2", "keep_all=5min hourly=2 min_keep=1"];

/// Runs the world of a seed, with a bug planted or none.
pub fn run(seed: u64, bug: Bug, trace: bool) -> Report {
    let sim = Sim::new(seed, trace);
    let oracle = Arc::new(Mutex::new(Log::new(Kit::store_sealer())));
    let world = World::new(sim.clone(), faults(&sim), oracle);
    let mut marker = Marker::clear([7; 16], 0, "sim");
    marker.store = Kit::store_sealer().store();
    world.plant(names::marker(), marker.encode());
    let wide = Wide::of(seed);
    let root = scratch(wide);
    let habits = habits(&sim, seed, wide);
    let machines = pick(&sim, &[1, 1, 2, 3]);
    for id in 1..=machines as usize {
        let skew = if sim.permille(200) { sim.between(0, 10 * MINUTE) as i64 - 5 * MINUTE as i64 } else { 0 };
        sim.spawn(0, life::run(Machine::new(&world, id, &habits, root.path(), skew, bug)));
    }
    for number in 0..wide.janitors as usize {
        sim.spawn(0, janitor::tend(Janitor { id: JANITOR + number, world: world.clone(), rules: wide.rules, bug }));
    }
    if wide.restores > 0 {
        sim.spawn(0, person::run(world.clone(), root.path().join("person"), machines));
    }
    sim.spawn(0, weather(world.clone(), machines));
    let steps = sim.run(pick(&sim, &[3_000, 6_000, 12_000]));
    let mut seen = world.oracle.lock().seen.clone();
    seen.extend(world.injected());
    let report = Report { seed, steps, digest: sim.digest(), violation: sim.violation(), seen, trace: sim.trace() };
    sim.end();
    report
}

/// Pauses and partitions.
async fn weather(world: World<Log>, machines: u64) {
    let sim = world.sim.clone();
    let calm = pick(&sim, &[20 * SECOND, 2 * MINUTE, 20 * MINUTE]);
    loop {
        sim.sleep(sim.between(SECOND, calm)).await;
        let machine = sim.between(1, machines) as usize;
        let long = pick(&sim, &[5 * SECOND, 40 * SECOND, 5 * MINUTE]);
        if sim.permille(500) {
            world.cut_off(machine, sim.between(SECOND, long));
        } else {
            world.inject("pause");
            sim.freeze(machine, sim.between(SECOND, long));
        }
    }
}
