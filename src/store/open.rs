//! A URL becomes a store: the plain one, counted, bounded, and tried again.

use super::cloud::Cloud;
use super::file::FileStore;
use super::memory::Memory;
use super::url::{Location, StoreUrl};
use super::wrap::{Counters, Counting, Limited, Limits, Retries, Retrying};
use super::{Store, StoreError};
use crate::env::Env;
use crate::types::{Fault, FaultKind};
use std::sync::Arc;

/// How to open a store.
#[derive(Debug, Clone, Default)]
pub struct OpenOptions {
    /// Only for `store init`: the directory of a `file://` store may be made and be used without a marker in it.
    pub may_create: bool,
    /// The store cannot put if absent, and its marker says that no volume in it ever has two writers: look first, then put.
    pub single_writer: bool,
    /// When to try again.
    pub retries: Retries,
    /// Bounds on what goes on at once.
    pub limits: Limits,
    /// Where requests are counted, if anybody reads them.
    pub counters: Option<Arc<Counters>>,
}

/// Opens the store. Makes no request and nothing on the disk. Every attempt is counted and holds its place in flight; a pause between
/// attempts holds none.
///
/// # Errors
/// The URL, its files or its credentials cannot be used.
pub fn open(url: &StoreUrl, env: &Env, options: &OpenOptions) -> Result<Arc<dyn Store>, Fault> {
    let plain: Arc<dyn Store> = match &url.location {
        Location::Memory => Arc::new(Memory::new(env.clone())),
        Location::File(directory) => Arc::new(FileStore::new(directory, options.may_create, env.clone())),
        Location::S3(_) | Location::Gcs(_) | Location::Azure(_) => Arc::new(Cloud::open(url, options.single_writer, env.clone())?),
    };
    let counters = options.counters.clone().unwrap_or_default();
    let counted = Arc::new(Counting::new(plain, counters, env.clone()));
    let limited = Arc::new(Limited::new(counted, options.limits, env.clone()));
    Ok(Arc::new(Retrying::new(limited, options.retries, env.clone())))
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        let kind = match &error {
            // Also a bucket or a marker that is missing: it may be a mistyped name or an unmounted disk, never "empty".
            StoreError::Unreachable { .. } | StoreError::Throttled { .. } | StoreError::NoBucket { .. } => FaultKind::Unknown,
            StoreError::Denied { .. } => FaultKind::Denied,
            StoreError::Unsupported { .. } => FaultKind::Invalid,
        };
        Self::new(kind, error.to_string())
    }
}
