//! A person who goes back to an older commit: `restore --in-place` while nobody has the volume (or whoever has it is said to be gone), and
//! what is asked for on the next mount.

use super::super::exec::{MINUTE, SECOND};
use super::super::store::World;
use super::janitor::{books, env_of, excused};
use super::judge::Log;
use holdfast::env::Env;
use holdfast::log::lookup::Books;
use holdfast::rpc::Holder;
use holdfast::store;
use holdfast::types::{Fault, Identity};
use holdfast::volume::{InPlaceParams, ask, reader_of, restore_in_place};
use std::path::PathBuf;
use std::sync::Arc;

/// Who opens the log for a restore that is made at once.
pub const HOST: &str = "person";

/// The number of the person's commands.
const PERSON: usize = 30;

/// Where a restore in place may be killed from within.
pub const FAILPOINTS: &[&str] = &["volume.turn_after_pins", "writeback.turn_after_packs", "volume.turn_after_close"];

/// Where a mount may be killed that finds one asked for.
pub const ON_MOUNT: &[&str] = &["volume.asked_after_commit", "volume.asked_after_release", "volume.turn_after_pins", "log.before_control"];

/// Gives the command again and again.
pub async fn run(world: World<Log>, scratch: PathBuf, machines: u64) {
    let sim = world.sim.clone();
    std::fs::create_dir_all(&scratch).expect("a directory for a person");
    loop {
        sim.sleep(sim.between(5 * SECOND, 3 * MINUTE)).await;
        sim.at_last(PERSON, Arc::new(|| {}));
        sim.set_crash(PERSON, if sim.permille(300) { 5 } else { 0 });
        let env = env_of(&sim, &world, PERSON, FAILPOINTS);
        let gone = sim.permille(500).then(|| format!("node{}", sim.between(1, machines)));
        let (of, dir) = (world.clone(), scratch.join("cache"));
        sim.spawn(PERSON, async move {
            if let Err(fault) = in_place(&of, &env, gone, dir).await {
                of.sim.note(|| format!("a restore in place: {:?}", fault.kind));
                if !excused(&fault) {
                    of.sim.violate(format!("a restore in place: {fault}"));
                }
            }
        });
        sim.ended(PERSON).await;
        sim.take_crashed(PERSON);
    }
}

fn identity() -> Identity {
    Identity::parse("vol").expect("an identity")
}

async fn in_place(world: &World<Log>, env: &Env, even_if_held_by: Option<String>, scratch: PathBuf) -> Result<(), Fault> {
    let Some(seq) = world.oracle.lock().some_commit(|below| world.sim.below(below)) else { return Ok(()) };
    let holder = Holder { host: HOST.into(), ..Holder::default() };
    let books = books(world, PERSON, env);
    let params = InPlaceParams { books, volume: identity(), seq, holder, even_if_held_by, admitted: false, scratch };
    let made = restore_in_place(&params, &|_| {}).await?;
    world.sim.note(|| format!("restored in place: {made:?}"));
    Ok(())
}

/// Asks for a restore on the next mount.
pub async fn asks(world: &World<Log>, books: &Books) -> Result<(), Fault> {
    let Some(seq) = world.oracle.lock().some_commit(|below| world.sim.below(below)) else { return Ok(()) };
    let (_, reader) = reader_of(books, &identity(), &|_| {}).await?;
    let now = store::now(&*books.store, &books.env).await?;
    ask(&reader, &identity(), seq, now).await?;
    world.sim.note(|| format!("commit {seq} is asked for on the next mount"));
    Ok(())
}
