//! The store's clock: what retention, graces and the control chain count by, because a node's own may be wrong by years.

use super::{Store, StoreError};
use crate::env::Env;
use crate::types::UnixNanos;
use bytes::Bytes;

/// The time that the store gives an object stored now; a moment early where it counts in whole seconds. Leaves nothing behind where the
/// credentials allow that.
///
/// # Errors
/// The store does not answer.
pub async fn now(store: &dyn Store, env: &Env) -> Result<UnixNanos, StoreError> {
    let name = format!("probe/{}-clock", hex::encode(env.random::<8>()));
    store.put_if_absent(&name, Bytes::from_static(b"clock")).await?;
    let seen = store.head(&name).await?;
    if let Err(error) = store.delete(&name).await {
        tracing::debug!(%error, name, "the object that asked for the time is left behind");
    }
    seen.map(|meta| meta.modified).ok_or_else(|| StoreError::Unreachable {
        verb: "HEAD",
        name,
        why: "it was stored and is not there".to_owned(),
    })
}
