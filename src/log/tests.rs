//! The log on a store in memory: what is too rare or too local for the worlds of `tests/sim.rs`.

use super::control::{Chain, Refused, State};
use super::inventory::{Inventory, ObjectId};
use super::lookup::{Books, Lookup, create, lookup};
use super::plan::{Fact, Facts, What, Why};
use super::{CacheState, Framed, Hint, LogError, Nameable, Outcome, Phase, Reader, Site, Writer, WriterParams, fence, plan};
use crate::env::{Clock, Env, Failpoints, Random};
use crate::format::marker::Marker;
use crate::format::names;
use crate::format::seal::{Cipher, Sealer};
use crate::policy::retention::{Reason, Rules};
use crate::rpc::control_record::Kind;
use crate::rpc::{Attach, Checkpoint, Claim, Commit, Delta, Extent, ExtentChange, FrameRef, Holder, ObjectRef, Purge, Retire, Undo, Void};
use crate::store::{ObjectMeta, Put, Store, StoreError};
use crate::types::{Identity, Incarnation, Seq, StoreId, UnixNanos, WriterId};
use async_trait::async_trait;
use bytes::Bytes;
use futures::executor::block_on;
use futures::future::{BoxFuture, FutureExt, ready};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

mod lost;

const LIFE: Incarnation = Incarnation([5; 16]);

/// Time stands still; chance counts.
#[derive(Default)]
struct Counting(AtomicU64);

impl Clock for Counting {
    fn now(&self) -> UnixNanos {
        0
    }

    fn monotonic(&self) -> Duration {
        Duration::ZERO
    }

    fn sleep(&self, _: Duration) -> BoxFuture<'static, ()> {
        ready(()).boxed()
    }
}

impl Random for Counting {
    fn fill(&self, bytes: &mut [u8]) {
        for byte in bytes.chunks_mut(8) {
            let n = self.0.fetch_add(1, Ordering::Relaxed).to_be_bytes();
            byte.copy_from_slice(&n[8 - byte.len()..]);
        }
    }
}

#[derive(Debug, Default)]
struct Memory(Mutex<BTreeMap<String, Bytes>>);

#[async_trait]
impl Store for Memory {
    async fn put_if_absent(&self, name: &str, body: Bytes) -> Result<Put, StoreError> {
        let mut objects = self.0.lock();
        if objects.contains_key(name) {
            return Ok(Put::Exists);
        }
        objects.insert(name.to_owned(), body);
        Ok(Put::Stored)
    }

    async fn get(&self, name: &str) -> Result<Option<Bytes>, StoreError> {
        Ok(self.0.lock().get(name).cloned())
    }

    async fn get_range(&self, _: &str, _: Range<u64>) -> Result<Option<Bytes>, StoreError> {
        Ok(None)
    }

    async fn head(&self, name: &str) -> Result<Option<ObjectMeta>, StoreError> {
        Ok(self.0.lock().get(name).map(|bytes| ObjectMeta { name: name.to_owned(), size: bytes.len() as u64, modified: 0 }))
    }

    async fn list(&self, prefix: &str, _: Option<&str>, limit: usize) -> Result<Vec<ObjectMeta>, StoreError> {
        let objects = self.0.lock();
        let found = objects.iter().filter(|(name, _)| name.starts_with(prefix)).take(limit);
        Ok(found.map(|(name, bytes)| ObjectMeta { name: name.clone(), size: bytes.len() as u64, modified: 0 }).collect())
    }

    async fn delete(&self, name: &str) -> Result<(), StoreError> {
        self.0.lock().remove(name);
        Ok(())
    }
}

struct Bench {
    store: Arc<Memory>,
    env: Env,
    site: Site,
}

fn bench() -> Bench {
    on(Arc::new(Memory::default()), Arc::new(Counting::default()), Failpoints::none())
}

fn on(store: Arc<Memory>, chance: Arc<Counting>, failpoints: Failpoints) -> Bench {
    let env = Env::new(Arc::clone(&chance) as Arc<dyn Clock>, chance, failpoints);
    let sealer = Sealer::new(Cipher::ChaCha20Poly1305, &[2; 32], StoreId([0x80; 16]), Some(LIFE));
    let site = Site::new(Arc::clone(&store) as Arc<dyn Store>, env.clone(), sealer, LIFE);
    Bench { store, env, site }
}

impl Bench {
    fn open(&self, cache: Option<CacheState>) -> Result<(Writer, super::OpenReport), LogError> {
        let holder = Holder { cache_id: vec![1; 16].into(), ..Holder::default() };
        let params = WriterParams { writer: WriterId(self.env.random()), holder, cache, hint: Hint::default() };
        block_on(Writer::open(self.site.clone(), params))
    }

    fn commit(&self, writer: &mut Writer) -> super::Prepared {
        let approved = writer.nameable().approve(Commit::default(), &Framed::default(), &|_| false).unwrap();
        let prepared = writer.prepare(approved).unwrap();
        block_on(writer.put(&prepared)).unwrap();
        prepared
    }

    fn append(&self, kind: Kind) -> Result<u64, LogError> {
        let mut chain = block_on(Chain::read(self.site.clone())).unwrap();
        block_on(chain.append("test", 0, &|_| Ok(kind.clone())))
    }

    fn rot(&self, seq: u64) {
        self.store.0.lock().insert(self.site.record_name(seq), Bytes::from_static(b"rotten"));
    }
}

#[test]
fn a_newer_epoch_fences_the_older_writer_at_its_next_number() {
    let bench = bench();
    let (mut old, _) = bench.open(None).unwrap();
    bench.commit(&mut old);
    let (mut new, report) = bench.open(None).unwrap();
    assert_eq!((report.before.seq, new.epoch()), (2, 2));
    let approved = old.nameable().approve(Commit::default(), &Framed::default(), &|_| false).unwrap();
    let prepared = old.prepare(approved).unwrap();
    assert!(matches!(block_on(old.put(&prepared)), Err(LogError::Fenced { seq: 3, epoch: 2 })));
    assert!(matches!(block_on(old.check_fenced()), Err(LogError::Fenced { .. })));
    block_on(new.check_fenced()).unwrap();
    block_on(new.close()).unwrap();
    let tip = block_on(Reader::new(bench.site.clone()).tip(Hint::default())).unwrap();
    assert_eq!((tip.seq, tip.phase), (4, Phase::Closed));
}

#[test]
fn what_was_put_cannot_be_taken_back_and_nothing_overtakes_it() {
    let bench = bench();
    let (mut writer, _) = bench.open(None).unwrap();
    let approve = |writer: &mut Writer| writer.nameable().approve(Commit::default(), &Framed::default(), &|_| false).unwrap();
    let first = approve(&mut writer);
    let prepared = writer.prepare(first).unwrap();
    let second = approve(&mut writer);
    assert!(matches!(writer.prepare(second.clone()), Err(LogError::Pending { seq: 2 })));
    // Never put: it may be taken back. Polled once: it may not.
    writer.abandon(&prepared).unwrap();
    let prepared = writer.prepare(second).unwrap();
    drop(writer.put(&prepared));
    writer.abandon(&prepared).unwrap();
    let third = approve(&mut writer);
    let prepared = writer.prepare(third).unwrap();
    block_on(writer.put(&prepared)).unwrap();
    assert_eq!(block_on(writer.put(&prepared)).unwrap().seq, 2);
    block_on(writer.verify_newest()).unwrap();
    bench.rot(2);
    assert!(matches!(block_on(writer.verify_newest()), Err(LogError::Untrusted { .. })));
}

#[test]
fn an_intent_that_landed_is_resumed_and_a_foreign_commit_is_not() {
    let bench = bench();
    let (mut writer, _) = bench.open(None).unwrap();
    let head = writer.head();
    let prepared = bench.commit(&mut writer);
    let cache = |intent| Some(CacheState { head, intent, unnamed: Vec::new() });
    assert!(matches!(bench.open(cache(None)), Err(LogError::Diverged { cache: 1, log: 2 })));
    let (_, report) = bench.open(cache(Some(prepared.intent().clone()))).unwrap();
    assert_eq!((report.intent, report.opens.len()), (Some(Outcome::Landed), 0));
    // The process ended before it recorded that `open`: only records that change nothing stand between.
    let (_, report) = bench.open(cache(Some(prepared.intent().clone()))).unwrap();
    assert_eq!((report.intent, report.opens), (Some(Outcome::Landed), vec![3]));
}

#[test]
fn a_rotten_record_stops_the_volume_by_name_until_it_is_void() {
    let bench = bench();
    let (mut writer, _) = bench.open(None).unwrap();
    bench.commit(&mut writer);
    bench.commit(&mut writer);
    bench.rot(3);
    let reader = Reader::new(bench.site.clone());
    let error = block_on(reader.tip(Hint::default())).unwrap_err();
    assert!(error.to_string().contains(&bench.site.record_name(3)), "{error}");
    bench.append(Kind::Void(Void { seq: 3, reason: "rot".into() })).unwrap();
    let tip = block_on(reader.tip(Hint::default())).unwrap();
    assert_eq!((tip.seq, tip.epoch, tip.open.map(|open| open.seq)), (3, 1, Some(1)));
    let (mut writer, report) = bench.open(None).unwrap();
    assert_eq!((writer.head().seq, writer.epoch(), report.before.seq), (4, 2, 3));
    bench.commit(&mut writer);
}

#[test]
fn a_fence_ends_the_log_for_ever() {
    let bench = bench();
    let (mut writer, _) = bench.open(None).unwrap();
    block_on(fence(bench.site.clone(), WriterId([9; 16]), "purged")).unwrap();
    block_on(fence(bench.site.clone(), WriterId([8; 16]), "again")).unwrap();
    assert!(matches!(block_on(writer.check_fenced()), Err(LogError::Purged { .. })));
    assert!(matches!(bench.open(None), Err(LogError::Purged { .. })));
}

#[test]
fn the_chain_refuses_what_comes_too_late() {
    let bench = bench();
    let claim = |seq| Kind::Claim(Claim { seq, kind: "pin".into(), ..Claim::default() });
    let refused = |kind| match bench.append(kind) {
        Err(LogError::Control(refused)) => refused,
        other => panic!("{other:?}"),
    };
    assert_eq!(bench.append(claim(7)).unwrap(), 1);
    assert_eq!(refused(Kind::Retire(Retire { seqs: vec![6, 7], ..Retire::default() })), Refused::Claimed(7));
    bench.append(Kind::Retire(Retire { seqs: vec![6], ..Retire::default() })).unwrap();
    assert_eq!(refused(claim(6)), Refused::Retired(6));
    bench.append(Kind::Attach(Attach { claim_uid: "x".into(), ..Attach::default() })).unwrap();
    assert_eq!(refused(Kind::Purge(Purge::default())), Refused::Attached("x".into()));
    bench.append(Kind::Detach(crate::rpc::Detach { claim_uid: "x".into() })).unwrap();
    assert_eq!(refused(Kind::Purge(Purge { done: true, ..Purge::default() })), Refused::NotPurging);
    let begun = bench.append(Kind::Purge(Purge::default())).unwrap();
    bench.append(Kind::Undo(Undo { number: begun })).unwrap();
    let again = bench.append(Kind::Purge(Purge::default())).unwrap();
    assert_eq!(refused(Kind::Undo(Undo { number: begun })), Refused::NotUndoable(begun));
    // A later attach cancels it too.
    bench.append(Kind::Attach(Attach { claim_uid: "y".into(), ..Attach::default() })).unwrap();
    assert_eq!(refused(Kind::Undo(Undo { number: again })), Refused::NotUndoable(again));
}

#[test]
fn only_an_empty_prefix_of_the_right_store_is_absent() {
    let bench = bench();
    let key = crate::types::StoreKey([4; 32]);
    let marker = Marker::encrypted(&key, 0, "test");
    let sealer = Sealer::new(Cipher::ChaCha20Poly1305, &key.0, marker.store, None);
    let books = Books { store: Arc::clone(&bench.store) as Arc<dyn Store>, env: bench.env.clone(), sealer };
    let identity = Identity::parse("group/name").unwrap();
    let look = || block_on(lookup(&books, &identity));
    assert!(matches!(look(), Lookup::Unknown(_)), "no marker");
    let other = Marker::encrypted(&crate::types::StoreKey([5; 32]), 0, "test");
    bench.store.0.lock().insert(names::marker().into(), other.encode());
    assert!(matches!(look(), Lookup::Unknown(_)), "another store");
    bench.store.0.lock().insert(names::marker().into(), marker.encode());
    let (Lookup::Absent(one), Lookup::Absent(two)) = (look(), look()) else { panic!("absent") };
    let (first, won) = block_on(create(&books, &identity, one, None)).unwrap();
    let (second, too) = block_on(create(&books, &identity, two, None)).unwrap();
    assert!(won && !too && first == second, "one of two creators wins, the other gets the winner's");
    assert!(matches!(look(), Lookup::Found(found) if found == first));
    bench.store.0.lock().remove(&names::volume(first.incarnation));
    assert!(matches!(look(), Lookup::Damaged(_)));
}

const WINDOWS: [&str; 9] = [
    "log.after_volume_before_name",
    "log.before_open",
    "log.after_open_before_read_back",
    "log.after_intent_before_put",
    "log.after_put_before_resolve",
    "log.before_checkpoint_index",
    "log.before_control",
    "log.before_marker",
    "log.after_marker_before_delete",
];

/// A process that passes every window once: it looks the volume up or creates it, writes, makes a checkpoint, retires, frees.
fn live(bench: &Bench) -> super::Tip {
    let marker = Marker::clear([7; 16], 0, "test");
    bench.store.0.lock().entry(names::marker().into()).or_insert_with(|| marker.encode());
    let sealer = Sealer::new(Cipher::None, &[4; 32], marker.store, None);
    let books = Books { store: Arc::clone(&bench.store) as Arc<dyn Store>, env: bench.env.clone(), sealer };
    let identity = Identity::parse("group/name").unwrap();
    match block_on(lookup(&books, &identity)) {
        Lookup::Absent(vacant) => drop(block_on(create(&books, &identity, vacant, None)).unwrap()),
        Lookup::Found(_) => {}
        other => panic!("{other:?}"),
    }
    let (mut writer, _) = bench.open(None).unwrap();
    for _ in 0..6 {
        bench.commit(&mut writer);
    }
    let head = writer.head();
    let opens = vec![writer.opened()];
    let commit_hash = head.hash.0.to_vec().into();
    let index = crate::rpc::Checkpoint { seq: head.seq, commit_hash, epoch: head.epoch, opens, ..crate::rpc::Checkpoint::default() };
    block_on(super::checkpoint::store(&bench.site, index)).unwrap();
    writer.name_checkpoint(head.seq);
    bench.commit(&mut writer);
    let retired = head.seq - 5;
    bench.append(Kind::Retire(Retire { seqs: vec![retired], ..Retire::default() })).unwrap();
    let chain = block_on(Chain::read(bench.site.clone())).unwrap();
    let reader = Reader::new(bench.site.clone());
    let freed = block_on(super::block::free(&reader, chain.state(), head.seq, &chain.state().retired_seqs.iter().collect())).unwrap();
    assert!(freed > 0 && matches!(block_on(reader.at(retired)).unwrap(), super::At::Absent));
    block_on(reader.tip(Hint::default())).unwrap()
}

/// A process that ends in any window leaves what the next one goes on from, without help.
#[test]
fn a_process_that_ends_in_any_window_leaves_a_volume_that_opens() {
    let named: BTreeSet<&str> = super::protocol::RULES.iter().filter_map(|rule| rule.failpoint).collect();
    assert_eq!(named, WINDOWS.into_iter().collect(), "the rules and the windows tested here");
    for window in WINDOWS {
        let (store, chance) = (Arc::new(Memory::default()), Arc::new(Counting::default()));
        let die = Arc::new(|| std::panic::resume_unwind(Box::new("the process ends here")));
        let mut dying = on(Arc::clone(&store), Arc::clone(&chance), Failpoints::none().arm(window, 1, die));
        dying.site = dying.site.with_block(2);
        let died = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| live(&dying)));
        assert!(died.is_err(), "{window} was not passed");
        let mut next = on(store, chance, Failpoints::none());
        next.site = next.site.with_block(2);
        let tip = live(&next);
        let record = super::At::Record(tip.open.clone().unwrap());
        assert_eq!(block_on(Reader::new(next.site).at(tip.open.unwrap().seq)).unwrap(), record, "{window}");
    }
}

fn pack(epoch: u64, n: u8) -> ObjectRef {
    let name = names::relative(LIFE, &names::pack(LIFE, epoch, [n; 16])).unwrap();
    ObjectRef { name, salt: vec![0; 32].into(), epoch, frames: 1, size: 100, hash: vec![0; 32].into() }
}

#[test]
fn a_commit_names_only_its_own_uploads_its_parents_adopted_and_claimed_objects() {
    let commit =
        |object: &ObjectRef| Commit { delta: Some(Delta { objects: vec![object.clone()], ..Delta::default() }), ..Commit::default() };
    let mut nameable = Nameable::opened(LIFE, 2, &[pack(1, 1)]);
    nameable.uploaded(pack(2, 2)).unwrap();
    nameable.claimed([pack(1, 3).name]);
    assert!(nameable.uploaded(pack(1, 4)).is_err(), "of an older epoch");
    for object in [pack(1, 1), pack(2, 2), pack(1, 3)] {
        nameable.approve(commit(&object), &Framed::default(), &|_| false).unwrap();
    }
    let parents = pack(1, 5);
    assert!(nameable.approve(commit(&parents), &Framed::default(), &|_| false).is_err());
    nameable.approve(commit(&parents), &Framed::default(), &|name| name == parents.name).unwrap();
    nameable.named(&[pack(2, 2).name]);
    assert!(nameable.approve(commit(&pack(2, 2)), &Framed::default(), &|_| false).is_err(), "named once: from now on only as the parent's");
    let changed = ObjectRef { size: 101, ..pack(1, 1) };
    assert!(nameable.approve(commit(&changed), &Framed::default(), &|_| false).is_err(), "not what was uploaded");
}

#[test]
fn what_a_delta_in_packs_names_counts_as_what_stands_in_the_commit() {
    let framed = |object: &ObjectRef| Delta { objects: vec![object.clone()], ..Delta::default() };
    let frame = FrameRef { object: Some(pack(2, 9)), ..FrameRef::default() };
    let commit = Commit { delta_frames: vec![frame], ..Commit::default() };
    let mut nameable = Nameable::opened(LIFE, 2, &[]);
    nameable.uploaded(pack(2, 2)).unwrap();
    assert!(
        nameable.approve(commit.clone(), &Framed::of(&[framed(&pack(2, 2))]), &|_| false).is_err(),
        "the pack of the delta was not uploaded"
    );
    nameable.uploaded(pack(2, 9)).unwrap();
    assert!(nameable.approve(commit.clone(), &Framed::of(&[framed(&pack(1, 7))]), &|_| false).is_err(), "nor was one that the delta names");
    let approved = nameable.approve(commit, &Framed::of(&[framed(&pack(2, 2))]), &|_| false).unwrap();
    nameable.named(&approved.named);
    assert_eq!(nameable.unnamed().count(), 0);
}

#[test]
fn an_inline_extent_of_an_earlier_record_is_the_parents_or_claimed() {
    let extent = Extent { length: 1, plain_length: 1, inline_seq: 4, ..Extent::default() };
    let file = ExtentChange { ino: 2, cleared: Vec::new(), extents: vec![extent] };
    let commit = Commit { delta: Some(Delta { extents: vec![file], ..Delta::default() }), ..Commit::default() };
    let record = names::relative(LIFE, &names::commit(LIFE, 4)).unwrap();
    let mut nameable = Nameable::opened(LIFE, 2, &[]);
    assert!(nameable.approve(commit.clone(), &Framed::default(), &|_| false).is_err());
    nameable.approve(commit.clone(), &Framed::default(), &|name| name == record).unwrap();
    nameable.claimed([record]);
    nameable.approve(commit, &Framed::default(), &|_| false).unwrap();
}

fn log() -> Facts {
    let fact =
        |what, epoch, at: i64, base| Fact { what, epoch, stored: at, cut: at, base, delta: BTreeSet::new(), records: BTreeSet::new() };
    let open = || What::Open { adopted: BTreeSet::new() };
    let mut records = BTreeMap::new();
    // 1 open, 2..=9 commits, 10 open (nobody closed), 11..=29 commits; checkpoint 8 is named from 9 on, 20 from 21 on.
    for seq in 1..=29 {
        let what = if seq == 1 || seq == 10 { open() } else { What::Commit { full: true, inodes: 1, bytes: 1 } };
        records.insert(
            seq,
            fact(
                what,
                if seq < 10 { 1 } else { 2 },
                seq as i64,
                if seq > 20 {
                    20
                } else if seq > 8 {
                    8
                } else {
                    0
                },
            ),
        );
    }
    Facts { h: 29, epoch: 2, checkpoint: 20, records }
}

/// The newest of so many hours, and a dense window in nanoseconds: the log above has one record in each.
fn rules(dense: u64, branches: u64) -> Rules {
    let rules = Rules::parse("last=commits:1 min_keep=0").unwrap();
    Rules { keep_all: Duration::from_nanos(dense), branches: Duration::from_nanos(branches), ..rules }
}

fn sweep(facts: &Facts, chain: &State, rules: &Rules, listing: &[String]) -> (BTreeSet<Seq>, Vec<ObjectId>) {
    let kept = plan::keep(facts, chain, rules, 1000);
    let inventory = Inventory::of(LIFE, listing.iter().map(String::as_str));
    let mut sweep = plan::Sweep::begin(facts, chain, &|seq| kept.contains_key(&seq), inventory);
    assert_eq!(sweep.garbage(), None, "nothing is garbage before each tree was told");
    for seq in sweep.readable().clone() {
        sweep.told(seq);
    }
    (sweep.retiring().clone(), sweep.garbage().unwrap())
}

#[test]
fn retention_keeps_head_claims_windows_and_what_a_branch_may_stand_on() {
    let facts = log();
    let mut chain = State::default();
    chain.claims.insert(1, Claim { seq: 4, kind: "pin".into(), ..Claim::default() });
    let rules = rules(13, 100);
    let kept = plan::keep(&facts, &chain, &rules, 29);
    let why = |seq| kept.get(&seq).map(|why| why[0]);
    assert_eq!(
        (why(29), why(4), why(9), why(17), why(20)),
        (Some(Why::Head), Some(Why::Claimed(1)), Some(Why::BeforeOpen), Some(Why::Rule(Reason::KeepAll)), Some(Why::Rule(Reason::KeepAll)))
    );
    assert_eq!((why(2), why(16)), (None, None));
    assert_eq!(plan::keep(&facts, &chain, &rules, 129).get(&20), Some(&vec![Why::Recent]));
    chain.branches.insert("1".into());
    assert_eq!(plan::keep(&facts, &chain, &rules, 29).get(&9), None, "its branch was claimed");
    chain.branches.clear();
    assert_eq!(plan::keep(&facts, &chain, &rules, 200).get(&9), None, "the grace is over");
}

#[test]
fn open_records_and_what_kept_commits_are_read_through_are_never_freed() {
    let bench = bench();
    let site = bench.site.clone().with_block(4);
    let facts = log();
    let mut chain = State::default();
    chain.claims.insert(1, Claim { seq: 4, kind: "pin".into(), ..Claim::default() });
    let (retiring, _) = sweep(&facts, &chain, &rules(0, 0), &[]);
    assert!(retiring.contains(&2) && retiring.contains(&10) && !retiring.contains(&20));
    chain.retired_seqs.extend(&retiring);
    // 1..=4 are what 4 is read through, 9..=20 what 20 is.
    assert_eq!(plan::freeable(&site, &facts, &chain), (5..=8).collect());
    chain.retired_seqs.insert(20);
    // 10 is an `open`.
    assert_eq!(plan::freeable(&site, &facts, &chain), (5..=19).filter(|seq| *seq != 10).collect());
}

#[test]
fn the_pack_of_a_delta_stays_while_any_commit_is_read_through_its_record() {
    let mut facts = log();
    let [held, free] = [3, 15].map(|seq: u8| names::pack(LIFE, 1, [seq; 16]));
    for (seq, pack) in [(3, &held), (15, &free)] {
        facts.records.get_mut(&seq).unwrap().delta.insert(pack.clone());
    }
    let mut chain = State::default();
    chain.claims.insert(1, Claim { seq: 4, kind: "pin".into(), ..Claim::default() });
    // 3 is retired, and 4 is read through it; 15 is retired, and what is kept above is read from checkpoint 20.
    chain.retired_seqs.extend([3, 15]);
    facts.records.get_mut(&20).unwrap().base = 16;
    let (_, garbage) = sweep(&facts, &chain, &rules(0, 0), &[held, free.clone()]);
    assert_eq!(garbage, [ObjectId::parse(&free).unwrap().1]);
}

#[test]
fn a_claim_expires_by_the_clock_it_is_asked_with_and_holds_until_it_is_released() {
    let mut state = State::default();
    for (number, expires) in [(1, 0), (2, 50), (3, 51)] {
        state.claims.insert(number, Claim { seq: number, kind: "reader".into(), expires, ..Claim::default() });
    }
    assert_eq!(state.expired(50), [2]);
    let retire = Kind::Retire(Retire { seqs: vec![2], ..Retire::default() });
    assert_eq!(state.allows(&retire), Err(Refused::Claimed(2)), "expired, and not released");
}
