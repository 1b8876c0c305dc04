//! `holdfast-keeper`: holds the kernel's FUSE connections while drivers restart. To be read in an hour: this file, `server.rs`,
//! `mount.rs`, `wire.rs`, `line.rs`, and nothing else of ours is in the program; no runtime, no database, no network.
//!
//! One process for a machine (for a user, when not root): the socket `keeper.socket` in the run directory. Per mount it holds the
//! `/dev/fuse` descriptor, what INIT agreed on, where cache and mount are, and the command of a successor. **It never reads such a
//! descriptor and never answers a request** (protocol.md 8.1): while it has one, the kernel waits instead of ending the mount.
//!
//! **Who starts what.** The driver of a mount is started by that mount's supervisor (`holdfast hold`), as before the keeper: it is
//! the driver's parent, so it sees each death at once and knows its exit code; it is in the same cgroup; with `--foreground` it is the
//! process that a unit watches. The keeper is what outlives both. It starts a *supervisor*, and only when nobody attends a mount
//! whose command was recorded: at once, then with pauses that double up to a minute. So of driver, supervisor and keeper
//! any one that lives brings the others back:
//!
//! | dead | who brings it back |
//! |---|---|
//! | driver | its supervisor, as always |
//! | supervisor | the keeper, by the recorded command; the new one takes the mount here and ends the orphaned driver |
//! | keeper | the first supervisor that sees its line end; each hands its mounts over again |
//! | supervisor and keeper | the driver sees its parent gone, starts a keeper, hands its descriptor over, the keeper starts a supervisor |
//!
//! It has no state on a disk: what it knows is what the living tell it. It ends when it holds nothing for ten seconds.

mod line;
mod mount;
mod server;
#[cfg(test)]
mod tests;
mod wire;

use line::listen_at;
use nix::unistd::{ForkResult, fork, setsid};
use server::{Keeper, Options};
use std::ffi::OsString;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::ExitCode;

const USAGE: &str = "\
holdfast-keeper --socket PATH   stays in the foreground, for a unit or a container; PATH is keeper.socket in the run directory
holdfast-keeper --inherited     as `holdfast mount` starts it: the socket listens on standard input; goes to the background
holdfast-keeper --version
";

/// Says something to whoever reads the log.
fn say(line: &str) {
    let _ = writeln!(io::stderr(), "holdfast-keeper: {line}");
}

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(|word| word.to_str().unwrap_or_default()).collect();
    let done = match words.as_slice() {
        ["--version"] => writeln!(io::stdout(), "holdfast-keeper {} (protocol {})", env!("CARGO_PKG_VERSION"), wire::VERSION),
        ["--socket", path] => listen_at(Path::new(path)).and_then(|listener| serve(listener, true)),
        ["--inherited"] => inherited(),
        _ => {
            let _ = io::stderr().write_all(USAGE.as_bytes());
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&error.to_string());
            ExitCode::from(13)
        }
    }
}

// Away from the process that started us, whose children are its own business, and from its terminal.
fn inherited() -> io::Result<()> {
    let listener = io::stdin().as_fd().try_clone_to_owned()?;
    // SAFETY: there is one thread.
    if let ForkResult::Parent { .. } = unsafe { fork() }? {
        return Ok(());
    }
    setsid()?;
    std::env::set_current_dir("/")?;
    serve(listener, false)
}

fn serve(listener: OwnedFd, stay: bool) -> io::Result<()> {
    // What it was told of environments is in its memory: no core dump, no debugger of the same user.
    // SAFETY: plain numbers.
    unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) };
    // The last to be killed when memory is short, where we may ask for that.
    let _ = std::fs::write("/proc/self/oom_score_adj", "-900");
    Keeper::new(listener, Options { stay, now: seconds })?.run()
}

/// Seconds of a clock that nobody sets, and that stands still with the machine.
fn seconds() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
    now.map_or(0, |time| u64::try_from(time.tv_sec()).unwrap_or(0))
}
