//! Which commit a moment means, with clocks that were right and wrong; and what the end of a life leaves.

use super::{Entry, What, begin, delete, end, not_after, standing, undo};
use crate::env::{Clock, Env, Failpoints, Random};
use crate::format::names;
use crate::format::seal::{Cipher, Sealer};
use crate::log::control::Purging;
use crate::log::{Framed, Hint, LogError, Phase, Reader, Site, Writer, WriterParams};
use crate::rpc::{Commit, Holder};
use crate::store::{Memory, Store};
use crate::types::{FaultKind, Incarnation, Seq, StoreId, UnixNanos, WriterId};
use futures::FutureExt;
use futures::executor::block_on;
use futures::future::{BoxFuture, ready};
use proptest::prelude::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// In a log of commits with these times, from record 1 on (0: no commit, by a clock far behind).
fn find(times: &[UnixNanos], time: UnixNanos) -> Option<Seq> {
    let entry = |seq: Seq| {
        let at = times.get(usize::try_from(seq).unwrap() - 1).copied();
        let what =
            |at| if at == 0 { What::Close } else { What::Commit { full: true, inodes: 1, bytes: 0, uploaded: 0, note: String::new() } };
        ready(Ok(at.map(|at| Entry { seq, epoch: 1, time: at, what: what(at) })))
    };
    match block_on(not_after(times.len() as Seq, time, &entry)) {
        Ok(found) => Some(found.seq),
        Err(fault) => {
            assert_eq!(fault.kind, FaultKind::NotFound);
            None
        }
    }
}

proptest! {
    #[test]
    fn clock_that_was_right_gives_the_newest_not_after(mut times in proptest::collection::vec(1i64..1000, 1..200), time in 0i64..1001) {
        times.sort_unstable();
        let want = times.iter().rposition(|at| *at <= time).map(|index| index as Seq + 1);
        prop_assert_eq!(find(&times, time), want);
    }

    #[test]
    fn clock_that_was_set_never_gives_a_commit_after_the_time(times in proptest::collection::vec(0i64..1000, 1..200), time in 0i64..1001) {
        match find(&times, time) {
            Some(seq) => prop_assert!(times[seq as usize - 1] <= time && times[seq as usize - 1] > 0),
            None => prop_assert!(times.last().is_none_or(|last| *last > time || *last == 0)),
        }
    }
}

#[test]
fn year_that_was_wrong_does_not_hide_what_is_right_again() {
    // Set back for ten commits, then right again: 1 to 10 at 2001.., 11 to 20 at 1001.., 21 to 30 at 2101...
    let back: Vec<i64> = (2001..=2010).chain(1001..=1010).chain(2101..=2110).collect();
    assert_eq!((find(&back, 9999), find(&back, 2105), find(&back, 2110)), (Some(30), Some(25), Some(30)));
    // Set forward: the commits of the right clock after it are found, not those before.
    let forward: Vec<i64> = (2001..=2010).chain(3001..=3010).chain(2101..=2110).collect();
    assert_eq!((find(&forward, 2105), find(&forward, 2110), find(&forward, 9999)), (Some(25), Some(30), Some(30)));
    // An `open` by a clock far behind stands at the end.
    assert_eq!((find(&[5, 0], 3), find(&[2, 5, 0], 3)), (None, Some(1)));
}

#[derive(Default)]
struct Still(AtomicU64);

impl Clock for Still {
    fn now(&self) -> UnixNanos {
        7
    }

    fn monotonic(&self) -> Duration {
        Duration::ZERO
    }

    fn sleep(&self, _: Duration) -> BoxFuture<'static, ()> {
        ready(()).boxed()
    }
}

impl Random for Still {
    fn fill(&self, bytes: &mut [u8]) {
        for byte in bytes {
            *byte = self.0.fetch_add(1, Ordering::Relaxed).to_le_bytes()[0];
        }
    }
}

const LIFE: Incarnation = Incarnation([5; 16]);

fn open(site: &Site) -> Result<Writer, LogError> {
    let params = WriterParams { writer: WriterId(site.env().random()), holder: Holder::default(), cache: None, hint: Hint::default() };
    block_on(Writer::open(site.clone(), params)).map(|(writer, _)| writer)
}

/// A log of ten commits in blocks of four, a pack that nothing names, and somebody who still writes.
fn life() -> (Site, Writer) {
    let still = Arc::new(Still::default());
    let env = Env::new(Arc::clone(&still) as Arc<dyn Clock>, still, Failpoints::none());
    let sealer = Sealer::new(Cipher::ChaCha20Poly1305, &[2; 32], StoreId([0x80; 16]), Some(LIFE));
    let store: Arc<dyn Store> = Arc::new(Memory::new(env.clone()));
    let site = Site::new(store, env, sealer, LIFE).with_block(4);
    let mut writer = open(&site).unwrap();
    for _ in 0..10 {
        commit(&mut writer).unwrap();
    }
    block_on(site.store().put_if_absent(&names::pack(LIFE, 1, [9; 16]), "pack".into())).unwrap();
    (site, writer)
}

fn commit(writer: &mut Writer) -> Result<(), LogError> {
    let approved = writer.nameable().approve(Commit::default(), &Framed::default(), &|_| false)?;
    let prepared = writer.prepare(approved)?;
    block_on(writer.put(&prepared)).map(drop)
}

#[test]
fn end_of_a_life_frees_whole_blocks_and_leaves_the_fence() {
    let (site, mut zombie) = life();
    let reader = Reader::new(site.clone());
    assert_eq!(block_on(end(&reader, "test", 9, 0)).unwrap_err().kind, FaultKind::Busy, "not begun");
    block_on(begin(&reader, "test", 9)).unwrap();
    assert_eq!(block_on(end(&reader, "test", 18, 10)).unwrap_err().kind, FaultKind::Busy, "the grace is not over");
    block_on(undo(&reader, "test", 18)).unwrap();
    commit(&mut zombie).unwrap();
    block_on(begin(&reader, "test", 20)).unwrap();
    block_on(end(&reader, "test", 30, 10)).unwrap();
    assert!(matches!(commit(&mut zombie), Err(LogError::Purged { .. })), "who had it open is fenced");
    // Records 1 to 12 and the fence, 13: blocks 0 to 2 lie below it; its `open` stays.
    assert_eq!(block_on(delete(&reader, "test", 30, &|_, _| {})).unwrap(), 1 + 10);
    assert_eq!(block_on(delete(&reader, "test", 30, &|_, _| {})).unwrap(), 0);
    let left = block_on(site.store().list(&names::commits_prefix(LIFE), None, 100)).unwrap();
    assert_eq!(left.iter().map(|meta| names::parse_commit(&meta.name).unwrap().1).collect::<Vec<_>>(), [1, 12, 13]);
    let standing = block_on(standing(&reader)).unwrap();
    assert_eq!((standing.tip.seq, standing.tip.phase, standing.chain.purging), (13, Phase::Fenced, Purging::Done));
    assert!(matches!(open(&site), Err(LogError::Purged { .. })), "nobody opens it again");
}

#[test]
fn life_that_nobody_ever_opened_ends_too() {
    let (site, _) = life();
    let never = Incarnation([6; 16]);
    let sealer = Sealer::new(Cipher::ChaCha20Poly1305, &[2; 32], StoreId([0x80; 16]), Some(never));
    let site = Site::new(Arc::clone(site.store()), site.env().clone(), sealer, never);
    let reader = Reader::new(site.clone());
    block_on(begin(&reader, "test", 9)).unwrap();
    block_on(end(&reader, "test", 9, 0)).unwrap();
    assert_eq!(block_on(delete(&reader, "test", 9, &|_, _| {})).unwrap(), 0);
    assert_eq!(block_on(standing(&reader)).unwrap().tip.phase, Phase::Fenced);
    assert!(matches!(open(&site), Err(LogError::Purged { .. })));
}
