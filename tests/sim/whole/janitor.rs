//! Janitors beside the writers: retention and gc as the command has them, each run a process that may be killed.

use super::super::engine::Kit;
use super::super::exec::{MINUTE, SECOND, Sim};
use super::super::store::World;
use super::bugs::Bug;
use super::judge::Log;
use holdfast::env::{Env, Failpoints};
use holdfast::format::names;
use holdfast::history::{Sweeping, sweep};
use holdfast::log::Reader;
use holdfast::log::control::Chain;
use holdfast::log::lookup::Books;
use holdfast::policy::retention::Rules;
use holdfast::rpc::Retire;
use holdfast::rpc::control_record::Kind as Control;
use holdfast::store::{self, Retries, Retrying, Store};
use holdfast::types::{Fault, FaultKind, Identity};
use holdfast::volume::reader_of;
use std::sync::Arc;

/// The number of the first.
pub const JANITOR: usize = 20;

/// Where one may be killed from within.
pub const FAILPOINTS: &[&str] = &["history.after_retire", "history.in_deletion"];

#[derive(Clone)]
pub struct Janitor {
    pub id: usize,
    pub world: World<Log>,
    pub rules: &'static str,
    pub bug: Bug,
}

/// Runs it again and again.
pub async fn tend(janitor: Janitor) {
    let sim = janitor.world.sim.clone();
    loop {
        sim.sleep(sim.between(5 * SECOND, 3 * MINUTE)).await;
        sim.at_last(janitor.id, Arc::new(|| {}));
        sim.set_crash(janitor.id, if sim.permille(300) { 5 } else { 0 });
        let env = janitor.env();
        sim.spawn(janitor.id, janitor.clone().run(env));
        sim.ended(janitor.id).await;
        sim.take_crashed(janitor.id);
    }
}

/// Whether a command may end so: the store, or somebody else, was in the way.
pub fn excused(fault: &Fault) -> bool {
    matches!(
        fault.kind,
        FaultKind::Unknown | FaultKind::Stale | FaultKind::NotFound | FaultKind::Busy | FaultKind::Exists | FaultKind::Fenced
    )
}

/// The environment of a command, with a failpoint that kills it now and then.
pub fn env_of(sim: &Sim, world: &World<Log>, id: usize, names: &'static [&'static str]) -> Env {
    let mut failpoints = Failpoints::none();
    if sim.permille(300) {
        let name = names[sim.below(names.len() as u64) as usize];
        let (dying, world) = (sim.clone(), world.clone());
        let die = move || {
            dying.note(|| format!("{id} dies at {name}"));
            world.inject(name);
            dying.doom(id);
        };
        failpoints = failpoints.arm(name, 1, Arc::new(die));
    }
    sim.env_of(id, 0, failpoints)
}

/// The store as a command sees it.
pub fn books(world: &World<Log>, id: usize, env: &Env) -> Books {
    let store: Arc<dyn Store> = Arc::new(Retrying::new(world.node(id), Retries::default(), env.clone()));
    Books { store, env: env.clone(), sealer: Kit::store_sealer() }
}

impl Janitor {
    fn env(&self) -> Env {
        env_of(&self.world.sim, &self.world, self.id, FAILPOINTS)
    }

    async fn run(self, env: Env) {
        match self.sweep(&env).await {
            Ok(()) => {}
            Err(fault) if excused(&fault) => self.world.oracle.lock().count("sweeps in vain"),
            Err(fault) => self.world.sim.violate(format!("janitor {}: {fault}", self.id)),
        }
    }

    async fn sweep(&self, env: &Env) -> Result<(), Fault> {
        let books = books(&self.world, self.id, env);
        let identity = Identity::parse("vol").expect("an identity");
        let (objects, reader) = reader_of(&books, &identity, &|_| {}).await?;
        let now = store::now(&*books.store, env).await?;
        let rules = Rules::parse(self.rules).expect("rules");
        let sweeping = Sweeping { rules: Some(&rules), planned: None, dry_run: false, author: "janitor", now };
        let swept = sweep(&objects, &reader, &sweeping).await?;
        self.world.sim.note(|| format!("janitor {} {swept:?}", self.id));
        self.world.oracle.lock().count(if swept.retired > 0 { "sweeps that retire" } else { "sweeps" });
        match self.bug {
            Bug::SweepUnnamed => self.go_too_far(&books, &reader, true, now).await,
            Bug::RetireNeeded => self.go_too_far(&books, &reader, false, now).await,
            _ => Ok(()),
        }
    }

    /// Retires and deletes one pack more: one that nothing has named yet, or one that something has.
    async fn go_too_far(&self, books: &Books, reader: &Reader, unnamed: bool, now: i64) -> Result<(), Fault> {
        let prefix = names::packs_prefix(reader.site().incarnation());
        let listed = books.store.list(&prefix, None, 1000).await?;
        let wanted = listed.into_iter().map(|meta| meta.name).find(|name| self.world.oracle.lock().is_named(name) != unnamed);
        let Some(name) = wanted else { return Ok(()) };
        let retire = Retire { objects: vec![name.clone()], ..Retire::default() };
        let mut chain = Chain::read(reader.site().clone()).await?;
        chain.append("janitor", now, &|_| Ok(Control::Retire(retire.clone()))).await?;
        Ok(books.store.delete(&name).await?)
    }
}
