//! The probe trusts good stores and finds bad ones.

use crate::{directory, memory, plainly, s3};
use async_trait::async_trait;
use bytes::Bytes;
use holdfast::env::Env;
use holdfast::store::{
    CREATORS, Memory, ObjectMeta, OpenOptions, Put, Store, StoreError, StoreUrl, Verdict, Writers, open, probe, probe_for,
};
use std::ops::Range;
use std::sync::Arc;

#[tokio::test]
async fn good_stores_are_trusted() {
    let scratch = tempfile::tempdir().expect("tempdir");
    let server = s3::S3Server::start();
    for (what, store) in
        [("memory", memory()), ("directory", directory(scratch.path()).await), ("S3 server", plainly(&server.url("probed")))]
    {
        let report = probe(store.as_ref(), &Env::real()).await.expect("probe");
        println!("{what}: {:?}, median put {:?}", report.verdict, report.put_time);
        assert_eq!(report.verdict, Verdict::Trusted, "{what}: {:?}", report.reasons());
        assert!(report.cleaned);
        assert!(store.list("probe/", None, 9).await.expect("list").is_empty(), "{what}: the probe left objects behind");
    }
}

/// How a store breaks its word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sin {
    /// The condition is ignored: the last put wins, and every one is told so.
    Ignores,
    /// Looks, then puts: right unless two come at once.
    Races,
    /// One winner, but another's bytes stay.
    Swaps,
    /// What was put is listed only later.
    ListsLate,
    /// Every second put has no answer.
    Silent,
    /// Deleting is not allowed.
    KeepsAll,
}

#[derive(Debug)]
struct Sinner {
    inner: Memory,
    sin: Sin,
}

impl Sinner {
    fn new(sin: Sin) -> Self {
        Self { inner: Memory::new(Env::real()), sin }
    }
}

fn no_answer(name: &str) -> StoreError {
    StoreError::Unreachable { verb: "put_if_absent", name: name.to_owned(), why: "a test".to_owned() }
}

#[async_trait]
impl Store for Sinner {
    async fn put_if_absent(&self, name: &str, body: Bytes) -> Result<Put, StoreError> {
        match self.sin {
            Sin::Ignores => {
                self.inner.overwrite(name, body);
                Ok(Put::Stored)
            }
            Sin::Races => {
                if self.inner.head(name).await?.is_some() {
                    return Ok(Put::Exists);
                }
                tokio::task::yield_now().await;
                self.inner.overwrite(name, body);
                Ok(Put::Stored)
            }
            Sin::Swaps => {
                let put = self.inner.put_if_absent(name, body.clone()).await?;
                if put == Put::Exists {
                    self.inner.overwrite(name, body);
                }
                Ok(put)
            }
            Sin::Silent if name.contains("-0005") && body.len().is_multiple_of(2) => Err(no_answer(name)),
            _ => self.inner.put_if_absent(name, body).await,
        }
    }

    async fn get(&self, name: &str) -> Result<Option<Bytes>, StoreError> {
        self.inner.get(name).await
    }

    async fn get_range(&self, name: &str, range: Range<u64>) -> Result<Option<Bytes>, StoreError> {
        self.inner.get_range(name, range).await
    }

    async fn head(&self, name: &str) -> Result<Option<ObjectMeta>, StoreError> {
        self.inner.head(name).await
    }

    async fn list(&self, prefix: &str, start_after: Option<&str>, limit: usize) -> Result<Vec<ObjectMeta>, StoreError> {
        let mut metas = self.inner.list(prefix, start_after, limit).await?;
        if self.sin == Sin::ListsLate {
            metas.pop();
        }
        Ok(metas)
    }

    async fn delete(&self, name: &str) -> Result<(), StoreError> {
        if self.sin == Sin::KeepsAll {
            return Err(StoreError::Denied { verb: "delete", name: name.to_owned(), why: "AccessDenied".to_owned() });
        }
        self.inner.delete(name).await
    }
}

#[tokio::test]
async fn bad_stores_are_refused_with_the_reason() {
    let all = format!("{CREATORS} of {CREATORS} were told that they won");
    for (sin, verdict, reason) in [
        (Sin::Ignores, Verdict::Refused, all.as_str()),
        (Sin::Races, Verdict::Refused, all.as_str()),
        (Sin::Swaps, Verdict::Refused, "the winner's bytes are read back"),
        (Sin::ListsLate, Verdict::Refused, "a listing shows what was just put"),
        (Sin::Silent, Verdict::Unknown, "did not answer"),
        (Sin::KeepsAll, Verdict::Trusted, ""),
    ] {
        let report = probe(&Sinner::new(sin), &Env::real()).await.expect("probe");
        assert_eq!(report.verdict, verdict, "{sin:?}: {:?}", report.reasons());
        assert!(reason.is_empty() || report.reasons().iter().any(|said| said.contains(reason)), "{sin:?}: {:?}", report.reasons());
        assert_eq!(report.cleaned, sin != Sin::KeepsAll, "{sin:?}");
    }
}

/// One writer, who is vouched for, needs no race to be won; a store that loses or hides objects is still none.
#[tokio::test]
async fn one_writer_needs_no_winner() {
    for (sin, verdict) in [(Sin::Races, Verdict::Trusted), (Sin::Ignores, Verdict::Refused), (Sin::ListsLate, Verdict::Refused)] {
        let report = probe_for(&Sinner::new(sin), &Env::real(), Writers::One).await.expect("probe");
        assert_eq!(report.verdict, verdict, "{sin:?}: {:?}", report.reasons());
    }
    let server = s3::S3Server::start();
    let url = StoreUrl::parse(&server.url("one")).expect("url");
    let store = open(&url, &Env::real(), &OpenOptions { single_writer: true, ..OpenOptions::default() }).expect("store");
    assert_eq!(store.put_if_absent("a", Bytes::from_static(b"first")).await.expect("put"), Put::Stored);
    assert_eq!(store.put_if_absent("a", Bytes::from_static(b"second")).await.expect("put"), Put::Exists);
    assert_eq!(store.get("a").await.expect("get").as_deref(), Some(&b"first"[..]));
    assert_eq!(probe_for(&*store, &Env::real(), Writers::One).await.expect("probe").verdict, Verdict::Trusted);
    // It only looks: two at once are both told that they won.
    let report = probe(&*store, &Env::real()).await.expect("probe");
    assert_eq!(report.verdict, Verdict::Refused, "{:?}", report.reasons());
}

#[tokio::test]
async fn a_bucket_that_is_not_there_is_no_verdict() {
    let server = s3::S3Server::start();
    let url = server.url("x").replace("s3://bucket/", "s3://missing/");
    let store: Arc<dyn Store> = plainly(&url);
    assert!(matches!(probe(store.as_ref(), &Env::real()).await, Err(StoreError::NoBucket { .. })));
}
