//! When each tier is committed, and who waits for it.

use super::*;
use crate::log::{At, Reader};
use crate::rpc;
use futures::future::join_all;

pub(super) const SECOND: Duration = Duration::from_secs(1);

pub(super) async fn under(policy: &'static str) -> World {
    World::new(Shape { policy, lag: Policy::parse(policy).unwrap().lag(), ..SHAPE }).await
}

impl World {
    pub(super) fn commits(&self) -> u64 {
        self.writeback.progress().state().commits
    }

    /// Seconds until everything is committed, when `each` is done before each of them.
    pub(super) async fn seconds_until_clean(&self, mut each: impl FnMut(u64)) -> u64 {
        for second in 0..10_000 {
            if !self.cache.changed() {
                return second;
            }
            each(second);
            self.go(SECOND).await;
        }
        panic!("never");
    }

    /// A file that is in a commit.
    pub(super) async fn stored(&self, name: &str) -> Ino {
        let ino = self.make(name);
        self.writeback.flush().await.unwrap();
        ino
    }
}

#[tokio::test]
async fn debounced_waits_for_quiet() {
    let world = under("* debounced quiet=8s max=10min").await;
    let ino = world.stored("f").await;
    write(&world.cache, ino, 0, b"1");
    let busy = |second: u64| {
        if second < 60 {
            write(&world.cache, ino, second * 10, b"more");
        }
    };
    let clean = world.seconds_until_clean(busy).await;
    assert!((67..=72).contains(&clean), "8 s after the last write, at 59 s: {clean}");
    // A change of attributes counts as one of content.
    let touch = |world: &World| {
        let set = |update: &mut Update<'_>| -> Result<((), SavedReply), CacheError> {
            let mut attr = update.attr(ino)?.unwrap();
            attr.mtime += 1;
            update.set_attr(&attr)?;
            Ok(((), SavedReply::Empty))
        };
        world.cache.update(None, set).unwrap();
    };
    touch(&world);
    let clean = world
        .seconds_until_clean(|second| {
            if second < 20 {
                touch(&world)
            }
        })
        .await;
    assert!((27..=32).contains(&clean), "{clean}");
}

#[tokio::test]
async fn debounced_waits_no_longer_than_max() {
    let world = under("* debounced quiet=8s max=1min").await;
    let ino = world.stored("f").await;
    write(&world.cache, ino, 0, b"1");
    let before = world.commits();
    for second in 0..300 {
        write(&world.cache, ino, second * 10, b"more");
        world.go(SECOND).await;
    }
    let commits = world.commits() - before;
    assert!((4..=6).contains(&commits), "one a minute in five: {commits}");
}

#[tokio::test]
async fn most_urgent_tier_takes_the_others_along() {
    let world = under("/slow debounced quiet=30s max=10min\n* continuous 1s").await;
    let (slow, fast) = (world.stored("slow").await, world.stored("fast").await);
    write(&world.cache, slow, 0, b"1");
    for _ in 0..20 {
        world.go(SECOND).await;
    }
    assert!(world.cache.changed(), "before its quiet");
    write(&world.cache, fast, 0, b"1");
    let clean = world.seconds_until_clean(|_| {}).await;
    assert!(clean <= 2, "all that is dirty is captured when any tier is due: {clean}");
    // A file that moves to another tier is asked for its path of now.
    write(&world.cache, fast, 0, b"2");
    let moved = |update: &mut Update<'_>| -> Result<((), SavedReply), CacheError> {
        update.remove_name(ROOT, b"slow")?;
        update.remove_name(ROOT, b"fast")?;
        update.set_name(ROOT, b"slow", fast)?;
        Ok(((), SavedReply::Empty))
    };
    world.cache.update(None, moved).unwrap();
    world.writeback.flush().await.unwrap();
    write(&world.cache, fast, 0, b"3");
    let clean = world.seconds_until_clean(|_| {}).await;
    assert!((30..=40).contains(&clean), "{clean}");
}

#[tokio::test]
async fn local_paths_disturb_no_quiet() {
    let world = under("/scratch local\n* debounced quiet=8s max=10min").await;
    let (kept, scratch) = (world.make("kept"), world.make("scratch"));
    world.writeback.flush().await.unwrap();
    let before = world.commits();
    write(&world.cache, scratch, 0, b"of nobody");
    for second in 0..60 {
        if second == 20 {
            write(&world.cache, kept, 0, b"1");
        }
        if world.commits() > before {
            assert!((28..=34).contains(&second), "8 s after its only write, at 20 s: {second}");
            return;
        }
        write(&world.cache, scratch, second * 10, b"more");
        world.go(SECOND).await;
    }
    panic!("never committed");
}

#[tokio::test]
async fn flush_and_a_waiting_sync_make_every_tier_due() {
    let world = under("* debounced quiet=1h max=2h").await;
    let ino = world.make("f");
    write(&world.cache, ino, 0, b"1");
    world.writeback.sync().await.unwrap();
    assert!(!world.cache.changed());
    write(&world.cache, ino, 0, b"2");
    world.writeback.flush().await.unwrap();
    assert!(!world.cache.changed());
}

#[tokio::test]
async fn syncs_share_a_commit_and_an_idle_one_makes_none() {
    let world = under("* strict").await;
    let ino = world.stored("f").await;
    let before = world.commits();
    write(&world.cache, ino, 0, b"1");
    join_all((0..50).map(|_| world.writeback.sync())).await.into_iter().for_each(Result::unwrap);
    assert!(!world.cache.changed());
    assert_eq!(world.commits() - before, 1);
    world.writeback.sync().await.unwrap();
    assert_eq!(world.commits() - before, 1, "everything is in a commit");
}

#[tokio::test]
async fn budget_never_delays_what_is_strict() {
    let world = World::new(Shape { policy: "/s strict\n* continuous 1s", budget: Some(1), ..SHAPE }).await;
    let (strict, other) = (world.stored("s").await, world.stored("f").await);
    write(&world.cache, other, 0, b"1");
    world.go(60 * SECOND).await;
    assert!(world.cache.changed(), "one request an hour");
    write(&world.cache, strict, 0, b"1");
    let clean = world.seconds_until_clean(|_| {}).await;
    assert!(clean <= 2, "{clean}");
}

#[tokio::test]
async fn strict_paths_hurry_no_others() {
    let world = under("/s strict\n* continuous 20s").await;
    let (strict, other) = (world.stored("s").await, world.stored("f").await);
    write(&world.cache, other, 0, b"1");
    let clean = world.seconds_until_clean(|_| {}).await;
    assert!((20..=22).contains(&clean), "{clean}");
    write(&world.cache, strict, 0, b"1");
    let clean = world.seconds_until_clean(|_| {}).await;
    assert!(clean <= 2, "what nobody fsyncs is committed as by `continuous 1s`: {clean}");
}

#[tokio::test]
async fn commit_names_the_domains_of_its_policy() {
    let world = under("/a strict\n/b debounced\n/c local\n* strict").await;
    world.make("f");
    let head = world.writeback.flush().await.unwrap().unwrap();
    let At::Record(record) = Reader::new(world.site.clone()).at(head.seq).await.unwrap() else { panic!("a record") };
    let Some(rpc::log_record::Kind::Commit(commit)) = record.record.kind else { panic!("a commit") };
    assert!(commit.full);
    let domains: Vec<_> = commit.domains.iter().map(|instant| instant.domain()).collect();
    assert_eq!(domains, [rpc::Domain::Strict, rpc::Domain::Continuous, rpc::Domain::Debounced]);
}

#[tokio::test]
async fn local_directory_is_captured_with_what_is_of_another_tier_and_nothing_else() {
    let world = under("*.db continuous 1s\n/cache/ local\n* continuous 1s").await;
    let made = |update: &mut Update<'_>| -> Result<(Ino, SavedReply), CacheError> {
        let dir = update.new_inode(&NewInode { mode: libc::S_IFDIR | 0o755, ..NewInode::default() })?.ino;
        update.set_name(ROOT, b"cache", dir)?;
        for name in [b"x.db".as_slice(), b"scratch"] {
            let ino = update.new_inode(&NewInode { mode: libc::S_IFREG | 0o644, ..NewInode::default() })?.ino;
            update.set_name(dir, name, ino)?;
        }
        Ok((dir, SavedReply::Empty))
    };
    let dir = world.cache.update(None, made).unwrap();
    world.writeback.flush().await.unwrap();
    let captured = |name: &[u8]| world.cache.view(|view| view.name_captured(dir, name)).unwrap();
    assert!(captured(b"x.db") && !captured(b"scratch"));
}
