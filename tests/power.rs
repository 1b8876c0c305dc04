//! The power fails under a whole mount: what was fsynced is there, here and on another machine; nothing that never was is found.
//!
//! The cache lies on a real file system on a disk that forgets (`tests/power/forgetful.rs`): at a cut the disk has what was flushed, and of
//! the rest whatever a seed says, in any order, by whole writes or by sectors. Holder and driver are killed, the file system's journal is
//! replayed, the boot has another id, and the volume is mounted again on the cache that is left. Controls on the same file system, written
//! and not flushed, prove at each cut that the disk forgets. Needs root, /dev/fuse and loop devices.
#![allow(clippy::expect_used, clippy::panic, clippy::print_stdout, clippy::disallowed_methods, reason = "tests against the real world")]

#[path = "common/disk.rs"]
mod disk;
#[path = "power/files.rs"]
mod files;
#[path = "power/disk.rs"]
mod forgetful;
mod harness;
#[path = "power/machine.rs"]
mod machine;
#[path = "crash/rig.rs"]
mod rig;
#[path = "apps/running.rs"]
mod running;
#[path = "apps/server.rs"]
mod server;

use forgetful::Kind;
use harness::command::succeed;
use harness::{Chance, scale};
use machine::Machine;
use server::Server;
use std::process::Command;

/// Runs the test again as a process with mounts of its own: a boot id that is another one's for this machine alone, and nothing that
/// stays mounted after it, however it ends.
fn alone(test: &str, body: impl FnOnce()) {
    const INSIDE: &str = "HOLDFAST_TEST_ALONE";
    if std::env::var_os(INSIDE).is_some() {
        let_go_of_others();
        return body();
    }
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private"]).arg(std::env::current_exe().expect("this program's path"));
    command.args(["--exact", test, "--nocapture", "--test-threads=1"]).env(INSIDE, "1");
    assert!(command.status().expect("unshare runs").success(), "{test} failed: see above");
}

/// These mounts began as a copy of the machine's: a FUSE mount among them would stay in use here, whoever unmounts it there.
fn let_go_of_others() {
    let mounts = holdfast::fuse::all_mounts().expect("the kernel's table");
    for mounted in mounts.iter().filter(|mounted| mounted.kind == "fuse" || mounted.kind.starts_with("fuse.")) {
        succeed(Command::new("umount").arg("-l").arg(&mounted.dir));
    }
}

/// How often the power fails on this file system.
fn number(of: u64) -> u64 {
    std::env::var("HOLDFAST_TEST_CUTS").ok().and_then(|text| text.parse().ok()).unwrap_or(of * scale())
}

fn cuts(kind: Kind, number: u64) {
    let mut chance = Chance::new(&format!("power on {}, {number} cuts", kind.name));
    let mut machine = Machine::new(kind);
    machine.employ(chance.between(0, u64::MAX));
    for n in 1..=number {
        machine.work(&mut chance);
        machine.cut(&mut chance);
        machine.check();
        if n % 8 == 0 || n == number {
            machine.elsewhere();
        }
    }
    machine.tell(kind.name);
}

/// The power fails under pgbench: no page and no index is torn, and every transaction that was seen is there.
fn cuts_of_postgresql(number: u64) {
    let mut chance = Chance::new(&format!("power under PostgreSQL, {number} cuts"));
    let mut machine = Machine::new(forgetful::EXT4);
    let data = machine.root().join("data");
    server::init(&data);
    let server = Server::start(&data);
    succeed(&mut server.client("pgbench", &["-i", "-q", "-s", "1", "postgres"]));
    let (mut server, mut seen) = (Some(server), 0);
    for n in 1..=number {
        let running = server.take().unwrap_or_else(|| Server::start(&data));
        let mut load = server::pgbench(&running);
        seen = server::wait_for(&running, seen + chance.between(1, 400));
        machine.cut(&mut chance);
        let _ = load.kill();
        let _ = load.wait();
        running.kill();
        if n == number {
            machine.elsewhere();
        }
        server::clear_lock(&data);
        let recovered = Server::start(&data);
        let found = recovered.check(&format!("cut {n}"));
        assert!(found >= seen, "cut {n}: {seen} transactions were seen, {found} are there");
        seen = found;
        server = Some(recovered);
    }
    server.into_iter().for_each(Server::stop);
    machine.tell(&format!("PostgreSQL, {seen} transactions"));
}

#[test]
fn power_fails_under_postgresql() {
    alone("power_fails_under_postgresql", || cuts_of_postgresql(number(2)));
}

#[test]
fn power_fails_on_ext4() {
    alone("power_fails_on_ext4", || cuts(forgetful::EXT4, number(40)));
}

#[test]
fn power_fails_on_xfs() {
    alone("power_fails_on_xfs", || cuts(forgetful::XFS, number(10)));
}
