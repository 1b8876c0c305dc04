//! The cluster-side role: whose volume a claim is, that it is attached (protocol.md 2, 9, 10), its snapshots and clones. It moves no bytes and
//! keeps no state: what
//! it decides stands in the control chain, so any number of replicas may run.
//!
//! | file | |
//! |---|---|
//! | `handle.rs` | a volume's handle in Kubernetes |
//! | `wish.rs` | what a CreateVolume asks for: pure |
//! | `locks.rs` | one operation on a volume at a time |
//! | `cut.rs` | the state of a volume now, as a commit |
//! | `snapshot.rs`, `snapshot_id.rs` | snapshots, and their ids in Kubernetes |
//! | `origin.rs` | a claim that asks for the content of a snapshot or of another volume |

mod cut;
mod handle;
mod locks;
mod origin;
mod snapshot;
mod snapshot_id;
mod wish;

#[cfg(test)]
mod tests;

pub use handle::{ALIAS_MAX, Handle, is_alias};
pub use locks::{Locked, Locks};
pub use origin::Origin;
pub use snapshot::{Listing, Page, Snapshot};
pub use wish::{CAPACITY_MAX, Create, Range};

use crate::format::names;
use crate::history;
use crate::log::control::{Attachment, Chain, Purging, Refused, State};
use crate::log::lookup::{Books, Found, Lookup, create, lookup, vacated};
use crate::log::{self, Hint, LogError, Phase, Reader, Site};
use crate::rpc::control_record::Kind as Control;
use crate::rpc::log_record::Kind;
use crate::rpc::{Attach, Detach};
use crate::store;
use crate::types::{Fault, FaultKind, Identity};
use async_trait::async_trait;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use wish::{Wish, wish};

/// Who appends control records here.
const AUTHOR: &str = "controller";
/// Objects asked for in one listing.
const PAGE: usize = 1000;

/// The named stores of this installation.
#[async_trait]
pub trait Stores: Send + Sync + fmt::Debug {
    /// Opens one, with the credentials that it has now.
    ///
    /// # Errors
    /// [`FaultKind::Unknown`]: it does not answer, or there is none of that name yet.
    async fn open(&self, alias: &str) -> Result<Books, Fault>;

    /// The names of all that there are now.
    ///
    /// # Errors
    /// It is not known.
    fn aliases(&self) -> Result<Vec<String>, Fault>;
}

/// Why a request was not carried out.
#[derive(Debug)]
pub enum Problem {
    /// By its kind.
    Fault(Fault),
    /// A size that cannot be.
    OutOfRange(String),
    /// The volume's state does not allow it; it has to be changed first.
    Precondition(String),
}

impl From<Fault> for Problem {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl From<LogError> for Problem {
    fn from(error: LogError) -> Self {
        Self::Fault(error.into())
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fault(fault) => fault.fmt(f),
            Self::OutOfRange(why) | Self::Precondition(why) => f.write_str(why),
        }
    }
}

/// A volume that a claim is attached to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimed {
    /// The handle.
    pub handle: Handle,
    /// The volume.
    pub identity: Identity,
    /// Bytes that it may hold; 0: no limit.
    pub capacity: u64,
}

/// See the head of this file.
#[derive(Debug)]
pub struct Controller {
    cluster: String,
    stores: Arc<dyn Stores>,
    locks: Locks,
    names: Names,
}

impl Controller {
    /// Of a cluster: the first part of each volume's identity.
    ///
    /// # Errors
    /// [`FaultKind::Invalid`]: it cannot be one.
    pub fn new(cluster: &str, stores: Arc<dyn Stores>) -> Result<Self, Fault> {
        match Identity::parse(cluster) {
            Ok(_) if !cluster.contains('/') => {
                Ok(Self { cluster: cluster.to_owned(), stores, locks: Locks::default(), names: Names::default() })
            }
            _ => Err(Fault::new(FaultKind::Invalid, format!("`{}` cannot be the name of a cluster", cluster.escape_debug()))),
        }
    }

    /// Decides whose volume it is, makes it when it is proven absent, and attaches the claim. A store that does not answer decides nothing.
    ///
    /// # Errors
    /// [`FaultKind::Exists`]: this name has a volume of another size; [`FaultKind::Unknown`]: nothing is known; [`FaultKind::Damaged`].
    pub async fn create(&self, create: &Create) -> Result<Claimed, Problem> {
        let Wish { handle, identity, other, purge } = wish(&self.cluster, create)?;
        let _locked = (self.locks.lock(&handle.to_string())?, self.locks.lock(handle.claim())?);
        check_range(create.range)?;
        let books = self.stores.open(handle.alias()).await?;
        self.names.know(&handle, &identity);
        let source = create.origin.as_ref().map(Origin::to_string).unwrap_or_default();
        if let Some(other) = other {
            self.check_not_attached(&books, other, &handle, &create.name).await?;
        }
        loop {
            let found = match &create.origin {
                None => living(&books, &identity).await?,
                Some(origin) => self.cloned(&books, (&handle, &identity), create, origin).await?,
            };
            let mut chain = Chain::read(site(&books, &found).await?).await?;
            let capacity = create.range.chosen();
            let wanted = Attach { claim_uid: handle.claim().to_owned(), capacity, purge, source: source.clone() };
            let decide = |state: &State| match state.attached.contains_key(handle.claim()) {
                true => Err(Refused::Already),
                false => Ok(Control::Attach(wanted.clone())),
            };
            let now = store::now(&*books.store, &books.env).await.map_err(Fault::from)?;
            match chain.append(AUTHOR, now, &decide).await {
                Ok(_) | Err(LogError::Control(Refused::Already)) => {}
                // Its removal ended at this moment: the claim gets the next life.
                Err(LogError::Control(Refused::Purged)) => continue,
                Err(error) => return Err(error.into()),
            }
            let Some(attached) = chain.state().attached.get(handle.claim()) else { continue };
            if attached.source != source {
                return Err(other_source(&create.name, &attached.source).into());
            }
            if !create.range.admits(attached.capacity) {
                let why =
                    format!("volume {} has {} bytes already, which is not the size that is asked for now", create.name, attached.capacity);
                return Err(Fault::new(FaultKind::Exists, why).into());
            }
            return Ok(Claimed { handle, identity, capacity: attached.capacity });
        }
    }

    /// The claim of this name is not attached to the volume that it would have with, or without, a source.
    async fn check_not_attached(&self, books: &Books, other: Identity, handle: &Handle, name: &str) -> Result<(), Problem> {
        let Some((_, found)) = Names::look_up(books, other).await? else { return Ok(()) };
        let chain = Chain::read(site(books, &found).await?).await?;
        match chain.state().attached.get(handle.claim()) {
            Some(attached) => Err(other_source(name, &attached.source).into()),
            None => Ok(()),
        }
    }

    /// Whether a volume is of this cluster.
    fn is_ours(&self, identity: &Identity) -> bool {
        is_of_cluster(identity, &self.cluster)
    }

    /// Detaches the claim. The volume and its history stay, unless this claim's class said `onDelete: purge` and it was the last one: then
    /// its removal begins, which can be undone for a grace (`holdfast volume rm`). Where a snapshot or clone needs it, it begins with the end
    /// of the last snapshot, or by that command.
    ///
    /// # Errors
    /// [`Problem::Precondition`]: the volume to be purged is in use.
    pub async fn delete(&self, handle: &Handle) -> Result<(), Problem> {
        let _locked = self.locks.lock(&handle.to_string())?;
        let books = self.stores.open(handle.alias()).await?;
        let Some((_, found)) = self.names.find(&books, handle).await? else { return Ok(()) };
        let site = site(&books, &found).await?;
        let mut chain = Chain::read(site.clone()).await?;
        let now = store::now(&*books.store, &books.env).await.map_err(Fault::from)?;
        let detach = Control::Detach(Detach { claim_uid: handle.claim().to_owned() });
        match chain.append(AUTHOR, now, &|_| Ok(detach.clone())).await {
            // Not attached: this came before, or never was.
            Ok(_) | Err(LogError::Control(Refused::Already)) => {}
            Err(error) => return Err(error.into()),
        }
        if chain.state().purge_wanted && chain.state().purging == Purging::No {
            begin_purge(&Reader::new(site), now).await?;
        }
        Ok(())
    }

    /// The volume of an attached claim; `None`: there is no such volume.
    ///
    /// # Errors
    /// The store's; damage.
    pub async fn find(&self, handle: &Handle) -> Result<Option<Claimed>, Fault> {
        let books = self.stores.open(handle.alias()).await?;
        let Some((identity, found)) = self.names.find(&books, handle).await? else { return Ok(None) };
        let chain = Chain::read(site(&books, &found).await?).await?;
        let attached = chain.state().attached.get(handle.claim());
        Ok(attached.map(|attached| Claimed { handle: handle.clone(), identity, capacity: attached.capacity }))
    }

    /// Lets the volume hold more; gives what it may hold now.
    ///
    /// # Errors
    /// [`FaultKind::NotFound`]; [`Problem::OutOfRange`]: it holds more than the limit already, which is never taken away.
    pub async fn expand(&self, handle: &Handle, range: Range) -> Result<u64, Problem> {
        let _locked = self.locks.lock(&handle.to_string())?;
        check_range(range)?;
        let books = self.stores.open(handle.alias()).await?;
        let gone = || Fault::new(FaultKind::NotFound, format!("there is no volume {handle}"));
        let (_, found) = self.names.find(&books, handle).await?.ok_or_else(gone)?;
        let mut chain = Chain::read(site(&books, &found).await?).await?;
        let now = store::now(&*books.store, &books.env).await.map_err(Fault::from)?;
        let decide = |state: &State| match state.attached.get(handle.claim()) {
            None => Err(Refused::Purged),
            Some(Attachment { capacity, .. }) if *capacity == 0 || *capacity >= range.required => Err(Refused::Already),
            Some(Attachment { purge, source, .. }) => {
                let (purge, source) = (*purge, source.clone());
                Ok(Control::Attach(Attach { claim_uid: handle.claim().to_owned(), capacity: range.required, purge, source }))
            }
        };
        match chain.append(AUTHOR, now, &decide).await {
            Ok(_) | Err(LogError::Control(Refused::Already)) => {}
            Err(LogError::Control(Refused::Purged)) => return Err(gone().into()),
            Err(error) => return Err(error.into()),
        }
        let capacity = chain.state().attached.get(handle.claim()).map_or(0, |attached| attached.capacity);
        match (capacity, range.limit) {
            // Without a limit it may hold whatever is asked for.
            (0, _) => Ok(range.chosen()),
            (capacity, limit) if limit != 0 && capacity > limit => {
                Err(Problem::OutOfRange(format!("volume {handle} may hold {capacity} bytes, and does not become smaller")))
            }
            (capacity, _) => Ok(capacity),
        }
    }
}

/// The volumes that handles mean: names of a store's volumes never change their hash, so what was seen once is known.
#[derive(Debug, Default)]
struct Names(Mutex<BTreeMap<String, Identity>>);

impl Names {
    fn know(&self, handle: &Handle, identity: &Identity) {
        self.0.lock().insert(handle.to_string(), identity.clone());
    }

    /// The life of the volume that a handle means, with its name; `None`: proven that none has this hash.
    async fn find(&self, books: &Books, handle: &Handle) -> Result<Option<(Identity, Found)>, Fault> {
        let known = self.0.lock().get(&handle.to_string()).cloned();
        let identity = match known {
            Some(identity) => Some(identity),
            None => listed(books, &|identity| handle.is_of(identity)).await?,
        };
        let Some(identity) = identity else { return Ok(None) };
        self.know(handle, &identity);
        Self::look_up(books, identity).await
    }

    async fn look_up(books: &Books, identity: Identity) -> Result<Option<(Identity, Found)>, Fault> {
        match lookup(books, &identity).await {
            Lookup::Found(found) => Ok(Some((identity, found))),
            // Not yet made, when the name was only wished for.
            Lookup::Absent(_) => Ok(None),
            Lookup::Damaged(why) => Err(damaged(&identity, &why)),
            Lookup::Unknown(why) => Err(Fault::new(FaultKind::Unknown, why)),
        }
    }
}

/// The volume that is meant among all of the store.
async fn listed(books: &Books, means: &(dyn Fn(&Identity) -> bool + Sync)) -> Result<Option<Identity>, Fault> {
    let mut after: Option<String> = None;
    loop {
        let page = books.store.list(names::names_prefix(), after.as_deref(), PAGE).await?;
        let found = page.iter().filter_map(|meta| names::parse_name_record(&meta.name)).find(|(identity, _)| means(identity));
        if found.is_some() || page.len() < PAGE {
            return Ok(found.map(|(identity, _)| identity));
        }
        after = page.last().map(|meta| meta.name.clone());
    }
}

/// The life that a claim of this name is attached to: the one there is, or a new one where none is or the last was removed to its end.
async fn living(books: &Books, identity: &Identity) -> Result<Found, Problem> {
    let vacant = match lookup(books, identity).await {
        Lookup::Absent(vacant) => vacant,
        Lookup::Damaged(why) => return Err(damaged(identity, &why).into()),
        Lookup::Unknown(why) => return Err(unknown(identity, &why).into()),
        Lookup::Found(found) => {
            let site = site(books, &found).await?;
            if Chain::read(site.clone()).await?.state().purging != Purging::Done {
                return Ok(found);
            }
            let unfinished = || {
                let why = format!("the removal of volume {identity} did not get to its end: run `holdfast volume rm {identity}` again");
                Fault::new(FaultKind::Busy, why)
            };
            vacated(&site, &found).await?.ok_or_else(unfinished)?
        }
    };
    Ok(create(books, identity, vacant, None).await?.0)
}

async fn site(books: &Books, found: &Found) -> Result<Site, LogError> {
    let sealer = log::data_sealer(books, &found.volume).await?;
    Ok(Site::new(Arc::clone(&books.store), books.env.clone(), sealer, found.incarnation))
}

async fn begin_purge(reader: &Reader, now: i64) -> Result<(), Problem> {
    let tip = reader.tip(Hint::default()).await?;
    if let Some(open) = tip.open.as_ref().filter(|_| tip.phase == Phase::Open) {
        let host = match &open.record.kind {
            Some(Kind::Open(open)) => open.holder.clone().unwrap_or_default().host,
            _ => String::new(),
        };
        return Err(Problem::Precondition(format!(
            "it is to be purged and host {host} has it open: it is purged when it was unmounted there"
        )));
    }
    match history::begin(reader, AUTHOR, now).await {
        Ok(_) => Ok(()),
        // Somebody was attached meanwhile, or a snapshot or clone needs it: they do not depend on the claim.
        Err(fault) if fault.kind == FaultKind::Busy => {
            tracing::info!(%fault, "a volume that is to be purged stays");
            Ok(())
        }
        Err(fault) => Err(fault.into()),
    }
}

fn check_range(range: Range) -> Result<(), Problem> {
    if range.limit != 0 && range.required > range.limit {
        return Err(Problem::OutOfRange(format!("{} bytes at least and {} at most: no size is both", range.required, range.limit)));
    }
    if range.required > CAPACITY_MAX {
        return Err(Problem::OutOfRange(format!("a volume has {CAPACITY_MAX} bytes at most")));
    }
    Ok(())
}

fn other_source(name: &str, has: &str) -> Fault {
    let has = if has.is_empty() { "no other one" } else { has };
    Fault::new(FaultKind::Exists, format!("volume {name} was made with the content of {has}, which is not what is asked for now"))
}

fn is_of_cluster(identity: &Identity, cluster: &str) -> bool {
    identity.as_str().strip_prefix(cluster).is_some_and(|rest| rest.starts_with('/'))
}

fn unknown(identity: &Identity, why: &str) -> Fault {
    Fault::new(FaultKind::Unknown, format!("nothing is known of volume {identity}: {why}"))
}

fn damaged(identity: &Identity, why: &str) -> Fault {
    Fault::new(FaultKind::Damaged, format!("volume {identity} cannot be looked up: {why}"))
}
