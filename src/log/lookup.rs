//! From a volume's identity to its incarnation. About a volume the store's answer is *found*, *proven absent*, *damaged* or *unknown*, and
//! unknown waits: a store that is down, another store, or a mistyped prefix must never read as "no such volume" (protocol.md 10).

use super::{Created, Hint, LogError, Phase, Reader, Site};
use crate::env::Env;
use crate::format::marker::Marker;
use crate::format::seal::Sealer;
use crate::format::{FormatError, name, names, volume};
use crate::rpc::{NameRecord, Origin, VolumeRecord};
use crate::store::{Store, StoreError};
use crate::types::{DataKey, Identity, Incarnation};
use bytes::Bytes;
use std::sync::Arc;

/// What the store says about an identity.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "one per lookup, and the large one is the usual one")]
pub enum Lookup {
    /// The incarnation that the identity means.
    Found(Found),
    /// Proven: the right store, no record by GET, none by LIST. Winning [`create`] is the last part of the proof.
    Absent(Vacant),
    /// Something is there that must not be.
    Damaged(String),
    /// No answer, or not the store that was asked for. Wait; nothing is known.
    Unknown(String),
}

/// An incarnation that an identity means.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// The number of its name record.
    pub number: u64,
    /// Which.
    pub incarnation: Incarnation,
    /// What it began with.
    pub volume: VolumeRecord,
}

/// The number of a name record that may be created: only [`lookup`] and [`vacated`] make one.
#[derive(Debug)]
pub struct Vacant {
    number: u64,
}

/// A store and what seals its own objects: the sealer's store id is the pinned one.
#[derive(Debug, Clone)]
pub struct Books {
    /// The store.
    pub store: Arc<dyn Store>,
    /// Clock and chance.
    pub env: Env,
    /// With the store key.
    pub sealer: Sealer,
}

impl Books {
    /// Puts and gets of store-level objects are resolved like those of an incarnation.
    fn site(&self, incarnation: Incarnation) -> Site {
        Site::new(Arc::clone(&self.store), self.env.clone(), self.sealer.clone(), incarnation)
    }
}

/// Looks an identity up. One attempt per request: whoever waits calls again.
pub async fn lookup(books: &Books, identity: &Identity) -> Lookup {
    match ask(books, identity).await {
        Ok(found) => found,
        Err(Trouble::Store(error)) => Lookup::Unknown(error.to_string()),
        Err(Trouble::Format(error)) => Lookup::Damaged(error.to_string()),
    }
}

enum Trouble {
    Store(StoreError),
    Format(FormatError),
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<FormatError> for Trouble {
    fn from(error: FormatError) -> Self {
        Self::Format(error)
    }
}

async fn ask(books: &Books, identity: &Identity) -> Result<Lookup, Trouble> {
    let Books { store, sealer, .. } = books;
    let Some(marker) = store.get(names::marker()).await? else {
        return Ok(Lookup::Unknown(format!("there is no store here: {} does not exist; check bucket and prefix", names::marker())));
    };
    let marker = Marker::decode(&marker)?;
    if marker.store != sealer.store() {
        return Ok(Lookup::Unknown(format!("this is store {}, not {}; check bucket and prefix", marker.store, sealer.store())));
    }
    // The listing is a hint for where to begin; records are numbered without gaps and never deleted.
    let listed = store.list(&names::name_prefix(identity), None, 1000).await?;
    let hint = listed.iter().filter_map(|meta| names::parse_name_record(&meta.name)).map(|(_, n)| n).max().unwrap_or(0);
    let mut newest = None;
    let mut number = hint.max(1);
    while let Some(bytes) = store.get(&names::name_record(identity, number)).await? {
        newest = Some((number, bytes));
        number += 1;
    }
    let Some((number, bytes)) = newest else {
        let prefix = names::name_prefix(identity);
        return Ok(if hint > 0 {
            Lookup::Damaged(format!("{prefix}: record {hint} is listed and cannot be read"))
        } else if !listed.is_empty() {
            Lookup::Damaged(format!("{prefix}: there are objects, and none is a name record"))
        } else if store.list(&prefix, None, 1).await?.is_empty() {
            Lookup::Absent(Vacant { number: 1 })
        } else {
            Lookup::Unknown(format!("{identity} is being created at this moment"))
        });
    };
    found(books, &names::name_record(identity, number), number, &bytes).await
}

async fn found(books: &Books, record_name: &str, number: u64, bytes: &Bytes) -> Result<Lookup, Trouble> {
    let record = name::decode(bytes, &books.sealer, record_name)?;
    let Some(incarnation) = Incarnation::from_slice(&record.incarnation) else {
        return Ok(Lookup::Damaged(format!("{record_name}: no incarnation")));
    };
    let volume_name = names::volume(incarnation);
    let Some(bytes) = books.store.get(&volume_name).await? else {
        return Ok(Lookup::Damaged(format!("{volume_name}: {record_name} points to it and it is not there")));
    };
    let volume = volume::decode(&bytes, &books.sealer, &volume_name)?;
    Ok(Lookup::Found(Found { number, incarnation, volume }))
}

/// The permission to create the next incarnation after one that was purged: its log must end with `fence`, else a holder that nobody can reach
/// would go on committing into a life that is over.
///
/// # Errors
/// The store does not answer, or the log is damaged.
pub async fn vacated(site: &Site, found: &Found) -> Result<Option<Vacant>, LogError> {
    let tip = Reader::new(site.clone()).tip(Hint::default()).await?;
    Ok((tip.phase == Phase::Fenced && site.incarnation() == found.incarnation).then_some(Vacant { number: found.number + 1 }))
}

/// An incarnation whose volume record is stored and which no name means yet: nobody finds it, whatever is put into it.
#[derive(Debug, Clone)]
pub struct Draft {
    volume: VolumeRecord,
    incarnation: Incarnation,
}

impl Draft {
    /// Which.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// The sealer with its data key.
    ///
    /// # Errors
    /// As [`data_sealer`].
    pub async fn sealer(&self, books: &Books) -> Result<Sealer, LogError> {
        data_sealer(books, &self.volume).await
    }
}

/// Stores the volume record of a new incarnation.
///
/// # Errors
/// The store does not answer.
pub async fn draft(books: &Books, identity: &Identity, origin: Option<Origin>) -> Result<Draft, LogError> {
    let Books { env, sealer, .. } = books;
    let incarnation = Incarnation(env.random());
    let key = DataKey(env.random());
    let volume = VolumeRecord {
        incarnation: Bytes::copy_from_slice(incarnation.as_bytes()),
        identity: identity.to_string(),
        created: env.now(),
        data_key: Bytes::copy_from_slice(&key.0),
        origin,
    };
    let volume_name = names::volume(incarnation);
    let (bytes, _) = volume::encode(&volume, sealer, &volume_name, env.random())?;
    if books.site(incarnation).create(&volume_name, &bytes).await? != Created::Ours {
        return Err(LogError::damaged(volume_name, "an incarnation of this random id exists already"));
    }
    Ok(Draft { volume, incarnation })
}

/// Makes a draft the incarnation that its identity means: one put, after which it is there with all that was put into it.
/// `Ok((found, true))`: ours; `false`: somebody was faster, and theirs is the one.
///
/// # Errors
/// The store does not answer: the outcome is unknown, look it up again.
pub async fn name(books: &Books, identity: &Identity, vacant: Vacant, draft: Draft) -> Result<(Found, bool), LogError> {
    let Books { env, sealer, .. } = books;
    let Draft { volume, incarnation } = draft;
    env.failpoint("log.after_volume_before_name");
    let record = NameRecord { number: vacant.number, incarnation: volume.incarnation.clone(), created: volume.created };
    let record_name = names::name_record(identity, vacant.number);
    let (bytes, _) = name::encode(&record, sealer, &record_name, env.random())?;
    match books.site(incarnation).create(&record_name, &bytes).await? {
        Created::Ours => Ok((Found { number: vacant.number, incarnation, volume }, true)),
        Created::Theirs(bytes) => match found(books, &record_name, vacant.number, &bytes).await {
            Ok(Lookup::Found(found)) => Ok((found, false)),
            Ok(_) => Err(LogError::missing(record_name)),
            Err(Trouble::Store(error)) => Err(LogError::Unreachable(error)),
            Err(Trouble::Format(error)) => Err(LogError::undecodable(error)),
        },
    }
}

/// Creates an empty incarnation: [`draft`], then [`name`](self::name).
///
/// # Errors
/// As those.
pub async fn create(books: &Books, identity: &Identity, vacant: Vacant, origin: Option<Origin>) -> Result<(Found, bool), LogError> {
    let draft = draft(books, identity, origin).await?;
    self::name(books, identity, vacant, draft).await
}

/// The incarnation that an earlier name record of an identity means; `None`: it has no record of this number.
///
/// # Errors
/// The store does not answer, or a record is damaged.
pub async fn earlier(books: &Books, identity: &Identity, number: u64) -> Result<Option<Found>, LogError> {
    let record_name = names::name_record(identity, number);
    let Some(bytes) = books.site(Incarnation([0; 16])).get(&record_name).await? else { return Ok(None) };
    match found(books, &record_name, number, &bytes).await {
        Ok(Lookup::Found(found)) => Ok(Some(found)),
        Ok(Lookup::Damaged(why)) => Err(LogError::damaged(record_name, why)),
        Ok(_) => Ok(None),
        Err(Trouble::Store(error)) => Err(LogError::Unreachable(error)),
        Err(Trouble::Format(error)) => Err(LogError::undecodable(error)),
    }
}

/// The sealer with a volume's data key; of a clone also with those of its origins, whose packs it reads.
///
/// # Errors
/// The store does not answer, or the record of an origin is gone or damaged.
pub async fn data_sealer(books: &Books, volume: &VolumeRecord) -> Result<Sealer, LogError> {
    let own = keyed(books, &volume.incarnation, &volume.data_key)?;
    let (mut origins, mut origin) = (Vec::new(), volume.origin.clone());
    while let Some(of) = origin {
        let sealer = keyed(books, &of.incarnation, &of.data_key)?;
        // A clone of a clone names packs of both: the record of each life says where it came from.
        let incarnation = sealer.incarnation().unwrap_or(Incarnation([0; 16]));
        let name = names::volume(incarnation);
        let bytes = books.site(incarnation).get(&name).await?.ok_or_else(|| LogError::missing(name.clone()))?;
        origin = volume::decode(&bytes, &books.sealer, &name).map_err(LogError::undecodable)?.origin;
        if origins.iter().any(|known: &Sealer| known.incarnation() == sealer.incarnation()) {
            return Err(LogError::damaged(name, "it is a clone of its own clone"));
        }
        origins.push(sealer);
    }
    Ok(if origins.is_empty() { own } else { own.with_origins(origins) })
}

fn keyed(books: &Books, incarnation: &[u8], key: &[u8]) -> Result<Sealer, LogError> {
    let of = Incarnation::from_slice(incarnation);
    match (of, <[u8; 32]>::try_from(key)) {
        (Some(of), Ok(key)) => Ok(Sealer::new(books.sealer.cipher(), &key, books.sealer.store(), Some(of))),
        _ => Err(LogError::damaged("a volume's record", "it has no incarnation, or no data key of 32 bytes")),
    }
}
