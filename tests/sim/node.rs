//! A node: opens the volume, writes, commits, checkpoints, restores, closes; is frozen for weeks, killed anywhere, loses its power or its disk.

use super::bugs::Bug;
use super::engine::{Cache, KEYS, Kit, Pending, base_of, commit_of, identity, put_checkpoint, reference, tree_at};
use super::exec::{HOUR, MILLI, MINUTE, SECOND};
use super::oracle::{PACK_SIZE, Tree, apply};
use holdfast::format::names;
use holdfast::log::control::{Chain, Refused};
use holdfast::log::lookup::{Found, Lookup, create, lookup, vacated};
use holdfast::log::{At, CacheState, Hint, LogError, OpenReport, Outcome, Prepared, Reader, Site, Writer, WriterParams};
use holdfast::rpc::control_record::Kind as Control;
use holdfast::rpc::{Attach, Claim, Detach, Holder, ObjectRef, Origin, Purge, Release};
use holdfast::types::{CacheId, Hash, Incarnation, Seq, WriterId};
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
}

/// Why a process ends.
enum Stop {
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

struct Running {
    writer: Writer,
    reader: Reader,
    found: Found,
    dirty_since: u64,
    last_check: u64,
    last_checkpoint: Seq,
    packs: u64,
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
            for _ in 0..self.kit.sim.between(3, 40) {
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

    fn with<R>(&self, change: impl FnOnce(&mut Cache) -> R) -> R {
        let mut disk = self.disk.lock();
        change(disk.live.as_mut().unwrap())
    }

    fn cache(&self) -> Cache {
        self.disk.lock().live.clone().unwrap()
    }

    /// fdatasync of everything.
    fn make_durable(&self) {
        let mut disk = self.disk.lock();
        disk.durable = disk.live.clone();
    }

    /// A failure that the rules do not foresee is a finding.
    fn unforeseen(&self, what: &str, error: &LogError) {
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

    async fn claim(&self, site: &Site, seq: Seq, kind: &str, name: &str) -> Result<u64, LogError> {
        let mut chain = Chain::read(site.clone()).await?;
        let claim = Claim { seq, kind: kind.into(), name: name.into(), ..Claim::default() };
        chain.append("controller", self.kit.sim.store_time(), &|_| Ok(Control::Claim(claim.clone()))).await
    }

    async fn attach(&self, site: &Site) -> Result<(), Stop> {
        let claim_uid = format!("pvc-{}", self.kit.id);
        let mut chain = Chain::read(site.clone()).await?;
        let attach = Attach { claim_uid };
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
        if truth.is_some_and(|truth| *truth != cache.tree) {
            self.kit.sim.violate(format!("I9: node {} opened at {} with a cache that does not show it", self.kit.id, head.seq));
        }
        self.disk.lock().live = Some(cache);
        self.make_durable();
        Ok(())
    }

    fn resumed(&self, mut cache: Cache, writer: &Writer, report: &OpenReport) -> Cache {
        if let (Some(pending), Some(Outcome::Landed)) = (&cache.intent, report.intent) {
            self.kit.world.oracle.lock().count("intents that had landed");
            cache.tree = apply(cache.found.incarnation, &cache.tree, &pending.commit);
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

    fn set_aside(&self) {
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

    /// I7: what is clean may go; its commit must be in the log, readable, and recorded here.
    fn evict(&self, running: &Running) {
        let (head, durable) = {
            let disk = self.disk.lock();
            (disk.live.as_ref().unwrap().head, disk.durable.as_ref().map(|cache| cache.head))
        };
        let cache = self.cache();
        let oracle = self.kit.world.oracle.lock();
        let life = &oracle.lives[&running.found.incarnation];
        let fenced = life.opened_at.get(&(running.writer.epoch() + 1)).copied();
        if life.purged || fenced.is_some_and(|fenced| self.kit.sim.now() - fenced >= super::janitor::GRACE) {
            return;
        }
        let truth = life.records.get(&head.seq).filter(|truth| truth.hash == head.hash);
        let wrong = cache.tree.iter().find(|(key, value)| {
            !cache.dirty.contains_key(key)
                && truth.is_none_or(|truth| truth.tree.get(key) != Some(value) || self.kit.world.bytes(&value.1).is_none())
        });
        drop(oracle);
        if wrong.is_some() || durable != Some(head) {
            self.kit.sim.violate(format!("I7: node {} evicts {wrong:?} at {}, durable {durable:?}", self.kit.id, head.seq));
        }
    }

    /// Waits, and with anything dirty looks at the next number every 30 s.
    async fn wait(&self, running: &mut Running, nanos: u64) -> Result<(), Stop> {
        // Held tiers may be dirty for long, but 30 s look alike.
        let dirty = !self.cache().dirty.is_empty();
        let until = self.kit.sim.now() + if dirty { nanos.min(3 * MINUTE) } else { nanos };
        loop {
            let now = self.kit.sim.now();
            let dirty = !self.cache().dirty.is_empty();
            if now >= until {
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
    fn outcome<T>(&self, running: &Running, result: Result<Option<T>, LogError>) -> Result<Option<T>, Stop> {
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

    async fn commit(&self, running: &mut Running) -> Result<(), Stop> {
        let frozen = self.cache().dirty;
        if frozen.is_empty() {
            return Ok(());
        }
        let mut changes: BTreeMap<u64, (u64, ObjectRef)> = BTreeMap::new();
        let mut fresh = BTreeMap::new();
        let usable: Vec<ObjectRef> = running.writer.nameable().unnamed().cloned().collect();
        for (key, value) in &frozen {
            // An upload of this or an adopted epoch is used again as long as its content is what is dirty.
            match self.cache().unnamed.iter().find(|(object, entries)| entries.get(key) == Some(value) && usable.contains(object)) {
                Some((object, _)) => drop(changes.insert(*key, (*value, object.clone()))),
                None => drop(fresh.insert(*key, *value)),
            }
        }
        for entries in halves(fresh, self.kit.sim.permille(300)) {
            let Some(object) = self.upload(running, &entries).await? else { return Ok(()) };
            changes.extend(entries.into_iter().map(|(key, value)| (key, (value, object.clone()))));
        }
        let commit = commit_of(&changes, "");
        let site = running.reader.site().clone();
        let tree = self.cache().tree;
        let named = |name: &str| {
            let absolute = names::absolute(site.incarnation(), name).map(|(_, name)| name).unwrap_or_default();
            tree.values().any(|(_, pack)| *pack == absolute)
        };
        let unnamed: Vec<ObjectRef> = changes.values().map(|(_, object)| object.clone()).collect();
        let approved = running.writer.nameable().approve(commit.clone(), &named);
        let approved = approved.inspect_err(|error| self.kit.sim.violate(format!("{error}: {unnamed:?}")))?;
        let prepared = running.writer.prepare(approved)?;
        self.put(running, prepared, frozen, commit).await?;
        if running.writer.head().seq >= running.last_checkpoint + self.habits.checkpoint_every {
            self.checkpoint(running).await?;
        }
        Ok(())
    }

    async fn upload(&self, running: &mut Running, entries: &BTreeMap<u64, u64>) -> Result<Option<ObjectRef>, Stop> {
        running.packs = running.packs.max(running.writer.head().seq * 4) + u64::from(self.kit.bug != Bug::ReusePackName);
        let (object, name, bytes) = self.kit.pack(running.reader.site(), running.writer.epoch(), running.packs, entries);
        self.with(|cache| cache.unnamed.push((object.clone(), entries.clone())));
        self.make_durable_sometimes();
        if self.kit.put_pack(&name, &bytes).await.is_none() {
            // It may land yet, but nothing of it is used; only an adoption may find it.
            self.kit.pause(SECOND, 5 * SECOND).await;
            return Ok(None);
        }
        running.writer.nameable().uploaded(object.clone())?;
        // A process often ends between an upload and its commit here: that is what adoptions are for.
        if self.kit.sim.permille(20) { Err(Stop::Exit) } else { Ok(Some(object)) }
    }

    fn make_durable_sometimes(&self) {
        if self.kit.sim.permille(500) {
            self.make_durable();
        }
    }

    /// Intent, put, resolve.
    async fn put(
        &self,
        running: &mut Running,
        prepared: Prepared,
        frozen: BTreeMap<u64, u64>,
        commit: holdfast::rpc::Commit,
    ) -> Result<(), Stop> {
        let pending = Pending { intent: prepared.intent().clone(), frozen: frozen.clone(), commit: commit.clone() };
        if self.kit.bug != Bug::SkipIntent {
            self.with(|cache| cache.intent = Some(pending));
        }
        if self.kit.bug != Bug::PutBeforeDurable {
            self.make_durable();
        }
        if self.kit.bug == Bug::CleanBeforeResolved {
            self.with(|cache| cache.tree = apply(cache.found.incarnation, &cache.tree, &commit));
            self.with(|cache| cache.dirty.clear());
            self.evict(running);
        }
        let head = loop {
            if self.kit.bug == Bug::Recut {
                // Past the writer's bookkeeping: one try, then something else under the same number.
                let name = running.reader.site().record_name(prepared.seq());
                if self.kit.store.put_if_absent(&name, prepared.intent().bytes.clone()).await.is_err() {
                    running.writer.abandon(&prepared)?;
                    self.with(|cache| cache.intent = None);
                    return Ok(());
                }
            }
            let result = running.writer.put(&prepared).await;
            if let Some(head) = self.outcome(running, result.map(Some))? {
                break head;
            }
            self.kit.pause(SECOND, 20 * SECOND).await;
        };
        let incarnation = running.found.incarnation;
        self.with(|cache| {
            cache.tree = apply(incarnation, &cache.tree, &commit);
            cache.head = head;
            cache.intent = None;
            cache.dirty.retain(|key, value| frozen.get(key) != Some(value));
            let named: Vec<&ObjectRef> = commit.delta.iter().flat_map(|delta| &delta.objects).collect();
            cache.unnamed.retain(|(object, _)| !named.contains(&object));
        });
        self.make_durable();
        running.last_check = self.kit.sim.now();
        let cache = self.cache();
        let mut oracle = self.kit.world.oracle.lock();
        let acked = oracle.acknowledged(self.kit.id, incarnation, head.seq, head.hash, &frozen);
        let same = acked.is_ok() && *oracle.lives[&incarnation].records[&head.seq].tree == cache.tree;
        drop(oracle);
        self.kit.check(acked);
        if !same {
            self.kit.sim.violate(format!("I9: node {} shows something else than commit {}", self.kit.id, head.seq));
        }
        Ok(())
    }

    async fn checkpoint(&self, running: &mut Running) -> Result<(), Stop> {
        if let Err(error) = running.writer.verify_newest().await {
            self.unforeseen("verify", &error);
            return Ok(());
        }
        let cache = self.cache();
        let previous = running.writer.checkpoint();
        let site = running.reader.site().clone();
        match put_checkpoint(&self.kit, &site, running.writer.head(), &cache.tree, &cache.opens, previous).await {
            Ok(Some(seq)) => {
                running.writer.name_checkpoint(seq);
                running.last_checkpoint = seq;
            }
            Ok(None) => {}
            Err(error) => {
                // A fenced writer may find the checkpoint that it shares with gone.
                if running.writer.check_fenced().await.is_ok() {
                    self.unforeseen("checkpoint", &error);
                }
            }
        }
        Ok(())
    }

    /// An explicit restore by reference: claim, commit that names what the claim holds, release.
    async fn restore(&self, running: &mut Running) -> Result<(), Stop> {
        if !self.cache().dirty.is_empty() || self.cache().head.seq < 3 {
            return Ok(());
        }
        let site = running.reader.site().clone();
        let seq = self.kit.sim.between(1, self.cache().head.seq - 1);
        let claim = match self.claim(&site, seq, "pin", "restore").await {
            Ok(claim) => claim,
            Err(error) => {
                self.unforeseen("claim", &error);
                return Ok(());
            }
        };
        let At::Record(record) = running.reader.at(seq).await? else {
            self.kit.sim.violate(format!("I5: commit {seq} is claimed and not there"));
            return Err(Stop::Exit);
        };
        let Some(base) = base_of(&running.reader, seq).await? else { return Err(Stop::Exit) };
        let read = tree_at(&running.reader, seq, record.hash, base).await.inspect_err(|error| self.unforeseen("restore", error))?;
        let Some((tree, _)) = read else {
            self.kit.sim.violate(format!("I5: commit {seq} is claimed and cannot be read"));
            return Err(Stop::Exit);
        };
        self.commit_tree(running, &tree, "restore").await?;
        self.kit.world.oracle.lock().count("restores");
        self.release(&site, claim).await;
        Ok(())
    }

    async fn release(&self, site: &Site, claim: u64) {
        if let Ok(mut chain) = Chain::read(site.clone()).await {
            let result = chain.append("controller", self.kit.sim.store_time(), &|_| Ok(Control::Release(Release { claim }))).await;
            drop(result);
        }
    }

    /// A commit that names packs which a claim holds.
    async fn commit_tree(&self, running: &mut Running, tree: &Tree, note: &str) -> Result<(), Stop> {
        let incarnation = running.found.incarnation;
        let changes: BTreeMap<u64, (u64, ObjectRef)> =
            tree.iter().map(|(key, (value, pack))| (*key, (*value, reference(incarnation, pack, PACK_SIZE as u64)))).collect();
        if changes.is_empty() {
            return Ok(());
        }
        let commit = commit_of(&changes, note);
        let nameable = running.writer.nameable();
        nameable.claimed(changes.values().map(|(_, object)| object.name.clone()));
        let approved = nameable.approve(commit.clone(), &|_| false)?;
        let prepared = running.writer.prepare(approved)?;
        let frozen = changes.iter().map(|(key, (value, _))| (*key, *value)).collect();
        self.put(running, prepared, frozen, commit).await?;
        running.writer.nameable().unclaimed();
        Ok(())
    }

    /// A clone's first commit names its origin's packs, which the claim in the origin's chain holds.
    async fn fill_clone(&self, running: &mut Running) -> Result<(), Stop> {
        let Some(origin) = running.found.volume.origin.clone() else { return Ok(()) };
        if !self.cache().tree.is_empty() {
            return Ok(());
        }
        let incarnation = Incarnation::from_slice(&origin.incarnation).unwrap();
        let key: [u8; 32] = origin.data_key.as_ref().try_into().unwrap();
        let reader = Reader::new(self.kit.site_of(incarnation, &key));
        let Some(base) = base_of(&reader, origin.seq).await? else {
            self.kit.sim.violate(format!("I5: record {} of a clone's origin is gone", origin.seq));
            return Err(Stop::Exit);
        };
        let hash = Hash::from_slice(&origin.commit_hash).unwrap();
        let read = tree_at(&reader, origin.seq, hash, base).await.inspect_err(|error| self.unforeseen("clone", error))?;
        let Some((tree, _)) = read else {
            self.kit.sim.violate(format!("I5: record {} of a clone's origin cannot be read", origin.seq));
            return Err(Stop::Exit);
        };
        self.commit_tree(running, &tree, "").await
    }

    async fn fenced(&self, running: &Running) {
        self.kit.sim.note(|| format!("{} fenced", self.kit.id));
        let cache = self.cache();
        self.set_aside();
        if cache.dirty.is_empty() {
            return;
        }
        // The branch stands on the last record of its own epoch; retention keeps that until the branch is claimed or the grace is over.
        let site = running.reader.site().clone();
        let name = running.writer.epoch().to_string();
        match self.claim(&site, cache.head.seq, "branch", &name).await {
            Ok(_) => {
                self.kit.world.oracle.lock().count("branches");
                self.disk.lock().asides.clear();
            }
            Err(LogError::Control(Refused::Retired(seq))) => {
                let now = self.kit.sim.now();
                let fenced =
                    self.kit.world.oracle.lock().lives[&running.found.incarnation].opened_at.get(&(running.writer.epoch() + 1)).copied();
                if fenced.is_some_and(|fenced| now - fenced < super::janitor::GRACE) {
                    self.kit.sim.violate(format!("I16: record {seq}, on which a branch stands, was retired within the grace"));
                }
            }
            Err(error) => self.unforeseen("branch", &error),
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
            if self.kit.bug == Bug::PurgeAttached { chain.state().attached.iter().cloned().collect() } else { vec![author.clone()] };
        for claim_uid in uids {
            let detach = Detach { claim_uid };
            chain.append(&author, now, &|_| Ok(Control::Detach(detach.clone()))).await?;
        }
        self.disk.lock().deleted = true;
        chain.append("controller", now, &|_| Ok(Control::Purge(Purge { done: false, reason: "deleted".into() }))).await?;
        Ok(())
    }
}

fn halves(entries: BTreeMap<u64, u64>, split: bool) -> Vec<BTreeMap<u64, u64>> {
    if entries.is_empty() {
        return Vec::new();
    }
    if !split || entries.len() < 2 {
        return vec![entries];
    }
    let (left, right) = entries.into_iter().partition(|(key, _)| key % 2 == 0);
    [left, right].into_iter().filter(|half: &BTreeMap<u64, u64>| !half.is_empty()).collect()
}
