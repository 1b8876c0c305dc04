//! The processes of one machine, one after the other: each opens the volume on the disk that the one before left, and what it finds there
//! is held against what applications were told.

use super::super::engine::Kit;
use super::super::exec::{MINUTE, SECOND};
use super::apps::{AGAIN, Apps, brief};
use super::bugs::{self, Bug};
use super::history::History;
use super::judge::is_bare;
use super::kernel::Kernel;
use super::machine::Machine;
use super::tree::{Tree, walk};
use super::{janitor, person};
use holdfast::env::{Env, Failpoints};
use holdfast::log::lookup::Books;
use holdfast::policy::{BUILT_IN, Policy};
use holdfast::store::plan::Budget;
use holdfast::store::{Retries, Retrying};
use holdfast::types::{Fault, FaultKind, Identity};
use holdfast::volume::{OpenParams, RunOptions, Volume};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Where a process may be killed from within. (Worlds hardly ever come to `volume.branch_before_rename`: `tests/branches.rs` does.)
pub const FAILPOINTS: &[&str] = &[
    "cache.in_creation",
    "cache.in_recovery",
    "cache.after_fdatasync_before_commit",
    "cache.after_commit_before_trim",
    "cache.after_log_before_reply",
    "cache.in_resolve",
    "cache.after_data_before_log",
    "cache.in_evict_before_log",
    "cache.in_evict_before_punch",
    "writeback.after_seal",
    "writeback.after_pack_before_commit",
    "writeback.after_durable_before_intent",
    "writeback.after_intent_before_put",
    "writeback.after_put_before_resolve",
    "writeback.after_resolve",
    "writeback.branch_after_claim",
    "writeback.branch_after_packs",
    "writeback.branch_after_head",
    "hydrate.after_fetch_before_install",
    "hydrate.after_load_before_finish",
    "log.before_open",
    "log.after_open_before_read_back",
    "log.after_intent_before_put",
    "log.after_put_before_resolve",
    "log.after_volume_before_name",
    "log.before_control",
];

/// Runs a machine for ever.
pub async fn run(machine: Arc<Machine>) {
    let sim = machine.sim.clone();
    let mut crashed = false;
    loop {
        bugs::before_life(&machine, crashed);
        let dying = Arc::clone(&machine);
        sim.at_last(machine.id, Arc::new(move || dying.cut()));
        let life = Life { env: env(&machine), machine: Arc::clone(&machine), crashed };
        sim.set_crash(machine.id, machine.habits.crash);
        sim.spawn(machine.id, life.run());
        sim.ended(machine.id).await;
        crashed = sim.take_crashed(machine.id);
        machine.sweep();
        if crashed {
            machine.count("crashes");
            if sim.permille(80) {
                sim.note(|| format!("{} loses its disk", machine.id));
                machine.count("disks lost");
                machine.lose_disk();
                crashed = false;
            } else if sim.permille(machine.habits.power) {
                sim.note(|| format!("{} loses power", machine.id));
                machine.count("losses of power");
                machine.lose_power();
            }
        } else {
            machine.disk.lock().mounted = false;
            machine.all_durable();
        }
        sim.sleep(sim.between(SECOND, MINUTE)).await;
    }
}

/// With a failpoint that kills the process, in some lives.
fn env(machine: &Arc<Machine>) -> Env {
    let sim = &machine.sim;
    let mut failpoints = Failpoints::none();
    // What a mount passes that finds a restore asked for is rare: where there are any, half the lives could die there.
    let restores = machine.habits.restores > 0 && sim.permille(500);
    if restores || sim.permille(machine.habits.failpoints) {
        let names = if restores { person::ON_MOUNT } else { FAILPOINTS };
        let name = names[sim.below(names.len() as u64) as usize];
        let machine = Arc::clone(machine);
        let die = move || {
            let waiting: Vec<String> = machine.disk.lock().inflight.values().map(brief).collect();
            machine.sim.note(|| format!("{} dies at {name}, not answered: {waiting:?}", machine.id));
            machine.world.inject(name);
            machine.sim.doom(machine.id);
        };
        // Some are seldom passed at all.
        let passage = if restores || sim.permille(500) { 1 } else { sim.between(1, 6) };
        failpoints = failpoints.arm(name, passage, Arc::new(die));
    }
    sim.env_of(machine.id, machine.skew, failpoints)
}

struct Life {
    machine: Arc<Machine>,
    env: Env,
    /// The process before was killed.
    crashed: bool,
}

impl Life {
    async fn run(self) {
        let (machine, env) = (Arc::clone(&self.machine), self.env.clone());
        let sim = &machine.sim;
        let resume = self.crashed && machine.disk.lock().mounted && sim.permille(600);
        let take_over = sim.permille(machine.habits.take_over);
        let params = self.params(take_over);
        let opened = if resume {
            machine.count("mounts taken over");
            let mut wait = Some(env.sleep(std::time::Duration::from_nanos(sim.below(2 * SECOND))));
            let later = params.clone();
            let params_late = move || {
                let (wait, later) = (wait.take(), later.clone());
                async move {
                    if let Some(wait) = wait {
                        wait.await;
                    }
                    Ok(later)
                }
            };
            let (identity, cache) = (params.identity.clone(), params.cache.clone());
            Volume::resume(env.clone(), &identity, cache, params.sizes, RunOptions::default(), &params.policy, params_late).await
        } else {
            {
                let mut disk = machine.disk.lock();
                disk.handles.clear();
                disk.inflight.clear();
                disk.pages.clear();
                disk.history.iter().for_each(|history| history.lock().unmounted());
                disk.mounted = false;
            }
            if sim.permille(machine.habits.restores) {
                self.asked().await;
            }
            Volume::open(params, RunOptions::default(), &|_| {}).await
        };
        let volume = match opened {
            Ok(volume) => volume,
            Err(fault) => return self.refused(&fault),
        };
        sim.note(|| format!("{} {} {:?}", machine.id, if resume { "resumes" } else { "opens" }, volume.cache().head()));
        // Of a mount that was taken over it is known when the log is open.
        let (later, begun) = (Arc::clone(&volume), Arc::new(Mutex::new(None)));
        let kernel = Arc::new(Kernel {
            posix: Arc::downgrade(volume.posix()),
            volume: Arc::downgrade(&volume),
            machine: Arc::clone(&machine),
            env: env.clone(),
            history: Arc::clone(&begun),
        });
        let owner = Arc::clone(&machine);
        drop(env.spawn(async move {
            later.mounted(kernel).await;
            owner.set_up(&later).await;
        }));
        machine.opened();
        let Some((history, answered)) = self.check(&volume, resume).await else { return };
        machine.disk.lock().mounted = true;
        *begun.lock() = Some(Arc::clone(&history));
        let apps = Apps {
            machine: Arc::clone(&machine),
            env: env.clone(),
            volume: Arc::clone(&volume),
            history,
            stop: Arc::new(AtomicBool::new(false)),
            running: Arc::new(AtomicUsize::new(0)),
        };
        self.work(&apps, answered).await;
        self.close(&apps).await;
    }

    /// A person asked for a restore before the mount.
    async fn asked(&self) {
        let machine = &self.machine;
        match person::asks(&machine.world, &janitor::books(&machine.world, machine.id, &self.env)).await {
            Err(fault) if !janitor::excused(&fault) => machine.sim.violate(format!("a restore cannot be asked for: {fault}")),
            _ => {}
        }
    }

    fn params(&self, take_over: bool) -> OpenParams {
        let machine = &self.machine;
        let policy = match machine.bug {
            Bug::StrictHere => BUILT_IN.to_owned(),
            Bug::LocalLeaks => machine.habits.policy.replace("local", "continuous"),
            Bug::WaitsTooMuch => machine.habits.policy.replace("* continuous", "n4 scheduled * * * * *\n* continuous"),
            Bug::LocalSwallows => machine.habits.policy.replace("n5 debounced quiet=2s max=20s", "n5 local"),
            _ => machine.habits.policy.to_owned(),
        };
        let store = Arc::new(Retrying::new(bugs::store(machine), Retries::default(), self.env.clone()));
        OpenParams {
            books: Books { store, env: self.env.clone(), sealer: Kit::store_sealer() },
            identity: Identity::parse("vol").expect("an identity"),
            cache: machine.cache(),
            policy: Policy::parse(&policy).expect("a policy"),
            sizes: machine.habits.sizes,
            budget: Budget::default(),
            take_over,
            host: machine.host.clone(),
            installation: machine.host.clone(),
            boot_id: String::new(),
            desk: None,
            wait: false,
            tell: |_| {},
        }
    }

    fn refused(&self, fault: &Fault) {
        let machine = &self.machine;
        machine.sim.note(|| format!("{} is refused: {:?}", machine.id, fault.kind));
        if !matches!(fault.kind, FaultKind::Busy | FaultKind::Fenced | FaultKind::Unknown) {
            machine.sim.violate(format!("node {} cannot open the volume: {fault}", machine.id));
        }
        machine.count("refusals");
    }

    /// All that is there, asked for until the store gives it; `None`: another writer has the volume, and it will not be given.
    async fn walk(&self, volume: &Arc<Volume>) -> Option<Tree> {
        loop {
            let posix = Arc::clone(volume.posix());
            match self.env.block(move || walk(&posix)).await {
                Ok(Ok(tree)) => return Some(tree),
                Ok(Err(holdfast::volume::PosixError::Unreachable)) => {
                    if volume.report().fenced.is_some() || volume.report().failed.is_some() {
                        return None;
                    }
                    self.env.sleep(AGAIN).await;
                }
                Ok(Err(error)) => {
                    self.machine.sim.violate(format!("node {} cannot be read after it was opened: {error}", self.machine.id));
                    return None;
                }
                Err(_) => return None,
            }
        }
    }

    /// Holds what is found against what was there; with the request that was carried out and never answered.
    async fn check(&self, volume: &Arc<Volume>, resume: bool) -> Option<(Arc<Mutex<History>>, Option<u64>)> {
        let machine = &self.machine;
        let (sim, id) = (&machine.sim, machine.id);
        let cache = volume.cache().origin();
        // Before anything is committed here.
        let opened = volume.cache().head();
        let found = self.walk(volume).await?;
        let report = volume.report();
        let old = machine.disk.lock().history.clone().filter(|old| old.lock().cache == cache.cache_id);
        let goes_on = (resume || report.resumed) && old.is_some();
        let logged = {
            let log = machine.world.oracle.lock();
            opened.and_then(|head| log.at(cache.incarnation, head.seq)).map(|truth| Arc::clone(&truth.shown))
        };
        sim.note(|| format!("{id} finds {} inodes, goes on {goes_on}", found.0.len()));
        if let Some(history) = old.filter(|_| goes_on) {
            let mut held = history.lock();
            let survived = held.survived(found).map_err(|why| sim.violate(format!("node {id}: {why}"))).ok()?;
            drop(held);
            return Some((history, survived));
        }
        let logged = logged.unwrap_or_default();
        if *logged.tree != found && !(is_bare(&logged.tree) && is_bare(&found)) {
            sim.violate(format!("node {id} opened and shows something else than the log: found | logged: {}", found.differs(&logged.tree)));
            return None;
        }
        let history = Arc::new(Mutex::new(History::new(found, cache.cache_id, machine.habits.tiers.clone())));
        machine.world.oracle.lock().begins(&machine.host, &history);
        machine.disk.lock().history = Some(Arc::clone(&history));
        Some((history, None))
    }

    /// Applications work until their time is over, or the volume is taken by another.
    async fn work(&self, apps: &Apps, answered: Option<u64>) {
        let machine = &self.machine;
        let sim = &machine.sim;
        // The kernel sends again what was not answered.
        let again: Vec<_> = machine.disk.lock().inflight.clone().into_iter().collect();
        for (unique, op) in again {
            machine.count("requests sent again");
            apps.act(op, Some((unique, answered == Some(unique)))).await;
        }
        for _ in 0..machine.habits.apps {
            apps.running.fetch_add(1, Ordering::SeqCst);
            drop(self.env.spawn(apps.clone().run()));
        }
        let end = sim.now() + sim.between(5 * SECOND, machine.habits.life);
        while sim.now() < end {
            sim.sleep(SECOND).await;
            let report = apps.volume.report();
            let fenced = report.fenced.is_some() || apps.volume.progress().is_some_and(|state| state.fenced.is_some());
            if fenced {
                machine.count("fenced while mounted");
                sim.sleep(sim.below(20 * SECOND)).await;
                break;
            }
        }
        apps.stop.store(true, Ordering::SeqCst);
        while apps.running.load(Ordering::SeqCst) > 0 {
            sim.sleep(SECOND / 10).await;
        }
    }

    async fn close(&self, apps: &Apps) {
        let machine = &self.machine;
        let sim = &machine.sim;
        let caller = holdfast::volume::Caller { uid: 0, gid: 0, request: None, resent: false };
        apps.send_all(None).await;
        let handles = std::mem::take(&mut machine.disk.lock().handles);
        for ino in handles {
            apps.volume.posix().release(&caller, ino, libc::O_RDWR);
        }
        let closed = apps.volume.close().await;
        sim.note(|| format!("{} closes {:?}", machine.id, closed.as_ref().map_err(|fault| fault.kind)));
        match closed {
            Ok(()) => {
                machine.count("clean ends");
                apps.history.lock().settled();
            }
            Err(fault) if matches!(fault.kind, FaultKind::Fenced | FaultKind::Unknown) => machine.count("fenced ends"),
            Err(fault) => sim.violate(format!("node {} cannot close: {fault}", machine.id)),
        }
    }
}
