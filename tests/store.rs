//! The store module from outside: one conformance suite on every store and wrapper, the probe, bad days, and a real S3 server.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "tests")]

#[path = "store/azure.rs"]
mod azure;
#[path = "store/bad_days.rs"]
mod bad_days;
#[path = "store/conformance.rs"]
mod conformance;
#[path = "common/disk.rs"]
mod disk;
#[path = "store/given.rs"]
mod given;
#[path = "store/power_loss.rs"]
mod power_loss;
#[path = "store/probing.rs"]
mod probing;
#[path = "store/processes.rs"]
mod processes;
#[path = "common/s3.rs"]
mod s3;
#[path = "store/scripted.rs"]
mod scripted;
#[path = "store/speed.rs"]
mod speed;
#[path = "store/wrappers.rs"]
mod wrappers;

use bytes::Bytes;
use conformance::{Expect, SURE, conforms};
use holdfast::env::Env;
use holdfast::store::{
    Counters, Counting, Faults, Faulty, FileStore, Limited, Limits, Memory, OpenOptions, Put, Retries, Retrying, Slow, Store, StoreUrl,
    Verb, VerbResult, open,
};
use std::num::NonZeroU64;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Faults on one request in five.
const OFTEN: Faults = Faults { before: 60, reply_lost: 60, throttled: 40, cut: 40, cut_unnoticed: 0 };
/// No reply is sure to arrive.
const UNSURE: Expect = Expect { replies: false, many: 40 };

fn memory() -> Arc<dyn Store> {
    Arc::new(Memory::new(Env::real()))
}

/// A new store in a directory, as `store init` leaves it.
async fn directory(path: &Path) -> Arc<dyn Store> {
    let init = FileStore::new(path, true, Env::real());
    assert_eq!(init.put_if_absent("holdfast-store", Bytes::from_static(b"marker")).await.expect("marker"), Put::Stored);
    Arc::new(FileStore::new(path, false, Env::real()))
}

/// A store at a URL without anything between, as far as the options allow: one attempt.
fn plainly(url: &str) -> Arc<dyn Store> {
    let options = OpenOptions { retries: Retries { deadline: Duration::ZERO, ..Retries::default() }, ..OpenOptions::default() };
    open(&StoreUrl::parse(url).expect(url), &Env::real(), &options).expect("open")
}

fn retrying(inner: Arc<dyn Store>) -> Retrying {
    let pause = Duration::from_millis(1);
    Retrying::new(inner, Retries { deadline: Duration::from_secs(60), first_pause: pause, longest_pause: pause }, Env::real())
}

#[tokio::test]
async fn memory_conforms() {
    conforms(memory().as_ref(), Expect { many: 2500, ..SURE }).await;
}

#[tokio::test]
async fn a_directory_conforms() {
    let scratch = tempfile::tempdir().expect("tempdir");
    conforms(directory(scratch.path()).await.as_ref(), SURE).await;
}

#[tokio::test]
async fn an_s3_server_conforms() {
    let server = s3::S3Server::start();
    // More than two pages of a listing.
    conforms(plainly(&server.url("a/prefix")).as_ref(), Expect { many: 2100, ..SURE }).await;
    // Another prefix of the bucket is another store; none at all sees both.
    assert!(plainly(&server.url("a/pre")).list("", None, 9).await.expect("list").is_empty());
    let whole = plainly(&server.url("")).list("a/prefix/c-delete/", None, 9).await.expect("list");
    assert_eq!(whole.iter().map(|meta| meta.name.as_str()).collect::<Vec<_>>(), ["a/prefix/c-delete/a", "a/prefix/c-delete/b"]);
}

#[tokio::test]
async fn slow_conforms() {
    conforms(&Slow::new(memory(), Duration::from_millis(2), Env::real()), SURE).await;
}

#[tokio::test]
async fn limited_conforms() {
    let rate = NonZeroU64::new(100 << 20);
    let limits = Limits { requests_in_flight: 3, upload: rate, download: rate };
    conforms(&Limited::new(memory(), limits, Env::real()), SURE).await;
}

#[tokio::test]
async fn counting_conforms_and_counts() {
    let counters = Arc::new(Counters::default());
    let store = Counting::new(memory(), Arc::clone(&counters), Env::real());
    conforms(&store, SURE).await;
    // The creators' race alone: four rounds with one winner each and 31 that met it.
    assert!(counters.count(Verb::PutIfAbsent, VerbResult::Exists) >= 4 * 31);
    let before = counters.snapshot();
    store.put_if_absent("x", Bytes::from_static(b"123")).await.expect("put");
    store.get("x").await.expect("get");
    store.get("y").await.expect("get");
    assert_eq!(counters.total(), before.requests.iter().map(|(_, _, count)| count).sum::<u64>() + 3);
    assert_eq!(counters.snapshot().bytes_up, before.bytes_up + 3);
    assert_eq!(counters.snapshot().bytes_down, before.bytes_down + 3);
    // A request whose caller goes away is counted too.
    let slow = Counting::new(Arc::new(Slow::new(memory(), Duration::from_secs(60), Env::real())), Arc::clone(&counters), Env::real());
    let mut get = Box::pin(slow.get("x"));
    assert!(futures::poll!(&mut get).is_pending());
    drop(get);
    assert_eq!(counters.count(Verb::Get, VerbResult::Dropped), 1);
}

#[tokio::test]
async fn retrying_on_a_faulty_memory_conforms() {
    for seed in 0..20 {
        let faulty: Arc<dyn Store> = Arc::new(Faulty::new(memory(), OFTEN, seed));
        conforms(&retrying(faulty), UNSURE).await;
    }
}

#[tokio::test]
async fn retrying_on_a_faulty_directory_conforms() {
    let scratch = tempfile::tempdir().expect("tempdir");
    let faulty: Arc<dyn Store> = Arc::new(Faulty::new(directory(scratch.path()).await, OFTEN, 1));
    conforms(&retrying(faulty), UNSURE).await;
}

#[tokio::test]
async fn everything_together_on_a_faulty_s3_server_conforms() {
    let server = s3::S3Server::start();
    let faulty: Arc<dyn Store> = Arc::new(Faulty::new(plainly(&server.url("p")), OFTEN, 2));
    let counted = Arc::new(Counting::new(faulty, Arc::default(), Env::real()));
    let limited = Arc::new(Limited::new(counted, Limits::default(), Env::real()));
    conforms(&Slow::new(Arc::new(retrying(limited)), Duration::from_millis(1), Env::real()), UNSURE).await;
}

#[tokio::test]
async fn without_retries_a_faulty_store_does_not_conform() {
    // The suite must be able to fail.
    let faulty = Faulty::new(memory(), OFTEN, 0);
    let mut failed = 0;
    for n in 0..1000 {
        failed += u32::from(faulty.put_if_absent(&format!("x/{n}"), Bytes::new()).await.is_err());
    }
    assert!((100..300).contains(&failed), "{failed} of 1000 puts failed");
}
