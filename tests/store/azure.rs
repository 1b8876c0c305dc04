//! Azure Blob Storage, as far as its emulator goes.

use crate::conformance::{Expect, SURE, conforms};
use crate::s3::server::{Server, installed};
use crate::{OFTEN, UNSURE, plainly, retrying};
use holdfast::env::Env;
use holdfast::store::{Faulty, Store, StoreError, Verdict, probe};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

const ACCOUNT: &str = "holdfast";
const KEY: &str = "aG9sZGZhc3QtdGVzdHM=";

#[tokio::test]
async fn azure_conforms_and_is_trusted() {
    let scratch = tempfile::tempdir().expect("tempdir");
    let main = installed("tests/servers/azure.sh");
    let prepare = |command: &mut Command| {
        command.arg(&main).args(["--blobHost", "127.0.0.1", "--blobPort", "0", "--silent", "--skipApiVersionCheck", "--disableTelemetry"]);
        command.arg("--location").arg(scratch.path().join("data")).env("AZURITE_ACCOUNTS", format!("{ACCOUNT}:{KEY}"));
    };
    let (_server, port) = Server::start(Path::new("node"), &scratch.path().join("log"), prepare, |_| true);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/servers/azure-container.js");
    let created = Command::new("node").arg(script).args([&port.to_string(), ACCOUNT, KEY, "container"]).output().expect("node");
    assert!(created.status.success(), "{}", String::from_utf8_lossy(&created.stderr));
    let key = scratch.path().join("key");
    std::fs::write(&key, format!("{KEY}\n")).expect("key");
    let url = |container: &str, prefix: &str| {
        let endpoint = format!("http://127.0.0.1:{port}/{ACCOUNT}");
        format!("az://{container}/{prefix}?account={ACCOUNT}&endpoint={endpoint}&credentials={}", key.display())
    };
    let store = plainly(&url("container", "a"));
    let report = probe(store.as_ref(), &Env::real()).await.expect("probe");
    assert_eq!(report.verdict, Verdict::Trusted, "{:?}", report.reasons());
    conforms(store.as_ref(), Expect { many: 1100, ..SURE }).await;
    let faulty: Arc<dyn Store> = Arc::new(Faulty::new(plainly(&url("container", "b")), OFTEN, 3));
    conforms(&retrying(faulty), UNSURE).await;
    let missing = plainly(&url("missing", "a"));
    assert!(matches!(missing.get("x").await, Err(StoreError::NoBucket { .. })));
    std::fs::write(&key, "d3Jvbmc=").expect("key");
    assert!(matches!(store.get("x").await, Err(StoreError::Denied { .. })), "the wrong key is read without a restart");
}
