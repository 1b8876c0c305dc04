//! Where things lie when nobody says: the XDG directories of the user; for root without a home those of the system.

use crate::types::{Fault, FaultKind};
use std::path::{Path, PathBuf};

/// What the environment says about the user's directories.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dirs {
    home: Option<PathBuf>,
    data: Option<PathBuf>,
    cache: Option<PathBuf>,
    config: Option<PathBuf>,
    runtime: Option<PathBuf>,
    root: bool,
}

impl Dirs {
    /// From environment variables and whether this is root.
    #[must_use]
    pub fn new(environment: &dyn Fn(&str) -> Option<String>, root: bool) -> Self {
        // The XDG specification: a relative path is to be ignored.
        let dir = |name| environment(name).map(PathBuf::from).filter(|path| path.is_absolute());
        Self {
            home: dir("HOME"),
            data: dir("XDG_DATA_HOME"),
            cache: dir("XDG_CACHE_HOME"),
            config: dir("XDG_CONFIG_HOME"),
            runtime: dir("XDG_RUNTIME_DIR"),
            root,
        }
    }

    /// The embedded store.
    ///
    /// # Errors
    /// There is no home directory.
    pub fn store(&self) -> Result<PathBuf, Fault> {
        self.user(self.data.as_deref(), ".local/share", "/var/lib", "--store").map(|dir| dir.join("store"))
    }

    /// The caches of all volumes.
    ///
    /// # Errors
    /// There is no home directory.
    pub fn cache(&self) -> Result<PathBuf, Fault> {
        self.user(self.cache.as_deref(), ".cache", "/var/cache", "--cache")
    }

    /// This machine's keys.
    ///
    /// # Errors
    /// There is no home directory.
    pub fn keys(&self) -> Result<PathBuf, Fault> {
        self.user(self.config.as_deref(), ".config", "/etc", "--keys").map(|dir| dir.join("keys"))
    }

    /// The control sockets.
    ///
    /// # Errors
    /// Not root, and `XDG_RUNTIME_DIR` is not set.
    pub fn run(&self) -> Result<PathBuf, Fault> {
        if self.root {
            return Ok(PathBuf::from("/run/holdfast"));
        }
        let missing = || Fault::new(FaultKind::Invalid, "XDG_RUNTIME_DIR is not set: say with --run-dir where the sockets of mounts lie");
        self.runtime.as_ref().map(|dir| dir.join("holdfast")).ok_or_else(missing)
    }

    /// The files that may hold settings when none is named, the first that exists counts.
    #[must_use]
    pub fn config_files(&self) -> Vec<PathBuf> {
        let own = self.config.clone().or_else(|| self.home.as_ref().map(|home| home.join(".config")));
        own.into_iter().chain([PathBuf::from("/etc")]).map(|dir| dir.join("holdfast/config.toml")).collect()
    }

    fn user(&self, xdg: Option<&Path>, below_home: &str, system: &str, flag: &str) -> Result<PathBuf, Fault> {
        let dir = match (xdg, &self.home) {
            (Some(dir), _) => dir.to_owned(),
            (None, Some(home)) => home.join(below_home),
            (None, None) if self.root => PathBuf::from(system),
            (None, None) => return Err(Fault::new(FaultKind::Invalid, format!("HOME is not set: say the directory with {flag}"))),
        };
        Ok(dir.join("holdfast"))
    }
}

/// A directory as a store's URL.
pub(super) fn file_url(dir: &Path) -> String {
    use std::fmt::Write;
    use std::os::unix::ffi::OsStrExt;
    let mut url = "file://".to_owned();
    for byte in dir.as_os_str().as_bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'/' | b'.' | b'_' | b'-' | b'~' => url.push(char::from(*byte)),
            other => {
                // Writing to a String does not fail.
                let _ = write!(url, "%{other:02X}");
            }
        }
    }
    url
}
