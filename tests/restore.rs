//! A volume made from a commit of another, and the end of a volume: through the command, on a directory and on a real S3 server, killed
//! at each step and given again, and read by the independent reader. Needs root and /dev/fuse.
#![allow(clippy::expect_used, clippy::panic, clippy::print_stdout, clippy::disallowed_methods, reason = "tests against the real world")]

#[path = "restore/archive.rs"]
mod archive;
#[path = "restore/before.rs"]
mod before;
#[path = "restore/clones.rs"]
mod clones;
#[path = "restore/diffs.rs"]
mod diffs;
mod harness;
#[path = "restore/in_place.rs"]
mod in_place;
#[path = "restore/next_mount.rs"]
mod next_mount;
#[path = "restore/removal.rs"]
mod removal;
#[path = "crash/rig.rs"]
mod rig;
#[path = "restore/stored.rs"]
mod stored;

use harness::command::{said, succeed};
use harness::objects::{objects, reader};
use harness::s3::S3Server;
use rig::{Mount, Rig};
use std::path::PathBuf;

/// A store with one volume of two commits, `VOLUME` of the rig, not mounted.
struct Lab {
    rig: Rig,
    /// Where the store's objects lie as files: for the reader.
    objects: PathBuf,
    _server: Option<S3Server>,
}

/// The commit before the newest of [`Lab`]'s volume.
const FIRST: &str = "2";

impl Lab {
    fn new(s3: bool) -> Self {
        let lab = Self::empty(s3);
        let mount = lab.rig.mount("first");
        let at = |name: &str| mount.root.join(name);
        std::fs::create_dir(at("d")).expect("mkdir");
        std::fs::write(at("d/small"), "inline in the commit").expect("write");
        std::fs::hard_link(at("d/small"), at("again")).expect("link");
        std::os::unix::fs::symlink("d/small", at("link")).expect("symlink");
        std::fs::write(at("large"), content(3, 1 << 20)).expect("write");
        assert_eq!(lab.rig.flush("first").to_string(), FIRST);
        std::fs::write(at("d/small"), "changed").expect("write");
        std::fs::remove_file(at("large")).expect("remove");
        std::fs::write(at("other"), content(4, 300_000)).expect("write");
        lab.rig.unmount("first", mount);
        lab
    }

    fn empty(s3: bool) -> Self {
        if s3 {
            let server = S3Server::start();
            let (url, objects) = (server.url("restore"), server.objects().join("restore"));
            return Self { rig: Rig::on(url), objects, _server: Some(server) };
        }
        let rig = Rig::new();
        let objects = rig.store();
        Self { rig, objects, _server: None }
    }

    /// A command of a person on a machine: exit code and what was said.
    fn say(&self, arguments: &[&str]) -> (i32, String) {
        self.say_with(arguments, |_| {})
    }

    fn say_with(&self, arguments: &[&str], add: impl FnOnce(&mut std::process::Command)) -> (i32, String) {
        let mut command = self.rig.prepare("first", arguments);
        if arguments.first() == Some(&"status") {
            // As on a machine where nothing is mounted.
            command.env("HOLDFAST_RUN_DIR", self.rig.path("run"));
        }
        add(&mut command);
        let output = command.output().expect("holdfast starts");
        (output.status.code().unwrap_or(-1), said(&output))
    }

    #[track_caller]
    fn succeed(&self, arguments: &[&str]) -> String {
        self.rig.succeed("first", arguments)
    }

    /// Ends at a failpoint, as `kill -9` would.
    #[track_caller]
    fn dies_at(&self, failpoint: &str, arguments: &[&str]) {
        let (code, said) = self.say_with(arguments, |command| {
            command.env("HOLDFAST_FAILPOINTS", failpoint);
        });
        assert_eq!(code, -1, "{failpoint} was not reached: {said}");
    }

    fn reader(&self, arguments: &[&str]) -> String {
        succeed(&mut reader(&self.objects, Some(&self.rig.key()), arguments))
    }

    /// What the independent reader finds at a commit.
    fn tree(&self, volume: &str, at: &str) -> String {
        self.reader(&["tree", volume, "--at", at])
    }

    /// Mounts any volume.
    #[track_caller]
    fn mount(&self, volume: &str) -> Mount {
        let root = self.rig.root("second");
        let mut command = self.rig.prepare("second", &["mount", volume]);
        command.arg(&root).arg("--foreground").arg("--recovery-key").arg(self.rig.key());
        match self.rig.start_at("second", &root, command).wait() {
            Ok(mount) => mount,
            Err(refused) => panic!("{}", refused.said),
        }
    }

    fn unmount(&self, mount: Mount) {
        self.rig.unmount("second", mount);
    }

    /// The first machine loses all its processes; its cache has a file that is in no commit.
    fn lost_with_a_dirty_cache(&self) {
        let mount = self.rig.mount("first");
        self.rig.flush("first");
        let (store, away) = (self.rig.store(), self.rig.path("away"));
        std::fs::rename(&store, &away).expect("the store goes");
        std::fs::write(mount.root.join("in no commit"), "only here").expect("write");
        mount.kill();
        std::fs::rename(&away, &store).expect("the store comes back");
    }

    /// Objects below `volumes/` whose name holds `part`.
    fn count(&self, part: &str) -> usize {
        objects(&self.objects.join("volumes"), part).len()
    }
}

/// Content that no compressor shortens.
fn content(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let step = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[0]
    };
    (0..length).map(step).collect()
}
