//! The stand-ins: an ordinary directory, and the bare FUSE daemon. A "commit" of theirs is a copy made by `flush`.

use super::command::run;
use super::{Mounted, lab};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use tempfile::TempDir;

/// Copies as many attributes as there are.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a directory for a copy");
    run("cp", [Path::new("-a"), Path::new("--sparse=always"), &from.join("."), to]);
}

/// A directory of the reference file system.
pub(super) struct Plain {
    lab: TempDir,
    root: PathBuf,
    copies: u64,
}

impl Plain {
    pub(super) fn new() -> Self {
        let lab = lab();
        let root = lab.path().join("volume");
        std::fs::create_dir(&root).expect("a directory");
        Self { lab, root, copies: 0 }
    }

    fn copy(&self, number: u64) -> PathBuf {
        self.lab.path().join(format!("commit-{number}"))
    }
}

impl Mounted for Plain {
    fn root(&self) -> &Path {
        &self.root
    }

    fn bounce(&mut self) {}

    fn kill(&mut self) {}

    fn revive(&mut self) {}

    fn flush(&mut self) -> u64 {
        self.copies += 1;
        copy(&self.root, &self.copy(self.copies));
        self.copies
    }

    fn elsewhere(&mut self) {
        let elsewhere = self.root.with_extension("copy");
        copy(&self.root, &elsewhere);
        std::fs::remove_dir_all(&self.root).expect("the old directory goes");
        std::fs::rename(elsewhere, &self.root).expect("the copy takes its place");
    }

    /// A copy made while an application writes is torn, and its checks find that: only the real thing can do this.
    fn flush_busy(&mut self) {}

    fn commits(&self) -> Vec<u64> {
        (1..=self.copies).collect()
    }

    fn export(&self, commit: u64, into: &Path) {
        copy(&self.copy(commit), into);
    }
}

/// The bare FUSE daemon. It keeps nothing, so it cannot be killed; it shows that a test passes through this road.
pub(super) struct Bare {
    plain: Plain,
    root: PathBuf,
    daemon: Child,
}

impl Bare {
    pub(super) fn new() -> Self {
        let plain = Plain::new();
        let root = plain.lab.path().join("mounted");
        std::fs::create_dir(&root).expect("a mount point");
        let daemon = Command::new(program()).arg(&root).arg(plain.lab.path().join("backing")).spawn().expect("the bare daemon starts");
        super::holdfast::wait_until_mounted(&root);
        Self { plain, root, daemon }
    }
}

/// Built by `cargo test` beside the test binaries.
fn program() -> PathBuf {
    let mut path = std::env::current_exe().expect("this program's path");
    path.pop();
    path.pop();
    path.join("examples/bare")
}

impl Mounted for Bare {
    fn root(&self) -> &Path {
        &self.root
    }

    fn bounce(&mut self) {}

    fn kill(&mut self) {}

    fn revive(&mut self) {}

    fn flush(&mut self) -> u64 {
        self.plain.copies += 1;
        copy(&self.root, &self.plain.copy(self.plain.copies));
        self.plain.copies
    }

    fn elsewhere(&mut self) {}

    /// A copy made while an application writes is torn, and its checks find that: only the real thing can do this.
    fn flush_busy(&mut self) {}

    fn commits(&self) -> Vec<u64> {
        self.plain.commits()
    }

    fn export(&self, commit: u64, into: &Path) {
        self.plain.export(commit, into);
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.root).status();
        let _ = self.daemon.wait();
    }
}
