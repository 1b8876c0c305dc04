//! A directory as a store: durable before it acknowledges, put if absent atomic across processes.
//!
//! An object is a file of its name. It is written without a name, flushed, linked to its name (which fails when the name is taken,
//! whoever took it), and then the directory is flushed; so a name never shows half an object, and `Stored` survives power loss.
//!
//! A disk that is not mounted leaves an empty directory behind. So every request first opens the root and, in that very directory,
//! looks for the store's marker: without it nothing is written below the root, and nothing missing there counts as absent.

use super::{ObjectMeta, Put, Store, StoreError, name};
use crate::env::Env;
use crate::format::names::marker;
use async_trait::async_trait;
use bytes::Bytes;
use nix::errno::Errno;
use parking_lot::Mutex;
use root::Root;
use std::collections::HashSet;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

mod root;
mod walk;

/// See the module.
#[derive(Debug, Clone)]
pub struct FileStore {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    directory: PathBuf,
    may_create: bool,
    env: Env,
    /// Directories below the root, by their path in it, whose own entries this process has made durable.
    durable: Mutex<HashSet<String>>,
}

impl FileStore {
    /// The store in `directory`. With `may_create` (for `store init` alone) the directory is made when it is missing, and everything is
    /// done there without a marker.
    #[must_use]
    pub fn new(directory: &Path, may_create: bool, env: Env) -> Self {
        let shared = Shared { directory: directory.to_owned(), may_create, env, durable: Mutex::default() };
        Self { shared: Arc::new(shared) }
    }

    async fn run<T: Send + 'static>(
        &self,
        verb: &'static str,
        name: &str,
        work: impl FnOnce(&Shared, &str) -> Result<T, Failed> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (shared, owned) = (Arc::clone(&self.shared), name.to_owned());
        let outcome = tokio::task::spawn_blocking(move || {
            let outcome = work(&shared, &owned);
            outcome.map_err(|failed| shared.explain(failed, verb, owned))
        });
        match outcome.await {
            Ok(outcome) => outcome,
            Err(gone) => Err(StoreError::Unreachable { verb, name: name.to_owned(), why: gone.to_string() }),
        }
    }
}

/// Why a request on the directory failed.
#[derive(Debug)]
enum Failed {
    /// The root is not there.
    NoRoot,
    /// The root is there and holds no marker.
    NoMarker,
    /// A marker is to be put by somebody else than `store init`.
    NotInit,
    /// The kernel said so.
    Errno(Errno),
}

impl From<Errno> for Failed {
    fn from(errno: Errno) -> Self {
        Self::Errno(errno)
    }
}

impl From<std::io::Error> for Failed {
    fn from(error: std::io::Error) -> Self {
        Self::Errno(error.raw_os_error().map_or(Errno::EIO, Errno::from_raw))
    }
}

impl Shared {
    fn explain(&self, failed: Failed, verb: &'static str, name: String) -> StoreError {
        let directory = self.directory.display();
        let errno = match failed {
            Failed::NoRoot => return StoreError::NoBucket { what: format!("the directory {directory}") },
            Failed::NoMarker => {
                let what = format!("a store in {directory} (no `{}` in it: is its disk mounted?)", marker());
                return StoreError::NoBucket { what };
            }
            Failed::NotInit => {
                let why = "only `holdfast store init` makes a store's marker".to_owned();
                return StoreError::Unsupported { verb, name, why };
            }
            Failed::Errno(errno) => errno,
        };
        let why = format!("{} in {directory}", errno.desc());
        match errno {
            Errno::EACCES | Errno::EPERM | Errno::EROFS => StoreError::Denied { verb, name, why },
            Errno::ENAMETOOLONG | Errno::ENOTDIR | Errno::EISDIR | Errno::ELOOP | Errno::EFBIG | Errno::EINVAL => {
                StoreError::Unsupported { verb, name, why }
            }
            _ => StoreError::Unreachable { verb, name, why },
        }
    }

    /// The root as it is now.
    fn root(&self) -> Result<Root, Failed> {
        if self.may_create {
            root::make_directory(&self.directory)?;
        }
        Root::open(&self.directory)
    }

    fn expect_marker(&self, root: &Root) -> Result<(), Failed> {
        if self.may_create || root.has_marker()? { Ok(()) } else { Err(Failed::NoMarker) }
    }

    /// `found`, unless a request found nothing where nothing may be concluded from that.
    fn believe<T>(&self, root: &Root, name: &str, found: Option<T>) -> Result<Option<T>, Failed> {
        if found.is_none() && name != marker() {
            self.expect_marker(root)?;
        }
        Ok(found)
    }

    fn put(&self, name: &str, body: &[u8]) -> Result<Put, Failed> {
        if name == marker() && !self.may_create {
            return Err(Failed::NotInit);
        }
        let root = self.root()?;
        self.expect_marker(&root)?;
        let (parent, leaf) = name.rsplit_once('/').unwrap_or(("", name));
        let directory = self.directory_for(&root, parent)?;
        let put = match root::write_new(&directory, leaf, body, || self.env.random::<8>()) {
            Ok(()) => Put::Stored,
            Err(Failed::Errno(Errno::EEXIST)) => Put::Exists,
            Err(failed) => return Err(failed),
        };
        // Also for `Exists`: whoever made it may not have got so far, and the answer must hold after power loss.
        nix::unistd::fsync(&directory)?;
        Ok(put)
    }

    /// Opens the directory `path` below the root; it and those above it are made when missing and are durable entries when this returns.
    fn directory_for(&self, root: &Root, path: &str) -> Result<std::os::fd::OwnedFd, Failed> {
        if self.durable.lock().contains(path) {
            match root.open_directory(path) {
                Err(Failed::Errno(Errno::ENOENT)) => self.durable.lock().clear(),
                opened => return opened,
            }
        }
        let opened = root.make_directories(path)?;
        self.durable.lock().insert(path.to_owned());
        Ok(opened)
    }

    fn get(&self, name: &str, range: Option<Range<u64>>) -> Result<Option<Bytes>, Failed> {
        let root = self.root()?;
        let found = root.read(name, range)?;
        self.believe(&root, name, found)
    }

    fn head(&self, name: &str) -> Result<Option<ObjectMeta>, Failed> {
        let root = self.root()?;
        let found = root.stat(name)?;
        self.believe(&root, name, found)
    }

    fn list(&self, prefix: &str, start_after: Option<&str>, limit: usize) -> Result<Vec<ObjectMeta>, Failed> {
        let root = self.root()?;
        let found = walk::list(&root, prefix, start_after, limit)?;
        if found.is_empty() {
            self.expect_marker(&root)?;
        }
        Ok(found)
    }

    fn delete(&self, name: &str) -> Result<(), Failed> {
        let root = self.root()?;
        self.expect_marker(&root)?;
        root.remove(name)
    }
}

#[async_trait]
impl Store for FileStore {
    async fn put_if_absent(&self, name: &str, body: Bytes) -> Result<Put, StoreError> {
        name::check("put_if_absent", name)?;
        name::check_length("put_if_absent", name, body.len() as u64)?;
        self.run("put_if_absent", name, move |shared, name| shared.put(name, &body)).await
    }

    async fn get(&self, name: &str) -> Result<Option<Bytes>, StoreError> {
        name::check("get", name)?;
        self.run("get", name, |shared, name| shared.get(name, None)).await
    }

    async fn get_range(&self, name: &str, range: Range<u64>) -> Result<Option<Bytes>, StoreError> {
        name::check("get_range", name)?;
        self.run("get_range", name, |shared, name| shared.get(name, Some(range))).await
    }

    async fn head(&self, name: &str) -> Result<Option<ObjectMeta>, StoreError> {
        name::check("head", name)?;
        self.run("head", name, Shared::head).await
    }

    async fn list(&self, prefix: &str, start_after: Option<&str>, limit: usize) -> Result<Vec<ObjectMeta>, StoreError> {
        name::check_prefix(prefix)?;
        let after = start_after.map(str::to_owned);
        self.run("list", prefix, move |shared, prefix| shared.list(prefix, after.as_deref(), limit)).await
    }

    async fn delete(&self, name: &str) -> Result<(), StoreError> {
        name::check("delete", name)?;
        self.run("delete", name, Shared::delete).await
    }
}

#[cfg(test)]
mod tests;
