//! A PostgreSQL server and pgbench as processes; its own checks of every page and index, and pgbench's invariant.

use crate::harness::command::succeed;
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
pub(crate) fn as_postgres(name: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "--"]).arg(program(name)).current_dir("/");
    command.env("LC_ALL", "C").stdin(Stdio::null());
    command
}

/// A server with its socket outside the volume, and nothing of the network.
pub(crate) struct Server {
    child: Child,
    sockets: tempfile::TempDir,
}

impl Server {
    /// Starts it on a data directory, which it recovers when it must.
    pub(crate) fn start(data: &Path) -> Self {
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

    /// A client program.
    pub(crate) fn client(&self, name: &str, arguments: &[&str]) -> Command {
        let mut command = as_postgres(name);
        command.arg("-h").arg(self.sockets.path()).args(["-U", "postgres"]).args(arguments);
        command
    }

    /// The answer to a query.
    #[track_caller]
    pub(crate) fn query(&self, sql: &str) -> String {
        succeed(&mut self.client("psql", &["-d", "postgres", "-qAtX", "-v", "ON_ERROR_STOP=1", "-c", sql])).trim().to_owned()
    }

    /// pgbench moves money between tables that must agree; amcheck reads every index and heap page. Gives the number of transactions.
    #[track_caller]
    pub(crate) fn check(&self, what: &str) -> u64 {
        let sums = "SELECT (SELECT coalesce(sum(abalance), 0) FROM pgbench_accounts) || ' ' || (SELECT coalesce(sum(bbalance), 0) FROM pgbench_branches)
            || ' ' || (SELECT coalesce(sum(tbalance), 0) FROM pgbench_tellers) || ' ' || (SELECT coalesce(sum(delta), 0) FROM pgbench_history)";
        let found = self.query(sums);
        let all: Vec<&str> = found.split(' ').collect();
        assert!(all.iter().all(|sum| *sum == all[0]), "{what}: accounts, branches, tellers and history do not agree: {found}");
        succeed(&mut self.client("pg_amcheck", &["-d", "postgres", "--heapallindexed", "--install-missing"]));
        self.query("SELECT count(*) FROM pgbench_history").parse().expect("a number")
    }

    /// All processes of the server at once, as a machine's end would.
    pub(crate) fn kill(mut self) {
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

    /// Stops it in order.
    pub(crate) fn stop(mut self) {
        // SAFETY: as above; SIGINT is the fast shutdown.
        unsafe { libc::kill(self.child.id() as i32, libc::SIGINT) };
        let _ = self.child.wait();
    }
}

/// What is left of a server that died with its files: its lock names a process that is gone.
pub(crate) fn clear_lock(data: &Path) {
    let _ = std::fs::remove_file(data.join("postmaster.pid"));
}

/// Transactions until the server dies.
pub(crate) fn pgbench(server: &Server) -> Child {
    let mut command = server.client("pgbench", &["-n", "-c", "4", "-T", "3600", "postgres"]);
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("pgbench starts")
}

/// Waits until so many transactions are in the history; how many are.
pub(crate) fn wait_for(server: &Server, transactions: u64) -> u64 {
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

/// A new database in a directory that it makes.
pub(crate) fn init(data: &Path) {
    std::fs::create_dir(data).expect("a directory");
    succeed(Command::new("chown").arg("postgres").arg(data));
    succeed(as_postgres("initdb").args(["-A", "trust", "-k", "-D"]).arg(data));
}
