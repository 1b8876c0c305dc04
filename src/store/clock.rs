//! The store's clock: what retention, graces and the control chain count by, because a node's own may be wrong by years.

use super::{ObjectMeta, Store, StoreError};
use crate::env::Env;
use crate::types::UnixNanos;
use bytes::Bytes;

const PREFIX: &str = "probe/";
const SUFFIX: &str = "-clock";
/// An object that asked for the time and is as old as this asks no more.
const ASKED: UnixNanos = 24 * 3600 * 1_000_000_000;

/// The time that the store gives an object stored now; a moment early where it counts in whole seconds. Leaves nothing behind where the
/// credentials allow that.
///
/// # Errors
/// The store does not answer.
pub async fn now(store: &dyn Store, env: &Env) -> Result<UnixNanos, StoreError> {
    let name = format!("{PREFIX}{}{SUFFIX}", hex::encode(env.random::<8>()));
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

/// Removes what [`now`] left behind with credentials that may not delete, a day or more ago; how many.
///
/// # Errors
/// The store does not answer, or does not allow it.
pub async fn sweep_clocks(store: &dyn Store, now: UnixNanos) -> Result<u64, StoreError> {
    const PAGE: usize = 1000;
    let (mut after, mut removed) = (None::<String>, 0);
    loop {
        let page = store.list(PREFIX, after.as_deref(), PAGE).await?;
        for object in page.iter().filter(|object| is_left(object, now)) {
            store.delete(&object.name).await?;
            removed += 1;
        }
        after = page.last().map(|object| object.name.clone());
        if page.len() < PAGE {
            return Ok(removed);
        }
    }
}

fn is_left(object: &ObjectMeta, now: UnixNanos) -> bool {
    let random = object.name.strip_prefix(PREFIX).and_then(|name| name.strip_suffix(SUFFIX));
    random.is_some_and(|random| random.len() == 16 && hex::decode(random).is_ok()) && now.saturating_sub(object.modified) >= ASKED
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_old_questions_for_the_time_are_left_behind() {
        let object = |name: &str, modified| ObjectMeta { name: name.to_owned(), size: 5, modified };
        let left = |name, modified| is_left(&object(name, modified), 10 * ASKED);
        assert!(left("probe/0011223344556677-clock", 9 * ASKED) && left("probe/0011223344556677-clock", 0));
        assert!(!left("probe/0011223344556677-clock", 9 * ASKED + 1), "somebody may be asking");
        for other in [
            "probe/0011223344556677",
            "probe/mine-clock",
            "probe/0011-clock",
            "names/0011223344556677-clock",
            "probe/00112233445566zz-clock",
        ] {
            assert!(!left(other, 0), "{other}");
        }
    }

    #[tokio::test]
    async fn a_sweep_takes_what_is_left_and_nothing_else() {
        let env = Env::real();
        let store = super::super::Memory::new(env.clone());
        for name in ["probe/0011223344556677-clock", "probe/8811223344556677-clock", "probe/other"] {
            store.put_if_absent(name, Bytes::from_static(b"clock")).await.unwrap();
        }
        let asked = now(&store, &env).await.unwrap();
        assert_eq!(sweep_clocks(&store, asked).await.unwrap(), 0);
        assert_eq!(sweep_clocks(&store, asked + ASKED).await.unwrap(), 2);
        let left = store.list("", None, 10).await.unwrap();
        assert_eq!(left.iter().map(|object| object.name.as_str()).collect::<Vec<_>>(), ["probe/other"]);
    }
}
