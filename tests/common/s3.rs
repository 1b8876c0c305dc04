//! A real S3 server for tests: `tests/servers/s3.sh` installs it, [`S3Server::start`] runs it with a directory of its own.
#![allow(dead_code, reason = "each test binary uses its part")]

#[path = "server.rs"]
pub(crate) mod server;

use server::Server;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

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
    server: Option<Server>,
}

/// Installs the server if need be.
pub(crate) fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| server::installed("tests/servers/s3.sh"))
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
        let mut server = Self { directory, tls, port: 0, server: None };
        server.run();
        server
    }

    /// `http://127.0.0.1:PORT`, or `https`.
    pub(crate) fn endpoint(&self) -> String {
        format!("{}://127.0.0.1:{}", if self.tls.is_some() { "https" } else { "http" }, self.port)
    }

    /// Where it listens.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// A credentials file with [`ACCESS_KEY`] and [`SECRET_KEY`], as `credentials=` of a store URL takes it.
    pub(crate) fn credentials(&self) -> PathBuf {
        self.directory.path().join("credentials")
    }

    /// The directory in which the server keeps the bucket's objects, each as a file of its key.
    pub(crate) fn objects(&self) -> PathBuf {
        self.directory.path().join("data").join(BUCKET)
    }

    /// The URL of a store in the bucket.
    pub(crate) fn url(&self, prefix: &str) -> String {
        format!("s3://{BUCKET}/{prefix}?endpoint={}&credentials={}", self.endpoint(), self.credentials().display())
    }

    /// Ends the server as a power cut would.
    pub(crate) fn kill(&mut self) {
        self.server = None;
    }

    /// Starts it again on the same port with what it held.
    pub(crate) fn restart(&mut self) {
        self.kill();
        self.run();
    }

    /// Stops it (it accepts and does not answer) or lets it go on.
    pub(crate) fn freeze(&self, frozen: bool) {
        if let Some(server) = &self.server {
            let signal = if frozen { nix::sys::signal::Signal::SIGSTOP } else { nix::sys::signal::Signal::SIGCONT };
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(server.pid()), signal).expect("signal");
        }
    }

    fn run(&mut self) {
        let (directory, tls, port) = (self.directory.path(), &self.tls, self.port);
        let (server, port) = Server::start(
            program(),
            &directory.join("log"),
            |command| {
                command.args(["--port", &format!("127.0.0.1:{port}"), "--health", "/health", "--quiet", "--keep-alive"]);
                if let Some((certificate, key)) = tls {
                    command.arg("--cert").arg(certificate).arg("--key").arg(key);
                }
                command.arg("posix").arg(directory.join("data"));
                command.env("ROOT_ACCESS_KEY", ACCESS_KEY).env("ROOT_SECRET_KEY", SECRET_KEY);
            },
            |stream| tls.is_some() || healthy(stream),
        );
        self.port = port;
        self.server = Some(server);
    }
}

fn healthy(mut stream: TcpStream) -> bool {
    let mut answer = String::new();
    stream.write_all(b"GET /health HTTP/1.0\r\nHost: localhost\r\nConnection: close\r\n\r\n").is_ok()
        && stream.read_to_string(&mut answer).is_ok()
        && answer.split(' ').nth(1) == Some("200")
}
