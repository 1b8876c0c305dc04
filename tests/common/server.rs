//! A server process of a test: it listens on a free port of the loopback interface that it chose itself, and it ends with its value or,
//! at the latest, with the process of the test.
#![allow(clippy::disallowed_methods, reason = "readiness of a foreign process can only be polled")]

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Runs a script that installs a program and prints its path.
///
/// # Panics
/// With what the script said: a test without its server has failed, it is not skipped.
pub(crate) fn installed(script: &str) -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join(script);
    let output = Command::new(&script).output().unwrap_or_else(|error| panic!("{}: {error}", script.display()));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "a server of the tests cannot be installed: {said}");
    PathBuf::from(String::from_utf8(output.stdout).expect("a path").trim())
}

/// A running process.
#[derive(Debug)]
pub(crate) struct Server {
    /// Kills the server when its standard input ends: that is, also when the test itself is killed.
    shell: Child,
    pid: i32,
}

impl Server {
    /// Starts `program` with what `prepare` adds, its output in `log`, and waits until `ready` says yes to the port it listens on.
    pub(crate) fn start(program: &Path, log: &Path, prepare: impl FnOnce(&mut Command), ready: impl Fn(TcpStream) -> bool) -> (Self, u16) {
        let mut command = Command::new("/bin/sh");
        command.arg("-c").arg(r#"log=$1; shift; "$@" >>"$log" 2>&1 & echo $!; cat >/dev/null; kill -9 $!"#).arg("server").arg(log);
        command.arg(program);
        prepare(&mut command);
        let mut shell = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("sh");
        let mut line = String::new();
        BufReader::new(shell.stdout.take().expect("piped")).read_line(&mut line).expect("the server's pid");
        let server = Self { shell, pid: line.trim().parse().expect("a pid") };
        let began = Instant::now();
        loop {
            if let Some(port) = server.listening_port()
                && TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port))).is_ok_and(&ready)
            {
                return (server, port);
            }
            let said = || std::fs::read_to_string(log).unwrap_or_default();
            assert!(Path::new(&format!("/proc/{}/exe", server.pid)).exists(), "{} ended: {}", program.display(), said());
            assert!(began.elapsed() < Duration::from_secs(60), "{} does not answer: {}", program.display(), said());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> i32 {
        self.pid
    }

    /// The port on which it listens on 127.0.0.1: as the kernel tells it, so that no two tests can meet on one.
    fn listening_port(&self) -> Option<u16> {
        let sockets: Vec<String> = std::fs::read_dir(format!("/proc/{}/fd", self.pid))
            .ok()?
            .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok()?.to_str().map(str::to_owned))
            .filter_map(|link| Some(link.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
            .collect();
        let table = std::fs::read_to_string(format!("/proc/{}/net/tcp", self.pid)).ok()?;
        table.lines().skip(1).find_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let (address, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
            let listens = *state == "0A" && sockets.iter().any(|socket| socket == inode);
            let port = address.strip_prefix("0100007F:").filter(|_| listens)?;
            u16::from_str_radix(port, 16).ok()
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        let _ = self.shell.wait();
    }
}
