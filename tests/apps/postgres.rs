//! PostgreSQL: initdb, pgbench, death at a random moment, recovery; its own checks of every page and index, and pgbench's invariant.

use crate::harness::command::succeed;
use crate::harness::{Chance, scale};
use crate::mounted;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(180);

/// Where Debian puts the programs of its newest version.
fn program(name: &str) -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL is installed (tests/setup.sh)");
    let mut found: Vec<PathBuf> =
        versions.flatten().map(|entry| entry.path().join("bin").join(name)).filter(|path| path.exists()).collect();
    found.sort();
    found.pop().unwrap_or_else(|| panic!("PostgreSQL has no {name}"))
}

/// The server refuses to run as root.
fn as_postgres(name: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "--"]).arg(program(name)).current_dir("/");
    command.env("LC_ALL", "C").stdin(Stdio::null());
    command
}

/// A server with its socket outside the volume, and nothing of the network.
struct Server {
    child: Child,
    sockets: tempfile::TempDir,
}

impl Server {
    fn start(data: &Path) -> Self {
        let sockets = tempfile::Builder::new().prefix("pg.").tempdir_in("/tmp").expect("a directory for the socket");
        succeed(Command::new("chown").arg("postgres").arg(sockets.path()));
        let mut command = as_postgres("postgres");
        command.arg("-D").arg(data).arg("-k").arg(sockets.path()).args(["-c", "listen_addresses=", "-c", "full_page_writes=on"]);
        // 100 MB of shared memory would hide what the file system does.
        command.args(["-c", "shared_buffers=8MB", "-c", "max_wal_size=64MB", "-c", "checkpoint_timeout=30s"]);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the server starts");
        let mut server = Self { child, sockets };
        let began = Instant::now();
        while !as_postgres("pg_isready").arg("-q").arg("-h").arg(server.sockets.path()).status().is_ok_and(|status| status.success()) {
            let ended = server.child.try_wait().expect("a child's status");
            assert!(ended.is_none(), "the server on {} ended with {ended:?}: it could not recover", data.display());
            assert!(began.elapsed() < PATIENCE, "the server is not ready after {PATIENCE:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
        server
    }

    fn client(&self, name: &str, arguments: &[&str]) -> Command {
        let mut command = as_postgres(name);
        command.arg("-h").arg(self.sockets.path()).args(["-U", "postgres"]).args(arguments);
        command
    }

    #[track_caller]
    fn query(&self, sql: &str) -> String {
        succeed(&mut self.client("psql", &["-d", "postgres", "-qAtX", "-v", "ON_ERROR_STOP=1", "-c", sql])).trim().to_owned()
    }

    /// pgbench moves money between tables that must agree; amcheck reads every index and heap page. Gives the number of transactions.
    #[track_caller]
    fn check(&self, what: &str) -> u64 {
        let sums = "SELECT (SELECT coalesce(sum(abalance), 0) FROM pgbench_accounts) || ' ' || (SELECT coalesce(sum(bbalance), 0) FROM pgbench_branches)
            || ' ' || (SELECT coalesce(sum(tbalance), 0) FROM pgbench_tellers) || ' ' || (SELECT coalesce(sum(delta), 0) FROM pgbench_history)";
        let found = self.query(sums);
        let all: Vec<&str> = found.split(' ').collect();
        assert!(all.iter().all(|sum| *sum == all[0]), "{what}: accounts, branches, tellers and history do not agree: {found}");
        succeed(&mut self.client("pg_amcheck", &["-d", "postgres", "--heapallindexed", "--install-missing"]));
        self.query("SELECT count(*) FROM pgbench_history").parse().expect("a number")
    }

    /// All processes of the server at once, as a machine's end would.
    fn kill(mut self) {
        let children = format!("/proc/{0}/task/{0}/children", self.child.id());
        let backends = std::fs::read_to_string(children).unwrap_or_default();
        let _ = self.child.kill();
        for pid in backends.split_whitespace().filter_map(|pid| pid.parse::<i32>().ok()) {
            // SAFETY: a system call without memory, on children of a server that this test started.
            unsafe { libc::kill(pid, libc::SIGKILL) };
        }
        let _ = self.child.wait();
        for pid in backends.split_whitespace() {
            while Path::new("/proc").join(pid).exists() {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }

    fn stop(mut self) {
        // SAFETY: as above; SIGINT is the fast shutdown.
        unsafe { libc::kill(self.child.id() as i32, libc::SIGINT) };
        let _ = self.child.wait();
    }
}

/// What is left of a server that died with its files: its lock names a process that is gone.
fn clear_lock(data: &Path) {
    let _ = std::fs::remove_file(data.join("postmaster.pid"));
}

/// Transactions until a given number is in the history, or the server dies.
fn pgbench(server: &Server) -> Child {
    let mut command = server.client("pgbench", &["-n", "-c", "4", "-T", "3600", "postgres"]);
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("pgbench starts")
}

fn wait_for(server: &Server, transactions: u64) -> u64 {
    let began = Instant::now();
    loop {
        let count = server.query("SELECT count(*) FROM pgbench_history").parse().expect("a number");
        if count >= transactions {
            return count;
        }
        assert!(began.elapsed() < PATIENCE, "pgbench stands still at {count} transactions");
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub(crate) fn scenario() {
    let mut chance = Chance::new("postgresql");
    let mut mounted = mounted("postgresql");
    let place = |mounted: &dyn crate::Mounted| mounted.root().join("data");
    std::fs::create_dir(place(mounted.as_ref())).expect("a directory");
    succeed(Command::new("chown").arg("postgres").arg(place(mounted.as_ref())));
    succeed(as_postgres("initdb").args(["-A", "trust", "-k", "-D"]).arg(place(mounted.as_ref())));
    // In commits before this one initdb is at work, and there is no server to start.
    let made = mounted.flush();
    let server = Server::start(&place(mounted.as_ref()));
    succeed(&mut server.client("pgbench", &["-i", "-q", "-s", "1", "postgres"]));

    let mut load = pgbench(&server);
    wait_for(&server, chance.between(50, 200));
    mounted.bounce();
    let acknowledged = wait_for(&server, 500 * scale());
    mounted.kill();
    let _ = load.kill();
    let _ = load.wait();
    server.kill();
    mounted.revive();

    clear_lock(&place(mounted.as_ref()));
    let server = Server::start(&place(mounted.as_ref()));
    let recovered = server.check("after the crash");
    assert!(recovered >= acknowledged, "{acknowledged} transactions were acknowledged, {recovered} are there");

    let mut load = pgbench(&server);
    wait_for(&server, recovered + 200);
    mounted.flush_busy();
    let mut more = recovered + 300 + chance.between(0, 300);
    wait_for(&server, more);
    while crate::too_few(mounted.as_ref()) {
        more += 20;
        wait_for(&server, more);
    }
    mounted.kill();
    let _ = load.kill();
    let _ = load.wait();
    server.kill();
    mounted.elsewhere();

    clear_lock(&place(mounted.as_ref()));
    let server = Server::start(&place(mounted.as_ref()));
    let found = server.check("on the next machine");
    println!("postgresql: {acknowledged} acknowledged before the crash, {recovered} recovered, {found} on the next machine");
    server.stop();
    mounted.flush();
    each_commit(mounted.as_ref(), &mut chance, made, found);
}

/// Opens the state of commits by the server itself: recovery succeeds, and history never goes back.
fn each_commit(mounted: &dyn crate::Mounted, chance: &mut Chance, made: u64, newest: u64) {
    let mut before = 0;
    crate::each_commit("postgresql", mounted, chance, |commit, tree| {
        let data = tree.join("data");
        if commit < made {
            return;
        }
        clear_lock(&data);
        let server = Server::start(&data);
        if server.query("SELECT count(*) FROM pg_tables WHERE tablename = 'pgbench_history'") == "1" {
            let found = server.check(&format!("commit {commit}"));
            assert!(found >= before, "commit {commit} has {found} transactions, an older one had {before}");
            before = found;
        }
        server.stop();
    });
    assert!(before <= newest + 10_000, "commits show more than was ever done: {before}");
}
