//! Runs other programs: what they said is in the message when they fail.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// The standard output of a program that must succeed.
#[track_caller]
pub(crate) fn run<S: AsRef<OsStr>>(program: &str, arguments: impl IntoIterator<Item = S>) -> String {
    succeed(Command::new(program).args(arguments))
}

/// The same for a shell line with its parameters as `$1`, `$2`, ...
#[track_caller]
pub(crate) fn shell(directory: &Path, line: &str, arguments: &[&OsStr]) -> String {
    let mut command = Command::new("bash");
    command.args(["-euo", "pipefail", "-c", line, "bash"]).args(arguments).current_dir(directory);
    succeed(&mut command)
}

/// Runs a prepared command that must succeed.
#[track_caller]
pub(crate) fn succeed(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
    assert!(output.status.success(), "{command:?} ended with {}\n{}", output.status, said(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Both streams of a program, for a message.
pub(crate) fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}
