//! S3 and compatibles, Google Cloud Storage and Azure, through `object_store`. Every retry, count and limit is a wrapper's
//! ([`super::open`]): here one call is one attempt.

use super::memory::slice;
use super::url::{Bucket, Location, StoreUrl, is_word};
use super::{ObjectMeta, Put, Store, StoreError, name};
use crate::env::Env;
use crate::types::{Fault, FaultKind};
use answer::{Answer, Asked, Meaning, Observing, observed};
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use object_store::aws::{AmazonS3Builder, S3ConditionalPut};
use object_store::azure::MicrosoftAzureBuilder;
use object_store::client::{Certificate, ClientOptions};
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::list::{PaginatedListOptions, PaginatedListStore};
use object_store::path::Path as Key;
use object_store::{GetOptions, ObjectStore, PutMode, PutOptions, RetryConfig};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

mod answer;
mod credentials;

/// A store that answers nothing for so long is taken not to answer.
const PATIENCE: Duration = Duration::from_secs(15);
/// Bytes per second below which a transfer is taken to hang.
const SLOWEST: u64 = 64 << 10;
/// Bytes of a body that fit on the way to a server that does not read them.
const UNREAD: u64 = 64 << 10;
/// Names in one page of a listing: what every cloud allows.
const PAGE_MAX: usize = 1000;

/// Whose protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    S3,
    Gcs,
    Azure,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Cloud {
    dialect: Dialect,
    objects: Arc<dyn ObjectStore>,
    pages: Pages,
    /// Nobody else writes: look, then put.
    single_writer: bool,
    /// Empty, or ends with `/`.
    prefix: String,
    place: String,
    env: Env,
}

struct Pages(Arc<dyn PaginatedListStore>);

impl std::fmt::Debug for Pages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pages")
    }
}

impl Cloud {
    /// The store at a cloud's URL. Makes no request.
    pub(super) fn open(url: &StoreUrl, single_writer: bool, env: Env) -> Result<Self, Fault> {
        let failed = |error: object_store::Error| Fault::with(FaultKind::Invalid, format!("the store {url} cannot be opened"), error);
        match &url.location {
            Location::S3(bucket) => {
                let store = Arc::new(s3(bucket)?.build().map_err(failed)?);
                Ok(Self::new(Dialect::S3, store, bucket, single_writer, env))
            }
            Location::Gcs(bucket) => {
                let store = Arc::new(gcs(bucket)?.build().map_err(failed)?);
                Ok(Self::new(Dialect::Gcs, store, bucket, single_writer, env))
            }
            Location::Azure(bucket) => {
                let store = Arc::new(azure(bucket)?.build().map_err(failed)?);
                Ok(Self::new(Dialect::Azure, store, bucket, single_writer, env))
            }
            Location::File(_) | Location::Memory => Err(Fault::new(FaultKind::Invalid, format!("{url} is not in a cloud"))),
        }
    }

    fn new(dialect: Dialect, store: Arc<impl ObjectStore + PaginatedListStore>, bucket: &Bucket, single_writer: bool, env: Env) -> Self {
        let prefix = if bucket.prefix.is_empty() { String::new() } else { format!("{}/", bucket.prefix) };
        let place = match &bucket.endpoint {
            Some(endpoint) => format!("the bucket {} at {endpoint}", bucket.bucket),
            None => format!("the bucket {}", bucket.bucket),
        };
        Self { dialect, objects: Arc::clone(&store) as _, pages: Pages(store), prefix, place, single_writer, env }
    }

    fn asked<'a>(&'a self, verb: &'static str, name: &'a str) -> Asked<'a> {
        Asked { dialect: self.dialect, verb, name, place: &self.place }
    }

    fn key(&self, verb: &'static str, name: &str) -> Result<Key, StoreError> {
        name::check(verb, name)?;
        // Parsed, not converted: converting would spell `~` as `%7E`.
        Key::parse(format!("{}{name}", self.prefix)).map_err(|error| self.asked(verb, name).unsupported(error.to_string()))
    }

    /// One attempt, given up after a time that grows with the bytes it moves.
    async fn attempt<T>(&self, asked: Asked<'_>, bytes: u64, request: impl Future<Output = object_store::Result<T>>) -> Result<T, Meaning> {
        let time = PATIENCE + Duration::from_secs(bytes / SLOWEST);
        let (outcome, answer): (_, Option<Answer>) = tokio::select! {
            observed = observed(request) => observed,
            () = self.env.sleep(time) => return Err(Meaning::Fault(asked.unreachable(format!("no answer within {} s", time.as_secs())))),
        };
        outcome.map_err(|error| asked.meaning(&error, answer.as_ref()))
    }

    async fn fetch(&self, verb: &'static str, name: &str, range: Option<Range<u64>>) -> Result<Option<Bytes>, Meaning> {
        let key = self.key(verb, name).map_err(Meaning::Fault)?;
        let asked = self.asked(verb, name);
        let options = GetOptions { range: range.map(Into::into), ..GetOptions::default() };
        let got = match self.attempt(asked, 0, self.objects.get_opts(&key, options)).await {
            Ok(got) => got,
            Err(Meaning::Absent) => return Ok(None),
            Err(other) => return Err(other),
        };
        let length = got.range.end.saturating_sub(got.range.start);
        name::check_length(verb, name, length).map_err(Meaning::Fault)?;
        let bytes = self.attempt(asked, length, got.bytes()).await?;
        if bytes.len() as u64 != length {
            return Err(Meaning::Fault(asked.unreachable(format!("{} of {length} bytes arrived", bytes.len()))));
        }
        Ok(Some(bytes))
    }

    /// One page of a listing, of whole keys. The second: where the next one begins.
    async fn page(
        &self,
        asked: Asked<'_>,
        prefix: &str,
        after: Option<String>,
        token: Option<String>,
        limit: usize,
    ) -> Result<(Vec<object_store::ObjectMeta>, Option<String>), StoreError> {
        let options =
            PaginatedListOptions { offset: after, max_keys: Some(limit.clamp(1, PAGE_MAX)), page_token: token, ..Default::default() };
        match self.attempt(asked, 0, self.pages.0.list_paginated(Some(prefix), options)).await {
            Ok(page) => Ok((page.result.objects, page.page_token)),
            Err(meaning) => Err(fault(asked, meaning)),
        }
    }
}

/// The error of a request for which only an error is left.
fn fault(asked: Asked<'_>, meaning: Meaning) -> StoreError {
    match meaning {
        Meaning::Fault(error) => error,
        Meaning::Missing(why) => {
            asked.unreachable(format!("404 without saying that the key does not exist (is the endpoint right?): {why}"))
        }
        other => asked.unreachable(format!("an answer that does not fit the request: {other:?}")),
    }
}

fn nanoseconds(meta: &object_store::ObjectMeta) -> i64 {
    meta.last_modified.timestamp_nanos_opt().unwrap_or(i64::MAX)
}

#[async_trait]
impl Store for Cloud {
    async fn put_if_absent(&self, name: &str, body: Bytes) -> Result<Put, StoreError> {
        let key = self.key("put_if_absent", name)?;
        let asked = self.asked("put_if_absent", name);
        if self.single_writer && self.head(name).await?.is_some() {
            return Ok(Put::Exists);
        }
        let mode = if self.single_writer { PutMode::Overwrite } else { PutMode::Create };
        let options = PutOptions { mode, ..PutOptions::default() };
        let length = body.len() as u64;
        name::check_length("put_if_absent", name, length)?;
        match self.attempt(asked, length, self.objects.put_opts(&key, body.into(), options)).await {
            Ok(_) => Ok(Put::Stored),
            Err(Meaning::Exists) => Ok(Put::Exists),
            // A server that refuses a put before it has read the body may close the connection over its own answer: asked again and
            // again it would do so for ever. What matters is whether the name is taken.
            Err(Meaning::Fault(error @ StoreError::Unreachable { .. })) if length > UNREAD => match self.head(name).await {
                Ok(Some(_)) => Ok(Put::Exists),
                _ => Err(error),
            },
            Err(other) => Err(fault(asked, other)),
        }
    }

    async fn get(&self, name: &str) -> Result<Option<Bytes>, StoreError> {
        self.fetch("get", name, None).await.map_err(|meaning| fault(self.asked("get", name), meaning))
    }

    async fn get_range(&self, name: &str, range: Range<u64>) -> Result<Option<Bytes>, StoreError> {
        let asked = self.asked("get_range", name);
        // No protocol can ask for nothing: ask for one byte, and keep none.
        let wanted = range.end.saturating_sub(range.start);
        let wire = range.start..range.end.max(range.start.saturating_add(1));
        match self.fetch("get_range", name, Some(wire)).await {
            Ok(Some(bytes)) => Ok(Some(slice(&bytes, 0..wanted))),
            Ok(None) => Ok(None),
            Err(Meaning::BeyondEnd) => Ok(Some(Bytes::new())),
            // Azure's emulator answers a range beyond the end with one that makes no sense.
            Err(Meaning::Fault(error)) if self.dialect == Dialect::Azure => match self.head(name).await {
                Ok(Some(meta)) if meta.size <= range.start => Ok(Some(Bytes::new())),
                _ => Err(error),
            },
            Err(meaning) => Err(fault(asked, meaning)),
        }
    }

    async fn head(&self, name: &str) -> Result<Option<ObjectMeta>, StoreError> {
        let key = self.key("head", name)?;
        let asked = self.asked("head", name);
        let options = GetOptions { head: true, ..GetOptions::default() };
        match self.attempt(asked, 0, self.objects.get_opts(&key, options)).await {
            Ok(got) => Ok(Some(ObjectMeta { name: name.to_owned(), size: got.meta.size, modified: nanoseconds(&got.meta) })),
            Err(Meaning::Absent) => Ok(None),
            // A GET can say whether the key or the bucket is missing.
            Err(Meaning::Missing(why)) => match self.get_range(name, 0..1).await? {
                None => Ok(None),
                Some(_) => Err(fault(asked, Meaning::Missing(why))),
            },
            Err(meaning) => Err(fault(asked, meaning)),
        }
    }

    async fn list(&self, prefix: &str, start_after: Option<&str>, limit: usize) -> Result<Vec<ObjectMeta>, StoreError> {
        name::check_prefix(prefix)?;
        let asked = self.asked("list", prefix);
        let mut whole = format!("{}{prefix}", self.prefix);
        if self.dialect == Dialect::Azure && !prefix.is_empty() {
            // The library leaves out a blob whose name is the whole prefix. What is listed too much is left out below.
            whole.pop();
        }
        // Azure knows no offset: what comes before it is left out here.
        let offset = start_after.filter(|_| self.dialect != Dialect::Azure).map(|after| format!("{}{after}", self.prefix));
        let mut found: Vec<ObjectMeta> = Vec::new();
        let mut token = None;
        while found.len() < limit {
            let (objects, next) = self.page(asked, &whole, offset.clone(), token, limit - found.len()).await?;
            for meta in objects {
                // What is not one of our names (a folder's marker, say) was not made by us and is no object of ours.
                let Some(name) = meta.location.as_ref().strip_prefix(&self.prefix) else { continue };
                if !name.starts_with(prefix) || start_after.is_some_and(|after| name <= after) {
                    continue;
                }
                if found.last().is_some_and(|last| last.name.as_str() >= name) {
                    return Err(asked.unsupported(format!("its listing is not in byte order at {name}")));
                }
                found.push(ObjectMeta { name: name.to_owned(), size: meta.size, modified: nanoseconds(&meta) });
            }
            token = next;
            if token.is_none() {
                break;
            }
        }
        found.truncate(limit);
        Ok(found)
    }

    async fn delete(&self, name: &str) -> Result<(), StoreError> {
        let key = self.key("delete", name)?;
        let asked = self.asked("delete", name);
        let mut deleted = self.objects.delete_stream(futures::stream::once(std::future::ready(Ok(key))).boxed());
        match self.attempt(asked, 0, async { deleted.next().await.transpose() }).await {
            Ok(_) | Err(Meaning::Absent) => Ok(()),
            Err(meaning) => Err(fault(asked, meaning)),
        }
    }
}

fn client(bucket: &Bucket) -> Result<ClientOptions, Fault> {
    let plain = bucket.endpoint.as_ref().is_some_and(|endpoint| endpoint.starts_with("http://"));
    // Times are ours: the library's cannot tell a large transfer from a hanging one.
    let mut options = ClientOptions::new().with_timeout_disabled().with_connect_timeout(Duration::from_secs(5)).with_allow_http(plain);
    if let Some(path) = &bucket.ca {
        let invalid = |why| Fault::new(FaultKind::Invalid, format!("the certificate file {} cannot be used: {why}", path.display()));
        let pem = std::fs::read(path).map_err(|error| invalid(error.to_string()))?;
        let certificates = Certificate::from_pem_bundle(&pem).map_err(|error| invalid(error.to_string()))?;
        if certificates.is_empty() {
            return Err(invalid("there is no PEM certificate in it".to_owned()));
        }
        for certificate in certificates {
            options = options.with_root_certificate(certificate);
        }
    }
    Ok(options)
}

fn once() -> RetryConfig {
    RetryConfig { max_retries: 0, ..RetryConfig::default() }
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn s3(bucket: &Bucket) -> Result<AmazonS3Builder, Fault> {
    let region = bucket.region.clone().or_else(|| variable("AWS_REGION")).or_else(|| variable("AWS_DEFAULT_REGION"));
    let region = match (region, &bucket.endpoint) {
        (Some(region), _) if is_word(&region) => region,
        (Some(region), _) => {
            let message = format!("`{}` in AWS_REGION or AWS_DEFAULT_REGION is no region", region.escape_debug());
            return Err(Fault::new(FaultKind::Invalid, message));
        }
        // What every compatible takes.
        (None, Some(_)) => "us-east-1".to_owned(),
        (None, None) => {
            let message = format!("no region is known for the bucket {}: add `?region=...` to the store's URL", bucket.bucket);
            return Err(Fault::new(FaultKind::Invalid, message));
        }
    };
    let virtual_hosted = bucket.virtual_hosted.unwrap_or(bucket.endpoint.is_none() && !bucket.bucket.contains('.'));
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(&bucket.bucket)
        .with_region(region)
        .with_virtual_hosted_style_request(virtual_hosted)
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        .with_disable_bulk_delete(true)
        .with_retry(once())
        .with_client_options(client(bucket)?)
        .with_http_connector(Observing);
    if let Some(endpoint) = &bucket.endpoint {
        builder = builder.with_endpoint(if virtual_hosted { hosted(endpoint, &bucket.bucket) } else { endpoint.clone() });
    }
    credentials::provide(builder, &variable, bucket.credentials.as_deref(), bucket.profile.as_deref())
        .map_err(|error| Fault::with(FaultKind::Denied, "no credentials for S3 can be set up", error))
}

/// `https://host` as `https://bucket.host`.
fn hosted(endpoint: &str, bucket: &str) -> String {
    match endpoint.split_once("://") {
        Some((scheme, host)) => format!("{scheme}://{bucket}.{host}"),
        None => endpoint.to_owned(),
    }
}

fn gcs(bucket: &Bucket) -> Result<GoogleCloudStorageBuilder, Fault> {
    let mut builder = GoogleCloudStorageBuilder::from_env()
        .with_bucket_name(&bucket.bucket)
        .with_retry(once())
        .with_client_options(client(bucket)?)
        .with_http_connector(Observing);
    if let Some(endpoint) = &bucket.endpoint {
        builder = builder.with_base_url(endpoint);
    }
    if let Some(path) = &bucket.credentials {
        builder = builder.with_service_account_path(path.to_string_lossy());
    }
    Ok(builder)
}

fn azure(bucket: &Bucket) -> Result<MicrosoftAzureBuilder, Fault> {
    let mut builder = MicrosoftAzureBuilder::from_env()
        .with_container_name(&bucket.bucket)
        .with_retry(once())
        .with_client_options(client(bucket)?)
        .with_http_connector(Observing);
    if let Some(account) = &bucket.account {
        builder = builder.with_account(account);
    }
    if let Some(path) = &bucket.credentials {
        builder = builder.with_credentials(Arc::new(credentials::AzureKeyFile::new(path)));
    }
    if let Some(endpoint) = &bucket.endpoint {
        builder = builder.with_endpoint(endpoint.clone());
    }
    Ok(builder)
}
