//! What the caches of this node had not committed when another writer took the volume: stored as branches, and when that is done, said so
//! by the name of the cache's directory.
//!
//! | directory beside the cache | means |
//! |---|---|
//! | `<cache>.aside-<random>` | set aside: what is dirty in it may be nowhere else; each mount of the volume here stores it, until it is stored |
//! | `<cache>.stored-<random>` | nothing in it is needed: its branch is stored and claimed, or nothing was dirty, or a person dropped the branch. It may be deleted |
//! | `<cache>.damaged-<random>` | it was not what had been written, and was set aside: nothing is made of it, a person looks at it and deletes it |
//!
//! A death between the two names (`volume.branch_before_rename`) leaves the first: the next mount finds its branch as it is.

use super::open::{OpenParams, look_up};
use crate::cache::Cache;
use crate::log::{self, Lookup};
use crate::store::Objects;
use crate::types::{Fault, FaultKind, Incarnation};
use crate::writeback::{Brancher, Branches, Classifier, KernelPages, NoKernel, Progress};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a set-aside cache is called, behind its own name.
pub(super) const ASIDE: &str = ".aside-";
/// What a cache is called that was not what had been written: nothing is made of it, and a person deletes it.
pub(super) const DAMAGED: &str = ".damaged-";
/// What it is called when it may be deleted.
const STORED: &str = ".stored-";

/// For the branch of this cache.
pub(super) fn brancher(
    params: &OpenParams,
    objects: Objects,
    cache: Arc<Cache>,
    progress: &Arc<Progress>,
    branches: &Arc<Branches>,
) -> Brancher {
    let classifier = Classifier::new(params.policy.clone());
    Brancher::new(objects, cache, classifier, Arc::clone(progress), Arc::clone(branches), params.host.clone())
}

/// The objects of a life of the volume, for a cache of it whose log cannot be opened.
pub(super) async fn objects_of(params: &OpenParams, incarnation: Incarnation) -> Result<Objects, Fault> {
    let gone =
        || Fault::new(FaultKind::NotFound, format!("the life of volume {} that this cache is of is gone from the store", params.identity));
    let Lookup::Found(found) = look_up(&params.books, &params.identity, &|_| {}).await? else { return Err(gone()) };
    if found.incarnation != incarnation {
        return Err(gone());
    }
    let sealer = log::data_sealer(&params.books, &found.volume).await?;
    Ok(Objects::new(Arc::clone(&params.books.store), sealer, incarnation, params.books.env.clone()))
}

/// The mount is refused, because another writer has the volume: what this cache had not committed is stored first, since nobody knows when
/// somebody mounts here again. Gives the refusal, with the branch in it.
pub(super) async fn before_refusal(params: &OpenParams, objects: Objects, cache: Arc<Cache>, fenced: bool, refusal: Fault) -> Fault {
    let mut told = String::new();
    if fenced && cache.changed() {
        let kernel: Arc<dyn KernelPages> = Arc::new(NoKernel);
        let (progress, branches) = (Arc::default(), Arc::<Branches>::default());
        let kept = brancher(params, objects, Arc::clone(&cache), &progress, &branches).store(&kernel).await;
        let news = branches.list().into_iter().next();
        told = match (kept, news) {
            (_, Some(news)) => format!("; what this machine had not committed {}", news.told(params.identity.as_str())),
            (Ok(_), None) => String::new(),
            (Err(fault), None) => format!("; what this machine had not committed is in its cache alone: {fault}"),
        };
    }
    if let Err(error) = params.books.env.blocking(move || cache.close()).await {
        tracing::warn!(%error, "the cache was not closed in order");
    }
    Fault::new(refusal.kind, format!("{refusal}{told}"))
}

/// Stores the branch of each cache of this volume that was set aside here, and renames it when it may be deleted.
pub(super) async fn store_asides(params: &OpenParams, objects: &Objects, progress: &Arc<Progress>, branches: &Arc<Branches>) {
    for dir in asides(&params.cache.dir) {
        if let Err(fault) = store_aside(params, objects, progress, branches, &dir).await {
            tracing::error!(%fault, cache = %dir.display(), "a cache that was set aside could not be made a branch; it is kept");
        }
    }
}

/// Set-aside caches beside a cache.
fn asides(dir: &Path) -> Vec<PathBuf> {
    let mut prefix = dir.file_name().unwrap_or_default().to_owned();
    prefix.push(ASIDE);
    let Some(beside) = dir.parent().and_then(|parent| std::fs::read_dir(parent).ok()) else { return Vec::new() };
    let ours = |path: &PathBuf| {
        let name = path.file_name().map(std::ffi::OsStr::as_encoded_bytes).unwrap_or_default();
        name.starts_with(prefix.as_encoded_bytes())
    };
    let mut found: Vec<PathBuf> = beside.flatten().map(|entry| entry.path()).filter(ours).collect();
    found.sort_unstable();
    found
}

async fn store_aside(
    params: &OpenParams,
    objects: &Objects,
    progress: &Arc<Progress>,
    branches: &Arc<Branches>,
    dir: &Path,
) -> Result<(), Fault> {
    let (env, mut options) = (params.books.env.clone(), params.cache.clone());
    options.dir = dir.to_path_buf();
    let (cache, _) = params.books.env.blocking(move || Cache::open(env, options)).await?;
    let origin = cache.origin();
    if origin.store_id != params.books.sealer.store() || origin.incarnation != objects.incarnation() {
        tracing::info!(cache = %dir.display(), "a cache of an earlier life of this volume, or of another store, is kept");
        return Ok(cache.close()?);
    }
    let kernel: Arc<dyn KernelPages> = Arc::new(NoKernel);
    let kept = brancher(params, objects.clone(), Arc::clone(&cache), progress, branches).store(&kernel).await;
    params.books.env.blocking(move || cache.close()).await?;
    if kept?.cache_may_go() {
        params.books.env.failpoint("volume.branch_before_rename");
        let stored = stored_name(dir);
        std::fs::rename(dir, &stored)
            .map_err(|error| Fault::with(FaultKind::Local, format!("{} cannot be renamed", dir.display()), error))?;
        tracing::warn!(cache = %stored.display(), "nothing in this cache is needed any more: it may be deleted");
    }
    Ok(())
}

/// The name of a set-aside cache that may be deleted.
fn stored_name(aside: &Path) -> PathBuf {
    let name = aside.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let stored = name.rsplit_once(ASIDE).map_or_else(|| format!("{name}{STORED}"), |(cache, random)| format!("{cache}{STORED}{random}"));
    aside.with_file_name(stored)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_own_set_aside_caches_are_found() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["g~a", "g~a.aside-01", "g~a.stored-02", "g~ab.aside-03", "g~a.reader-04"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        let found = asides(&dir.path().join("g~a"));
        assert_eq!(found, [dir.path().join("g~a.aside-01")]);
        assert_eq!(stored_name(&found[0]), dir.path().join("g~a.stored-01"));
    }
}
