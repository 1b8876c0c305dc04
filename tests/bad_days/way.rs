//! The way between a mount and the real S3 server, on which requests take long, fail, or lose their replies.

use crate::harness::s3::S3Server;
use parking_lot::Mutex;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What befalls requests. 0 of a number: it does not happen.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Weather {
    /// Before each request is passed on.
    pub(crate) latency: Duration,
    /// Of all connections together, each way.
    pub(crate) bytes_a_second: u64,
    /// Each so many-th request is answered with 500, and not passed on.
    pub(crate) fail_each: u64,
    /// Each so many-th is answered with 503 and `Retry-After: 1`, and not passed on.
    pub(crate) slow_down_each: u64,
    /// Each so many-th is carried out, and its reply lost: all of it, or its second half.
    pub(crate) lose_each: u64,
}

/// How many requests met what.
#[derive(Debug, Default)]
pub(crate) struct Met {
    pub(crate) requests: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) slowed: AtomicU64,
    pub(crate) lost: AtomicU64,
}

/// A relay that carries one request on a connection.
#[derive(Debug)]
pub(crate) struct Way {
    port: u16,
    server: u16,
    pub(crate) met: Met,
    weather: Weather,
    // When each direction is free again.
    lines: [Mutex<Instant>; 2],
}

impl Way {
    pub(crate) fn to(server: &S3Server, weather: Weather) -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("its address").port();
        let free = || Mutex::new(Instant::now());
        let way = Arc::new(Self { port, server: server.port(), met: Met::default(), weather, lines: [free(), free()] });
        let relay = Arc::clone(&way);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let relay = Arc::clone(&relay);
                // What breaks off is what a client has to live with.
                std::thread::spawn(move || drop(relay.carry(client)));
            }
        });
        way
    }

    /// A store's URL by this way.
    pub(crate) fn url(&self, url: &str) -> String {
        url.replace(&format!("127.0.0.1:{}", self.server), &format!("127.0.0.1:{}", self.port))
    }

    fn carry(&self, mut client: TcpStream) -> std::io::Result<()> {
        let Some((head, mut body)) = head_of(&mut client)? else { return Ok(()) };
        let expects = head.lines().any(|line| line.eq_ignore_ascii_case("expect: 100-continue"));
        assert!(!expects, "a client that waits for 100 Continue: this relay does not say so");
        let length = head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse().ok());
        let missing = length.unwrap_or(0_usize).saturating_sub(body.len());
        let from = body.len();
        body.resize(from + missing, 0);
        client.read_exact(&mut body[from..])?;
        self.pass(0, head.len() + body.len());
        std::thread::sleep(self.weather.latency);
        let number = self.met.requests.fetch_add(1, Ordering::SeqCst) + 1;
        let is = |each: u64| each != 0 && number.is_multiple_of(each);
        if is(self.weather.fail_each) {
            self.met.failed.fetch_add(1, Ordering::SeqCst);
            return client.write_all(b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        }
        if is(self.weather.slow_down_each) {
            self.met.slowed.fetch_add(1, Ordering::SeqCst);
            return client.write_all(b"HTTP/1.1 503 Slow Down\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        }
        let mut reply = Vec::new();
        let mut server = TcpStream::connect(("127.0.0.1", self.server))?;
        server.write_all(close_after(&head).as_bytes())?;
        server.write_all(&body)?;
        server.read_to_end(&mut reply)?;
        if is(self.weather.lose_each) {
            let lost = self.met.lost.fetch_add(1, Ordering::SeqCst);
            reply.truncate(if lost.is_multiple_of(2) { 0 } else { reply.len() / 2 });
        }
        for part in reply.chunks(16 << 10) {
            self.pass(1, part.len());
            client.write_all(part)?;
        }
        Ok(())
    }

    // Waits until so many bytes have gone in one direction, behind all that others send.
    fn pass(&self, direction: usize, bytes: usize) {
        if self.weather.bytes_a_second == 0 {
            return;
        }
        let takes = Duration::from_secs_f64(bytes as f64 / self.weather.bytes_a_second as f64);
        let done = {
            let mut free = self.lines[direction].lock();
            *free = (*free).max(Instant::now()) + takes;
            *free
        };
        std::thread::sleep(done.saturating_duration_since(Instant::now()));
    }
}

// Up to the empty line, and what came of the body with it. `None`: the connection was closed.
fn head_of(client: &mut TcpStream) -> std::io::Result<Option<(String, Vec<u8>)>> {
    let (mut bytes, mut part) = (Vec::new(), [0; 16 << 10]);
    loop {
        if let Some(end) = bytes.windows(4).position(|end| end == b"\r\n\r\n") {
            let body = bytes.split_off(end + 4);
            return Ok(Some((String::from_utf8_lossy(&bytes).into_owned(), body)));
        }
        match client.read(&mut part)? {
            0 => return Ok(None),
            length => bytes.extend_from_slice(&part[..length]),
        }
    }
}

// The server closes after its answer, and says so: the client opens another connection.
fn close_after(head: &str) -> String {
    let lines = head.trim_end().lines().filter(|line| !line.to_ascii_lowercase().starts_with("connection:"));
    lines.chain(["Connection: close", "", ""]).collect::<Vec<_>>().join("\r\n")
}
