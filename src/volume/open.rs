//! Opening a volume: whose it is, whether the cache goes on or is set aside, and what a fresh one is filled with.
//!
//! Order (protocol.md 1.2, 7.3, 9, 10): look the identity up, see who holds the log, make the cache when there is none, append our `open`
//! that names it, and only then hydrate: from the `open` on no older writer can add to what we read. So whoever ends on the way leaves a
//! cache by which the next mount here knows that the log is its own: without a head, as nothing in it was ever shown to anybody.

use super::branch::{self, ASIDE, DAMAGED};
use super::holder;
use super::limits::Sizes;
use super::next;
use super::source::{self, Shown};
use crate::cache::{Cache, CacheOptions, CacheOrigin, Head};
use crate::env::Env;
use crate::hydrate;
use crate::log::control::{Chain, Purging};
use crate::log::lookup::{Books, Found, vacated};
use crate::log::{self, CacheState, Hint, LogError, Lookup, Outcome, Phase, Reader, Site, Tip, Writer, WriterParams};
use crate::peer::Desk;
use crate::policy::Policy;
use crate::rpc;
use crate::store::plan::Budget;
use crate::store::{Counters, Counting, Objects, Store};
use crate::types::{CacheId, Fault, FaultKind, Identity, Incarnation, WriterId};
use crate::writeback::{LastCommit, Tail};
use bytes::Bytes;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// What to open and how.
#[derive(Debug, Clone)]
pub struct OpenParams {
    /// The store, and the key of its own objects.
    pub books: Books,
    /// Which volume.
    pub identity: Identity,
    /// Its cache directory on this node.
    pub cache: CacheOptions,
    /// How soon what must be stored.
    pub policy: Policy,
    /// Limits.
    pub sizes: Sizes,
    /// What writing may cost in requests.
    pub budget: Budget,
    /// Take the volume from a holder that did not close it: a person said so.
    pub take_over: bool,
    /// Who opens: stands in the `open` record.
    pub host: String,
    /// Independent of boots: the machine or cluster.
    pub installation: String,
    /// This boot.
    pub boot_id: String,
    /// Where this process answers who wants the volume; `None`: nowhere.
    pub desk: Option<Arc<Desk>>,
    /// Wait for a holder that has the volume in use.
    pub wait: bool,
    /// Tells the person who waits for the holder how it goes.
    pub tell: fn(&str),
}

/// An open volume, before anything runs.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) objects: Objects,
    pub(super) cache: Arc<Cache>,
    pub(super) writer: Writer,
    pub(super) tail: Tail,
    pub(super) last: Option<LastCommit>,
    pub(super) report: Report,
    /// Counts the requests of `objects` and `writer`.
    pub(super) requests: Arc<Counters>,
    /// Packs of the commit that was under way when the last process ended, if it landed.
    pub(super) landed: Vec<rpc::ObjectRef>,
}

/// What opening found, for whoever tells it to a person.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// The volume had not existed: it does now, empty.
    pub created: bool,
    /// The cache of an earlier mount goes on.
    pub resumed: bool,
    /// The cache that was set aside, never deleted, because it did not agree with the log.
    pub set_aside: Option<PathBuf>,
    /// Everything came from the store: what the application had written after this instant and no commit holds is not here.
    pub hydrated: Option<LastCommit>,
    /// Commits that were read after the newest checkpoint (bounded).
    pub commits_read: usize,
    /// The cache was not what had been written, and was set aside: where it is, and what is known of what it had in no commit.
    pub damaged: Option<String>,
    /// And something in it may have been in no commit.
    pub lost: bool,
    /// The log could not be opened: what is written stays in this cache.
    pub failed: Option<String>,
    /// The log could not be opened, because another writer has taken the volume.
    pub fenced: Option<String>,
    /// The log of a mount that was taken over is not open yet; it is tried again.
    pub waiting: Option<Waiting>,
}

/// Why the log of a mount that was taken over is not open yet.
#[derive(Debug, Clone)]
pub struct Waiting {
    /// What was said the last time.
    pub why: String,
    /// It was the store's word, or its silence.
    pub store: bool,
    /// Since when, by the monotonic clock.
    pub since: Duration,
}

/// Looks the volume up, waiting as long as the store says nothing.
pub(super) async fn look_up(books: &Books, identity: &Identity, waiting: &(dyn Fn(&str) + Sync)) -> Result<Lookup, Fault> {
    let mut tries = 0u32;
    loop {
        match log::lookup(books, identity).await {
            Lookup::Unknown(why) => {
                waiting(&why);
                if tries == 0 {
                    tracing::warn!(volume = %identity, %why, "the store does not say whether the volume exists; waiting for it");
                }
                tries += 1;
                books.env.sleep(Duration::from_millis(500).saturating_mul(1 << tries.min(5))).await;
            }
            Lookup::Damaged(why) => {
                return Err(Fault::new(FaultKind::Damaged, format!("volume {identity} cannot be looked up: {why}")));
            }
            known => return Ok(known),
        }
    }
}

/// Opens for writing, with the cache that is there or a new one.
pub(super) async fn open(params: &OpenParams, waiting: &(dyn Fn(&str) + Sync)) -> Result<Opened, Fault> {
    let place = place(params, waiting, true).await?;
    let mut report = Report { created: place.created, ..Report::default() };
    let Existing { cache, own } = existing_cache(params, place.objects.incarnation(), &mut report).await?;
    let (objects, epoch) = (place.objects.clone(), place.tip.epoch);
    let mut place = match admitted(params, place, own, waiting).await {
        Ok(place) => place,
        Err(refusal) => {
            return Err(match cache {
                Some(cache) => {
                    let fenced = cache.head().is_some_and(|head| head.epoch < epoch);
                    branch::before_refusal(params, objects, cache, fenced, refusal).await
                }
                None => refusal,
            });
        }
    };
    let mut cache = cache;
    if next::carry_out(params, &place.reader, place.chain.take(), &mut cache, &mut report).await? {
        place.tip = place.reader.tip(Hint::default()).await?;
        place = admitted(params, place, own, waiting).await?;
    }
    // Before the `open` that names it: whoever ends between the two finds here what holds the log.
    let mut cache = match cache {
        Some(cache) => cache,
        None => new_cache(params, &place.objects).await?,
    };
    loop {
        let may_open = |tip: &Tip| holder::held(params, tip, own).is_none();
        match Writer::open_if(place.site.clone(), writer_params(params, &place.tip, &cache)?, &may_open).await {
            Ok((writer, opened)) if cache.head().is_some() => return go_on(place, cache, writer, opened, report).await,
            Ok((writer, opened)) => return fill(place, cache, writer, opened.before, report).await,
            Err(LogError::Held { .. }) => {
                place.tip = place.reader.tip(Hint::default()).await?;
                place = admitted(params, place, own, waiting).await?;
            }
            // To go on from the older log would make a second history of it, and nobody would miss the first one.
            Err(error @ LogError::RolledBack { .. }) => {
                let next = "nothing was changed: when the newer records are there again, mount again; when they are lost for good, move this machine's \
                            cache away (it may hold what the store lost) and mount";
                return Err(Fault::new(FaultKind::Damaged, format!("{error}; {next}: {}", params.cache.dir.display())));
            }
            Err(error @ LogError::Diverged { .. }) if cache.head().is_some() => {
                tracing::warn!(%error, "this node's cache is older than the log or went another way");
                cache.close()?;
                drop(cache);
                report.set_aside = Some(set_aside(&params.cache.dir, &params.books.env)?);
                cache = new_cache(params, &place.objects).await?;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// The place when nobody else holds it (any more), or a person said so. What may have changed while this waited is looked up again.
async fn admitted(params: &OpenParams, mut place: Place, own: Option<CacheId>, waiting: &(dyn Fn(&str) + Sync)) -> Result<Place, Fault> {
    while holder::waited(params, &place.reader, &place.tip, own).await? {
        let (life, created) = (place.objects.incarnation(), place.created);
        place = self::place(params, waiting, true).await?;
        if place.objects.incarnation() != life {
            let why = format!("volume {} was removed and made anew while this mount waited for it: mount it again", params.identity);
            return Err(Fault::new(FaultKind::Busy, why));
        }
        place.created = created;
    }
    Ok(place)
}

/// Opens the log for a cache that serves a live mount already: it goes on or nothing does.
pub(super) async fn open_with(params: &OpenParams, cache: Arc<Cache>, waiting: &(dyn Fn(&str) + Sync)) -> Result<Opened, Fault> {
    let place = place(params, waiting, false).await?;
    if place.objects.incarnation() != cache.origin().incarnation {
        // Removed, and a new life was made since.
        return Err(gone(&params.identity));
    }
    let cache_id = cache.origin().cache_id;
    // That a person once said `--take-over` to this mount is no leave to take the volume back from whoever has taken it since.
    let params = &OpenParams { take_over: false, ..params.clone() };
    let may_open = |tip: &Tip| holder::held(params, tip, Some(cache_id)).is_none();
    let fenced = |why: &dyn std::fmt::Display| Fault::new(FaultKind::Fenced, format!("another writer has taken the volume over: {why}"));
    match Writer::open_if(place.site.clone(), writer_params(params, &place.tip, &cache)?, &may_open).await {
        Ok((writer, opened)) => go_on(place, cache, writer, opened, Report::default()).await,
        Err(error @ (LogError::Diverged { .. } | LogError::Held { .. })) => Err(fenced(&error)),
        Err(error) => Err(error.into()),
    }
}

/// A volume's place in the store, and where its log ends.
struct Place {
    objects: Objects,
    site: Site,
    reader: Reader,
    tip: Tip,
    created: bool,
    /// Its control chain as far as it was read; `None`: this life was made just now.
    chain: Option<Chain>,
    requests: Arc<Counters>,
}

async fn place(params: &OpenParams, waiting: &(dyn Fn(&str) + Sync), may_create: bool) -> Result<Place, Fault> {
    let OpenParams { books, identity, .. } = params;
    let ((found, created), chain) = match look_up(books, identity, waiting).await? {
        Lookup::Found(found) => live_or_next(books, identity, found, may_create).await?,
        Lookup::Absent(vacant) if may_create => (log::create(books, identity, vacant, None).await?, None),
        Lookup::Absent(_) => return Err(gone(identity)),
        Lookup::Damaged(why) | Lookup::Unknown(why) => return Err(Fault::new(FaultKind::Unknown, why)),
    };
    let sealer = log::data_sealer(books, &found.volume).await?;
    let requests = Arc::new(Counters::default());
    let store: Arc<dyn Store> = Arc::new(Counting::new(Arc::clone(&books.store), Arc::clone(&requests), books.env.clone()));
    let objects = Objects::new(store, sealer, found.incarnation, books.env.clone());
    let site = Site::of(objects.clone());
    let reader = Reader::new(site.clone());
    let tip = reader.tip(Hint::default()).await?;
    if let Some(desk) = &params.desk {
        desk.holds(objects.sealer());
    }
    Ok(Place { objects, site, reader, tip, created, chain, requests })
}

/// A life that goes on, or, where the last one was removed and its log read to the `fence`, a new and empty one. While it is being removed
/// nobody opens it.
async fn live_or_next(books: &Books, identity: &Identity, found: Found, may_create: bool) -> Result<((Found, bool), Option<Chain>), Fault> {
    let sealer = log::data_sealer(books, &found.volume).await?;
    let site = Site::new(Arc::clone(&books.store), books.env.clone(), sealer, found.incarnation);
    let chain = Chain::read(site.clone()).await?;
    match chain.state().purging {
        Purging::No => Ok(((found, false), Some(chain))),
        Purging::Begun { .. } => Err(Fault::new(
            FaultKind::Busy,
            format!("volume {identity} is being removed: `holdfast volume rm {identity} --undo` keeps it, the same without --undo ends it"),
        )),
        Purging::Done if !may_create => Err(gone(identity)),
        Purging::Done => match vacated(&site, &found).await? {
            Some(vacant) => Ok((log::create(books, identity, vacant, None).await?, None)),
            None => Err(Fault::new(
                FaultKind::Busy,
                format!("the removal of volume {identity} did not get to its end: run `holdfast volume rm {identity}` again"),
            )),
        },
    }
}

/// A live mount's volume that the store does not have any more: nothing is made in its place.
fn gone(identity: &Identity) -> Fault {
    Fault::new(
        FaultKind::NotFound,
        format!("volume {identity} was removed from the store while it was mounted; what was written stays in this cache"),
    )
}

/// What was found in the cache directory.
struct Existing {
    /// The cache that goes on, or one without a head: its hydrate never ended, and it is filled anew.
    cache: Option<Arc<Cache>>,
    /// The cache whose lock we hold: an `open` in the log that names it is our own.
    own: Option<CacheId>,
}

/// The cache directory's cache if it is of this life of this volume. One of an earlier life is set aside; one of another volume is refused.
async fn existing_cache(params: &OpenParams, incarnation: Incarnation, report: &mut Report) -> Result<Existing, Fault> {
    if !Cache::exists(&params.cache.dir) {
        return Ok(Existing { cache: None, own: None });
    }
    let env = params.books.env.clone();
    let mut options = params.cache.clone();
    options.check = true;
    let (cache, recovered) = match params.books.env.blocking(move || Cache::open(env, options)).await {
        Err(fault) if fault.kind == FaultKind::Damaged => return damaged_cache(params, incarnation, &fault, report),
        opened => opened?,
    };
    let origin = cache.origin();
    check_origin(params, &origin)?;
    if origin.incarnation != incarnation {
        cache.close()?;
        drop(cache);
        report.set_aside = Some(set_aside(&params.cache.dir, &params.books.env)?);
        return Ok(Existing { cache: None, own: None });
    }
    let own = Some(origin.cache_id);
    tracing::info!(?recovered, filled = cache.head().is_some(), "the cache of an earlier mount goes on");
    Ok(Existing { cache: Some(cache), own })
}

fn check_origin(params: &OpenParams, origin: &CacheOrigin) -> Result<(), Fault> {
    if origin.identity == params.identity && origin.store_id == params.books.sealer.store() {
        return Ok(());
    }
    let (dir, CacheOrigin { identity, store_id, .. }) = (params.cache.dir.display(), origin);
    let message = format!("{dir} is the cache of volume {identity} in store {store_id}; choose another directory (--cache)");
    Err(Fault::new(FaultKind::Invalid, message))
}

/// A cache that is not what was written is kept for a person, and nothing of it goes anywhere: the volume comes from the log.
fn damaged_cache(params: &OpenParams, incarnation: Incarnation, fault: &Fault, report: &mut Report) -> Result<Existing, Fault> {
    let dir = &params.cache.dir;
    let origin = Cache::origin_beside(dir);
    if let Some(origin) = &origin {
        check_origin(params, origin)?;
    }
    let (had, nothing) = Cache::survey(dir);
    let kept = move_aside(dir, &params.books.env, DAMAGED)?;
    tracing::error!(%fault, kept = %kept.display(), %had, "the cache is damaged and was set aside; the volume comes from the log");
    report.lost = !nothing;
    report.damaged = Some(format!("the cache was damaged and is kept as {}: {had}", kept.display()));
    // Whose the log is that its driver did not close: nobody else can have this directory.
    let own = origin.filter(|origin| origin.incarnation == incarnation).map(|origin| origin.cache_id);
    Ok(Existing { cache: None, own })
}

/// An empty cache, without a head.
async fn new_cache(params: &OpenParams, objects: &Objects) -> Result<Arc<Cache>, Fault> {
    let origin = CacheOrigin {
        store_id: params.books.sealer.store(),
        incarnation: objects.incarnation(),
        identity: params.identity.clone(),
        cache_id: CacheId(params.books.env.random()),
    };
    let (env, options) = (params.books.env.clone(), params.cache.clone());
    objects.env().blocking(move || Cache::create(env, options, &origin)).await
}

fn writer_params(params: &OpenParams, tip: &Tip, cache: &Cache) -> Result<WriterParams, Fault> {
    let mut unnamed: Vec<rpc::ObjectRef> = cache.uploads()?.into_iter().map(|upload| upload.object).collect();
    unnamed.dedup();
    let intent = cache.intent()?;
    let state = cache.head().map(|head| CacheState { head, intent, unnamed });
    Ok(WriterParams {
        writer: WriterId(params.books.env.random()),
        holder: rpc::Holder {
            host: params.host.clone(),
            installation: params.installation.clone(),
            boot_id: params.boot_id.clone(),
            address: params.desk.as_ref().map(|desk| desk.address().to_string()).unwrap_or_default(),
            cache_id: Bytes::copy_from_slice(cache.origin().cache_id.as_bytes()),
            certificate: params.desk.as_ref().map(|desk| Bytes::copy_from_slice(desk.certificate().as_bytes())).unwrap_or_default(),
        },
        cache: state,
        hint: Hint { seq: tip.seq, open: tip.open.as_ref().map_or(0, |record| record.seq) },
    })
}

/// A surviving cache goes on: its intent is resolved, its head moves to our `open`.
async fn go_on(place: Place, cache: Arc<Cache>, writer: Writer, opened: log::OpenReport, mut report: Report) -> Result<Opened, Fault> {
    let Place { objects, reader, requests, .. } = place;
    let head = writer.head();
    if let (Some(Outcome::Landed), Some(seq)) = (opened.intent, cache.intent()?.map(|intent| intent.seq)) {
        tracing::info!(seq, "the commit that was under way when the last driver ended is in the log");
        let held = async { objects.deltas(&objects.commit(seq).await?).await };
        match held.await {
            Ok(deltas) => {
                let local = Arc::clone(&cache);
                objects.env().blocking(move || local.landed(&deltas)).await?;
            }
            // It is not needed: of what it holds, a file that is renamed to a `local` name from now on is left behind as it is, without a name.
            Err(fault) => tracing::warn!(%fault, seq, "what that commit holds cannot be read, and does not count as captured"),
        }
    }
    let local = Arc::clone(&cache);
    objects
        .env()
        .blocking(move || {
            local.set_epoch(head.epoch)?;
            local.set_head(head)?;
            local.set_intent(None)
        })
        .await?;
    let mut tail = Tail::unread(opened.before.checkpoint, (opened.before.seq, opened.before.hash));
    tail.opened(head.seq);
    report.resumed = true;
    // For status and flush: nothing decides by it.
    let last = source::newest_commit(&reader, opened.before.seq).await;
    Ok(Opened { objects, cache, writer, tail, last, report, requests, landed: opened.landed })
}

/// A cache without a head is filled with what the log shows.
async fn fill(place: Place, cache: Arc<Cache>, writer: Writer, before: Tip, mut report: Report) -> Result<Opened, Fault> {
    let Place { objects, reader, requests, .. } = place;
    let at = Head { seq: before.seq, hash: before.hash, epoch: before.epoch };
    let Shown { source, mut tail, last } = match before.phase {
        Phase::Empty => Shown { source: hydrate::Source::default(), tail: Tail::after(None), last: None },
        Phase::Open | Phase::Closed | Phase::Fenced => source::read(&objects, &reader, before.checkpoint, at).await?,
    };
    report.commits_read = source.commits.len();
    let head = writer.head();
    if last.is_some() {
        hydrate::load(&objects, &cache, hydrate::Source { head: Some(head), ..source }).await?;
    }
    let local = Arc::clone(&cache);
    objects
        .env()
        .blocking(move || {
            local.set_epoch(head.epoch)?;
            local.set_head(head)
        })
        .await?;
    tail.opened(head.seq);
    report.hydrated = last;
    Ok(Opened { objects, cache, writer, tail, last, report, requests, landed: Vec::new() })
}

/// Moves a cache directory out of the way, beside itself. Never deletes.
pub(super) fn set_aside(dir: &Path, env: &Env) -> Result<PathBuf, Fault> {
    let aside = move_aside(dir, env, ASIDE)?;
    tracing::warn!(aside = %aside.display(), "the old cache was set aside; what is dirty in it becomes a branch");
    Ok(aside)
}

fn move_aside(dir: &Path, env: &Env, what: &str) -> Result<PathBuf, Fault> {
    let mut name = dir.file_name().unwrap_or_default().to_owned();
    name.push(format!("{what}{}", hex::encode(env.random::<4>())));
    let aside = dir.with_file_name(name);
    std::fs::rename(dir, &aside).map_err(|error| {
        Fault::with(FaultKind::Local, format!("the cache {} cannot be set aside as {}", dir.display(), aside.display()), error)
    })?;
    Ok(aside)
}
