//! A real S3 server for tests: `tests/servers/s3.sh` installs it, [`S3Server::start`] runs it on a free port of the loopback interface
//! with a directory of its own, and it ends with its value or, at the latest, with the process of the test.
#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(clippy::disallowed_methods, reason = "readiness of a foreign process can only be polled")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// The one bucket that exists.
pub(crate) const BUCKET: &str = "bucket";
/// The access key that it accepts.
pub(crate) const ACCESS_KEY: &str = "holdfast-test";
/// The secret that it accepts.
pub(crate) const SECRET_KEY: &str = "holdfast-test-secret";

/// A running server.
#[derive(Debug)]
pub(crate) struct S3Server {
    directory: tempfile::TempDir,
    tls: Option<(PathBuf, PathBuf)>,
    port: u16,
    process: Option<Process>,
}

/// The server's pid, and the shell that kills it when its standard input ends: that is, also when the test itself is killed.
#[derive(Debug)]
struct Process {
    shell: Child,
    pid: i32,
}

/// Installs the server if need be.
///
/// # Panics
/// With what the installation said: a test without its server has failed, it is not skipped.
pub(crate) fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/servers/s3.sh");
        let output = Command::new(&script).output().unwrap_or_else(|error| panic!("{}: {error}", script.display()));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "the tests' S3 server cannot be installed: {said}");
        PathBuf::from(String::from_utf8(output.stdout).expect("a path").trim())
    })
}

impl S3Server {
    /// Starts one, with an empty bucket, and waits until it answers.
    pub(crate) fn start() -> Self {
        Self::start_with(None)
    }

    /// Starts one that speaks TLS with this certificate and key.
    pub(crate) fn start_tls(certificate: &Path, key: &Path) -> Self {
        Self::start_with(Some((certificate.to_owned(), key.to_owned())))
    }

    fn start_with(tls: Option<(PathBuf, PathBuf)>) -> Self {
        let directory = tempfile::tempdir().expect("tempdir");
        std::fs::create_dir_all(directory.path().join("data").join(BUCKET)).expect("bucket");
        let file = format!("[default]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n");
        std::fs::write(directory.path().join("credentials"), file).expect("credentials");
        let mut server = Self { directory, tls, port: 0, process: None };
        server.run();
        server
    }

    /// `http://127.0.0.1:PORT`.
    pub(crate) fn endpoint(&self) -> String {
        format!("{}://127.0.0.1:{}", if self.tls.is_some() { "https" } else { "http" }, self.port)
    }

    /// A credentials file with [`ACCESS_KEY`] and [`SECRET_KEY`], as `credentials=` of a store URL takes it.
    pub(crate) fn credentials(&self) -> PathBuf {
        self.directory.path().join("credentials")
    }

    /// The URL of a store in the bucket.
    pub(crate) fn url(&self, prefix: &str) -> String {
        format!("s3://{BUCKET}/{prefix}?endpoint={}&credentials={}", self.endpoint(), self.credentials().display())
    }

    /// Ends the server as a power cut would.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            drop(process.shell.stdin.take());
            let _ = process.shell.wait();
        }
    }

    /// Starts it again on the same port with what it held.
    pub(crate) fn restart(&mut self) {
        self.kill();
        self.run();
    }

    /// Stops it (it accepts and does not answer) or lets it go on.
    pub(crate) fn freeze(&self, frozen: bool) {
        if let Some(process) = &self.process {
            let signal = if frozen { nix::sys::signal::Signal::SIGSTOP } else { nix::sys::signal::Signal::SIGCONT };
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(process.pid), signal).expect("signal");
        }
    }

    fn run(&mut self) {
        let log = self.directory.path().join("log");
        let mut command = Command::new("/bin/sh");
        // kill, also when it is frozen, as soon as `cat` sees the end of the test's side of the pipe.
        command.arg("-c").arg(r#"log=$1; shift; "$@" >>"$log" 2>&1 & echo $!; cat >/dev/null; kill -9 $!"#).arg("s3").arg(&log);
        command.arg(program()).args(["--port", &format!("127.0.0.1:{}", self.port), "--health", "/health", "--quiet", "--keep-alive"]);
        if let Some((certificate, key)) = &self.tls {
            command.arg("--cert").arg(certificate).arg("--key").arg(key);
        }
        command.arg("posix").arg(self.directory.path().join("data"));
        command.env("ROOT_ACCESS_KEY", ACCESS_KEY).env("ROOT_SECRET_KEY", SECRET_KEY);
        let mut shell = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("sh");
        let mut line = String::new();
        BufReader::new(shell.stdout.take().expect("piped")).read_line(&mut line).expect("the server's pid");
        let pid = line.trim().parse().expect("a pid");
        self.process = Some(Process { shell, pid });
        let began = Instant::now();
        while !self.answers(pid) {
            let said = || std::fs::read_to_string(&log).unwrap_or_default();
            assert!(Path::new(&format!("/proc/{pid}/exe")).exists(), "the S3 server ended: {}", said());
            assert!(began.elapsed() < Duration::from_secs(60), "the S3 server does not answer: {}", said());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn answers(&mut self, pid: i32) -> bool {
        let Some(port) = listening_port(pid) else { return false };
        self.port = port;
        let Ok(mut stream) = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port))) else { return false };
        if self.tls.is_some() {
            return true;
        }
        let mut answer = String::new();
        stream.write_all(b"GET /health HTTP/1.0\r\nHost: localhost\r\nConnection: close\r\n\r\n").is_ok()
            && stream.read_to_string(&mut answer).is_ok()
            && answer.split(' ').nth(1) == Some("200")
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The port on which a process listens on 127.0.0.1: it chose one itself, so that no two tests can meet on one.
fn listening_port(pid: i32) -> Option<u16> {
    let sockets: Vec<String> = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .ok()?
        .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok()?.to_str().map(str::to_owned))
        .filter_map(|link| Some(link.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .collect();
    let table = std::fs::read_to_string(format!("/proc/{pid}/net/tcp")).ok()?;
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (address, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
        let listens = *state == "0A" && sockets.iter().any(|socket| socket == inode);
        let port = address.strip_prefix("0100007F:").filter(|_| listens)?;
        u16::from_str_radix(port, 16).ok()
    })
}
