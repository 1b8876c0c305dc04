//! `GET /metrics` on an optional address. It knows just enough HTTP for a scraper, and is bounded: eight connections, 8 KiB of
//! request, five seconds each; a stranger who holds connections open cannot hold memory or the driver.

use super::accept::Acceptor;
use super::names;
use super::registry::Metrics;
use crate::types::{Fault, FaultKind};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

const CONNECTIONS_MAX: usize = 8;
const REQUEST_BYTES_MAX: usize = 8 << 10;
const REQUEST_TIME_MAX: Duration = Duration::from_secs(5);

/// A running exporter; it ends when this is dropped.
#[derive(Debug)]
pub struct Exporter {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Exporter {
    /// Binds `address` (port 0: any free one) and answers there from now on.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub async fn start(address: SocketAddr, metrics: Metrics) -> Result<Self, Fault> {
        let cannot = |error| Fault::with(FaultKind::Invalid, format!("metrics cannot be served on {address}"), error);
        let listener = TcpListener::bind(address).await.map_err(cannot)?;
        let address = listener.local_addr().map_err(cannot)?;
        metrics.gauge(&names::TELEMETRY_BUILD, &[env!("CARGO_PKG_VERSION")]).set(1.0);
        metrics.on_export(measure_process);
        tracing::info!(%address, "metrics are served at /metrics");
        Ok(Self { address, task: tokio::spawn(serve(listener, metrics)) })
    }

    /// The address in use.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, metrics: Metrics) {
    let mut connections = Acceptor::new(Arc::new(Semaphore::new(CONNECTIONS_MAX)), "/metrics");
    while let Some((slot, (stream, _))) = connections.next(|| listener.accept()).await {
        let metrics = metrics.clone();
        tokio::spawn(async move {
            let _slot = slot;
            let _ = tokio::time::timeout(REQUEST_TIME_MAX, answer(stream, &metrics)).await;
        });
    }
}

async fn answer(mut stream: TcpStream, metrics: &Metrics) -> std::io::Result<()> {
    let request = read_head(&mut stream).await?;
    let (status, body) = respond(&request, metrics);
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    if !request.starts_with(b"HEAD ") {
        stream.write_all(body.as_bytes()).await?;
    }
    stream.shutdown().await
}

async fn read_head(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut head = Vec::new();
    let mut chunk = [0; 1024];
    while !head.windows(4).any(|four| four == b"\r\n\r\n") && head.len() < REQUEST_BYTES_MAX {
        let n = stream.read(&mut chunk).await?;
        if n == 0 {
            break;
        }
        head.extend_from_slice(chunk.get(..n).unwrap_or_default());
    }
    Ok(head)
}

/// Status line and body for a request; pure but for the numbers.
fn respond(request: &[u8], metrics: &Metrics) -> (&'static str, String) {
    let line = request.split(|b| *b == b'\r').next().unwrap_or_default();
    let mut words = line.split(|b| *b == b' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let path = target.split(|b| *b == b'?').next().unwrap_or_default();
    match (method, path) {
        (b"GET" | b"HEAD", b"/metrics") => ("200 OK", metrics.export()),
        (b"GET" | b"HEAD", path) if path.starts_with(b"/") => ("404 Not Found", "only /metrics is here\n".to_owned()),
        (b"GET" | b"HEAD", _) => ("400 Bad Request", "this is not HTTP\n".to_owned()),
        _ => ("405 Method Not Allowed", "only GET\n".to_owned()),
    }
}

/// The numbers of the process itself, from /proc; absent there, absent here.
fn measure_process(metrics: &Metrics) {
    if let Some(kib) = std::fs::read_to_string("/proc/self/status").ok().as_deref().and_then(resident_kib) {
        metrics.gauge(&names::TELEMETRY_MEMORY_BYTES, &[]).set_count(kib * 1024);
    }
    if let Ok(entries) = std::fs::read_dir("/proc/self/fd") {
        metrics.gauge(&names::TELEMETRY_OPEN_DESCRIPTORS, &[]).set_count(entries.count() as u64);
    }
}

fn resident_kib(status: &str) -> Option<u64> {
    status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn ask(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }

    #[tokio::test]
    async fn scrape_gives_the_numbers_and_anything_else_a_clean_refusal() {
        let metrics = Metrics::new();
        metrics.counter(&names::STORE_REQUESTS, &["put", "stored"]).add(3);
        let exporter = Exporter::start("127.0.0.1:0".parse().unwrap(), metrics).await.unwrap();
        let at = exporter.address();
        let scrape = ask(at, "GET /metrics?x=1 HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let (head, body) = scrape.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{head}");
        assert!(body.contains("holdfast_store_requests_total{verb=\"put\",result=\"stored\"} 3\n"), "{body}");
        assert!(body.contains("holdfast_telemetry_memory_resident_bytes "), "{body}");
        assert!(ask(at, "GET / HTTP/1.1\r\n\r\n").await.starts_with("HTTP/1.1 404 "));
        assert!(ask(at, "POST /metrics HTTP/1.1\r\n\r\n").await.starts_with("HTTP/1.1 405 "));
        assert!(ask(at, "GET\r\n\r\n").await.starts_with("HTTP/1.1 400 "));
    }

    #[tokio::test]
    async fn idle_strangers_do_not_stop_a_scrape_below_the_limit() {
        let exporter = Exporter::start("127.0.0.1:0".parse().unwrap(), Metrics::new()).await.unwrap();
        let mut strangers = Vec::new();
        for _ in 0..CONNECTIONS_MAX - 1 {
            strangers.push(TcpStream::connect(exporter.address()).await.unwrap());
        }
        assert!(ask(exporter.address(), "GET /metrics HTTP/1.1\r\n\r\n").await.starts_with("HTTP/1.1 200 "));
    }

    #[tokio::test]
    async fn address_in_use_is_said_with_the_address() {
        let exporter = Exporter::start("127.0.0.1:0".parse().unwrap(), Metrics::new()).await.unwrap();
        let error = Exporter::start(exporter.address(), Metrics::new()).await.unwrap_err().to_string();
        assert!(error.contains(&exporter.address().to_string()) && error.contains("in use"), "{error}");
    }
}
