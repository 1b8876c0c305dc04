//! Named stores in a directory, as mounted Secrets are: `<dir>/<alias>/url`, and `key` when the store is encrypted. They are read anew
//! for each request, so a changed credential counts at once, and a store that comes later is there when it comes.

use crate::cli::unlock::{self, KeyArgs};
use crate::config::Settings;
use crate::controller::{Stores, is_alias};
use crate::env::Env;
use crate::log::lookup::Books;
use crate::types::{Fault, FaultKind};
use async_trait::async_trait;
use std::path::{Path, PathBuf};

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Directory {
    dir: PathBuf,
    settings: Settings,
    env: Env,
}

/// One store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Named {
    /// Its URL.
    pub(super) url: String,
    /// The file of the key that opens it, if there is one.
    pub(super) key: Option<PathBuf>,
}

impl Directory {
    pub(super) fn new(dir: &Path, settings: &Settings, env: &Env) -> Result<Self, Fault> {
        Ok(Self { dir: std::path::absolute(dir)?, settings: settings.clone(), env: env.clone() })
    }

    pub(super) fn find(&self, alias: &str) -> Result<Named, Fault> {
        let place = self.dir.join(alias);
        let there = if is_alias(alias) { std::fs::read_to_string(place.join("url")) } else { Err(std::io::ErrorKind::NotFound.into()) };
        let url = there.map_err(|error| {
            // It may come yet; and a volume whose store is not known is not absent.
            let why = format!("there is no store `{}` here: {} cannot be read", alias.escape_debug(), place.join("url").display());
            Fault::with(FaultKind::Unknown, why, error)
        })?;
        let key = place.join("key");
        Ok(Named { url: url.trim().to_owned(), key: key.exists().then_some(key) })
    }
}

#[async_trait]
impl Stores for Directory {
    async fn open(&self, alias: &str) -> Result<Books, Fault> {
        let Named { url, key } = self.find(alias)?;
        let settings = Settings { store: url, store_is_default: false, ..self.settings.clone() };
        let told = |fault: Fault| match fault.kind {
            // Of the Secret, not of the request.
            FaultKind::Invalid => Fault::new(FaultKind::Unknown, format!("the store `{alias}` cannot be used: {fault}")),
            _ => fault,
        };
        let connected = unlock::connect(&settings, &self.env, None).await.map_err(told)?;
        let unlocked = unlock::unlock(connected, &settings, &KeyArgs { recovery_key: key }).await.map_err(told)?;
        Ok(Books { store: unlocked.connected.store, env: self.env.clone(), sealer: unlocked.sealer })
    }

    fn aliases(&self) -> Result<Vec<String>, Fault> {
        let cannot = |error| Fault::with(FaultKind::Unknown, format!("the stores in {} cannot be listed", self.dir.display()), error);
        let names = std::fs::read_dir(&self.dir).map_err(cannot)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        let names: Vec<String> = names.collect::<Result<_, std::io::Error>>().map_err(cannot)?;
        Ok(names.into_iter().filter(|name| is_alias(name) && self.dir.join(name).join("url").exists()).collect())
    }
}
