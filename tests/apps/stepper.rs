//! The life of an application's directory: what was acknowledged, and what is found later.

use crate::harness::command::said;
use crate::harness::{Chance, Mounted, scale};
use crate::mounted;
use crate::running::Stepper;

/// The whole life of such an application's directory; see `tests/apps.rs`.
pub(crate) fn scenario(stepper: &Stepper) {
    let name = stepper.name;
    let mut chance = Chance::new(name);
    let mut mounted = mounted(name);
    let mut at_least = 0;
    for _ in 0..2 * scale() {
        at_least = crash_under(stepper, mounted.as_mut(), &mut chance, at_least);
    }

    // A drained volume loses nothing at all with its machine.
    mounted.flush();
    let flushed = stepper.check(mounted.root());
    mounted.lose();
    assert_eq!(stepper.check(mounted.root()), flushed, "{name}: everything flushed is there on the next machine");

    // A machine lost at a random moment takes what was in no commit with it, and leaves a state that once was.
    let mut running = stepper.start(mounted.root());
    running.advance(name, chance.between(100, 1000));
    let flushed = running.told().kept;
    mounted.flush_busy();
    running.advance(name, chance.between(100, 3000));
    while crate::too_few(mounted.as_ref()) {
        running.advance(name, chance.between(1, 100));
    }
    mounted.kill();
    let told = running.kill();
    mounted.elsewhere();
    let found = stepper.check(mounted.root());
    println!("{name}: machine lost at step {}, step {found} is there, {flushed} was kept before the last flush", told.seen);
    assert!(found >= flushed, "{name}: step {flushed} was kept before a flush, and {found} is there");
    assert!(found <= told.seen + 1, "{name}: found step {found}, which was never begun ({told:?})");

    let mut before = 0;
    crate::each_commit(name, mounted.as_ref(), &mut chance, |commit, directory| {
        let found = stepper.check(directory);
        assert!(found >= before, "{name}: commit {commit} shows step {found}, an older one showed {before}");
        before = found;
    });
}

/// The driver dies under the working application, then everything dies; gives the step that must be there from now on.
fn crash_under(stepper: &Stepper, mounted: &mut dyn Mounted, chance: &mut Chance, at_least: u64) -> u64 {
    let name = stepper.name;
    let mut running = stepper.start(mounted.root());
    running.advance(name, chance.between(1, 500));
    mounted.bounce();
    running.advance(name, chance.between(1, 1500));
    // At whatever moment it is for the application.
    mounted.kill();
    let told = running.kill();
    mounted.revive();
    let found = stepper.check(mounted.root());
    assert!(found >= told.kept.max(at_least), "{name}: told that step {} is kept ({at_least} before), found {found}", told.kept);
    assert!(found <= told.seen + 1, "{name}: found step {found}, told of {}", told.seen);
    println!("{name}: crashed at step {}, {} kept, found {found}", told.seen, told.kept);
    found
}

#[test]
fn a_wrong_state_is_found() {
    let directory = crate::harness::lab();
    std::fs::write(directory.path().join("events.log"), "0000000001 no\n").expect("a file");
    let output = Stepper::worker("append").command("check", directory.path()).output().expect("the checker runs");
    assert!(!output.status.success() && said(&output).contains("line 1"), "{}", said(&output));
}
