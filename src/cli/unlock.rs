//! From settings to an open store: its marker, its key ring, and the key that this machine or a recovery key unwraps.
//!
//! This machine's key for a store is an age identity in `<keys>/<store id>.key`, mode 0600, made by `store init` or `key add
//! --this-machine`; with it a mount asks nobody. On any other machine the recovery key is named with `--recovery-key FILE`.

use super::rings::{self, InForce};
use crate::config::Settings;
use crate::env::Env;
use crate::format::keys::{self, Recovery};
use crate::format::marker::Marker;
use crate::format::names;
use crate::format::seal::{Cipher, Sealer};
use crate::rpc::KeyRing;
use crate::store::{Counters, ObjectMeta, OpenOptions, Put, Store, StoreUrl, open};
use crate::types::{Fault, FaultKind, StoreId, StoreKey};
use bytes::Bytes;
use clap::Args;
use std::fs::{DirBuilder, OpenOptions as FileOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use zeroize::Zeroizing;

/// How a command that reads or writes sealed objects gets the key.
#[derive(Debug, Clone, Default, Args)]
pub struct KeyArgs {
    /// A file with a recovery key, `-` for standard input; for machines without a key of their own
    #[arg(long, value_name = "FILE", env = "HOLDFAST_RECOVERY_KEY_FILE", hide_env_values = true)]
    pub recovery_key: Option<PathBuf>,
}

/// A store that answered with a marker.
#[derive(Debug, Clone)]
pub struct Connected {
    /// As parsed.
    pub url: StoreUrl,
    /// Retried, bounded, counted.
    pub store: Arc<dyn Store>,
    /// What is there.
    pub marker: Marker,
}

/// A store whose key is known.
#[derive(Debug, Clone)]
pub struct Unlocked {
    /// The store.
    pub connected: Connected,
    /// The store key; `None`: the store is not encrypted.
    pub key: Option<StoreKey>,
    /// Seals and opens the objects of the store itself.
    pub sealer: Sealer,
}

/// Parses the URL of the settings.
///
/// # Errors
/// It is no store URL.
pub fn url(settings: &Settings) -> Result<StoreUrl, Fault> {
    StoreUrl::parse(&settings.store).map_err(|error| Fault::new(FaultKind::Invalid, error.to_string()))
}

/// Opens the store of the settings and reads its marker. Never makes anything.
///
/// # Errors
/// It does not answer, there is no marker, or the marker is another store's than the URL pins.
pub async fn connect(settings: &Settings, env: &Env, counters: Option<Arc<Counters>>) -> Result<Connected, Fault> {
    let url = url(settings)?;
    let store = open(&url, env, &OpenOptions { counters: counters.clone(), ..OpenOptions::default() })?;
    let Some(bytes) = store.get(names::marker()).await? else {
        // A mistyped prefix looks like this too: nothing may be concluded from it but that there is no answer.
        let message = format!(
            "there is no store at {url} (no object `{}`); if the URL is right, make one with `holdfast store init`",
            names::marker()
        );
        return Err(Fault::new(FaultKind::Unknown, message));
    };
    let marker = Marker::decode(&bytes)?;
    match url.store_id {
        Some(pinned) if pinned != marker.store => Err(Fault::new(
            FaultKind::Invalid,
            format!("the store there has the id {}, not the one that the URL pins: {url}", marker.store),
        )),
        _ if marker.single_writer => {
            let store = open(&url, env, &OpenOptions { counters, single_writer: true, ..OpenOptions::default() })?;
            Ok(Connected { url, store, marker })
        }
        _ => Ok(Connected { url, store, marker }),
    }
}

/// Unwraps the store's key: by the recovery key if one is named, else by this machine's key.
///
/// # Errors
/// There is no key ring, or no key that opens it.
pub async fn unlock(connected: Connected, settings: &Settings, args: &KeyArgs) -> Result<Unlocked, Fault> {
    let key = match connected.marker.cipher {
        Cipher::None => None,
        Cipher::ChaCha20Poly1305 => Some(unlock_ring(&connected, settings, args).await?.key),
    };
    let bytes = key.as_ref().map_or([0; 32], |key| key.0);
    let sealer = Sealer::new(connected.marker.cipher, &Zeroizing::new(bytes), connected.marker.store, None);
    Ok(Unlocked { connected, key, sealer })
}

/// The ring in force of an encrypted store, and its key.
///
/// # Errors
/// There is no key ring, or no key that opens it.
pub async fn unlock_ring(connected: &Connected, settings: &Settings, args: &KeyArgs) -> Result<InForce, Fault> {
    let store = connected.marker.store;
    let identity = match &args.recovery_key {
        Some(path) => read_identity(path)?,
        None => machine_identity(settings, store)?,
    };
    rings::in_force(connected, &identity).await?.map_err(|error| {
        let message = format!("the store {store} is not opened by this key, whose recipient is not among those of `holdfast key list`");
        if error.kind() == FaultKind::Denied { Fault::with(FaultKind::Denied, message, error) } else { error.into() }
    })
}

/// Stores the ring that follows the one in force.
///
/// # Errors
/// Somebody else stored one of that number.
pub async fn put_ring(connected: &Connected, ring: &KeyRing, env: &Env) -> Result<(), Fault> {
    let name = names::key_ring(ring.number);
    let (bytes, _) = keys::encode(ring, connected.marker.store, env.random())?;
    if put_own(&*connected.store, &name, &bytes).await? {
        return Ok(());
    }
    Err(Fault::new(
        FaultKind::Busy,
        format!("somebody else changed the keys at this moment ({name} is there); look at `holdfast key list` and run this again"),
    ))
}

/// Creates an object; `false`: another one of that name is there. An answer *exists* to a request that was tried again may mean
/// our own first attempt, so what is there decides.
///
/// # Errors
/// The store's.
pub async fn put_own(store: &dyn Store, name: &str, bytes: &Bytes) -> Result<bool, Fault> {
    match store.put_if_absent(name, bytes.clone()).await? {
        Put::Stored => Ok(true),
        Put::Exists => Ok(store.get(name).await?.is_some_and(|there| there == *bytes)),
    }
}

/// All objects below a prefix.
///
/// # Errors
/// The store's.
pub async fn list_all(store: &dyn Store, prefix: &str) -> Result<Vec<ObjectMeta>, Fault> {
    const PAGE: usize = 1000;
    let mut all: Vec<ObjectMeta> = Vec::new();
    loop {
        let page = store.list(prefix, all.last().map(|object| object.name.as_str()), PAGE).await?;
        let whole = page.len() < PAGE;
        all.extend(page);
        if whole {
            return Ok(all);
        }
    }
}

/// Where this machine's key for a store lies.
#[must_use]
pub fn machine_file(settings: &Settings, store: StoreId) -> PathBuf {
    settings.keys.join(format!("{store}.key"))
}

/// This machine's key for a store.
///
/// # Errors
/// It has none, or the file is no key.
pub fn machine_identity(settings: &Settings, store: StoreId) -> Result<Recovery, Fault> {
    let path = machine_file(settings, store);
    match std::fs::read_to_string(&path).map(Zeroizing::new) {
        Ok(text) => {
            Recovery::parse(&text).map_err(|error| Fault::with(FaultKind::Invalid, format!("{} holds no key", path.display()), error))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let message = format!(
                "this machine has no key for the store {store} ({} is not there): name the recovery key with --recovery-key FILE, and \
                 `holdfast key add NAME --this-machine` gives this machine a key of its own",
                path.display()
            );
            Err(Fault::new(FaultKind::Denied, message))
        }
        Err(error) => Err(Fault::with(FaultKind::Denied, format!("this machine's key {} cannot be read", path.display()), error)),
    }
}

/// Makes and keeps a key of this machine for a store; the one that is there already is used again.
///
/// # Errors
/// The directory or file cannot be written.
pub fn make_machine_identity(settings: &Settings, store: StoreId) -> Result<Recovery, Fault> {
    let path = machine_file(settings, store);
    if path.exists() {
        return machine_identity(settings, store);
    }
    let identity = Recovery::generate();
    write_identity(&path, &identity, &format!("this machine's key for the Holdfast store {store}"))?;
    Ok(identity)
}

/// Writes a key to a new file, mode 0600, durably.
///
/// # Errors
/// The file is there already, or cannot be written.
pub fn write_identity(path: &Path, identity: &Recovery, what: &str) -> Result<(), Fault> {
    let cannot = |error: std::io::Error| {
        let kind = if error.kind() == ErrorKind::AlreadyExists { FaultKind::Exists } else { FaultKind::Local };
        Fault::with(kind, format!("the key cannot be written to {}", path.display()), error)
    };
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    DirBuilder::new().recursive(true).mode(0o700).create(parent).map_err(cannot)?;
    let text = Zeroizing::new(format!("# {what}\n# public key: {}\n{}\n", identity.recipient(), *identity.secret()));
    let mut file = FileOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(cannot)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(cannot)?;
    std::fs::File::open(parent).and_then(|dir| dir.sync_all()).map_err(cannot)
}

/// Reads a key from a file, `-` for standard input.
///
/// # Errors
/// It cannot be read, or is no key.
pub fn read_identity(path: &Path) -> Result<Recovery, Fault> {
    const BYTES_MAX: u64 = 64 << 10;
    let mut text = Zeroizing::new(String::new());
    let read = if path == Path::new("-") {
        std::io::stdin().lock().take(BYTES_MAX).read_to_string(&mut text)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(BYTES_MAX).read_to_string(&mut text))
    };
    let place = if path == Path::new("-") { "standard input".to_owned() } else { path.display().to_string() };
    read.map_err(|error| Fault::with(FaultKind::Invalid, format!("the recovery key cannot be read from {place}"), error))?;
    Recovery::parse(&text).map_err(|error| Fault::new(FaultKind::Invalid, format!("{place}: {error}")))
}
