//! The tier `scheduled`: when it is committed, and what commits of other tiers leave of it.

use super::tiers::{SECOND, under};
use super::*;
use crate::log::{At, Reader};
use crate::rpc;

impl World {
    /// The wall clock is set forward or back by so much.
    fn set_clock(&self, seconds: i64) {
        self.clock.at.lock().set += seconds * 1_000_000_000;
    }

    /// Seconds until a full hour of the wall clock.
    fn until_the_hour(&self) -> u64 {
        3600 - u64::try_from(self.clock.now() / 1_000_000_000 % 3600).unwrap()
    }
}

#[tokio::test]
async fn scheduled_is_committed_at_its_times_only() {
    let world = under("* scheduled 0 * * * *").await;
    let ino = world.stored("f").await;
    let before = world.commits();
    for _ in 0..2 {
        write(&world.cache, ino, 0, b"1");
        let left = world.until_the_hour();
        let busy = |second: u64| write(&world.cache, ino, second * 10 % 1000, b"more");
        let clean = world
            .seconds_until_clean(|second| {
                if second < left - 5 {
                    busy(second)
                }
            })
            .await;
        assert!((left..=left + 2).contains(&clean), "at the full hour, in {left} s: {clean}");
    }
    assert_eq!(world.commits() - before, 2);
    // Nothing changes: no time makes a commit.
    world.go(7200 * SECOND).await;
    assert_eq!(world.commits() - before, 2);
}

/// A file that was written a second ago, in a tier that is due at the full hour.
async fn dirty_until_the_hour() -> (World, Ino) {
    let world = under("* scheduled 0 * * * *").await;
    let ino = world.stored("f").await;
    write(&world.cache, ino, 0, b"1");
    world.go(SECOND).await;
    (world, ino)
}

#[tokio::test]
async fn missed_times_are_made_up_once() {
    let (world, ino) = dirty_until_the_hour().await;
    let before = world.commits();
    // The machine slept, or its clock was wrong: three of its times did not come.
    world.set_clock(3 * 3600);
    let clean = world.seconds_until_clean(|_| {}).await;
    assert!(clean <= 7, "soon: {clean}");
    write(&world.cache, ino, 0, b"2");
    let left = world.until_the_hour();
    let clean = world.seconds_until_clean(|_| {}).await;
    assert!((left..=left + 2).contains(&clean), "and not once more: {left} {clean}");
    assert_eq!(world.commits() - before, 2);
}

#[tokio::test]
async fn clock_set_back_delays_no_longer_than_to_the_next_time() {
    let (world, _) = dirty_until_the_hour().await;
    world.set_clock(-7 * 86_400);
    let left = world.until_the_hour();
    let clean = world.seconds_until_clean(|_| {}).await;
    assert!((left..=left + 2).contains(&clean), "{left} {clean}");
}

#[tokio::test]
async fn scheduled_waits_for_nobody_who_asks_for_a_commit() {
    let world = under("* scheduled @yearly").await;
    let ino = world.make("f");
    write(&world.cache, ino, 0, b"1");
    world.writeback.flush().await.unwrap();
    assert!(!world.cache.changed(), "a flush captures every tier");
    let world = World::new(Shape { policy: "* scheduled @yearly", dirty_max: 64 << 10, ..SHAPE }).await;
    let ino = world.stored("f").await;
    write(&world.cache, ino, 0, &[1; 40 << 10]);
    let clean = world.seconds_until_clean(|_| {}).await;
    assert!(clean <= 2, "above the high-water mark every tier is due: {clean}");
}

const MIB: u64 = 1 << 20;
const MEDIA: &str = "/big* scheduled @yearly\n/ledger strict\n* continuous 1s";

/// Bytes that do not become fewer.
fn noise(seed: u64, len: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[0]
    };
    std::iter::repeat_with(next).take(usize::try_from(len).unwrap()).collect()
}

impl World {
    fn sent(&self) -> u64 {
        self.requests.snapshot().bytes_up
    }

    async fn commit_at(&self, seq: u64) -> rpc::Commit {
        let At::Record(record) = Reader::new(self.site.clone()).at(seq).await.unwrap() else { panic!("a record") };
        let Some(rpc::log_record::Kind::Commit(commit)) = record.record.kind else { panic!("a commit") };
        commit
    }

    async fn newest(&self) -> rpc::Commit {
        self.commit_at(self.cache.head().unwrap().seq).await
    }

    fn update(&self, change: impl FnOnce(&mut Update<'_>) -> Result<(), CacheError>) {
        self.cache.update(None, |update| change(update).map(|()| ((), SavedReply::Empty))).unwrap();
    }

    /// Lets the other tiers have a commit.
    async fn others(&self, ino: Ino) -> rpc::Commit {
        let before = self.commits();
        write(&self.cache, ino, 0, &before.to_le_bytes());
        for _ in 0..5 {
            self.go(SECOND).await;
            if self.commits() > before {
                return self.newest().await;
            }
        }
        panic!("no commit");
    }
}

fn names(commit: &rpc::Commit) -> Vec<String> {
    let delta = commit.delta.clone().unwrap_or_default();
    delta.names.iter().map(|name| String::from_utf8_lossy(&name.name).into_owned()).collect()
}

fn scheduled(commit: &rpc::Commit) -> rpc::DomainInstant {
    *commit.domains.iter().find(|of| of.domain() == rpc::Domain::Scheduled).unwrap()
}

#[tokio::test]
async fn import_delays_neither_lag_nor_strict() {
    let world = under(MEDIA).await;
    let (small, ledger, big) = (world.stored("small").await, world.stored("ledger").await, world.make("big"));
    let (before, sent) = (world.commits(), world.sent());
    let mut oldest = Duration::ZERO;
    // More than what travels with the others from the first second on.
    write(&world.cache, big, 96 * MIB, &noise(99, 12 * MIB));
    for second in 0..24u64 {
        write(&world.cache, big, second * 4 * MIB, &noise(second, 4 * MIB));
        write(&world.cache, small, second * 100, b"a row");
        if second % 4 == 3 {
            write(&world.cache, ledger, second * 100, b"a debt");
            world.writeback.sync().await.unwrap();
        }
        world.go(SECOND / 2).await;
        world.go(SECOND / 2).await;
        let commit = world.newest().await;
        oldest = oldest.max(Duration::from_nanos(u64::try_from(world.clock.now() - commit.cut_time).unwrap()));
    }
    let (commits, bytes) = (world.commits() - before, world.sent() - sent);
    println!("108 MiB in `scheduled`: {commits} commits of others in 24 s, {} KiB sent, the oldest cut {oldest:?} old", bytes >> 10);
    assert!(commits >= 20, "one a second: {commits}");
    assert!(oldest <= 3 * SECOND, "{oldest:?}");
    assert!(bytes < MIB, "{bytes}");
    assert!(!world.newest().await.full);
    assert!(world.cache.changed() && world.cache.dirty_content() >= 108 * MIB);
    // A flush captures it.
    let head = world.writeback.flush().await.unwrap().unwrap();
    assert!(world.commit_at(head.seq).await.full && !world.cache.changed());
    assert!(world.sent() - sent > 108 * MIB);
}

#[tokio::test]
async fn little_of_it_travels_with_the_others() {
    let world = under(MEDIA).await;
    let small = world.stored("small").await;
    let big = world.make("big");
    write(&world.cache, big, 0, &noise(1, 7 * MIB));
    let commit = world.others(small).await;
    assert!(commit.full && !world.cache.changed(), "below 8 MiB");
}

#[tokio::test]
async fn commits_say_as_of_when_they_show_each_tier() {
    let world = under(MEDIA).await;
    let small = world.stored("small").await;
    let full = world.commit_at(world.cache.head().unwrap().seq).await;
    let (seq, time) = (world.cache.head().unwrap().seq, full.cut_time);
    assert_eq!((scheduled(&full).seq, scheduled(&full).cut_time), (seq, time));
    let big = world.make("big");
    write(&world.cache, big, 0, &noise(1, 9 * MIB));
    for _ in 0..3 {
        let left = world.others(small).await;
        assert!(!left.full && names(&left).is_empty());
        assert_eq!((scheduled(&left).seq, scheduled(&left).cut_time), (seq, time), "as of the last full commit");
        let others = left.domains.iter().filter(|of| of.domain() != rpc::Domain::Scheduled);
        assert!(others.clone().count() == 2 && others.clone().all(|of| of.cut_time == left.cut_time));
    }
    let head = world.writeback.flush().await.unwrap().unwrap();
    let full = world.commit_at(head.seq).await;
    assert_eq!((names(&full), scheduled(&full).seq), (vec!["big".to_owned()], head.seq));
}

#[tokio::test]
async fn its_time_comes_while_others_are_committed() {
    let world = under("/big* scheduled 0 * * * *\n* continuous 1s").await;
    let small = world.stored("small").await;
    let big = world.make("big");
    write(&world.cache, big, 0, &noise(1, 9 * MIB));
    let left = world.until_the_hour();
    for second in 0..left + 5 {
        if world.cache.dirty_content() < MIB {
            assert!((left..=left + 2).contains(&second), "{left} {second}");
            assert!(world.newest().await.full);
            return;
        }
        if second % 60 == 30 {
            write(&world.cache, small, 0, &second.to_le_bytes());
        }
        world.go(SECOND).await;
    }
    panic!("never");
}

/// A change, with a file of the tier that a commit holds, and one that none holds.
type Tie = fn(&mut Update<'_>, Ino, Ino) -> Result<(), CacheError>;

/// What ties the tier to another one, or to what a commit holds of it.
const SEAMS: &[(&str, Tie)] = &[
    ("removed in the tier", |update, _, _| update.remove_name(ROOT, b"big-kept")),
    ("renamed in the tier", |update, kept, _| {
        update.remove_name(ROOT, b"big-kept")?;
        update.set_name(ROOT, b"big-moved", kept)
    }),
    ("replaced in the tier", |update, _, big| {
        update.remove_name(ROOT, b"big")?;
        update.set_name(ROOT, b"big-kept", big)
    }),
    ("moved out of the tier", |update, kept, _| {
        update.remove_name(ROOT, b"big-kept")?;
        update.set_name(ROOT, b"out", kept)
    }),
    ("moved into the tier", |update, _, _| {
        let (small, _) = update.lookup(ROOT, b"small")?.unwrap();
        update.remove_name(ROOT, b"small")?;
        update.set_name(ROOT, b"big-small", small)
    }),
    ("its only other name removed", |update, _, _| {
        let (small, _) = update.lookup(ROOT, b"small")?.unwrap();
        update.set_name(ROOT, b"big-small", small)?;
        update.remove_name(ROOT, b"small")
    }),
    ("a directory moved that may hold some", |update, _, _| {
        let (dir, _) = update.lookup(ROOT, b"dir")?.unwrap();
        update.remove_name(ROOT, b"dir")?;
        update.set_name(ROOT, b"big-dir", dir)
    }),
];

/// What does not.
const STANDS: &[(&str, Tie)] = &[
    ("a new name of its own", |update, _, big| {
        update.remove_name(ROOT, b"big")?;
        update.set_name(ROOT, b"big-final", big)
    }),
    ("linked in the tier", |update, kept, _| update.set_name(ROOT, b"big-link", kept)),
    ("removed elsewhere", |update, _, _| update.remove_name(ROOT, b"other")),
    ("replaced elsewhere", |update, _, _| {
        let (small, _) = update.lookup(ROOT, b"small")?.unwrap();
        update.remove_name(ROOT, b"small")?;
        update.set_name(ROOT, b"other", small)
    }),
    ("a directory moved that cannot hold any", |update, _, _| {
        let (dir, _) = update.lookup(ROOT, b"dir")?.unwrap();
        update.remove_name(ROOT, b"dir")?;
        update.set_name(ROOT, b"there", dir)
    }),
    ("its attributes", |update, kept, _| {
        let mut attr = update.attr(kept)?.unwrap();
        attr.mode ^= 0o111;
        update.set_attr(&attr)
    }),
    ("cut", |update, kept, _| update.set_size(kept, 1)),
];
#[tokio::test]
async fn nothing_waits_that_is_tied_to_the_rest() {
    for (cases, full) in [(SEAMS, true), (STANDS, false)] {
        for (what, tie) in cases {
            let world = under(MEDIA).await;
            let (_small, _other, always) = (world.make("small"), world.make("other"), world.make("always"));
            let kept = world.make("big-kept");
            write(&world.cache, kept, 0, b"kept");
            world.update(|update| {
                let dir = update.new_inode(&NewInode { mode: libc::S_IFDIR | 0o755, ..NewInode::default() })?.ino;
                update.set_name(ROOT, b"dir", dir)
            });
            world.writeback.flush().await.unwrap();
            let big = world.make("big");
            write(&world.cache, big, 0, &noise(1, 9 * MIB));
            assert!(!world.others(always).await.full, "{what}");
            world.update(|update| tie(update, kept, big));
            let commit = world.others(always).await;
            assert_eq!(commit.full, full, "{what}");
            if !full {
                let delta = commit.delta.unwrap_or_default();
                assert!(delta.inodes.iter().all(|inode| inode.ino != kept && inode.ino != big), "{what}");
            }
        }
    }
}
