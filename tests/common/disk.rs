//! A file system in an image file, on a loop device. Needs root.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::path::{Path, PathBuf};
use std::process::Command;

/// Runs a program, which must succeed.
#[track_caller]
pub(crate) fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|error| panic!("{program}: {error} (this test needs it)"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said} (this test needs root)");
}

/// A path as an argument.
pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// An image of this size, with a file system that `make` makes, as in `["mkfs.xfs", "-q"]`.
pub(crate) fn image(at: &Path, size: u64, make: &[&str]) {
    std::fs::File::create(at).and_then(|file| file.set_len(size)).expect("an image");
    run(make[0], &[&make[1..], &[text(at)]].concat());
}

/// A mounted image, until it is dropped.
pub(crate) struct Mounted(PathBuf);

impl Mounted {
    /// Mounts it there, with these options.
    pub(crate) fn new(image: &Path, at: &Path, options: &str) -> Self {
        std::fs::create_dir_all(at).expect("mount point");
        run("mount", &["-o", &format!("loop,{options}"), text(image), text(at)]);
        Self(at.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(&self.0).status().is_ok_and(|status| status.success());
        if !unmounted {
            let _ = Command::new("umount").arg("-l").arg(&self.0).status();
        }
    }
}
