//! A store's objects as files: which there are, and what the independent reader makes of them.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Debian's interpreter, which sees Debian's packages.
pub(crate) const PYTHON: &str = "/usr/bin/python3";

/// The independent reader on a store in a directory; `check`, which a reader need not have, is a program of its own.
pub(crate) fn reader(store: &Path, key: Option<&Path>, arguments: &[&str]) -> Command {
    let (program, arguments) = match arguments.split_first() {
        Some((&"check", volume)) => ("check.py", volume),
        _ => ("holdfast_reader.py", arguments),
    };
    let mut command = Command::new(PYTHON);
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reader").join(program));
    command.arg("--store").arg(store).args(arguments);
    if let Some(key) = key {
        command.arg("--recovery-key").arg(key);
    }
    command
}

/// The objects below a directory whose path holds `part`.
pub(crate) fn objects(directory: &Path, part: &str) -> Vec<PathBuf> {
    let (mut found, mut pending) = (Vec::new(), vec![directory.to_path_buf()]);
    while let Some(directory) = pending.pop() {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                pending.push(path);
            } else if path.display().to_string().contains(part) {
                found.push(path);
            }
        }
    }
    found
}
