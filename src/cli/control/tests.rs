//! A driver on a socket and those who ask it.

use super::*;
use crate::cli::status::{VolumeStatus, tests::healthy};
use crate::cli::target::Which;
use crate::types::{Fault, FaultKind, Identity};
use async_trait::async_trait;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::Notify;

#[derive(Default)]
struct Driver {
    volume: String,
    read_only: bool,
    unmounts: AtomicU32,
    go: Notify,
    ended: Notify,
}

#[async_trait]
impl ControlHandler for Driver {
    async fn status(&self) -> Result<VolumeStatus, Fault> {
        let directory = Some(format!("/mnt/{}", self.volume));
        Ok(VolumeStatus { volume: self.volume.clone(), directory, read_only: self.read_only, ..healthy() })
    }

    async fn flush(&self, progress: &ProgressSink) -> Result<Flushed, Fault> {
        progress.report(5, 10);
        Ok(Flushed { commit: 17, full: true, cut: "2026-11-20T09:00:00Z".parse().unwrap(), uploaded: 10 })
    }

    async fn scrub(&self, rate: u64, _: &ProgressSink) -> Result<Scrubbed, Fault> {
        Ok(Scrubbed { bytes: rate, ..Scrubbed::default() })
    }

    async fn unmount(&self, _: &ProgressSink) -> Result<Unmounted, Fault> {
        self.go.notified().await;
        self.unmounts.fetch_add(1, Ordering::SeqCst);
        self.ended.notify_one();
        Err(Fault::new(FaultKind::Busy, "a shell stands in it"))
    }
}

fn driver(volume: &str) -> Arc<Driver> {
    Arc::new(Driver { volume: volume.to_owned(), ..Driver::default() })
}

async fn raw(path: &std::path::Path, text: &str) -> String {
    let mut stream = UnixStream::connect(path).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

// `status` right after `unmount`.
#[tokio::test]
async fn a_driver_that_ends_without_an_answer_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.sock");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let ending = async {
        let (stream, _) = listener.accept().await.unwrap();
        drop((stream, listener));
    };
    let (asked, ()) = tokio::join!(ask(&path, Ask::Status, |_| ()), ending);
    assert_eq!(asked.unwrap_err().kind, FaultKind::NotFound);
}

// It is stopped, or waits for a disk.
#[tokio::test]
async fn a_driver_that_does_not_answer_holds_up_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path();
    let (a, b) = (Path::new("/mnt/a"), Path::new("/mnt/b"));
    let _silent = std::os::unix::net::UnixListener::bind(socket_path(run, a)).unwrap();
    let server = ControlServer::start(run, b, driver("b")).unwrap();
    let Asked { answered, silent } = ask_all(run).await.unwrap();
    assert_eq!(answered.iter().map(|(socket, _)| socket.as_path()).collect::<Vec<_>>(), [server.path()]);
    assert_eq!(silent.iter().map(|one| one.socket.clone()).collect::<Vec<_>>(), [socket_path(run, a)]);
    assert!(silent[0].why.contains("has not answered for 5 s"), "{silent:?}");
}

#[tokio::test]
async fn flush_reports_progress_then_the_commit_as_documented() {
    let dir = tempfile::tempdir().unwrap();
    let server = ControlServer::start(dir.path(), Path::new("/mnt/a"), driver("a")).unwrap();
    let lines = raw(server.path(), "{\"version\":1,\"ask\":\"flush\",\"a-new-field\":1}\n").await;
    assert_eq!(
        lines,
        "{\"reply\":\"progress\",\"done\":5,\"total\":10}\n\
         {\"reply\":\"flushed\",\"commit\":17,\"full\":true,\"cut\":\"2026-11-20T09:00:00Z\",\"uploaded\":10}\n"
    );
    let mut seen = Vec::new();
    let reply = ask(server.path(), Ask::Flush, |progress| seen.push(progress)).await.unwrap();
    assert!(matches!(reply, Reply::Flushed(Flushed { commit: 17, .. })));
    assert_eq!(seen, [Progress { done: 5, total: 10 }]);
}

#[tokio::test]
async fn unknown_and_newer_requests_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let server = ControlServer::start(dir.path(), Path::new("/mnt/a"), driver("a")).unwrap();
    for (line, kind, what) in [
        ("{\"version\":1,\"ask\":\"dance\"}\n", "invalid", "does not know this request"),
        ("{\"version\":2,\"ask\":\"flush\"}\n", "too-new", "older version"),
        ("GET / HTTP/1.1\n", "invalid", "no request to a driver"),
        ("\n", "invalid", "no request to a driver"),
    ] {
        let answer = raw(server.path(), line).await;
        assert!(answer.contains(&format!("\"kind\":\"{kind}\"")) && answer.contains(what), "{line} {answer}");
    }
}

#[tokio::test]
async fn unmount_goes_on_without_its_asker_and_a_fault_keeps_its_kind() {
    let dir = tempfile::tempdir().unwrap();
    let driver = driver("a");
    let server = ControlServer::start(dir.path(), Path::new("/mnt/a"), Arc::clone(&driver) as _).unwrap();
    let mut stream = UnixStream::connect(server.path()).await.unwrap();
    stream.write_all(b"{\"version\":1,\"ask\":\"unmount\"}\n").await.unwrap();
    drop(stream);
    driver.go.notify_one();
    driver.ended.notified().await;
    assert_eq!(driver.unmounts.load(Ordering::SeqCst), 1);
    driver.go.notify_one();
    let fault = ask(server.path(), Ask::Unmount, |_| {}).await.unwrap_err();
    assert_eq!((fault.kind, fault.to_string().as_str()), (FaultKind::Busy, "a shell stands in it"));
}

#[tokio::test]
async fn second_driver_is_refused_and_a_dead_ones_socket_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let mount = Path::new("/mnt/a");
    let server = ControlServer::start(dir.path(), mount, driver("a")).unwrap();
    assert_eq!(ControlServer::start(dir.path(), mount, driver("a")).unwrap_err().kind, FaultKind::Busy);
    drop(server);
    let path = socket_path(dir.path(), mount);
    assert!(!path.exists());
    // As a killed driver leaves it: bound, and nobody behind it.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    assert_eq!(ask(&path, Ask::Status, |_| {}).await.unwrap_err().kind, FaultKind::NotFound);
    let server = ControlServer::start(dir.path(), mount, driver("a")).unwrap();
    assert!(ask(server.path(), Ask::Status, |_| {}).await.is_ok());
}

#[tokio::test]
async fn mount_is_found_by_directory_and_by_volume() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let volume = |name: &str| Which::Volume(Identity::parse(name).unwrap());
    assert_eq!(find(&run, &volume("a")).await.unwrap_err().kind, FaultKind::NotFound);
    let mount = resolve(dir.path()).unwrap();
    let a = ControlServer::start(&run, &mount, driver("a")).unwrap();
    let b = ControlServer::start(&run, Path::new("/mnt/b"), driver("b")).unwrap();
    drop(std::os::unix::net::UnixListener::bind(socket_path(&run, Path::new("/mnt/dead"))).unwrap());
    assert_eq!(find(&run, &volume("a")).await.unwrap(), a.path());
    assert_eq!(find(&run, &volume("b")).await.unwrap(), b.path());
    assert_eq!(find(&run, &Which::Dir(dir.path().join("run/.."))).await.unwrap(), a.path());
    assert_eq!(find(&run, &Which::Dir("/mnt".into())).await.unwrap_err().to_string(), "nothing is mounted at /mnt by holdfast");
    let here = ControlServer::start(&run, &std::path::absolute("src").unwrap(), driver("c")).unwrap();
    assert_eq!(find(&run, &volume("src")).await.unwrap(), here.path(), "a directory without `./`");
    let _twin = ControlServer::start(&run, Path::new("/mnt/b2"), driver("b")).unwrap();
    assert!(find(&run, &volume("b")).await.unwrap_err().to_string().contains("more than once (/mnt/b, /mnt/b): name the directory"));
}

#[tokio::test]
async fn a_mount_that_only_looks_does_not_speak_for_its_volume() {
    let dir = tempfile::tempdir().unwrap();
    let reader = || Arc::new(Driver { volume: "a".to_owned(), read_only: true, ..Driver::default() });
    let which = Which::Volume(Identity::parse("a").unwrap());
    let then = ControlServer::start(dir.path(), Path::new("/mnt/then"), reader()).unwrap();
    assert_eq!(find(dir.path(), &which).await.unwrap_err().kind, FaultKind::NotFound, "the store is asked");
    let writer = ControlServer::start(dir.path(), Path::new("/mnt/a"), driver("a")).unwrap();
    let _later = ControlServer::start(dir.path(), Path::new("/mnt/later"), reader()).unwrap();
    assert_eq!(find(dir.path(), &which).await.unwrap(), writer.path());
    assert!(ask(then.path(), Ask::Status, |_| {}).await.is_ok());
}
