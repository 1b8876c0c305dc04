//! A real server with wrong keys, a wrong bucket, TLS of one's own, and outages.

use crate::{plainly, s3};
use bytes::Bytes;
use holdfast::env::Env;
use holdfast::store::{OpenOptions, Put, Retries, StoreError, StoreUrl, open};
use std::path::Path;
use std::time::Duration;

#[tokio::test]
async fn wrong_credentials_are_denied() {
    let server = s3::S3Server::start();
    let scratch = tempfile::tempdir().expect("tempdir");
    let file = scratch.path().join("wrong");
    let url = format!("s3://bucket/p?endpoint={}&credentials={}", server.endpoint(), file.display());
    for keys in [format!("{}\naws_secret_access_key=wrong", s3::ACCESS_KEY), "nobody\naws_secret_access_key=x".to_owned()] {
        std::fs::write(&file, format!("[default]\naws_access_key_id={keys}\n")).expect("write");
        let store = plainly(&url);
        let answers = [
            store.put_if_absent("x", Bytes::new()).await.err(),
            store.get("x").await.err(),
            store.head("x").await.err(),
            store.list("", None, 9).await.err(),
            store.delete("x").await.err(),
        ];
        assert!(answers.iter().all(|error| matches!(error, Some(StoreError::Denied { .. }))), "{answers:?}");
    }
    // The right ones, put into the same file: no restart, the same store.
    let store = plainly(&url);
    assert!(store.get("x").await.is_err());
    std::fs::copy(server.credentials(), &file).expect("copy");
    assert_eq!(store.put_if_absent("x", Bytes::new()).await.expect("put"), Put::Stored);
    std::fs::remove_file(&file).expect("remove");
    assert!(matches!(store.get("x").await, Err(StoreError::Denied { .. })), "a missing file of credentials");
}

#[tokio::test]
async fn a_missing_bucket_is_never_an_empty_one() {
    let server = s3::S3Server::start();
    let store = plainly(&server.url("p").replace("s3://bucket/", "s3://buckett/"));
    let answers = [
        store.put_if_absent("x", Bytes::new()).await.err(),
        store.get("x").await.err(),
        store.get_range("x", 0..1).await.err(),
        store.head("x").await.err(),
        store.list("", None, 9).await.err(),
    ];
    assert!(answers.iter().all(|error| matches!(error, Some(StoreError::NoBucket { .. }))), "{answers:?}");
}

#[tokio::test]
async fn a_certificate_of_ones_own_is_trusted_when_named() {
    let keys = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/store/tls");
    let (certificate, key) = (keys.join("certificate.pem"), keys.join("key.pem"));
    let server = s3::S3Server::start_tls(&certificate, &key);
    let unknown = plainly(&server.url("p")).get("x").await;
    assert!(matches!(unknown, Err(StoreError::Unreachable { .. })), "{unknown:?}");
    let store = plainly(&format!("{}&ca={}", server.url("p"), certificate.display()));
    assert_eq!(store.put_if_absent("x", Bytes::from_static(b"1")).await.expect("put"), Put::Stored);
    assert_eq!(store.get("x").await.expect("get").as_deref(), Some(&b"1"[..]));
    let wrong = StoreUrl::parse(&format!("{}&ca={}", server.url("p"), key.display())).expect("url");
    let error = open(&wrong, &Env::real(), &OpenOptions::default()).expect_err("a key is no certificate").to_string();
    assert!(error.contains("no PEM certificate"), "{error}");
}

#[tokio::test]
async fn an_outage_is_waited_out() {
    let mut server = s3::S3Server::start();
    let store = plainly(&server.url("p"));
    assert_eq!(store.put_if_absent("a", Bytes::from_static(b"1")).await.expect("put"), Put::Stored);
    server.kill();
    for _ in 0..2 {
        assert!(matches!(store.get("a").await, Err(StoreError::Unreachable { .. })));
        assert!(matches!(store.put_if_absent("b", Bytes::new()).await, Err(StoreError::Unreachable { .. })));
    }
    let patient = open(&StoreUrl::parse(&server.url("p")).expect("url"), &Env::real(), &OpenOptions::default()).expect("open");
    let put = tokio::spawn(async move { patient.put_if_absent("b", Bytes::from_static(b"2")).await });
    let server = tokio::task::spawn_blocking(move || {
        server.restart();
        server
    });
    let _server = server.await.expect("restart");
    // Exists: the server had stored an earlier attempt and could not say so.
    put.await.expect("task").expect("put");
    assert_eq!(store.get("a").await.expect("get").as_deref(), Some(&b"1"[..]));
    assert_eq!(store.get("b").await.expect("get").as_deref(), Some(&b"2"[..]));
}

#[tokio::test]
async fn a_server_that_accepts_and_never_answers_is_given_up() {
    let server = s3::S3Server::start();
    let url = StoreUrl::parse(&server.url("p")).expect("url");
    // Every sleep is over at once: the request is given up at the first moment at which nothing else can go on.
    let (_, env) = crate::wrappers::jumping();
    let once = Retries { deadline: Duration::ZERO, ..Retries::default() };
    let store = open(&url, &env, &OpenOptions { retries: once, ..OpenOptions::default() }).expect("open");
    server.freeze(true);
    for error in [store.get("x").await.err(), store.put_if_absent("x", Bytes::new()).await.err()] {
        assert!(matches!(&error, Some(StoreError::Unreachable { why, .. }) if why.contains("no answer within")), "{error:?}");
    }
    server.freeze(false);
    let store = plainly(&server.url("p"));
    store.put_if_absent("x", Bytes::new()).await.expect("an answer");
}
