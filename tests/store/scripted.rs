//! Answers that a real server gives on bad days only, byte by byte.

use crate::plainly;
use bytes::Bytes;
use holdfast::store::{Put, StoreError};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// An HTTP server that answers every request with the same bytes and closes the connection.
struct Script {
    url: String,
    requests: Arc<AtomicUsize>,
    _credentials: tempfile::TempDir,
}

async fn script(answer: &str) -> Script {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let port = listener.local_addr().expect("address").port();
    let (answer, requests) = (answer.to_owned(), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&requests);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (answer, counted) = (answer.clone(), Arc::clone(&counted));
            tokio::spawn(async move {
                let mut request = Vec::new();
                while !request.windows(4).any(|end| end == b"\r\n\r\n") {
                    let mut part = [0; 4096];
                    let n = stream.read(&mut part).await.unwrap_or(0);
                    if n == 0 {
                        return;
                    }
                    request.extend_from_slice(&part[..n]);
                }
                counted.fetch_add(1, SeqCst);
                let _ = stream.write_all(answer.as_bytes()).await;
                let _ = stream.shutdown().await;
            });
        }
    });
    let credentials = tempfile::tempdir().expect("tempdir");
    let file: PathBuf = credentials.path().join("c");
    std::fs::write(&file, "[default]\naws_access_key_id=a\naws_secret_access_key=b\n").expect("write");
    let url = format!("s3://bucket/p?endpoint=http://127.0.0.1:{port}&credentials={}", file.display());
    Script { url, requests, _credentials: credentials }
}

fn error(status: &str, headers: &str, code: &str) -> String {
    let body = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>m</Message></Error>");
    format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
}

#[tokio::test]
async fn a_store_that_asks_to_wait_is_understood() {
    let slow = script(&error("503 Slow Down", "Retry-After: 7\r\n", "SlowDown")).await;
    let put = plainly(&slow.url).put_if_absent("x", Bytes::from_static(b"x")).await;
    assert!(matches!(put, Err(StoreError::Throttled { retry_after: Some(wait), .. }) if wait == Duration::from_secs(7)), "{put:?}");
    assert_eq!(slow.requests.load(SeqCst), 1, "no retry inside of the library");
}

#[tokio::test]
async fn an_answer_that_proves_nothing_is_unknown() {
    let meta = "ETag: \"e\"\r\nLast-Modified: Fri, 20 Nov 2026 10:00:00 GMT\r\n";
    for (what, answer) in [
        ("500", error("500 Internal Server Error", "", "InternalError")),
        ("a proxy's 404", "HTTP/1.1 404 Not Found\r\nContent-Length: 15\r\nConnection: close\r\n\r\n<html>no</html>".to_owned()),
        ("404 with nothing", "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_owned()),
        ("a body cut off", format!("HTTP/1.1 200 OK\r\n{meta}Content-Length: 100\r\nConnection: close\r\n\r\nonly this")),
        ("no answer", String::new()),
        ("half an answer", "HTTP/1.1 200 O".to_owned()),
        ("no HTTP", "220 mail.example ESMTP\r\n".to_owned()),
    ] {
        let server = script(&answer).await;
        let store = plainly(&server.url);
        let got = store.get("x").await;
        assert!(matches!(got, Err(StoreError::Unreachable { .. })), "{what}: {got:?}");
        let listed = store.list("", None, 9).await;
        assert!(matches!(listed, Err(StoreError::Unreachable { .. })), "{what}: {listed:?}");
        if what != "a body cut off" {
            let head = store.head("x").await;
            assert!(matches!(head, Err(StoreError::Unreachable { .. })), "{what}: {head:?}");
            let put = store.put_if_absent("x", Bytes::from_static(b"x")).await;
            assert!(matches!(put, Err(StoreError::Unreachable { .. })), "{what}: {put:?}");
        }
    }
}

#[tokio::test]
async fn a_conflict_under_way_is_not_an_object() {
    let conflict = script(&error("409 Conflict", "", "ConditionalRequestConflict")).await;
    let put = plainly(&conflict.url).put_if_absent("x", Bytes::from_static(b"x")).await;
    assert!(matches!(put, Err(StoreError::Unreachable { .. })), "{put:?}");
    let taken = script(&error("412 Precondition Failed", "", "PreconditionFailed")).await;
    assert_eq!(plainly(&taken.url).put_if_absent("x", Bytes::from_static(b"x")).await.expect("an answer"), Put::Exists);
}

#[tokio::test]
async fn a_refusal_says_what_to_do() {
    for (answer, says) in [
        (error("403 Forbidden", "", "SignatureDoesNotMatch"), "check the credentials"),
        (error("403 Forbidden", "", "RequestTimeTooSkewed"), "clock"),
        (error("400 Bad Request", "", "ExpiredToken"), "check the credentials"),
        (error("301 Moved Permanently", "x-amz-bucket-region: eu-west-1\r\n", "PermanentRedirect"), "region `eu-west-1`"),
        (error("404 Not Found", "", "NoSuchBucket"), "the bucket bucket at http://127.0.0.1"),
        (error("501 Not Implemented", "", "NotImplemented"), "cannot do put_if_absent"),
    ] {
        let server = script(&answer).await;
        let store = plainly(&server.url);
        let put = store.put_if_absent("x", Bytes::from_static(b"x")).await.expect_err("refused").to_string();
        assert!(put.contains(says), "{put}");
    }
}

#[tokio::test]
async fn a_length_that_no_object_has_takes_no_memory() {
    let huge = "HTTP/1.1 200 OK\r\nETag: \"e\"\r\nLast-Modified: Fri, 20 Nov 2026 10:00:00 GMT\r\nContent-Length: 999999999999\r\n\r\nx";
    let server = script(huge).await;
    let got = plainly(&server.url).get("x").await;
    assert!(matches!(got, Err(StoreError::Unsupported { .. })), "{got:?}");
}
