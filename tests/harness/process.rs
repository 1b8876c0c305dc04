//! Processes of the real command: their surroundings, their families, their ends.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Gives a command the home of a "machine", with every directory of the XDG rules in it.
pub(crate) fn at_home(command: &mut Command, home: &Path) {
    command.env("HOME", home);
    for (variable, folder) in [
        ("XDG_DATA_HOME", "data"),
        ("XDG_CACHE_HOME", "cache"),
        ("XDG_CONFIG_HOME", "config"),
        ("XDG_STATE_HOME", "state"),
        ("XDG_RUNTIME_DIR", "run"),
    ] {
        std::fs::create_dir_all(home.join(folder)).expect("a directory of a machine");
        command.env(variable, home.join(folder));
    }
    // Each machine has a keeper of its own.
    command.env("HOLDFAST_RUN_DIR", home.join("run"));
}

/// `kill -9`.
pub(crate) fn kill(pid: u32) {
    signal(pid, libc::SIGKILL);
}

fn signal(pid: u32, signal: i32) {
    // SAFETY: a system call without memory; the process is a descendant of one that this test started.
    unsafe { libc::kill(pid as i32, signal) };
}

/// The processes that a process has started.
pub(crate) fn children_of(pid: u32) -> Vec<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<u32>>()).collect()
}

/// Until a process runs no more, whoever is to wait for it.
pub(crate) fn wait_until_gone(pid: u32) {
    wait_for_state(&[pid.to_string()], "Z");
}

/// Until a process that was sent SIGSTOP can start no other: the signal is sent to a process that runs, which may be in the middle of
/// a fork, and only then looks at its signals. One in a disk's hands looks before it goes on.
fn wait_until_still(pid: u32) {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let tasks: Vec<String> = tasks.map(|task| task.path().display().to_string()).collect();
    wait_for_state(&tasks, "TtDZX");
}

/// Until each of them (a place below `/proc`) is gone or in one of these states.
fn wait_for_state(tasks: &[String], states: &str) {
    let reached = |task: &String| {
        let status = std::fs::read_to_string(Path::new("/proc").join(task).join("status")).unwrap_or_default();
        let state = status.lines().find_map(|line| line.strip_prefix("State:\t"));
        state.is_none_or(|state| state.starts_with(|state| states.contains(state)))
    };
    while !tasks.iter().all(reached) {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Ends a holder, the driver below it and the keeper beside it, as the loss of the machine's processes would.
pub(crate) fn kill_family(mut holder: std::process::Child) {
    let family = strike_family(holder.id());
    let _ = holder.wait();
    family.into_iter().for_each(wait_until_gone);
}

/// Sends them SIGKILL and waits for none; the driver and the keeper are returned.
pub(crate) fn strike_family(holder: u32) -> Vec<u32> {
    let mut family: Vec<u32> = keeper_of(holder).into_iter().collect();
    // First known and held, then killed: none may start another meanwhile.
    family.iter().chain([&holder]).for_each(|pid| signal(*pid, libc::SIGSTOP));
    family.iter().chain([&holder]).for_each(|pid| wait_until_still(*pid));
    family.extend(children_of(holder));
    kill(holder);
    family.iter().for_each(|pid| kill(*pid));
    family
}

/// The keeper of the machine that a process belongs to.
fn keeper_of(pid: u32) -> Option<u32> {
    let environment = std::fs::read(format!("/proc/{pid}/environ")).ok()?;
    let run_dir = environment.split(|byte| *byte == 0).find_map(|variable| variable.strip_prefix(b"HOLDFAST_RUN_DIR="))?;
    let run_dir = Path::new(std::str::from_utf8(run_dir).ok()?);
    // Once it is known, it is asked until it answers: what is left alive by mistake keeps the mount's connection, and its users waiting.
    for _ in 0..20 {
        let line = holdfast::keeper::Line::connect(run_dir).ok()??;
        if let Ok(holding) = line.list() {
            return Some(holding.process);
        }
    }
    panic!("the keeper in {} does not answer", run_dir.display())
}

/// Whether something is mounted there, by the kernel's table alone.
pub(crate) fn in_mount_table(root: &Path) -> bool {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    table.lines().any(|line| line.split(' ').nth(4).is_some_and(|place| Path::new(place) == root))
}
