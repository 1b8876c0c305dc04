//! Flags, environment, a file and defaults -> one checked [`Settings`].
//!
//! Every setting has one name in three places: `--cache-size`, `HOLDFAST_CACHE_SIZE`, and `cache-size = "10GiB"` in the file
//! (TOML). A flag wins over the environment, the environment over the file, the file over the default. What is wrong is said with
//! the place it came from; an unknown key of the file is an error that names the nearest one that exists.

mod dirs;
mod given;
mod size;
#[cfg(test)]
mod tests;

pub use dirs::Dirs;
pub use given::{Given, KEYS, Key};
pub use size::{SizeLimit, parse_size, show_size};

use crate::policy::Policy;
use crate::policy::preset::{self, PREFIX, PRESETS};
use crate::policy::retention::Rules;
use crate::telemetry::LogFormat;
use crate::types::{Fault, FaultKind, Identity, nearest};
use sha2::{Digest, Sha256};
use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::path::PathBuf;

/// Longest file name of a volume; file systems have 255 bytes, and a cache that is set aside is given a suffix.
const FILE_NAME_MAX: usize = 200;
/// So much of a longer name is shown.
const FILE_NAME_KEPT: usize = 160;

/// What a mount brings into its cache by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Hydrate {
    /// Usable at once; what is read is fetched first, the rest in the background.
    #[default]
    Lazy,
    /// Usable when everything is in the cache.
    Eager,
    /// Only what is read is fetched.
    Metadata,
}

impl fmt::Display for Hydrate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Lazy => "lazy",
            Self::Eager => "eager",
            Self::Metadata => "metadata",
        })
    }
}

/// What writing may cost in requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestBudget {
    /// As many as the policy asks for.
    Unbounded,
    /// So many an hour and volume.
    PerHour(NonZeroU64),
}

/// All settings, checked one by one. What they mean together (whether the store exists, the policy parses) is for who uses them.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// The store's URL as given; `store::StoreUrl` parses it.
    pub store: String,
    /// Nobody named a store: it is the embedded one, which a mount may make.
    pub store_is_default: bool,
    /// The file with the policy; `None`: the built-in one.
    pub policy: Option<PathBuf>,
    /// Each volume has a directory in it, see [`Settings::cache_of`].
    pub cache: PathBuf,
    /// Limit of a volume's cache; `None`: [`SizeLimit::default_cache`].
    pub cache_size: Option<SizeLimit>,
    /// Limit of a volume's dirty bytes; `None`: half its cache.
    pub dirty_size: Option<SizeLimit>,
    /// Bytes that a volume may hold; `None`: no limit of ours.
    pub capacity: Option<u64>,
    /// What writing may cost in requests; `None`: what the store's kind asks for.
    pub request_budget: Option<RequestBudget>,
    /// What a mount fetches by itself.
    pub hydrate: Hydrate,
    /// Where other machines ask how a volume stands that is mounted here; `None`: nowhere.
    pub peer_listen: Option<SocketAddr>,
    /// Which commits to keep; `None`: nobody said, so none is retired.
    pub retention: Option<Rules>,
    /// Where `/metrics` is served; `None`: nowhere.
    pub metrics: Option<SocketAddr>,
    /// How log lines look.
    pub log_format: LogFormat,
    /// Which log lines there are.
    pub log_level: String,
    /// Holds this machine's key for each store.
    pub keys: PathBuf,
    /// Holds the control sockets of running mounts.
    pub run_dir: PathBuf,
}

impl Settings {
    /// Checks everything that was given.
    ///
    /// # Errors
    /// The first setting that is wrong: its place, its value, what is allowed.
    pub fn resolve(given: &Given, dirs: &Dirs) -> Result<Self, Fault> {
        let store = given.text("store")?;
        let address = "an address and a port, such as `127.0.0.1:9464` (port 0: any)";
        let reachable = "an address by which other machines reach this one, not 0.0.0.0, and a port, such as `10.0.0.5:0` (port 0: any)";
        let size = "a number and KiB, MiB, GiB, TiB (or kB, MB, GB, TB)";
        let limit = "a size such as `10GiB`, or a share of the disk such as `20%`";
        let or_default = |path: Option<PathBuf>, default: fn(&Dirs) -> Result<PathBuf, Fault>| path.map_or_else(|| default(dirs), Ok);
        let settings = Self {
            store_is_default: store.is_none(),
            store: store.map_or_else(|| dirs.store().map(|dir| dirs::file_url(&dir)), Ok)?,
            policy: policy(given)?,
            cache: or_default(given.path("cache")?, Dirs::cache)?,
            cache_size: given.parse("cache-size", limit, SizeLimit::parse)?,
            dirty_size: given.parse("dirty-size", limit, SizeLimit::parse)?,
            capacity: given.parse("capacity", size, parse_size)?,
            request_budget: given.parse("request-budget", "a number of requests an hour from 1 on, or none", parse_budget)?,
            hydrate: given.parse("hydrate", "lazy, eager or metadata", parse_hydrate)?.unwrap_or_default(),
            peer_listen: given.parse("peer-listen", reachable, parse_reachable)?,
            retention: given.text("retention")?.map(|text| rules(&text)).transpose()?,
            metrics: given.parse("metrics", address, |text| text.parse().ok())?,
            log_format: given.parse("log-format", "text or json", parse_log_format)?.unwrap_or_default(),
            log_level: given.text("log-level")?.unwrap_or_else(|| "warn".to_owned()),
            keys: or_default(given.path("keys")?, Dirs::keys)?,
            run_dir: or_default(given.path("run-dir")?, Dirs::run)?,
        };
        Ok(settings)
    }

    /// The cache directory of one volume.
    #[must_use]
    pub fn cache_of(&self, volume: &Identity) -> PathBuf {
        self.cache.join(file_name_of(volume))
    }

    /// The policy in force for new mounts: the file's, or the built-in one.
    ///
    /// # Errors
    /// The file cannot be read, or is no policy: with file, line and what is allowed.
    pub fn read_policy(&self) -> Result<Policy, Fault> {
        let Some(path) = &self.policy else { return Ok(Policy::built_in()) };
        if let Some(name) = path.to_str().and_then(|text| text.strip_prefix(PREFIX)) {
            let text = preset::preset(name).map(|preset| preset.text).ok_or_else(|| no_preset(name))?;
            return Policy::parse(text).map_err(|error| Fault::new(FaultKind::Invalid, format!("{}: {error}", path.display())));
        }
        let text = std::fs::read_to_string(path)
            .map_err(|error| Fault::with(FaultKind::Invalid, format!("the policy {} cannot be read", path.display()), error))?;
        Policy::parse(&text).map_err(|error| Fault::new(FaultKind::Invalid, format!("{}: {error}", path.display())))
    }
}

/// A volume's name as the name of a file, with room for a suffix. `~` stands in no name and no part is empty, so two names never share one.
#[must_use]
pub fn file_name_of(volume: &Identity) -> String {
    let plain = volume.as_str().replace('/', "~");
    match plain.get(..FILE_NAME_KEPT) {
        Some(kept) if plain.len() > FILE_NAME_MAX => {
            let digest = Sha256::digest(volume.as_str().as_bytes());
            format!("{kept}~~{}", hex::encode(digest.iter().take(16).copied().collect::<Vec<u8>>()))
        }
        _ => plain,
    }
}

/// A file, beside the settings' file that names it, or a preset.
fn policy(given: &Given) -> Result<Option<PathBuf>, Fault> {
    match given.text("policy")? {
        Some(text) if text.starts_with(PREFIX) => Ok(Some(PathBuf::from(text))),
        _ => given.path("policy"),
    }
}

fn no_preset(name: &str) -> Fault {
    let names: Vec<&str> = PRESETS.iter().map(|preset| preset.name).collect();
    let near = nearest(name, names.iter().copied()).map_or_else(String::new, |near| format!("; did you mean `{near}`?"));
    let why = format!(
        "there is no preset `{}`{near} (presets: {}; a file of that name is `./{PREFIX}{name}`)",
        name.escape_debug(),
        names.join(", ")
    );
    Fault::new(FaultKind::Invalid, why)
}

fn rules(text: &str) -> Result<Rules, Fault> {
    Rules::parse(text).map_err(|error| Fault::new(FaultKind::Invalid, format!("the setting `retention`: {error}")))
}

fn parse_budget(text: &str) -> Option<RequestBudget> {
    if text == "none" { Some(RequestBudget::Unbounded) } else { text.parse().ok().map(RequestBudget::PerHour) }
}

/// It stands in the log: an address that means "any" would lead nobody here.
fn parse_reachable(text: &str) -> Option<SocketAddr> {
    text.parse().ok().filter(|address: &SocketAddr| !address.ip().is_unspecified())
}

fn parse_hydrate(text: &str) -> Option<Hydrate> {
    [Hydrate::Lazy, Hydrate::Eager, Hydrate::Metadata].into_iter().find(|known| known.to_string() == text)
}

fn parse_log_format(text: &str) -> Option<LogFormat> {
    match text {
        "text" => Some(LogFormat::Text),
        "json" => Some(LogFormat::Json),
        _ => None,
    }
}
