//! A node: opens the volume, writes, commits, checkpoints, restores, closes; is frozen for weeks, killed anywhere, loses its power or its disk.

use super::bugs::Bug;
use super::engine::{Cache, KEYS, Kit, identity, tree_at};
use super::exec::{HOUR, MILLI, MINUTE, SECOND};
use super::tree::{apply, same};
use holdfast::log::control::{Chain, Refused};
use holdfast::log::lookup::{Found, Lookup, create, lookup, vacated};
use holdfast::log::{CacheState, Hint, LogError, OpenReport, Outcome, Reader, Site, Writer, WriterParams};
use holdfast::rpc::control_record::Kind as Control;
use holdfast::rpc::{Attach, Claim, Detach, Holder, Origin, Purge};
use holdfast::types::{CacheId, Seq, WriterId};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What survives a node's death: `live` a process crash, `durable` a power loss.
#[derive(Debug, Default)]
pub struct Disk {
    pub live: Option<Cache>,
    pub durable: Option<Cache>,
    pub asides: Vec<Cache>,
    /// Its claim was deleted; somebody may make it again later.
    pub deleted: bool,
}

/// How the nodes of a world behave.
#[derive(Clone, Debug)]
pub struct Habits {
    pub checkpoint_every: u64,
    pub pause_max: u64,
    pub restores: u64,
    pub purges: u64,
    /// Permille of commits whose small values lie inline, and whose deltas lie in frames of packs.
    pub inline: u64,
    pub framed: u64,
    /// Checkpoints take inline values into packs, as the engine's do; otherwise they go on naming the records.
    pub gather: bool,
    /// Permille of acts that are long reads under a claim that expires.
    pub readers: u64,
}

/// Why a process ends.
pub(super) enum Stop {
    /// It is done, or gives up; its cache stays.
    Exit,
    /// Another writer, or a purge: the cache is set aside.
    Fenced,
}

impl From<LogError> for Stop {
    fn from(_: LogError) -> Self {
        Self::Exit
    }
}

pub struct Node {
    pub kit: Kit,
    pub disk: Arc<Mutex<Disk>>,
    pub habits: Habits,
    pub values: Arc<AtomicU64>,
    pub volume: String,
}

pub(super) struct Running {
    pub(super) writer: Writer,
    pub(super) reader: Reader,
    pub(super) found: Found,
    pub(super) dirty_since: u64,
    pub(super) last_check: u64,
    pub(super) last_checkpoint: Seq,
    pub(super) packs: u64,
}

impl Node {
    /// One process, from start to end.
    pub async fn run(self) {
        if let Ok(mut running) = self.start().await {
            if let Err(stop) = self.fill_clone(&mut running).await {
                if let Stop::Fenced = stop {
                    self.fenced(&running).await;
                }
                return;
            }
            if self.kit.sim.permille(200) && !matches!(self.wait(&mut running, self.kit.sim.below(6 * HOUR)).await, Ok(())) {
                self.fenced(&running).await;
                return;
            }
            let lists = self.kit.world.counts(self.kit.id).list;
            for _ in 0..self.kit.sim.between(3, 40) {
                if self.kit.world.counts(self.kit.id).list != lists {
                    self.kit.sim.violate(format!("I19: node {} listed while it had the volume", self.kit.id));
                }
                match self.act(&mut running).await {
                    Ok(true) => {}
                    Ok(false) | Err(Stop::Exit) => return,
                    Err(Stop::Fenced) => {
                        self.fenced(&running).await;
                        return;
                    }
                }
            }
            let _ = self.finish(&mut running).await;
        }
    }

    pub(super) fn with<R>(&self, change: impl FnOnce(&mut Cache) -> R) -> R {
        let mut disk = self.disk.lock();
        change(disk.live.as_mut().unwrap())
    }

    pub(super) fn cache(&self) -> Cache {
        self.disk.lock().live.clone().unwrap()
    }

    /// fdatasync of everything.
    pub(super) fn make_durable(&self) {
        let mut disk = self.disk.lock();
        disk.durable = disk.live.clone();
    }

    /// A failure that the rules do not foresee is a finding.
    pub(super) fn unforeseen(&self, what: &str, error: &LogError) {
        match error {
            LogError::Unreachable(_) | LogError::Refused(_) | LogError::Fenced { .. } | LogError::Purged { .. } | LogError::Control(_) => {}
            error => self.kit.sim.violate(format!("node {}: {what}: {error}", self.kit.id)),
        }
    }

    async fn start(&self) -> Result<Running, Stop> {
        let found = self.find().await?;
        let site = self.kit.site(&found);
        self.attach(&site).await?;
        let mut adopted = Vec::new();
        let mut cache = self.disk.lock().live.clone().filter(|cache| cache.found.incarnation == found.incarnation);
        loop {
            let id = cache.as_ref().map_or_else(|| CacheId(site.env().random()), |cache| cache.id);
            let params = WriterParams {
                writer: WriterId(site.env().random()),
                holder: Holder { host: format!("node-{}", self.kit.id), cache_id: id.0.to_vec().into(), ..Holder::default() },
                cache: cache.as_ref().map(|cache| CacheState {
                    head: cache.head,
                    intent: cache.intent.as_ref().map(|pending| pending.intent.clone()),
                    unnamed: cache.unnamed.iter().map(|(object, _)| object.clone()).collect(),
                }),
                hint: Hint {
                    seq: if self.kit.sim.permille(500) { cache.as_ref().map_or(0, |cache| cache.head.seq) } else { self.kit.sim.below(80) },
                    open: 0,
                },
            };
            let diverged = self.kit.bug == Bug::ResumeDiverged;
            let params = if diverged { WriterParams { cache: None, ..params } } else { params };
            match Writer::open(site.clone(), params).await {
                Ok((writer, report)) => {
                    self.opened(&site, &found, &writer, &report, cache, id).await?;
                    adopted.extend(report.adopted);
                    let now = self.kit.sim.now();
                    let last_checkpoint = writer.checkpoint();
                    let reader = Reader::new(site);
                    return Ok(Running { writer, reader, found, dirty_since: now, last_check: now, last_checkpoint, packs: 0 });
                }
                Err(LogError::Diverged { .. }) => {
                    self.kit.sim.note(|| format!("{} diverged", self.kit.id));
                    self.kit.world.oracle.lock().count("caches set aside");
                    if let Some(cache) = &cache {
                        let ahead = self.kit.world.oracle.lock().only_own(found.incarnation, cache.head.seq, cache.id);
                        if ahead {
                            self.kit.sim.violate(format!(
                                "I9: the log is ahead of node {}'s cache, which stands at {}",
                                self.kit.id, cache.head.seq
                            ));
                        }
                    }
                    self.set_aside();
                    cache = None;
                }
                Err(LogError::Purged { .. }) => {
                    self.set_aside();
                    return Err(Stop::Exit);
                }
                Err(error) => {
                    self.unforeseen("open", &error);
                    return Err(Stop::Exit);
                }
            }
        }
    }

    /// The volume, made when it is proven absent or its last life is over.
    async fn find(&self) -> Result<Found, Stop> {
        let books = self.kit.books();
        let identity = identity(&self.volume);
        for _ in 0..6 {
            let there = self.kit.world.oracle.lock().names.contains_key(&self.volume);
            match lookup(&books, &identity).await {
                Lookup::Found(found) => {
                    let site = self.kit.site(&found);
                    match vacated(&site, &found).await {
                        Ok(None) => return Ok(found),
                        Ok(Some(vacant)) => {
                            if let Ok((found, _)) = create(&books, &identity, vacant, None).await {
                                return Ok(found);
                            }
                        }
                        Err(error) => self.unforeseen("vacated", &error),
                    }
                }
                Lookup::Absent(vacant) => {
                    if there {
                        self.kit.sim.violate(format!("I15: {} was reported absent", self.volume));
                    }
                    let origin = if self.volume.contains("clone") { Some(self.claim_origin().await?) } else { None };
                    if let Ok((found, _)) = create(&books, &identity, vacant, origin).await {
                        return Ok(found);
                    }
                }
                Lookup::Damaged(why) => self.kit.sim.violate(format!("lookup: {why}")),
                Lookup::Unknown(_) => {}
            }
            self.kit.pause(SECOND, 10 * SECOND).await;
        }
        Err(Stop::Exit)
    }

    /// Claims the head of the volume that a clone is made of: before anything of it is named.
    async fn claim_origin(&self) -> Result<Origin, Stop> {
        let Lookup::Found(found) = lookup(&self.kit.books(), &identity("vol")).await else { return Err(Stop::Exit) };
        let site = self.kit.site(&found);
        let reader = Reader::new(site.clone());
        let tip = self.kit.tip(&reader, Hint::default()).await?;
        if tip.seq == 0 || tip.phase == holdfast::log::Phase::Fenced {
            return Err(Stop::Exit);
        }
        let claim = self.claim(&site, tip.seq, "clone", &self.volume).await?;
        self.kit.world.oracle.lock().count("clones");
        Ok(Origin {
            incarnation: found.volume.incarnation.clone(),
            seq: tip.seq,
            commit_hash: tip.hash.0.to_vec().into(),
            claim,
            data_key: found.volume.data_key.clone(),
        })
    }

    pub(super) async fn claim(&self, site: &Site, seq: Seq, kind: &str, name: &str) -> Result<u64, LogError> {
        let mut chain = Chain::read(site.clone()).await?;
        let claim = Claim { seq, kind: kind.into(), name: name.into(), ..Claim::default() };
        chain.append("controller", self.kit.sim.store_time(), &|_| Ok(Control::Claim(claim.clone()))).await
    }

    async fn attach(&self, site: &Site) -> Result<(), Stop> {
        let claim_uid = format!("pvc-{}", self.kit.id);
        let mut chain = Chain::read(site.clone()).await?;
        let attach = Attach { claim_uid, ..Attach::default() };
        match chain.append("controller", self.kit.sim.store_time(), &|_| Ok(Control::Attach(attach.clone()))).await {
            Ok(_) | Err(LogError::Control(Refused::Already)) => Ok(()),
            Err(error) => {
                self.unforeseen("attach", &error);
                Err(Stop::Exit)
            }
        }
    }

    /// After the `open`: what the cache shows is what the log shows.
    async fn opened(
        &self,
        site: &Site,
        found: &Found,
        writer: &Writer,
        report: &OpenReport,
        cache: Option<Cache>,
        id: CacheId,
    ) -> Result<(), Stop> {
        let head = writer.head();
        let before = &report.before;
        let believed = self.kit.world.oracle.lock().believed(self.kit.id, found.incarnation, head.seq, head.hash);
        self.kit.check(believed);
        let cache = match cache {
            Some(cache) => {
                self.kit.world.oracle.lock().count("caches resumed");
                self.resumed(cache, writer, report)
            }
            None => {
                let reader = Reader::new(site.clone());
                let read = tree_at(&reader, before.seq, before.hash, before.checkpoint)
                    .await
                    .inspect_err(|error| self.unforeseen("hydrate", error));
                let Some((tree, mut opens)) = read? else { return Err(Stop::Exit) };
                opens.push(head.seq);
                let (dirty, fsynced) = (BTreeMap::new(), BTreeMap::new());
                Cache { id, found: found.clone(), head, tree, dirty, fsynced, intent: None, unnamed: Vec::new(), opens }
            }
        };
        let truth = self.kit.world.oracle.lock().lives[&found.incarnation].records.get(&head.seq).map(|truth| Arc::clone(&truth.tree));
        if truth.is_some_and(|truth| !same(&truth, &cache.tree)) {
            self.kit.sim.violate(format!("I9: node {} opened at {} with a cache that does not show it", self.kit.id, head.seq));
        }
        self.disk.lock().live = Some(cache);
        self.make_durable();
        Ok(())
    }

    fn resumed(&self, mut cache: Cache, writer: &Writer, report: &OpenReport) -> Cache {
        if let (Some(pending), Some(Outcome::Landed)) = (&cache.intent, report.intent) {
            self.kit.world.oracle.lock().count("intents that had landed");
            cache.tree = apply(cache.found.incarnation, &cache.tree, pending.intent.seq, &pending.change.deltas);
            cache.dirty.retain(|key, value| pending.frozen.get(key) != Some(value));
        }
        cache.intent = None;
        let adopted: Vec<&String> = report.adopted.iter().map(|object| &object.name).collect();
        cache.unnamed.retain(|(object, _)| adopted.contains(&&object.name));
        cache.head = writer.head();
        cache.opens.extend(&report.opens);
        cache.opens.push(writer.opened());
        cache
    }

    pub(super) fn set_aside(&self) {
        let mut disk = self.disk.lock();
        disk.durable = None;
        if let Some(cache) = disk.live.take()
            && !cache.dirty.is_empty()
        {
            disk.asides.push(cache);
        }
    }

    async fn act(&self, running: &mut Running) -> Result<bool, Stop> {
        let sim = &self.kit.sim;
        match sim.below(100) {
            0..35 => self.write(running).await?,
            35..65 => self.commit(running).await?,
            65..72 => self.make_fsynced(),
            72..80 => self.evict(running),
            80..90 => self.wait(running, sim.between(SECOND, self.habits.pause_max)).await?,
            90..92 => self.wait(running, sim.between(MINUTE, 6 * HOUR)).await?,
            92 if sim.permille(self.habits.restores) => self.restore(running).await?,
            93 => return Ok(false),
            94 if sim.permille(self.habits.readers) => self.read_along(running).await?,
            _ => self.wait(running, sim.between(MILLI, 5 * SECOND)).await?,
        }
        Ok(true)
    }

    async fn write(&self, running: &mut Running) -> Result<(), Stop> {
        let sim = &self.kit.sim;
        let idle = sim.now() - running.last_check > 30 * SECOND;
        if self.cache().dirty.is_empty() {
            // A pause: the clock of looking runs from here.
            if idle && self.kit.bug != Bug::NoFenceCheck {
                self.look(running).await?;
            }
            running.dirty_since = sim.now();
        }
        for _ in 0..sim.between(1, 3) {
            let key = sim.between(*KEYS.start(), *KEYS.end());
            let value = self.values.fetch_add(1, Ordering::Relaxed);
            self.with(|cache| cache.dirty.insert(key, value));
        }
        self.wait(running, sim.below(200 * MILLI)).await
    }

    fn make_fsynced(&self) {
        self.with(|cache| cache.fsynced.extend(cache.dirty.clone()));
        self.make_durable();
    }

    /// Waits, and with anything dirty looks at the next number every 30 s.
    pub(super) async fn wait(&self, running: &mut Running, nanos: u64) -> Result<(), Stop> {
        // Held tiers may be dirty for long, but 30 s look alike.
        let dirty = !self.cache().dirty.is_empty();
        let until = self.kit.sim.now() + if dirty { nanos.min(3 * MINUTE) } else { nanos };
        let before = self.kit.world.counts(self.kit.id).all();
        loop {
            let now = self.kit.sim.now();
            let dirty = !self.cache().dirty.is_empty();
            if now >= until {
                if !dirty && self.kit.world.counts(self.kit.id).all() != before {
                    self.kit.sim.violate(format!("I19: node {} was idle and asked the store", self.kit.id));
                }
                return Ok(());
            }
            let next_look = (running.last_check + 25 * SECOND).saturating_sub(now);
            let step = if dirty { (until - now).min(next_look.max(1)) } else { until - now };
            self.kit.sim.sleep(step).await;
            let due = self.kit.sim.now() - running.last_check >= 25 * SECOND;
            if dirty && due {
                if self.kit.bug == Bug::NoFenceCheck {
                    running.last_check = self.kit.sim.now();
                } else {
                    self.look(running).await?;
                }
            }
        }
    }

    async fn look(&self, running: &mut Running) -> Result<(), Stop> {
        let result = running.writer.check_fenced().await;
        running.last_check = self.kit.sim.now();
        self.outcome(running, result.map(Some)).map(|_| ())
    }

    /// Sorts the results of the writer's calls.
    pub(super) fn outcome<T>(&self, running: &Running, result: Result<Option<T>, LogError>) -> Result<Option<T>, Stop> {
        match result {
            Ok(value) => Ok(value),
            Err(LogError::Unreachable(_)) => Ok(None),
            Err(LogError::Fenced { .. } | LogError::Purged { .. }) => {
                self.knows(running);
                Err(Stop::Fenced)
            }
            Err(error) => {
                self.unforeseen("write", &error);
                Err(Stop::Exit)
            }
        }
    }

    /// I16: with anything dirty, a writer that can reach the store knows within 30 s that it is fenced.
    fn knows(&self, running: &Running) {
        if self.cache().dirty.is_empty() {
            return;
        }
        let (sim, world) = (&self.kit.sim, &self.kit.world);
        let fenced = world.oracle.lock().lives[&running.found.incarnation].opened_at.get(&(running.writer.epoch() + 1)).copied();
        let since = [fenced.unwrap_or(0), running.dirty_since, sim.awake_since(self.kit.id).unwrap_or(0), world.trouble(self.kit.id)];
        let waited = sim.now() - since.into_iter().max().unwrap_or(0);
        world.oracle.lock().count("fenced while dirty");
        // Requests under way take their time.
        if waited > 45 * SECOND {
            sim.violate(format!("I16: node {} was fenced for {} s while dirty and did not know", self.kit.id, waited / SECOND));
        }
    }

    async fn finish(&self, running: &mut Running) -> Result<(), Stop> {
        self.commit(running).await?;
        if !self.cache().dirty.is_empty() {
            return Err(Stop::Exit);
        }
        let prepared = running.writer.prepare_close()?;
        let result = running.writer.put(&prepared).await;
        if let Some(head) = self.outcome(running, result.map(Some))? {
            self.with(|cache| cache.head = head);
            self.make_durable();
        }
        if self.kit.sim.permille(self.habits.purges) {
            self.delete_volume(running).await?;
        }
        Ok(())
    }

    /// DeleteVolume: detach, and begin a purge when nobody else is attached.
    async fn delete_volume(&self, running: &Running) -> Result<(), LogError> {
        let mut chain = Chain::read(running.reader.site().clone()).await?;
        let author = format!("pvc-{}", self.kit.id);
        let now = self.kit.sim.store_time();
        let uids: Vec<String> =
            if self.kit.bug == Bug::PurgeAttached { chain.state().attached.keys().cloned().collect() } else { vec![author.clone()] };
        for claim_uid in uids {
            let detach = Detach { claim_uid };
            chain.append(&author, now, &|_| Ok(Control::Detach(detach.clone()))).await?;
        }
        self.disk.lock().deleted = true;
        chain.append("controller", now, &|_| Ok(Control::Purge(Purge { done: false, reason: "deleted".into() }))).await?;
        Ok(())
    }
}
