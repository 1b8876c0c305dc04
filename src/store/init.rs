//! The store's marker: made once, by `store init` alone, and read by everybody before anything else. Without it a mistyped bucket or
//! an unmounted disk would look like an empty store.

use super::probe::{ProbeReport, Verdict, probe};
use super::{Put, Store, StoreUrl};
use crate::env::Env;
use crate::format::marker::Marker;
use crate::format::names;
use crate::types::{Fault, FaultKind};
use bytes::Bytes;

/// What [`init`] did.
#[derive(Debug, Clone)]
pub struct Initialized {
    /// The marker that is stored now.
    pub marker: Marker,
    /// What the probe found on the way.
    pub report: ProbeReport,
}

/// Makes a store: probes what is at `url`, stores the first key ring (encoded; `None` for a store in the clear) and, last, the marker;
/// so a store with a marker is whole. `store` was opened with `may_create`.
///
/// # Errors
/// `Exists`: there is a store, or the beginning of one. `Invalid`: the store failed the probe. Else what the store said.
pub async fn init(store: &dyn Store, env: &Env, url: &StoreUrl, marker: &Marker, key_ring: Option<Bytes>) -> Result<Initialized, Fault> {
    if let Some(bytes) = store.get(names::marker()).await? {
        let of = Marker::decode(&bytes).map_or_else(|error| error.to_string(), |there| format!("its id is {}", there.store));
        return Err(Fault::new(FaultKind::Exists, format!("there is a store at {url} already: {of}")));
    }
    for prefix in [names::names_prefix(), "volumes/"] {
        if let Some(found) = store.list(prefix, None, 1).await?.first() {
            let message = format!(
                "at {url} there is `{}` of a store whose marker `{}` is missing: restore the marker, or choose an empty prefix",
                found.name,
                names::marker()
            );
            return Err(Fault::new(FaultKind::Damaged, message));
        }
    }
    let report = probe(store, env).await?;
    match report.verdict {
        Verdict::Trusted => {}
        Verdict::Refused => return Err(refused(FaultKind::Invalid, url, "cannot keep volumes", &report)),
        Verdict::Unknown => return Err(refused(FaultKind::Unknown, url, "did not answer all of the probe", &report)),
    }
    if let Some(ring) = key_ring {
        create(store, url, &names::key_ring(1), ring).await?;
    }
    create(store, url, names::marker(), marker.encode()).await?;
    let marker = read_marker(store, url).await?;
    Ok(Initialized { marker, report })
}

fn refused(kind: FaultKind, url: &StoreUrl, what: &str, report: &ProbeReport) -> Fault {
    let mut reasons = report.reasons();
    reasons.dedup();
    reasons.truncate(5);
    Fault::new(kind, format!("the store at {url} {what}: {}", reasons.join("; ")))
}

async fn create(store: &dyn Store, url: &StoreUrl, name: &str, bytes: Bytes) -> Result<(), Fault> {
    if store.put_if_absent(name, bytes.clone()).await? == Put::Stored {
        return Ok(());
    }
    // Our own attempt whose reply was lost, or somebody else's.
    match store.get(name).await? {
        Some(there) if there == bytes => Ok(()),
        _ => {
            let message = format!(
                "`{name}` is at {url} already: another `holdfast store init` is under way, or one did not end; when none is, remove `{name}`"
            );
            Err(Fault::new(FaultKind::Exists, message))
        }
    }
}

/// Reads the store's marker and holds it against the id that the URL pins.
///
/// # Errors
/// `Unknown`: no marker, no bucket, no answer; never taken for an empty store. `Invalid`: another store than the pinned one.
/// `Damaged`, `TooNew`: as the format says.
pub async fn read_marker(store: &dyn Store, url: &StoreUrl) -> Result<Marker, Fault> {
    let Some(bytes) = store.get(names::marker()).await? else {
        let message = format!(
            "there is no store at {url} (no `{}`): is the URL right, is its disk mounted? A store is made by `holdfast store init` alone",
            names::marker()
        );
        return Err(Fault::new(FaultKind::Unknown, message));
    };
    let marker = Marker::decode(&bytes)?;
    match url.store_id {
        Some(pinned) if pinned != marker.store => {
            let message = format!("the store at {url} has the id {}: it is not the one that its URL names", marker.store);
            Err(Fault::new(FaultKind::Invalid, message))
        }
        _ => Ok(marker),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Memory;
    use crate::types::StoreId;

    fn url() -> StoreUrl {
        StoreUrl::parse("memory:").expect("url")
    }

    #[tokio::test]
    async fn a_store_is_made_once_and_its_id_is_held_to() {
        let (env, store) = (Env::real(), Memory::new(Env::real()));
        let missing = read_marker(&store, &url()).await.expect_err("no store yet");
        assert_eq!(missing.kind, FaultKind::Unknown);
        let marker = Marker::clear(env.random(), 1, "test");
        let made = init(&store, &env, &url(), &marker, Some(Bytes::from_static(b"ring"))).await.expect("init");
        assert_eq!(made.marker, marker);
        assert_eq!(store.get(&names::key_ring(1)).await.expect("get").as_deref(), Some(&b"ring"[..]));
        assert_eq!(read_marker(&store, &url().pinned(marker.store)).await.expect("pinned"), marker);
        let other = read_marker(&store, &url().pinned(StoreId([9; 16]))).await.expect_err("another store");
        assert_eq!(other.kind, FaultKind::Invalid);
        let again = init(&store, &env, &url(), &Marker::clear(env.random(), 2, "test"), None).await.expect_err("twice");
        assert_eq!(again.kind, FaultKind::Exists);
        assert!(again.to_string().contains(&marker.store.to_string()), "{again}");
    }

    #[tokio::test]
    async fn nothing_is_made_over_the_rest_of_a_store() {
        let (env, store) = (Env::real(), Memory::new(Env::real()));
        let marker = Marker::clear(env.random(), 1, "test");
        store.put_if_absent("volumes/0/volume", Bytes::new()).await.expect("put");
        let rest = init(&store, &env, &url(), &marker, None).await.expect_err("a store without its marker");
        assert_eq!(rest.kind, FaultKind::Damaged);
        store.delete("volumes/0/volume").await.expect("delete");
        store.put_if_absent(&names::key_ring(1), Bytes::from_static(b"other")).await.expect("put");
        let begun = init(&store, &env, &url(), &marker, Some(Bytes::from_static(b"ring"))).await.expect_err("begun by another");
        assert_eq!(begun.kind, FaultKind::Exists);
        assert_eq!(store.get(names::marker()).await.expect("get"), None);
    }
}
