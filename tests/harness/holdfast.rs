//! The thing under test: the real command with a store, a recovery key, and one cache per "machine".

use super::command::{said, succeed};
use super::objects::reader;
use super::process::{at_home, children_of, in_mount_table, kill, kill_family, wait_until_gone};
use super::s3::S3Server;
use super::{Mounted, lab};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long a mount may take before the test gives up on it; not a promise, only a bound.
const PATIENCE: Duration = Duration::from_secs(120);

/// A volume of the real command, mounted on the current one of its machines.
pub(crate) struct Holdfast {
    lab: TempDir,
    store: String,
    /// Where the store's objects lie as files: for the reader, which knows nothing of the command.
    objects: PathBuf,
    server: Option<S3Server>,
    volume: String,
    arguments: Vec<String>,
    machine: u32,
    root: PathBuf,
    /// The process that holds the mount; the driver is its child.
    holder: Option<Child>,
}

impl Holdfast {
    /// A new store and an empty volume on it: on a real S3 server of its own, or with `HOLDFAST_TEST_STORE=file` in a directory.
    pub(crate) fn new(name: &str) -> Self {
        Self::with(name, &[])
    }

    /// As [`Self::new`], mounted with further arguments.
    pub(crate) fn with(name: &str, arguments: &[&str]) -> Self {
        let lab = lab();
        let (server, store, objects) = match std::env::var("HOLDFAST_TEST_STORE").as_deref() {
            Ok("file") => {
                let directory = lab.path().join("store");
                (None, format!("file://{}", directory.display()), directory)
            }
            Ok("s3") | Err(_) => {
                let server = S3Server::start();
                let (url, objects) = (server.url(name), server.objects().join(name));
                (Some(server), url, objects)
            }
            Ok(unknown) => panic!("HOLDFAST_TEST_STORE={unknown}: s3 or file"),
        };
        let owned = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let mut new = Self {
            root: PathBuf::new(),
            lab,
            store,
            objects,
            server,
            volume: format!("test/{name}"),
            arguments: owned,
            machine: 0,
            holder: None,
        };
        new.command(&["store", "init", "--recovery-file", &new.key().display().to_string()]);
        new.start_machine(false);
        new
    }

    /// Where the store is.
    pub(crate) fn store(&self) -> &str {
        &self.store
    }

    /// The volume's name.
    pub(crate) fn volume(&self) -> &str {
        &self.volume
    }

    fn key(&self) -> PathBuf {
        self.lab.path().join("recovery.key")
    }

    fn home(&self) -> PathBuf {
        self.lab.path().join(format!("m{}", self.machine))
    }

    /// A command as a person on the current machine would give it.
    pub(crate) fn prepare(&self, arguments: &[&str]) -> Command {
        let home = self.home();
        let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
        command.args(arguments).env("HOLDFAST_STORE", &self.store).env("HOLDFAST_RECOVERY_KEY_FILE", self.key());
        command.env("HOLDFAST_RUN_DIR", home.join("run")).env("HOLDFAST_CACHE", home.join("caches"));
        // A test kills drivers more often than a driver that is in order dies.
        command.env("HOLDFAST_CALM", "0s");
        at_home(&mut command, &home);
        command
    }

    /// Runs such a command, which must succeed.
    #[track_caller]
    pub(crate) fn command(&self, arguments: &[&str]) -> String {
        super::command::succeed(&mut self.prepare(arguments))
    }

    /// The next machine; `take_over` says, as a person would, that the one before is gone for good.
    fn start_machine(&mut self, take_over: bool) {
        self.machine += 1;
        self.root = self.home().join("d");
        std::fs::create_dir_all(&self.root).expect("a mount point");
        self.mount(take_over);
    }

    fn mount(&mut self, take_over: bool) {
        let log = File::options().create(true).append(true).open(self.home().join("log")).expect("a log file");
        let mut command = self.prepare(&["mount", &self.volume]);
        command.arg(&self.root).arg("--foreground").args(take_over.then_some("--take-over")).args(&self.arguments);
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a descriptor")).stderr(log);
        let mut holder = command.spawn().expect("holdfast starts");
        let began = Instant::now();
        while !is_mounted(&self.root) {
            if let Some(status) = holder.try_wait().expect("a child's status") {
                panic!("mount ended with {status}\n{}", self.log());
            }
            assert!(began.elapsed() < PATIENCE, "not mounted after {PATIENCE:?}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
        self.holder = Some(holder);
    }

    /// The end of the log of the current machine.
    pub(crate) fn log(&self) -> String {
        let text = std::fs::read_to_string(self.home().join("log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    /// The process that holds the mount.
    pub(crate) fn holder(&self) -> u32 {
        self.holder.as_ref().map(Child::id).expect("a mounted volume")
    }

    fn unmount_dead(&self) {
        // Lazily, because a process may still have its working directory there.
        let _ = Command::new("umount").arg("-l").arg(&self.root).stderr(Stdio::null()).status();
    }

    fn reader(&self, arguments: &[&str]) -> String {
        succeed(&mut reader(&self.objects, Some(&self.key()), arguments))
    }
}

impl Mounted for Holdfast {
    fn root(&self) -> &Path {
        &self.root
    }

    fn bounce(&mut self) {
        let before = children_of(self.holder());
        assert!(!before.is_empty(), "the mount has no process beside the driver: nobody would hold it\n{}", self.log());
        before.iter().for_each(|pid| kill(*pid));
        before.iter().for_each(|pid| wait_until_gone(*pid));
        let began = Instant::now();
        while children_of(self.holder()).is_empty() {
            assert!(began.elapsed() < PATIENCE, "no new driver\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn kill(&mut self) {
        self.holder.take().into_iter().for_each(kill_family);
    }

    fn revive(&mut self) {
        self.unmount_dead();
        self.mount(false);
    }

    fn elsewhere(&mut self) {
        self.unmount_dead();
        std::fs::remove_dir_all(self.home()).expect("the machine goes");
        self.start_machine(true);
    }

    fn flush(&mut self) -> u64 {
        let said = self.command(&["flush", &self.root.display().to_string(), "--json"]);
        let value: serde_json::Value = serde_json::from_str(&said).unwrap_or_else(|error| panic!("flush --json said {said:?}: {error}"));
        value["commit"].as_u64().unwrap_or_else(|| panic!("flush --json names no commit: {said}"))
    }

    fn commits(&self) -> Vec<u64> {
        let lines = self.reader(&["commits", &self.volume]);
        let records =
            lines.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("the reader said {line:?}: {error}")));
        // Opens, closes and fences are records too, but have no tree of their own.
        let commits = records.filter(|record: &serde_json::Value| record["kind"] == "commit");
        commits.map(|record| record["seq"].as_u64().expect("a record's number")).collect()
    }

    fn export(&self, commit: u64, into: &Path) {
        // The reader makes the directory.
        std::fs::remove_dir(into).expect("an empty directory");
        self.reader(&["export", &self.volume, &into.display().to_string(), "--at", &commit.to_string()]);
    }

    fn check_store(&self) -> String {
        self.reader(&["check", &self.volume])
    }

    fn commits_by_itself(&self) -> bool {
        true
    }
}

impl Drop for Holdfast {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("the end of the mount's log:\n{}", self.log());
        } else if self.holder.is_some() {
            let output = self.prepare(&["unmount", &self.root.display().to_string()]).output();
            if let Some(output) = output.ok().filter(|output| !output.status.success()) {
                println!("unmount: {}", said(&output));
            }
        }
        self.kill();
        self.unmount_dead();
    }
}

/// Whether a file system is mounted there and answers.
pub(super) fn is_mounted(root: &Path) -> bool {
    in_mount_table(root) && std::fs::read_dir(root).is_ok()
}

/// Waits for the stand-in daemon.
pub(super) fn wait_until_mounted(root: &Path) {
    let began = Instant::now();
    while !is_mounted(root) {
        assert!(began.elapsed() < PATIENCE, "nothing is mounted on {}", root.display());
        std::thread::sleep(Duration::from_millis(5));
    }
}
