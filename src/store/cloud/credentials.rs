//! Where S3 credentials come from, and that a change of them is seen without a restart.
//!
//! In this order: the file or profile that the URL names; the environment's keys; a web identity (`AWS_WEB_IDENTITY_TOKEN_FILE` and
//! `AWS_ROLE_ARN`); the shared credentials file; a container's endpoint; the instance's metadata. The last of these that are fetched
//! are renewed before they expire; files are read again whenever they changed.

use async_trait::async_trait;
use object_store::CredentialProvider;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, AwsCredential, AwsCredentialProvider};
use object_store::azure::{AzureAccessKey, AzureCredential};
use parking_lot::Mutex;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What of the environment speaks of credentials. Endpoint, region and the like come from the store's URL, so that the same URL means
/// the same place in every shell.
const SPOKEN: &[(&str, AmazonS3ConfigKey)] = &[
    ("AWS_ACCESS_KEY_ID", AmazonS3ConfigKey::AccessKeyId),
    ("AWS_SECRET_ACCESS_KEY", AmazonS3ConfigKey::SecretAccessKey),
    ("AWS_SESSION_TOKEN", AmazonS3ConfigKey::Token),
];
const FETCHED: &[(&str, AmazonS3ConfigKey)] = &[
    ("AWS_WEB_IDENTITY_TOKEN_FILE", AmazonS3ConfigKey::WebIdentityTokenFile),
    ("AWS_ROLE_ARN", AmazonS3ConfigKey::RoleArn),
    ("AWS_ROLE_SESSION_NAME", AmazonS3ConfigKey::RoleSessionName),
    ("AWS_ENDPOINT_URL_STS", AmazonS3ConfigKey::StsEndpoint),
    ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", AmazonS3ConfigKey::ContainerCredentialsRelativeUri),
    ("AWS_CONTAINER_CREDENTIALS_FULL_URI", AmazonS3ConfigKey::ContainerCredentialsFullUri),
    ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", AmazonS3ConfigKey::ContainerAuthorizationTokenFile),
    ("AWS_METADATA_ENDPOINT", AmazonS3ConfigKey::MetadataEndpoint),
];

/// Reads a variable of the environment; tests pass their own.
pub(super) type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Gives the builder its source of credentials.
pub(super) fn provide(
    mut builder: AmazonS3Builder,
    environment: Environment<'_>,
    file: Option<&Path>,
    profile: Option<&str>,
) -> object_store::Result<AmazonS3Builder> {
    let has = |name: &str| environment(name).is_some();
    let named = file.is_some() || profile.is_some();
    if !named && has("AWS_ACCESS_KEY_ID") {
        for name in ["AWS_ACCESS_KEY_ID", "AWS_SESSION_TOKEN"] {
            if environment(name).is_some_and(|value| !sendable(&value)) {
                return Err(refused(Path::new(name), "it holds a character that cannot be sent"));
            }
        }
        return Ok(configured(builder, environment, SPOKEN));
    }
    let profile = profile.map(str::to_owned).or_else(|| environment("AWS_PROFILE")).unwrap_or_else(|| "default".to_owned());
    let shared = file.map(Path::to_owned).or_else(|| shared_file(environment));
    let web_identity = has("AWS_WEB_IDENTITY_TOKEN_FILE") && has("AWS_ROLE_ARN");
    if let Some(path) = shared.filter(|path| named || (!web_identity && path.exists())) {
        return Ok(builder.with_credentials(Arc::new(SharedFile { file: Watched::new(path), profile })));
    }
    if let Some(token) = environment("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE").map(PathBuf::from) {
        let text = std::fs::read_to_string(&token).map_err(|error| refused(&token, error))?;
        if !sendable(&text) {
            return Err(refused(&token, "it holds a character that cannot be sent (a line's end, perhaps)"));
        }
    }
    builder = configured(builder, environment, FETCHED);
    // Built once without, for the library's choice among what is fetched, and wrapped so that a failure says what was tried.
    let inner = Arc::clone(builder.clone().build()?.credentials());
    let expected = FETCHED.iter().any(|(name, key)| *key != AmazonS3ConfigKey::MetadataEndpoint && has(name));
    Ok(builder.with_credentials(Arc::new(Fetched { inner, expected })))
}

fn configured(mut builder: AmazonS3Builder, environment: Environment<'_>, keys: &[(&str, AmazonS3ConfigKey)]) -> AmazonS3Builder {
    for (name, key) in keys {
        if let Some(value) = environment(name) {
            builder = builder.with_config(*key, value);
        }
    }
    builder
}

fn shared_file(environment: Environment<'_>) -> Option<PathBuf> {
    match environment("AWS_SHARED_CREDENTIALS_FILE") {
        Some(path) => Some(PathBuf::from(path)),
        None => Some(PathBuf::from(environment("HOME")?).join(".aws/credentials")),
    }
}

fn refused(path: &Path, why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> object_store::Error {
    object_store::Error::Unauthenticated { path: path.display().to_string(), source: why.into() }
}

/// A file that is read again when it changed: a Kubernetes Secret mounted as a file changes under us.
#[derive(Debug)]
struct Watched<C> {
    path: PathBuf,
    read: Mutex<Option<(Stamp, Arc<C>)>>,
}

/// Differs when a file was written or replaced.
type Stamp = (u64, u64, u64, i64, i64);

fn stamp(path: &Path) -> std::io::Result<Stamp> {
    let of = std::fs::metadata(path)?;
    Ok((of.dev(), of.ino(), of.size(), of.mtime(), of.mtime_nsec()))
}

impl<C> Watched<C> {
    fn new(path: PathBuf) -> Self {
        Self { path, read: Mutex::new(None) }
    }

    fn current(&self, parse: impl FnOnce(&str) -> Result<C, String>) -> object_store::Result<Arc<C>> {
        let mut read = self.read.lock();
        let now = stamp(&self.path).map_err(|error| refused(&self.path, error))?;
        if let Some((then, credential)) = &*read
            && *then == now
        {
            return Ok(Arc::clone(credential));
        }
        let text = std::fs::read_to_string(&self.path).map_err(|error| refused(&self.path, error))?;
        let credential = Arc::new(parse(&text).map_err(|why| refused(&self.path, why))?);
        // Stamped before it was read: a write in between is seen the next time.
        *read = Some((now, Arc::clone(&credential)));
        Ok(credential)
    }
}

/// Credentials as the AWS tools write them.
#[derive(Debug)]
struct SharedFile {
    file: Watched<AwsCredential>,
    profile: String,
}

#[async_trait]
impl CredentialProvider for SharedFile {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        self.file.current(|text| {
            let of = section(text, &self.profile)
                .ok_or_else(|| format!("no section [{}] with aws_access_key_id and aws_secret_access_key", self.profile))?;
            if sendable(&of.key_id) && of.token.as_deref().is_none_or(sendable) {
                Ok(of)
            } else {
                Err(format!("section [{}] holds a character that cannot be sent", self.profile))
            }
        })
    }
}

/// An Azure storage account's key, alone in a file.
#[derive(Debug)]
pub(super) struct AzureKeyFile(Watched<AzureCredential>);

impl AzureKeyFile {
    pub(super) fn new(path: &Path) -> Self {
        Self(Watched::new(path.to_owned()))
    }
}

#[async_trait]
impl CredentialProvider for AzureKeyFile {
    type Credential = AzureCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AzureCredential>> {
        self.0.current(|text| match AzureAccessKey::try_new(text.trim()) {
            Ok(key) => Ok(AzureCredential::AccessKey(key)),
            Err(error) => Err(format!("it holds no account key: {error}")),
        })
    }
}

/// One section of an AWS credentials file.
fn section(text: &str, profile: &str) -> Option<AwsCredential> {
    let (mut inside, mut key_id, mut secret_key, mut token) = (false, None, None, None);
    for line in text.lines().map(str::trim) {
        if let Some(head) = line.strip_prefix('[') {
            inside = head.split(']').next().map(str::trim) == Some(profile);
            continue;
        }
        let Some((key, value)) = line.split_once('=').filter(|_| inside && !line.starts_with(['#', ';'])) else { continue };
        let value = Some(value.trim().to_owned());
        match key.trim() {
            "aws_access_key_id" => key_id = value,
            "aws_secret_access_key" => secret_key = value,
            "aws_session_token" => token = value,
            _ => {}
        }
    }
    Some(AwsCredential { key_id: key_id?, secret_key: secret_key?, token })
}

/// Whether a key can stand in a header: the library panics on one that cannot.
fn sendable(value: &str) -> bool {
    value.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Fetched from an identity service.
#[derive(Debug)]
struct Fetched {
    inner: AwsCredentialProvider,
    /// The environment names the service: then it exists, and is to be waited for. Else this is a last resort, and its silence means
    /// that there are no credentials.
    expected: bool,
}

#[async_trait]
impl CredentialProvider for Fetched {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        self.inner.get_credential().await.map_err(|error| {
            if self.expected {
                return object_store::Error::Generic {
                    store: "S3",
                    source: format!("the identity service gave no credentials: {error}").into(),
                };
            }
            let why = format!(
                "no credentials: the URL names no file of them, there are none in the environment (AWS_ACCESS_KEY_ID, ...) or in \
                 ~/.aws/credentials, and this machine has no identity service ({error})"
            );
            object_store::Error::Unauthenticated { path: "credentials".to_owned(), source: why.into() }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn builder() -> AmazonS3Builder {
        AmazonS3Builder::new().with_bucket_name("bucket").with_region("us-east-1")
    }

    async fn key_id(provided: &AwsCredentialProvider) -> Result<String, object_store::Error> {
        provided.get_credential().await.map(|credential| credential.key_id.clone())
    }

    #[tokio::test]
    async fn a_file_is_read_again_when_it_changed() {
        let scratch = tempfile::tempdir().expect("tempdir");
        let file = scratch.path().join("credentials");
        std::fs::write(&file, "[default]\naws_access_key_id = A\naws_secret_access_key=s\n[p]\naws_access_key_id=P\n").expect("write");
        let built = provide(builder(), &|_| None, Some(&file), None).expect("provide").build().expect("build");
        assert_eq!(key_id(built.credentials()).await.expect("first"), "A");
        // As a mounted Secret changes: by rename.
        let next = scratch.path().join("next");
        std::fs::write(&next, "# c\n[default]\naws_access_key_id = B\naws_secret_access_key = t = u\naws_session_token=v\n")
            .expect("write");
        std::fs::rename(&next, &file).expect("rename");
        let credential = built.credentials().get_credential().await.expect("second");
        assert_eq!((credential.key_id.as_str(), credential.secret_key.as_str(), credential.token.as_deref()), ("B", "t = u", Some("v")));
        std::fs::remove_file(&file).expect("remove");
        let error = key_id(built.credentials()).await.expect_err("gone").to_string();
        assert!(error.contains("credentials"), "{error}");
        let incomplete = provide(builder(), &|_| None, Some(&file), Some("p")).expect("provide").build().expect("build");
        std::fs::write(&file, "[p]\naws_access_key_id=P\n").expect("write");
        let error = key_id(incomplete.credentials()).await.expect_err("incomplete").to_string();
        assert!(error.contains("no section [p]"), "{error}");
        std::fs::write(&file, "[p]\naws_access_key_id=P\u{e9}\naws_secret_access_key=s\n").expect("write");
        let error = key_id(incomplete.credentials()).await.expect_err("not ASCII").to_string();
        assert!(error.contains("cannot be sent"), "{error}");
    }

    #[tokio::test]
    async fn the_environment_comes_before_the_shared_file_and_after_the_url() {
        let scratch = tempfile::tempdir().expect("tempdir");
        let file = scratch.path().join("credentials");
        std::fs::write(
            &file,
            "[default]\naws_access_key_id=F\naws_secret_access_key=s\n[p]\naws_access_key_id=P\naws_secret_access_key=s\n",
        )
        .expect("write");
        let path = file.display().to_string();
        let keys = |name: &str| match name {
            "AWS_ACCESS_KEY_ID" | "AWS_SECRET_ACCESS_KEY" => Some("E".to_owned()),
            "AWS_SHARED_CREDENTIALS_FILE" => Some(path.clone()),
            _ => None,
        };
        let no_keys = |name: &str| keys(name).filter(|_| name == "AWS_SHARED_CREDENTIALS_FILE");
        for (environment, profile, want) in
            [(&keys as Environment<'_>, None, "E"), (&no_keys, None, "F"), (&keys, Some("p"), "P"), (&no_keys, Some("p"), "P")]
        {
            let built = provide(builder(), environment, None, profile).expect("provide").build().expect("build");
            assert_eq!(key_id(built.credentials()).await.expect("credential"), want);
        }
    }

    #[tokio::test]
    async fn without_credentials_the_error_says_where_they_were_looked_for() {
        // Nobody listens on port 9 of the loopback interface.
        let nowhere = |name: &str| (name == "AWS_METADATA_ENDPOINT").then(|| "http://127.0.0.1:9".to_owned());
        let once = object_store::RetryConfig { max_retries: 0, ..Default::default() };
        let built = provide(builder().with_retry(once.clone()), &nowhere, None, None).expect("provide").build().expect("build");
        let error = key_id(built.credentials()).await.expect_err("none");
        assert!(matches!(error, object_store::Error::Unauthenticated { .. }), "{error}");
        assert!(error.to_string().contains("no credentials: the URL names no file"), "{error}");
        let scratch = tempfile::tempdir().expect("tempdir");
        let token = scratch.path().join("token");
        std::fs::write(&token, "t").expect("token");
        let named = |name: &str| match name {
            "AWS_CONTAINER_CREDENTIALS_FULL_URI" => Some("http://127.0.0.1:9/c".to_owned()),
            "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE" => Some(token.display().to_string()),
            _ => None,
        };
        let built = provide(builder().with_retry(once), &named, None, None).expect("provide").build().expect("build");
        let error = key_id(built.credentials()).await.expect_err("silent");
        assert!(matches!(error, object_store::Error::Generic { .. }), "one that is named is waited for: {error}");
        std::fs::write(&token, "t\n").expect("token");
        assert!(provide(builder(), &named, None, None).is_err(), "the library would panic on it");
    }
}
