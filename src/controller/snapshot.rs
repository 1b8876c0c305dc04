//! Snapshots: named commits in the control chains of volumes. What is cut, kept and listed here is what `holdfast snapshot` has too.

use super::cut::{bytes_of, cut};
use super::handle::Handle;
use super::snapshot_id::{SnapshotId, is_unique, name_of};
use super::{AUTHOR, Controller, PAGE, Problem, begin_purge, site};
use crate::format::names;
use crate::history::snapshot::{self, Naming, Wanted};
use crate::history::{self, Entry};
use crate::log::control::{Chain, Purging};
use crate::log::lookup::{Books, Lookup, lookup};
use crate::log::{Reader, Site};
use crate::store;
use crate::types::{Fault, FaultKind, Identity, UnixNanos};
use std::time::Duration;

/// A page of a listing that names neither snapshot nor volume is no longer than this.
const ENTRIES_MAX: usize = 500;
/// And looks at volumes for so long.
const LISTING_MAX: Duration = Duration::from_secs(5);
/// The claim of a snapshot that no claim of Kubernetes was cut to, where none is attached either.
const NOBODY: &str = "00000000-0000-0000-0000-000000000000";

/// A snapshot, as Kubernetes hears of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Its id.
    pub id: String,
    /// The volume's handle.
    pub source: Handle,
    /// The instant that it shows.
    pub cut: UnixNanos,
    /// Bytes of its files.
    pub bytes: u64,
}

/// What to list.
#[derive(Debug, Clone, Default)]
pub struct Listing {
    /// This one alone.
    pub id: Option<String>,
    /// Those of this volume alone.
    pub source: Option<String>,
    /// So many at most; 0: as many as fit.
    pub max: usize,
    /// Where a page before ended; empty: from the beginning.
    pub after: String,
}

/// A snapshot in its volume.
pub(super) struct Kept {
    pub(super) identity: Identity,
    pub(super) site: Site,
    pub(super) snapshot: snapshot::Snapshot,
    /// A claim that is attached to the volume.
    attached: Option<String>,
}

/// Snapshots, and where the next page begins; empty: there is none.
pub type Page = (Vec<Snapshot>, String);

impl Controller {
    /// Cuts a snapshot of the state of now, or gives the one of that name.
    ///
    /// # Errors
    /// [`FaultKind::NotFound`]: no such volume; [`FaultKind::Exists`]: another volume has a snapshot of that name; [`FaultKind::Unknown`]:
    /// not yet, ask again; [`Problem::Precondition`]: the volume's holder cannot be asked.
    pub async fn create_snapshot(&self, name: &str, source: &Handle) -> Result<Snapshot, Problem> {
        let name = name_of(name);
        let _locked = self.locks.lock(&format!("snapshot {name}"))?;
        let books = self.stores.open(source.alias()).await?;
        let gone = || Fault::new(FaultKind::NotFound, format!("there is no volume {source}"));
        let (identity, site) = self.attached_site(&books, source).await?.ok_or_else(gone)?;
        let reader = Reader::new(site.clone());
        loop {
            let there = kept(&site, &identity).await?.into_iter().find(|kept| kept.snapshot.name == name);
            if let Some(kept) = there {
                if kept.snapshot.of_claim.as_deref() != Some(source.claim()) {
                    let why = format!("volume {identity} has a snapshot {name} already, which was not made of {source}");
                    return Err(Fault::new(FaultKind::Exists, why).into());
                }
                return self.shown(source.alias(), kept).await;
            }
            if !is_unique(&name) {
                self.check_elsewhere(&books, &identity, &name).await?;
            }
            let entry = cut(&reader, &identity, &format!("snapshot {name} of {source}")).await?;
            let now = store::now(&*books.store, &books.env).await.map_err(Fault::from)?;
            let naming = Naming { name: &name, seq: entry.seq, wanted: Wanted::Claim(source.claim()) };
            match snapshot::create(&reader, naming, AUTHOR, now).await {
                Ok(_) => {}
                // Another process was faster, or retention was: the first is found now, for the second a newer commit is cut.
                Err(fault) if matches!(fault.kind, FaultKind::Exists | FaultKind::Stale) => {}
                Err(fault) => return Err(fault.into()),
            }
        }
    }

    /// A snapshot of this name in another volume of this cluster and store.
    async fn check_elsewhere(&self, books: &Books, identity: &Identity, name: &str) -> Result<(), Problem> {
        let mut volumes = Volumes::after(&self.cluster, None);
        while let Some(other) = volumes.next(books).await? {
            if other == *identity {
                continue;
            }
            let Some(site) = self.life(books, &other).await? else { continue };
            if kept(&site, &other).await?.iter().any(|kept| kept.snapshot.name == name) {
                let why = format!("there is a snapshot {name} already, of volume {other}");
                return Err(Fault::new(FaultKind::Exists, why).into());
            }
        }
        Ok(())
    }

    /// Ends a snapshot; one that is not there is gone. Volumes that were made from it stay.
    ///
    /// # Errors
    /// The store's; damage.
    pub async fn delete_snapshot(&self, id: &str) -> Result<(), Problem> {
        let Some(id) = self.snapshot_id(id) else { return Ok(()) };
        let _locked = self.locks.lock(&format!("snapshot {id}"))?;
        let books = self.stores.open(id.alias()).await?;
        let Some(Kept { site, snapshot, .. }) = self.snapshot_in(&books, &id).await? else { return Ok(()) };
        let reader = Reader::new(site);
        let now = store::now(&*books.store, &books.env).await.map_err(Fault::from)?;
        match snapshot::unclaim(&reader, snapshot.claim, AUTHOR, now).await {
            Err(fault) if fault.kind != FaultKind::NotFound => return Err(fault.into()),
            _ => {}
        }
        let chain = Chain::read(reader.site().clone()).await?;
        if chain.state().purge_wanted && chain.state().purging == Purging::No {
            // Its last claim was deleted while the snapshot held it.
            if let Err(problem) = begin_purge(&reader, now).await {
                tracing::warn!(%problem, "the removal of a volume does not begin with the end of its snapshot");
            }
        }
        Ok(())
    }

    /// One snapshot; `None`: there is none of that id.
    ///
    /// # Errors
    /// The store's; damage.
    pub async fn snapshot(&self, id: &str) -> Result<Option<Snapshot>, Problem> {
        let Some(id) = self.snapshot_id(id) else { return Ok(None) };
        let books = self.stores.open(id.alias()).await?;
        let Some(kept) = self.snapshot_in(&books, &id).await? else { return Ok(None) };
        let shown = self.shown(id.alias(), kept).await?;
        // As it was asked for: a person may have written it.
        Ok(Some(Snapshot { id: id.to_string(), ..shown }))
    }

    /// Snapshots of this cluster's volumes.
    ///
    /// # Errors
    /// [`FaultKind::Busy`]: that is not where a page ended; the store's; damage.
    pub async fn list_snapshots(&self, listing: &Listing) -> Result<Page, Problem> {
        let after = match listing.after.as_str() {
            "" => None,
            text => Some(Mark::parse(&self.cluster, text).ok_or_else(|| {
                Fault::new(FaultKind::Busy, "starting_token is not where a page of this driver ended: list from the beginning")
            })?),
        };
        let of_source = |snapshot: &Snapshot, handle: &Handle| snapshot.source == *handle;
        if let Some(id) = &listing.id {
            let found = self.snapshot(id).await?;
            let source = listing.source.as_deref().map(Handle::parse);
            let found = found.filter(|found| source.as_ref().is_none_or(|of| of.as_ref().is_some_and(|of| of_source(found, of))));
            return Ok((found.into_iter().collect(), String::new()));
        }
        let mut page =
            Filling { max: if listing.max == 0 { ENTRIES_MAX } else { listing.max.min(ENTRIES_MAX) }, after, ..Filling::default() };
        if let Some(source) = &listing.source {
            let Some(source) = Handle::parse(source) else { return Ok(Page::default()) };
            let books = self.stores.open(source.alias()).await?;
            if let Some((identity, found)) = self.names.find(&books, &source).await?
                && self.is_ours(&identity)
            {
                let of_claim = |kept: &Kept| kept.snapshot.of_claim.as_deref().is_none_or(|of| of == source.claim());
                let all: Vec<Kept> = kept(&site(&books, &found).await?, &identity).await?.into_iter().filter(of_claim).collect();
                self.fill(&mut page, source.alias(), &identity, all, Some(&source)).await?;
            }
            return Ok(page.done());
        }
        self.list_all(page).await
    }

    async fn list_all(&self, mut page: Filling) -> Result<Page, Problem> {
        let mut aliases = self.stores.aliases()?;
        aliases.sort();
        let begun = page.after.clone();
        for alias in aliases.iter().filter(|alias| begun.as_ref().is_none_or(|mark| **alias >= mark.alias)) {
            let books = self.stores.open(alias).await?;
            let end = books.env.monotonic() + LISTING_MAX;
            let mut volumes = Volumes::after(&self.cluster, begun.as_ref().filter(|mark| mark.alias == *alias).map(|mark| &mark.identity));
            while let Some(identity) = volumes.next(&books).await? {
                if let Some(site) = self.life(&books, &identity).await? {
                    self.fill(&mut page, alias, &identity, kept(&site, &identity).await?, None).await?;
                }
                if page.more {
                    return Ok(page.done());
                }
                if books.env.monotonic() >= end {
                    // Everything of this volume was looked at.
                    return Ok((page.found, Mark { alias: alias.clone(), identity, claim: u64::MAX }.to_string()));
                }
            }
        }
        Ok(page.done())
    }

    /// Takes the snapshots of a volume into a page, until it is full.
    async fn fill(
        &self,
        page: &mut Filling,
        alias: &str,
        identity: &Identity,
        mut all: Vec<Kept>,
        source: Option<&Handle>,
    ) -> Result<(), Problem> {
        all.sort_by_key(|kept| kept.snapshot.claim);
        let begun = page.after.as_ref().filter(|mark| mark.alias == alias && mark.identity == *identity).map_or(0, |mark| mark.claim);
        for kept in all.into_iter().filter(|kept| kept.snapshot.claim > begun) {
            if page.found.len() == page.max {
                page.more = true;
                return Ok(());
            }
            page.last = Some(Mark { alias: alias.to_owned(), identity: identity.clone(), claim: kept.snapshot.claim });
            let shown = self.shown(alias, kept).await?;
            page.found.push(match source {
                Some(source) => Snapshot { source: source.clone(), ..shown },
                None => shown,
            });
        }
        Ok(())
    }

    async fn shown(&self, alias: &str, kept: Kept) -> Result<Snapshot, Problem> {
        let Kept { identity, site, snapshot, attached } = kept;
        let entry = entry(&site, &snapshot).await?;
        let claim = snapshot.of_claim.clone().or(attached).unwrap_or_else(|| NOBODY.to_owned());
        let source = Handle::of_claim(alias, &identity, &claim);
        let id = SnapshotId::new(&self.cluster, alias, &identity, &snapshot.name).to_string();
        Ok(Snapshot { id, source, cut: entry.time, bytes: bytes_of(&entry) })
    }

    pub(super) fn snapshot_id(&self, text: &str) -> Option<SnapshotId> {
        SnapshotId::parse(&self.cluster, text)
    }

    /// The snapshot of an id.
    pub(super) async fn snapshot_in(&self, books: &Books, id: &SnapshotId) -> Result<Option<Kept>, Problem> {
        let identity = match id.identity() {
            Some(identity) => Some(identity.clone()),
            None => super::listed(books, &|identity| self.is_ours(identity) && id.is_of(identity)).await?,
        };
        let Some(identity) = identity else { return Ok(None) };
        let Some(site) = self.life(books, &identity).await? else { return Ok(None) };
        Ok(kept(&site, &identity).await?.into_iter().find(|kept| id.means(&kept.snapshot.name)))
    }

    /// Where a volume lies; `None`: proven that there is none.
    async fn life(&self, books: &Books, identity: &Identity) -> Result<Option<Site>, Problem> {
        match lookup(books, identity).await {
            Lookup::Found(found) => Ok(Some(site(books, &found).await?)),
            Lookup::Absent(_) => Ok(None),
            Lookup::Damaged(why) => Err(super::damaged(identity, &why).into()),
            Lookup::Unknown(why) => Err(super::unknown(identity, &why).into()),
        }
    }
}

/// The snapshots of a volume.
async fn kept(site: &Site, identity: &Identity) -> Result<Vec<Kept>, Problem> {
    let chain = Chain::read(site.clone()).await?;
    if chain.state().purging == Purging::Done {
        return Ok(Vec::new());
    }
    let attached = chain.state().attached.keys().next().cloned();
    let kept = |snapshot| Kept { identity: identity.clone(), site: site.clone(), snapshot, attached: attached.clone() };
    Ok(snapshot::snapshots(chain.state()).into_iter().map(kept).collect())
}

/// The commit that a snapshot names.
pub(super) async fn entry(site: &Site, snapshot: &snapshot::Snapshot) -> Result<Entry, Fault> {
    let missing = || {
        Fault::new(
            FaultKind::Damaged,
            format!("commit {} is missing from the store, though snapshot {} holds it", snapshot.seq, snapshot.name),
        )
    };
    history::commit(&Reader::new(site.clone()), snapshot.seq).await?.ok_or_else(missing)
}

/// Where a page ended: after this record of the control chain of this volume.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mark {
    alias: String,
    identity: Identity,
    claim: u64,
}

impl Mark {
    fn parse(cluster: &str, text: &str) -> Option<Self> {
        let (alias, rest) = text.split_once(':')?;
        let (identity, claim) = rest.rsplit_once(':')?;
        let identity = Identity::parse(identity).ok().filter(|identity| super::is_of_cluster(identity, cluster))?;
        super::is_alias(alias).then_some(())?;
        Some(Self { alias: alias.to_owned(), identity, claim: claim.parse().ok()? })
    }
}

impl std::fmt::Display for Mark {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}:{}", self.alias, self.identity, self.claim)
    }
}

/// A page on its way.
#[derive(Debug, Default)]
struct Filling {
    max: usize,
    after: Option<Mark>,
    found: Vec<Snapshot>,
    last: Option<Mark>,
    more: bool,
}

impl Filling {
    fn done(self) -> Page {
        let next = self.last.filter(|_| self.more).map(|mark| mark.to_string());
        (self.found, next.unwrap_or_default())
    }
}

/// The volumes of a cluster in a store, one after the other.
struct Volumes {
    prefix: String,
    after: Option<String>,
    page: std::collections::VecDeque<Identity>,
    last: Option<Identity>,
    ended: bool,
}

impl Volumes {
    /// All, or from this one on.
    fn after(cluster: &str, from: Option<&Identity>) -> Self {
        let prefix = format!("{}{cluster}/", names::names_prefix());
        Self { prefix, after: from.map(|from| names::name_record(from, 0)), page: Default::default(), last: None, ended: false }
    }

    async fn next(&mut self, books: &Books) -> Result<Option<Identity>, Problem> {
        while self.page.is_empty() && !self.ended {
            let page = books.store.list(&self.prefix, self.after.as_deref(), PAGE).await.map_err(Fault::from)?;
            self.ended = page.len() < PAGE;
            self.after = page.last().map(|meta| meta.name.clone()).or_else(|| self.after.take());
            for (identity, _) in page.iter().filter_map(|meta| names::parse_name_record(&meta.name)) {
                // One with several lives has several records, one after the other.
                if self.last.as_ref() != Some(&identity) {
                    self.last = Some(identity.clone());
                    self.page.push_back(identity);
                }
            }
        }
        Ok(self.page.pop_front())
    }
}
