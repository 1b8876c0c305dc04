//! Applications that do numbered steps (`tests/apps/worker.rs`): what was acknowledged, and what is found later.

use crate::harness::command::{said, succeed};
use crate::harness::{Chance, Mounted, scale};
use crate::mounted;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// How long a step may take before the test gives up; a bound, not a promise.
const PATIENCE: Duration = Duration::from_secs(120);

/// One such application.
pub(crate) struct Stepper {
    name: &'static str,
    script: bool,
}

/// What the application has said so far.
#[derive(Debug, Default, Clone, Copy)]
struct Told {
    seen: u64,
    kept: u64,
    ready: bool,
    ended: bool,
}

struct Running {
    child: Child,
    told: Arc<(Mutex<Told>, Condvar)>,
    reader: Option<std::thread::JoinHandle<()>>,
}

impl Stepper {
    pub(crate) fn worker(name: &'static str) -> Self {
        Self { name, script: false }
    }

    pub(crate) fn script(name: &'static str) -> Self {
        Self { name, script: true }
    }

    fn command(&self, verb: &str, directory: &Path) -> Command {
        let mut command;
        if self.script {
            command = Command::new("/usr/bin/python3");
            command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/apps/{}.py", self.name))).arg(verb);
        } else {
            command = Command::new(worker());
            command.args([verb, self.name]);
        }
        command.arg(directory);
        command
    }

    fn start(&self, directory: &Path) -> Running {
        let mut child = self.command("run", directory).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("the application starts");
        let told = Arc::new((Mutex::new(Told::default()), Condvar::new()));
        let stdout = child.stdout.take().expect("a pipe");
        let shared = Arc::clone(&told);
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let (word, n) = line.split_once(' ').unwrap_or((&line, ""));
                let n: u64 = n.parse().unwrap_or(0);
                let mut told = shared.0.lock().expect("no panic meanwhile");
                match word {
                    "ready" => told.ready = true,
                    "seen" => told.seen = n,
                    _ => told.kept = n,
                }
                told.seen = told.seen.max(told.kept);
                shared.1.notify_all();
            }
            shared.0.lock().expect("no panic meanwhile").ended = true;
            shared.1.notify_all();
        });
        Running { child, told, reader: Some(reader) }
    }

    /// The last step of which the files show the result; fails when they show none.
    #[track_caller]
    fn check(&self, directory: &Path) -> u64 {
        let text = succeed(&mut self.command("check", directory));
        text.trim().strip_prefix("found ").and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("{} check said {text:?}", self.name))
    }
}

/// Built by `cargo test` beside the test binaries.
fn worker() -> PathBuf {
    let mut path = std::env::current_exe().expect("this program's path");
    path.pop();
    path.pop();
    path.join("examples/worker")
}

impl Running {
    /// Waits until the application was told of a number of further steps.
    fn advance(&mut self, name: &str, steps: u64) {
        let (lock, changed) = &*self.told;
        let told = lock.lock().expect("no panic meanwhile");
        let until = told.seen + steps;
        let waiting = |told: &mut Told| !told.ended && (!told.ready || told.seen < until);
        let (told, timeout) = changed.wait_timeout_while(told, PATIENCE, waiting).expect("no panic meanwhile");
        assert!(!told.ended, "{name} ended by itself after {told:?}");
        assert!(!timeout.timed_out(), "{name} stands still at {told:?}");
    }

    /// Ends the application as the loss of its machine would.
    fn kill(mut self) -> Told {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.reader.take().map(std::thread::JoinHandle::join);
        *self.told.0.lock().expect("no panic meanwhile")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

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
    let flushed = running.told.0.lock().expect("no panic meanwhile").kept;
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
