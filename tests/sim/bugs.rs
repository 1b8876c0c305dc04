//! Planted bugs: each breaks one rule, outside `src/log`: in a store that lies to one node, or in what the simulated engine and janitor do
//! around the log's own code. A world that cannot find them checks nothing.

use super::store::NodeStore;
use async_trait::async_trait;
use bytes::Bytes;
use holdfast::store::{ObjectMeta, Put, Store, StoreError};
use std::ops::Range;
use std::sync::Arc;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Bug {
    None,
    /// A number is put without its intent on disk.
    SkipIntent,
    /// The cut is not durable when its commit is put.
    PutBeforeDurable,
    /// After an unknown outcome another commit is put under the number.
    Recut,
    /// Pages are clean although the outcome is unknown.
    CleanBeforeResolved,
    /// Pack names are made from what the process counts.
    ReusePackName,
    /// An `open` whose reply was lost is taken for stored.
    OpenUnread,
    /// An opener does not look for the marker of its block.
    OpenIgnoresMarker,
    /// Packs are adopted without looking whether they exist.
    AdoptUnchecked,
    /// No look at the next number while dirty.
    NoFenceCheck,
    /// An empty cache directory continues from a head that is not the log's.
    ResumeDiverged,
    /// A listing is believed: a name that is not listed is absent.
    AbsentByListing,
    /// A number is freed and its block not marked.
    FreeUnmarked,
    /// Unnamed packs of the epoch in force are garbage.
    GcEpochInForce,
    /// Claims are ignored by retention.
    ClaimIgnored,
    /// What is planned is deleted without a stored record.
    DeleteBeforeRetire,
    /// `open` records are freed like commits.
    FreeOpens,
    /// The newest checkpoint is the one with the highest number that lies there.
    NewestByListing,
    /// Adoptions are ignored by gc.
    AdoptionIgnored,
    /// The commit before an unclosed `open` is not kept.
    BaseNotKept,
    /// Records are freed in which inline values of kept commits lie.
    InlineForgotten,
    /// The packs that hold the deltas of records are forgotten when their own values are gone.
    DeltaForgotten,
    /// A tree is carried on from record to record, past the checkpoint that moved its inline values into a pack.
    GatheredForgotten,
    /// A cache looks for an inline value in its record alone, also when a checkpoint has moved it and the record is gone.
    MoveNotFollowed,
    /// A reader's claim ends by the janitor's own clock, which is a day ahead of the store's.
    ExpireByOwnClock,
    /// An expired claim counts for nothing although no `release` of it is stored.
    ExpiredNotReleased,
    /// A purge does not end with `fence`.
    PurgeWithoutFence,
    /// DeleteVolume purges without looking who is attached.
    PurgeAttached,
}

impl Bug {
    /// With the number of worlds in which it must be found.
    pub const ALL: &'static [(Self, u64)] = &[
        (Self::SkipIntent, 200),
        (Self::PutBeforeDurable, 200),
        (Self::Recut, 60),
        (Self::CleanBeforeResolved, 40),
        (Self::ReusePackName, 40),
        (Self::OpenUnread, 40),
        (Self::OpenIgnoresMarker, 60),
        (Self::AdoptUnchecked, 200),
        (Self::NoFenceCheck, 40),
        (Self::ResumeDiverged, 40),
        (Self::AbsentByListing, 60),
        (Self::FreeUnmarked, 60),
        (Self::GcEpochInForce, 60),
        (Self::ClaimIgnored, 100),
        (Self::DeleteBeforeRetire, 40),
        (Self::FreeOpens, 200),
        (Self::NewestByListing, 60),
        (Self::AdoptionIgnored, 300),
        (Self::BaseNotKept, 600),
        (Self::InlineForgotten, 300),
        (Self::DeltaForgotten, 100),
        (Self::GatheredForgotten, 100),
        (Self::MoveNotFollowed, 1500),
        (Self::ExpireByOwnClock, 100),
        (Self::ExpiredNotReleased, 100),
        (Self::PurgeWithoutFence, 200),
        (Self::PurgeAttached, 60),
    ];

    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.iter().map(|(bug, _)| *bug).find(|bug| format!("{bug:?}") == name)
    }
}

/// A store that lies to its node as the bug wants it.
#[derive(Debug)]
pub struct Lying {
    pub store: Arc<NodeStore>,
    pub bug: Bug,
    // The last record put without an answer.
    pub unread: parking_lot::Mutex<Option<(String, Bytes)>>,
}

impl Lying {
    pub fn wrap(store: Arc<NodeStore>, bug: Bug, janitor: bool) -> Arc<dyn Store> {
        match bug {
            Bug::FreeUnmarked if janitor => Arc::new(Self { store, bug, unread: parking_lot::Mutex::new(None) }),
            Bug::OpenUnread | Bug::OpenIgnoresMarker | Bug::AdoptUnchecked | Bug::AbsentByListing if !janitor => {
                Arc::new(Self { store, bug, unread: parking_lot::Mutex::new(None) })
            }
            _ => store,
        }
    }
}

#[async_trait]
impl Store for Lying {
    async fn put_if_absent(&self, name: &str, body: Bytes) -> Result<Put, StoreError> {
        if self.bug == Bug::FreeUnmarked && name.contains("/blocks/") {
            return Ok(Put::Stored);
        }
        let result = self.store.put_if_absent(name, body.clone()).await;
        if self.bug == Bug::OpenUnread && name.contains("/commits/") && result.is_err() {
            *self.unread.lock() = Some((name.to_owned(), body));
            return Ok(Put::Stored);
        }
        result
    }

    async fn get(&self, name: &str) -> Result<Option<Bytes>, StoreError> {
        if self.bug == Bug::OpenIgnoresMarker && name.contains("/blocks/") {
            return Ok(None);
        }
        if let Some((unread, body)) = self.unread.lock().take()
            && unread == name
        {
            return Ok(Some(body));
        }
        if self.bug == Bug::AbsentByListing && name.starts_with("names/") && self.store.list(name, None, 1).await?.is_empty() {
            return Ok(None);
        }
        self.store.get(name).await
    }

    async fn get_range(&self, name: &str, range: Range<u64>) -> Result<Option<Bytes>, StoreError> {
        self.store.get_range(name, range).await
    }

    async fn head(&self, name: &str) -> Result<Option<ObjectMeta>, StoreError> {
        if self.bug == Bug::OpenIgnoresMarker && name.contains("/blocks/") {
            return Ok(None);
        }
        let found = self.store.head(name).await?;
        if self.bug == Bug::AdoptUnchecked && found.is_none() && name.contains("/packs/") {
            return Ok(Some(ObjectMeta { name: name.to_owned(), size: super::tree::PACK_SIZE as u64, modified: 0 }));
        }
        Ok(found)
    }

    async fn list(&self, prefix: &str, start_after: Option<&str>, limit: usize) -> Result<Vec<ObjectMeta>, StoreError> {
        self.store.list(prefix, start_after, limit).await
    }

    async fn delete(&self, name: &str) -> Result<(), StoreError> {
        self.store.delete(name).await
    }
}
