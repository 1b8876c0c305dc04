//! History that stays small: snapshots, pins, retention and gc through the command, beside a live writer, killed at each step and given again,
//! on a directory and on a real S3 server; what is kept is read by the independent reader, and what is not is gone. Needs root and /dev/fuse.
#![allow(clippy::expect_used, clippy::panic, clippy::print_stdout, clippy::disallowed_methods, reason = "tests against the real world")]

mod harness;
#[path = "history/live.rs"]
mod live;
#[path = "crash/rig.rs"]
mod rig;
#[path = "history/steps.rs"]
mod steps;

use harness::command::{said, succeed};
use harness::objects::{objects, reader};
use harness::s3::S3Server;
use rig::{Mount, Rig, VOLUME, content};
use std::path::PathBuf;

/// Nothing but the newest three commits, and what claims hold.
const STRICT: &str = "keep_all=0s last=commits:3 min_keep=1 before_delete=0s branches=0s";

/// A store with one volume, `VOLUME` of the rig.
struct Lab {
    rig: Rig,
    /// Where the store's objects lie as files: for the reader.
    objects: PathBuf,
    _server: Option<S3Server>,
}

impl Lab {
    fn new(s3: bool) -> Self {
        if s3 {
            let server = S3Server::start();
            let (url, objects) = (server.url("history"), server.objects().join("history"));
            return Self { rig: Rig::on(url), objects, _server: Some(server) };
        }
        let rig = Rig::new();
        let objects = rig.store();
        Self { rig, objects, _server: None }
    }

    /// A command of a person: exit code and what was said.
    fn say_with(&self, arguments: &[&str], add: impl FnOnce(&mut std::process::Command)) -> (i32, String) {
        let mut command = self.rig.prepare("first", arguments);
        command.env("HOLDFAST_RECOVERY_KEY_FILE", self.rig.key());
        add(&mut command);
        let output = command.output().expect("holdfast starts");
        (output.status.code().unwrap_or(-1), said(&output))
    }

    fn say(&self, arguments: &[&str]) -> (i32, String) {
        self.say_with(arguments, |_| {})
    }

    #[track_caller]
    fn succeed(&self, arguments: &[&str]) -> String {
        self.rig.succeed("first", arguments)
    }

    #[track_caller]
    fn json(&self, arguments: &[&str]) -> serde_json::Value {
        let text = self.succeed(&[arguments, &["--json"]].concat());
        serde_json::from_str(&text).expect("JSON")
    }

    fn reader(&self, arguments: &[&str]) -> String {
        succeed(&mut reader(&self.objects, Some(&self.rig.key()), arguments))
    }

    /// What the independent reader finds at a commit.
    fn tree(&self, at: u64) -> String {
        self.reader(&["tree", VOLUME, "--at", &at.to_string()])
    }

    /// Every record that is not retired is read, with all its bytes.
    fn check(&self) -> serde_json::Value {
        serde_json::from_str(&self.reader(&["check", VOLUME])).expect("JSON")
    }

    /// Objects whose name holds `part`.
    fn count(&self, part: &str) -> usize {
        objects(&self.objects.join("volumes"), part).len()
    }

    /// Writes commits: each changes a small and a large file, each fourth leaves one behind. Gives the newest.
    fn write(&self, mount: &Mount, rounds: std::ops::Range<u64>) -> u64 {
        let mut newest = 0;
        for n in rounds {
            std::fs::write(mount.root.join("small"), format!("round {n}")).expect("write");
            std::fs::write(mount.root.join("large"), content(n, 150_000)).expect("write");
            if n % 4 == 0 {
                std::fs::write(mount.root.join(format!("left {n}")), content(n + 1000, 70_000)).expect("write");
            }
            newest = self.rig.flush("first");
        }
        newest
    }
}
