//! A claim that asks for the content of a snapshot or of another claim's volume: a clone by reference, ready at once, in a life of its own,
//! so that the history of the claim's name stays as it is.

use super::cut::{bytes_of, cut};
use super::handle::Handle;
use super::{AUTHOR, Controller, Create, Problem, site};
use crate::history::Entry;
use crate::log::control::{Chain, Purging};
use crate::log::lookup::{Books, Found, Lookup, lookup, vacated};
use crate::log::{Reader, Site};
use crate::rpc::Holder;
use crate::types::{Fault, FaultKind, Identity};
use crate::volume::{Restorable, RestoreParams, restore};
use std::fmt;

/// What a new volume is to begin with, by the id that the caller has of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A snapshot.
    Snapshot(String),
    /// The volume of a claim, as it is now.
    Volume(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Snapshot(id) => write!(f, "snapshot {id}"),
            Self::Volume(id) => write!(f, "volume {id}"),
        }
    }
}

/// Where the content is.
struct Source {
    identity: Identity,
    site: Site,
    /// The snapshot's commit; `None`: the one of now.
    entry: Option<Entry>,
}

impl Controller {
    /// The life that is to be attached: a clone of the origin, made now or by an earlier call.
    pub(super) async fn cloned(
        &self,
        books: &Books,
        (handle, identity): (&Handle, &Identity),
        create: &Create,
        origin: &Origin,
    ) -> Result<Found, Problem> {
        let of_life = self.living_clone(books, (handle, identity)).await?;
        if let Some((found, true)) = of_life {
            return Ok(found);
        }
        let source = self.source(books, handle, origin).await?;
        let (from, snapshot) = (source.site.incarnation(), source.entry.as_ref().map(|entry| entry.seq));
        let same = |found: &Found| {
            let of = found.volume.origin.as_ref();
            of.is_some_and(|of| of.incarnation == *from.as_bytes() && snapshot.is_none_or(|seq| of.seq == seq))
        };
        if let Some((found, _)) = of_life {
            // Made by an earlier call that did not get to the attach.
            if same(&found) {
                return Ok(found);
            }
            let why = format!("volume {identity} is there already and did not begin with {origin}: its history is left alone");
            return Err(Fault::new(FaultKind::Exists, why).into());
        }
        let entry = match source.entry {
            Some(entry) => entry,
            None => cut(&Reader::new(source.site), &source.identity, &format!("clone {handle}")).await?,
        };
        let (bytes, capacity) = (bytes_of(&entry), create.range.chosen());
        if capacity != 0 && capacity < bytes {
            return Err(Problem::OutOfRange(format!("{origin} has {bytes} bytes, and the new volume could hold {capacity}")));
        }
        let params = RestoreParams {
            books: books.clone(),
            from: source.identity,
            what: Restorable::Commit(entry.seq),
            to: identity.clone(),
            holder: Holder { host: AUTHOR.to_owned(), ..Holder::default() },
        };
        let made = restore(&params, &|why| tracing::warn!(%why, "waiting for the store")).await;
        match (lookup(books, identity).await, made) {
            // Ours, or of another process that was faster.
            (Lookup::Found(found), _) if same(&found) => Ok(found),
            (_, Err(fault)) => Err(fault.into()),
            _ => Err(super::unknown(identity, "it was made just now and is not found").into()),
        }
    }

    /// The life of this name, and whether the claim is attached to it already; `None`: there is none, or it was removed to its end.
    async fn living_clone(&self, books: &Books, (handle, identity): (&Handle, &Identity)) -> Result<Option<(Found, bool)>, Problem> {
        match lookup(books, identity).await {
            Lookup::Absent(_) => Ok(None),
            Lookup::Found(found) => {
                let site = site(books, &found).await?;
                let chain = Chain::read(site.clone()).await?;
                if chain.state().purging == Purging::Done && vacated(&site, &found).await?.is_some() {
                    return Ok(None);
                }
                let attached = chain.state().attached.contains_key(handle.claim());
                Ok(Some((found, attached)))
            }
            Lookup::Damaged(why) => Err(super::damaged(identity, &why).into()),
            Lookup::Unknown(why) => Err(super::unknown(identity, &why).into()),
        }
    }

    async fn source(&self, books: &Books, handle: &Handle, origin: &Origin) -> Result<Source, Problem> {
        let gone = || Fault::new(FaultKind::NotFound, format!("there is no {origin}"));
        let elsewhere = |alias: &str| {
            let why =
                format!("{origin} is in store `{alias}`, and the new volume would be in `{}`: take a class of that store", handle.alias());
            Fault::new(FaultKind::Invalid, why)
        };
        match origin {
            Origin::Snapshot(id) => {
                let id = self.snapshot_id(id).ok_or_else(gone)?;
                if id.alias() != handle.alias() {
                    return Err(elsewhere(id.alias()).into());
                }
                let found = self.snapshot_in(books, &id).await?.ok_or_else(gone)?;
                let entry = super::snapshot::entry(&found.site, &found.snapshot).await?;
                Ok(Source { identity: found.identity, site: found.site, entry: Some(entry) })
            }
            Origin::Volume(id) => {
                let of = Handle::parse(id).ok_or_else(gone)?;
                if of.alias() != handle.alias() {
                    return Err(elsewhere(of.alias()).into());
                }
                let (identity, site) = self.attached_site(books, &of).await?.ok_or_else(gone)?;
                Ok(Source { identity, site, entry: None })
            }
        }
    }

    /// The volume of an attached claim, and where it lies.
    pub(super) async fn attached_site(&self, books: &Books, handle: &Handle) -> Result<Option<(Identity, Site)>, Problem> {
        let Some((identity, found)) = self.names.find(books, handle).await? else { return Ok(None) };
        let site = site(books, &found).await?;
        let chain = Chain::read(site.clone()).await?;
        let ours = self.is_ours(&identity) && chain.state().attached.contains_key(handle.claim());
        Ok(ours.then_some((identity, site)))
    }
}
