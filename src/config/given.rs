//! What was given, where, and which of it counts.

use crate::types::{Fault, FaultKind, nearest};
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

/// A setting's name and its line of help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// As in the file and, behind `--`, as a flag.
    pub name: &'static str,
    /// The environment variable.
    pub variable: &'static str,
    /// What it is, for the command's help.
    pub help: &'static str,
    /// What stands for its value in the help.
    pub value: &'static str,
}

macro_rules! keys {
    ($($name:literal $variable:literal $value:literal $help:literal;)*) => {
        /// Every setting.
        pub const KEYS: &[Key] = &[$(Key { name: $name, variable: $variable, help: $help, value: $value }),*];
    };
}

keys! {
    "store" "HOLDFAST_STORE" "URL" "The store: s3://bucket/prefix?endpoint=.., file:///dir [default: a directory of the user]";
    "policy" "HOLDFAST_POLICY" "FILE" "The policy's file, or preset:config, preset:media, preset:ledger [default: the built-in policy]";
    "cache" "HOLDFAST_CACHE" "DIR" "Holds a directory for each volume's cache [default: ~/.cache/holdfast]";
    "cache-size" "HOLDFAST_CACHE_SIZE" "SIZE" "Limit of a volume's cache, 10GiB or 20% of the disk [default: the smaller of the two]";
    "dirty-size" "HOLDFAST_DIRTY_SIZE" "SIZE" "Limit of what is in no commit yet [default: half the cache]";
    "capacity" "HOLDFAST_CAPACITY" "SIZE" "Limit of what a volume may hold [default: none]";
    "request-budget" "HOLDFAST_REQUEST_BUDGET" "NUMBER" "Requests an hour that writing a volume all the time may cost, or none [default: 720 where requests cost money, else none]";
    "hydrate" "HOLDFAST_HYDRATE" "HOW" "lazy, eager or metadata: what a mount fetches by itself [default: lazy]";
    "peer-listen" "HOLDFAST_PEER_LISTEN" "ADDRESS" "Tell machines that want a volume how it stands here, at this address, such as 10.0.0.5:0 [default: nowhere]";
    "retention" "HOLDFAST_RETENTION" "RULES" "Which commits to keep: a profile such as 24-hourly-7-daily, or rules such as `hourly=24 daily=7` [default: none are retired]";
    "metrics" "HOLDFAST_METRICS" "ADDRESS" "Serve /metrics there, such as 127.0.0.1:9464 [default: nowhere]";
    "log-format" "HOLDFAST_LOG_FORMAT" "FORMAT" "text or json [default: text]";
    "log-level" "HOLDFAST_LOG_LEVEL" "LEVEL" "error, warn, info, debug, trace, or module=level,.. [default: warn]";
    "keys" "HOLDFAST_KEYS" "DIR" "Holds this machine's key for each store [default: ~/.config/holdfast/keys]";
    "run-dir" "HOLDFAST_RUN_DIR" "DIR" "Holds the sockets of running mounts [default: /run/holdfast or the user's own]";
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Value {
    text: String,
    place: Place,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Flag,
    Environment,
    File(PathBuf),
}

/// The values that count, by key, each with the place it came from.
#[derive(Debug, Clone, Default)]
pub struct Given(BTreeMap<&'static str, Value>);

impl Given {
    /// Takes flags, environment and file; the first of them that has a key wins.
    ///
    /// # Errors
    /// The file is no TOML, or has a key or a kind of value that does not exist.
    pub fn new(
        flags: impl IntoIterator<Item = (&'static str, String)>,
        environment: &dyn Fn(&str) -> Option<String>,
        file: Option<(&Path, &str)>,
    ) -> Result<Self, Fault> {
        let mut values = BTreeMap::new();
        if let Some((path, text)) = file {
            values = read(path, text)?;
        }
        for key in KEYS {
            // An empty variable is what a unit file or a shell leaves of an unset one.
            if let Some(text) = environment(key.variable).filter(|text| !text.is_empty()) {
                values.insert(key.name, Value { text, place: Place::Environment });
            }
        }
        values.extend(flags.into_iter().map(|(name, text)| (name, Value { text, place: Place::Flag })));
        Ok(Self(values))
    }

    /// A value as it is; an empty one is refused.
    pub(super) fn text(&self, key: &'static str) -> Result<Option<String>, Fault> {
        self.parse(key, "a value that is not empty", |text| (!text.is_empty()).then(|| text.to_owned()))
    }

    /// A value that names a file or directory; in the settings' file, one that is not absolute lies beside that file.
    pub(super) fn path(&self, key: &'static str) -> Result<Option<PathBuf>, Fault> {
        let written_out = |text: &str| (!text.is_empty() && text != "~" && !text.starts_with("~/")).then(|| PathBuf::from(text));
        let path = self.parse(key, "a path written out (only a shell knows `~`)", written_out)?;
        let beside = match self.0.get(key).map(|value| &value.place) {
            Some(Place::File(file)) => file.parent(),
            Some(Place::Flag | Place::Environment) | None => None,
        };
        Ok(path.map(|path| beside.map_or_else(|| path.clone(), |dir| dir.join(&path))))
    }

    /// A value of a kind; `parse` answers `None` for what is none.
    pub(super) fn parse<T>(&self, key: &'static str, allowed: &str, parse: impl Fn(&str) -> Option<T>) -> Result<Option<T>, Fault> {
        let Some(value) = self.0.get(key) else { return Ok(None) };
        let refuse = || {
            let place = Where { place: &value.place, key };
            Fault::new(FaultKind::Invalid, format!("{place}: `{}` is not right; allowed: {allowed}", value.text.escape_debug()))
        };
        parse(&value.text).ok_or_else(refuse).map(Some)
    }
}

struct Where<'v> {
    place: &'v Place,
    key: &'static str,
}

impl fmt::Display for Where<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { place, key } = self;
        match place {
            Place::Flag => write!(f, "--{key}"),
            Place::Environment => f.write_str(KEYS.iter().find(|known| known.name == *key).map_or(key, |known| known.variable)),
            Place::File(path) => write!(f, "`{key}` in {}", path.display()),
        }
    }
}

fn read(path: &Path, text: &str) -> Result<BTreeMap<&'static str, Value>, Fault> {
    let refuse = |why: String| Fault::new(FaultKind::Invalid, format!("{}: {why}", path.display()));
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| refuse(error.to_string().trim_end().to_owned()))?;
    let mut values = BTreeMap::new();
    for (name, value) in table {
        let Some(key) = KEYS.iter().find(|key| key.name == name) else {
            let nearest =
                nearest(&name, KEYS.iter().map(|key| key.name)).map_or_else(String::new, |near| format!("; did you mean `{near}`?"));
            let all: Vec<&str> = KEYS.iter().map(|key| key.name).collect();
            return Err(refuse(format!("there is no setting `{}`{nearest} (settings: {})", name.escape_debug(), all.join(", "))));
        };
        let text = match value {
            toml::Value::String(text) => text,
            toml::Value::Integer(number) => number.to_string(),
            other => return Err(refuse(format!("`{name}` must be a text, {name} = \"..\", and is of type {}", other.type_str()))),
        };
        values.insert(key.name, Value { text, place: Place::File(path.to_owned()) });
    }
    Ok(values)
}
