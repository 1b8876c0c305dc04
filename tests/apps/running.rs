//! Applications that do numbered steps (`tests/apps/worker.rs`), as processes: what they were told, and what is found later.
#![allow(dead_code, reason = "each test binary uses a part of this")]

use crate::harness::command::succeed;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// How long a step may take before the test gives up; a bound, not a promise.
const PATIENCE: Duration = Duration::from_secs(120);

/// One such application.
pub(crate) struct Stepper {
    /// What it is called.
    pub(crate) name: &'static str,
    script: bool,
}

/// What the application has said so far.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Told {
    /// The last step that succeeded.
    pub(crate) seen: u64,
    /// The last one that must outlive the application.
    pub(crate) kept: u64,
    ready: bool,
    ended: bool,
}

/// An application at work.
pub(crate) struct Running {
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

    /// The program that works (`run`) or looks (`check`) there.
    pub(crate) fn command(&self, verb: &str, directory: &Path) -> Command {
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

    /// Lets it work there until it is killed.
    pub(crate) fn start(&self, directory: &Path) -> Running {
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
    pub(crate) fn check(&self, directory: &Path) -> u64 {
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
    pub(crate) fn advance(&mut self, name: &str, steps: u64) {
        let (lock, changed) = &*self.told;
        let told = lock.lock().expect("no panic meanwhile");
        let until = told.seen + steps;
        let waiting = |told: &mut Told| !told.ended && (!told.ready || told.seen < until);
        let (told, timeout) = changed.wait_timeout_while(told, PATIENCE, waiting).expect("no panic meanwhile");
        assert!(!told.ended, "{name} ended by itself after {told:?}");
        assert!(!timeout.timed_out(), "{name} stands still at {told:?}");
    }

    /// What it was told by now.
    pub(crate) fn told(&self) -> Told {
        *self.told.0.lock().expect("no panic meanwhile")
    }

    /// Ends the application as the loss of its machine would.
    pub(crate) fn kill(mut self) -> Told {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.reader.take().map(std::thread::JoinHandle::join);
        self.told()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
