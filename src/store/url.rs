//! Where a store is: one URL form everywhere, and errors that say what is allowed.
//!
//! ```text
//! s3://BUCKET/PREFIX?endpoint=https://HOST&region=R&style=path|virtual&ca=FILE&profile=P&credentials=FILE&store-id=ID
//! file:///DIRECTORY?store-id=ID
//! gs://BUCKET/PREFIX?endpoint=..&credentials=FILE&ca=FILE&store-id=ID                (experimental)
//! az://CONTAINER/PREFIX?account=A&endpoint=..&credentials=FILE&ca=FILE&store-id=ID   (experimental)
//! memory:                                                                            (tests; gone with the process)
//! ```
//! A URL never holds a secret: it is shown in status, logs and commits' messages.

use crate::types::StoreId;
use percent::{decode_path, encode_path, encode_value};
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

mod percent;

/// A parsed store URL. Its `Display` is the canonical form, which parses to the same value.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct StoreUrl {
    /// Kind and place.
    pub location: Location,
    /// The store id that the marker there must have, when the URL pins it.
    pub store_id: Option<StoreId>,
}

/// Kind and place of a store.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Location {
    /// S3 or a compatible.
    S3(Bucket),
    /// A directory of this machine.
    File(PathBuf),
    /// This process's memory.
    Memory,
    /// Google Cloud Storage.
    Gcs(Bucket),
    /// Azure Blob Storage; `bucket` is the container.
    Azure(Bucket),
}

/// A bucket in the cloud and how to reach it. Fields that a kind of store does not know are `None` there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Bucket {
    /// The bucket (Azure: the container).
    pub bucket: String,
    /// Every name begins with it and a `/`; empty: none.
    pub prefix: String,
    /// Base URL of the service, `http://` or `https://`; `None`: the cloud's own.
    pub endpoint: Option<String>,
    /// S3's region.
    pub region: Option<String>,
    /// S3: the bucket is in the host's name rather than in the path.
    pub virtual_hosted: Option<bool>,
    /// More certificates to trust, PEM.
    pub ca: Option<PathBuf>,
    /// Which section of the S3 credentials file.
    pub profile: Option<String>,
    /// The credentials file (S3: as the AWS tools write it; GCS: a service account's JSON; Azure: the account's key).
    pub credentials: Option<PathBuf>,
    /// Azure's storage account.
    pub account: Option<String>,
}

/// Why a text is no store URL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{url}` is no store URL: {why}; {allowed}")]
pub struct UrlError {
    url: String,
    why: String,
    allowed: String,
}

const FORMS: &str = "a store is `s3://bucket/prefix?endpoint=https://host&region=...`, `file:///directory`, `gs://bucket/prefix`, \
                     `az://container/prefix?account=...` or `memory:`";
const S3_KEYS: &[&str] = &["endpoint", "region", "style", "ca", "profile", "credentials", "store-id"];
const GCS_KEYS: &[&str] = &["endpoint", "credentials", "ca", "store-id"];
const AZURE_KEYS: &[&str] = &["account", "endpoint", "credentials", "ca", "store-id"];
const FILE_KEYS: &[&str] = &["store-id"];
const SECRETS: &[&str] = &["secret", "access-key", "access_key", "password", "token"];

impl StoreUrl {
    /// Parses a URL.
    ///
    /// # Errors
    /// Says what is wrong and what is allowed there.
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        parse(text).map_err(|(why, allowed)| UrlError { url: shown(text), why, allowed })
    }

    /// A directory of this machine.
    #[must_use]
    pub fn file(directory: impl Into<PathBuf>) -> Self {
        Self { location: Location::File(directory.into()), store_id: None }
    }

    /// The same place, with its id pinned.
    #[must_use]
    pub fn pinned(mut self, id: StoreId) -> Self {
        self.store_id = Some(id);
        self
    }
}

impl FromStr for StoreUrl {
    type Err = UrlError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

/// What an error may show of a text that may hold a password before its `@` or in its query.
fn shown(text: &str) -> String {
    let mut text = text.escape_debug().to_string();
    if let Some((place, query)) = text.split_once('?')
        && SECRETS.iter().any(|word| query.contains(word))
    {
        text = format!("{place}?..");
    }
    let Some((scheme, rest)) = text.split_once("://") else { return text };
    let authority = rest.split(['/', '?']).next().unwrap_or(rest);
    match authority.rsplit_once('@') {
        Some((_, host)) => format!("{scheme}://..@{host}{}", &rest[authority.len()..]),
        None => text,
    }
}

type Refusal = (String, String);

fn refuse<T>(why: impl Into<String>, allowed: impl Into<String>) -> Result<T, Refusal> {
    Err((why.into(), allowed.into()))
}

fn parse(text: &str) -> Result<StoreUrl, Refusal> {
    if text == "memory:" {
        return Ok(StoreUrl { location: Location::Memory, store_id: None });
    }
    if text.starts_with('/') {
        return refuse("it is a path", format!("for a directory write `file://{}`", text.escape_debug()));
    }
    let Some((scheme, rest)) = text.split_once("://") else { return refuse("it has no scheme", FORMS) };
    let (place, query) = match rest.split_once('?') {
        Some((place, query)) => (place, query),
        None => (rest, ""),
    };
    if rest.contains('#') {
        return refuse("it has a `#`", "write a `#` in a name as `%23`");
    }
    match scheme {
        "s3" => s3(place, &Query::parse(query, S3_KEYS)?),
        "gs" => gcs(place, &Query::parse(query, GCS_KEYS)?),
        "az" => azure(place, &Query::parse(query, AZURE_KEYS)?),
        "file" => file(place, &Query::parse(query, FILE_KEYS)?),
        "memory" => refuse("it names a place", "`memory:` stands alone"),
        "http" | "https" => refuse("an endpoint alone names no bucket", "for an S3 service write `s3://bucket/prefix?endpoint=URL`"),
        _ => refuse(format!("the scheme `{}` is not known", scheme.escape_debug()), FORMS),
    }
}

fn s3(place: &str, query: &Query) -> Result<StoreUrl, Refusal> {
    let mut bucket = bucket(place, query)?;
    bucket.region = query.get("region");
    if bucket.region.as_deref().is_some_and(|region| !is_word(region)) {
        return refuse("the region is not one", "a region has letters, digits, `-`, `_` and `.`");
    }
    bucket.profile = query.get("profile");
    bucket.virtual_hosted = match query.get("style").as_deref() {
        None => None,
        Some("path") => Some(false),
        Some("virtual") => Some(true),
        Some(_) => return refuse("the style is not known", "`style` is `path` or `virtual`"),
    };
    Ok(StoreUrl { location: Location::S3(bucket), store_id: query.store_id()? })
}

fn gcs(place: &str, query: &Query) -> Result<StoreUrl, Refusal> {
    Ok(StoreUrl { location: Location::Gcs(bucket(place, query)?), store_id: query.store_id()? })
}

fn azure(place: &str, query: &Query) -> Result<StoreUrl, Refusal> {
    let mut container = bucket(place, query)?;
    container.account = query.get("account");
    match container.account.as_deref() {
        None => return refuse("no storage account is named", "add `?account=NAME`"),
        Some(account) if !is_word(account) => return refuse("the account is not one", "an account's name has letters and digits"),
        Some(_) => {}
    }
    Ok(StoreUrl { location: Location::Azure(container), store_id: query.store_id()? })
}

fn file(place: &str, query: &Query) -> Result<StoreUrl, Refusal> {
    const ALLOWED: &str = "a directory is `file:///` and its absolute path: three slashes";
    if !place.starts_with('/') {
        return refuse("the directory is not absolute", ALLOWED);
    }
    let Some(path) = decode_path(place) else { return refuse("a `%` is not followed by two hexadecimal digits, or it is %00", ALLOWED) };
    if path.components().any(|part| matches!(part, std::path::Component::ParentDir)) {
        return refuse("the directory has `..` in it", ALLOWED);
    }
    // Components leave out `.`, `//` and a last `/`: one directory is spelled in one way.
    let path: PathBuf = path.components().collect();
    Ok(StoreUrl { location: Location::File(path), store_id: query.store_id()? })
}

fn bucket(place: &str, query: &Query) -> Result<Bucket, Refusal> {
    let (name, prefix) = match place.split_once('/') {
        Some((name, prefix)) => (name, prefix.strip_suffix('/').unwrap_or(prefix)),
        None => (place, ""),
    };
    if name.contains('@') {
        return refuse(
            "it holds credentials",
            "leave them out: they are read from the environment, a credentials file or the machine's identity",
        );
    }
    let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b".-_".contains(&b) || b.is_ascii_uppercase();
    if !(3..=255).contains(&name.len()) || !name.bytes().all(good) {
        return refuse("the bucket's name is not one", "a bucket's name has 3 to 255 letters, digits, `.`, `-` and `_`");
    }
    if prefix.len() > 100 || (!prefix.is_empty() && super::name::check("open", prefix).is_err()) {
        return refuse(
            "the prefix is not one",
            "a prefix has at most 100 letters, digits, `-_.~=@+` and single `/`, no part begins with a dot",
        );
    }
    Ok(Bucket {
        bucket: name.to_owned(),
        prefix: prefix.to_owned(),
        endpoint: query.endpoint()?,
        ca: query.path("ca")?,
        credentials: query.path("credentials")?,
        ..Bucket::default()
    })
}

/// What stands in headers and host names as it is: the library panics on other characters.
pub(super) fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

struct Query(Vec<(String, String)>);

impl Query {
    fn parse(text: &str, allowed: &[&str]) -> Result<Self, Refusal> {
        let mut pairs: Vec<(String, String)> = Vec::new();
        for (key, value) in url::form_urlencoded::parse(text.as_bytes()) {
            if SECRETS.iter().any(|word| key.contains(word)) {
                return refuse(
                    "it holds credentials",
                    "leave them out: they are read from the environment, a credentials file or the machine's identity",
                );
            }
            if !allowed.contains(&key.as_ref()) {
                return refuse(format!("`{}` is not known here", key.escape_debug()), format!("known are {}", allowed.join(", ")));
            }
            if value.is_empty() || value.chars().any(char::is_control) {
                return refuse(format!("`{key}` has no value"), format!("write `{key}=...` or leave it out"));
            }
            if pairs.iter().any(|(known, _)| *known == key) {
                return refuse(format!("`{key}` is there twice"), "each is given once");
            }
            pairs.push((key.into_owned(), value.into_owned()));
        }
        Ok(Self(pairs))
    }

    fn get(&self, key: &str) -> Option<String> {
        self.0.iter().find(|(known, _)| known == key).map(|(_, value)| value.clone())
    }

    fn path(&self, key: &str) -> Result<Option<PathBuf>, Refusal> {
        match self.get(key) {
            Some(path) if !Path::new(&path).is_absolute() => {
                refuse(format!("`{key}` is no absolute path"), "write the whole path of the file")
            }
            path => Ok(path.map(PathBuf::from)),
        }
    }

    fn endpoint(&self) -> Result<Option<String>, Refusal> {
        const ALLOWED: &str = "an endpoint is `https://host` or `https://host:port`; plain `http://` is used only when it is written so";
        let Some(text) = self.get("endpoint") else { return Ok(None) };
        let Ok(parsed) = url::Url::parse(&text) else { return refuse("the endpoint is no URL", ALLOWED) };
        let plain = parsed.username().is_empty() && parsed.password().is_none() && parsed.query().is_none() && parsed.fragment().is_none();
        if !matches!(parsed.scheme(), "http" | "https") || !parsed.has_host() || !plain {
            return refuse("the endpoint is not one", ALLOWED);
        }
        Ok(Some(parsed.as_str().trim_end_matches('/').to_owned()))
    }

    fn store_id(&self) -> Result<Option<StoreId>, Refusal> {
        match self.get("store-id").map(|text| text.parse()) {
            None => Ok(None),
            Some(Ok(id)) => Ok(Some(id)),
            Some(Err(_)) => refuse("the store id is not one", "it has 32 hexadecimal digits; `holdfast store init` prints it"),
        }
    }
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let none = Bucket::default();
        let bucket = match &self.location {
            Location::Memory => return f.write_str("memory:"),
            Location::File(directory) => {
                write!(f, "file://{}", encode_path(directory))?;
                &none
            }
            Location::S3(bucket) => bucket.write_place(f, "s3")?,
            Location::Gcs(bucket) => bucket.write_place(f, "gs")?,
            Location::Azure(bucket) => bucket.write_place(f, "az")?,
        };
        let text = |path: &Option<PathBuf>| path.as_ref().map(|path| path.to_string_lossy().into_owned());
        let style = bucket.virtual_hosted.map(|yes| if yes { "virtual" } else { "path" }.to_owned());
        let pairs = [
            ("account", bucket.account.clone()),
            ("endpoint", bucket.endpoint.clone()),
            ("region", bucket.region.clone()),
            ("style", style),
            ("ca", text(&bucket.ca)),
            ("profile", bucket.profile.clone()),
            ("credentials", text(&bucket.credentials)),
            ("store-id", self.store_id.map(|id| id.to_string())),
        ];
        let mut separator = '?';
        for (key, value) in pairs.into_iter().filter_map(|(key, value)| Some((key, value?))) {
            write!(f, "{separator}{key}={}", encode_value(&value))?;
            separator = '&';
        }
        Ok(())
    }
}

impl Bucket {
    fn write_place(&self, f: &mut fmt::Formatter<'_>, scheme: &str) -> Result<&Self, fmt::Error> {
        write!(f, "{scheme}://{}", self.bucket)?;
        if !self.prefix.is_empty() {
            write!(f, "/{}", self.prefix)?;
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests;
