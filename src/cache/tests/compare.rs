//! The tree of a cache against that of its newest commit: nothing that is sound is called odd, and what rotted is repaired, but never over
//! what was written meanwhile.

use super::lab::{Lab, options, origin};
use super::model;
use crate::cache::{Basis, Cache, Difference, Odd, Repair};
use crate::env::Env;
use crate::types::{Ino, PAGE, ROOT};
use proptest::prelude::*;
use std::sync::Arc;

fn commit(lab: &mut Lab) {
    lab.commit_all();
}

/// A second cache that was filled with the newest commit.
fn newest(lab: &mut Lab) -> Arc<Cache> {
    let dir = lab.fresh_dir();
    let cache = Cache::create(Env::real(), options(&dir, 1), &origin()).unwrap();
    let mut loader = cache.load().unwrap();
    for (seq, delta) in (1..).zip(&lab.deltas) {
        loader.delta(seq, delta).unwrap();
    }
    loader.finish(lab.cache.head().unwrap(), 1 << 41, 1).unwrap();
    cache
}

fn odd(lab: &Lab, basis: &Basis, newest: &Cache) -> Vec<Odd> {
    let (mut odd, mut ino, mut name) = (Vec::new(), 0, (0, 0));
    while lab.cache.compare_inodes(basis, newest, &mut ino, 3, &mut odd).unwrap() > 0 {}
    while lab.cache.compare_names(basis, newest, &mut name, 3, &mut odd).unwrap() > 0 {}
    odd
}

fn odd_now(lab: &mut Lab) -> Vec<Odd> {
    let (newest, basis) = (newest(lab), lab.cache.basis().unwrap());
    odd(lab, &basis, &newest)
}

fn repair(lab: &Lab, basis: &Basis, newest: &Cache, odd: &[Odd]) -> Vec<Difference> {
    match lab.cache.repair(basis, newest, odd).unwrap() {
        Repair::Done(done) => done,
        Repair::Moved => panic!("no commit was made"),
    }
}

/// A volume with a commit, its cache opened anew: nothing of it is in memory.
fn volume() -> (Lab, [Ino; 3]) {
    let mut lab = Lab::new();
    let dir = lab.make(ROOT, b"dir", true);
    let files = [lab.file(b"a"), lab.make(dir, b"b", false), lab.file(b"c")];
    for (n, ino) in (1..).zip(files) {
        lab.write(ino, 0, &vec![n; 3 * PAGE as usize + 100]);
        lab.chmod(ino, 0o640);
    }
    lab.link(files[2], dir, b"c again");
    commit(&mut lab);
    lab.crash();
    (lab, files)
}

fn rot(lab: &Lab, sql: &str) {
    let mut meta = lab.cache.meta.lock();
    assert!(meta.write().unwrap().execute(sql, []).unwrap() > 0, "{sql}");
}

#[test]
fn what_is_sound_is_not_odd() {
    let (mut lab, [a, b, c]) = volume();
    let first = newest(&mut lab);
    let (basis, dir) = (lab.cache.basis().unwrap(), *lab.entries(ROOT).get(&b"dir"[..]).unwrap());
    assert_eq!(odd(&lab, &basis, &first), []);
    // Changed, and in no commit.
    lab.write(a, PAGE, b"new");
    lab.truncate(b, 10);
    lab.rename(dir, b"b", ROOT, b"moved");
    lab.remove(dir, b"c again");
    lab.chmod(c, 0o600);
    let late = lab.file(b"late");
    lab.write(late, 0, &[9; 5000]);
    assert_eq!(odd(&lab, &basis, &first), []);
    // An open file without a name is in no commit.
    lab.tree.remove(&a);
    lab.entries(ROOT).remove(&b"a"[..]);
    lab.update(|u| u.remove_name(ROOT, b"a")).unwrap();
    let sealing = lab.begin_seal();
    assert_eq!(odd(&lab, &basis, &first), [], "what a seal holds");
    lab.commit(sealing);
    let (second, basis) = (newest(&mut lab), lab.cache.basis().unwrap());
    assert_eq!(odd(&lab, &basis, &second), []);
    lab.cache.evict(1 << 30).unwrap();
    assert_eq!(odd(&lab, &basis, &second), []);
    lab.crash();
    assert_eq!(odd(&lab, &lab.cache.basis().unwrap(), &second), []);
}

#[test]
fn what_rotted_is_as_committed_again() {
    let (mut lab, [a, b, c]) = volume();
    rot(&lab, &format!("UPDATE inodes SET mode=mode|7, size=12 WHERE ino={a}"));
    rot(&lab, &format!("UPDATE extents SET checksum=checksum+1 WHERE ino={b}"));
    rot(&lab, &format!("DELETE FROM inodes WHERE ino={c}"));
    rot(&lab, "UPDATE names SET name=CAST('x' AS BLOB) WHERE name=CAST('a' AS BLOB)");
    rot(&lab, "DELETE FROM names WHERE name=CAST('c' AS BLOB)");
    rot(&lab, &format!("UPDATE xattrs SET value=CAST('?' AS BLOB) WHERE ino={b}"));
    let (newest, basis) = (newest(&mut lab), lab.cache.basis().unwrap());
    let found = odd(&lab, &basis, &newest);
    let done = repair(&lab, &basis, &newest, &found);
    let names: Vec<_> = done.iter().filter_map(|d| d.name.as_deref()).collect();
    assert_eq!(names, [&b"x"[..], b"a", b"c"]);
    assert!(done.len() == 6 && done.iter().all(|d| !d.kept), "{done:?}");
    lab.check();
    assert_eq!(odd(&lab, &basis, &newest), []);
    // It is in the next commit, and its end would be said.
    lab.crash();
    lab.check();
    lab.remove(ROOT, b"a");
    lab.remove(ROOT, b"c");
    commit(&mut lab);
    lab.crash();
    lab.check();
    assert_eq!(odd_now(&mut lab), []);
}

#[test]
fn what_is_newer_than_the_commit_is_kept() {
    let (mut lab, [a, ..]) = volume();
    rot(&lab, &format!("UPDATE inodes SET mode=mode&~63, ctime=ctime+1 WHERE ino={a}"));
    lab.tree.get_mut(&a).unwrap().mode &= !0o77;
    let (newest, basis) = (newest(&mut lab), lab.cache.basis().unwrap());
    let found = odd(&lab, &basis, &newest);
    assert!(matches!(&repair(&lab, &basis, &newest, &found)[..], [done] if done.kept && done.ino == a));
    lab.check();
    commit(&mut lab);
    assert_eq!(odd_now(&mut lab), []);
}

#[test]
fn a_repair_never_goes_over_what_was_written_meanwhile() {
    let (mut lab, [a, b, c]) = volume();
    rot(&lab, &format!("UPDATE extents SET checksum=checksum+1 WHERE ino IN ({a},{b},{c})"));
    let (newest, basis) = (newest(&mut lab), lab.cache.basis().unwrap());
    let found = odd(&lab, &basis, &newest);
    assert_eq!(found, [a, b, c].map(Odd::Inode));
    // One page of the first is written, another one is frozen for a commit under way, the third is cut.
    lab.write(b, 0, &[7; PAGE as usize]);
    let sealing = lab.begin_seal();
    lab.write(a, PAGE, &[8; 2000]);
    lab.truncate(c, PAGE);
    assert_eq!(repair(&lab, &basis, &newest, &found), []);
    lab.check();
    lab.commit(sealing);
    assert_eq!(lab.cache.repair(&basis, &newest, &found).unwrap(), Repair::Moved);
    lab.check();
}

#[test]
fn a_repair_while_a_seal_reads_what_changed() {
    let (mut lab, [a, ..]) = volume();
    let many: Vec<Ino> = (0..3000).map(|n| lab.file(format!("f{n}").as_bytes())).collect();
    commit(&mut lab);
    lab.crash();
    rot(&lab, &format!("UPDATE inodes SET size=100 WHERE ino={a}"));
    let (newest, basis) = (newest(&mut lab), lab.cache.basis().unwrap());
    for ino in &many {
        lab.chmod(*ino, 0o600);
    }
    let (reading, begun) = std::sync::mpsc::channel();
    let (cache, newest) = (&lab.cache, &newest);
    let (done, seal) = std::thread::scope(|threads| {
        // It gets the metadata between two of the many chunks that the seal reads.
        let repair = threads.spawn(move || {
            begun.recv().unwrap();
            cache.repair(&basis, newest, &[Odd::Inode(a)]).unwrap()
        });
        let seal = lab.cache.seal(&mut |_, _| {
            let _ = reading.send(());
            crate::types::Domain::Continuous
        });
        (repair.join().unwrap(), seal.unwrap())
    });
    assert!(matches!(&done, Repair::Done(done) if done.len() == 1 && !done[0].kept), "{done:?}");
    let at_flip = lab.tree.clone();
    lab.commit(super::lab::Sealing { seal, at_flip });
    lab.check();
    commit(&mut lab);
    lab.check();
    assert_eq!(odd_now(&mut lab), []);
}

/// What the disk makes of the `pick`-th row that is in a commit as it is: `None` when there is none.
fn rot_one(lab: &Lab, kind: u8, pick: usize) -> Option<()> {
    let (of_names, sql) = match kind {
        0 => (false, "UPDATE inodes SET mode=(mode|7)-(mode&7) WHERE ino=?1"),
        1 => (false, "UPDATE inodes SET size=size+5000 WHERE ino=?1"),
        2 => (false, "UPDATE inodes SET size=size/2 WHERE ino=?1"),
        3 => (false, "DELETE FROM inodes WHERE ino=?1"),
        4 => (false, "UPDATE extents SET checksum=checksum+1, length=1 WHERE ino=?1"),
        5 => (true, "DELETE FROM names WHERE dir=?1 AND cookie=?2"),
        6 => (true, "UPDATE OR IGNORE names SET name=CAST('rotten' AS BLOB) WHERE dir=?1 AND cookie=?2"),
        _ => (true, "UPDATE names SET ino=1 WHERE dir=?1 AND cookie=?2"),
    };
    let mut meta = lab.cache.meta.lock();
    let resolved = meta.resolved as i64;
    let rows = match of_names {
        true => "SELECT dir,cookie FROM names WHERE stamp<=?1",
        // Of a file with other changes the row is not compared before its commit.
        false => "SELECT ino,0 FROM inodes WHERE ino>1 AND stamp<=?1 AND ino NOT IN (SELECT ino FROM files WHERE changed<>0)",
    };
    let db = meta.write().unwrap();
    let mut statement = db.prepare(rows).unwrap();
    let rows: Vec<(i64, i64)> =
        statement.query_map([resolved], |row| Ok((row.get(0)?, row.get(1)?))).unwrap().collect::<Result<_, _>>().unwrap();
    let (first, second) = *rows.get(pick % rows.len().max(1))?;
    match of_names {
        true => db.execute(sql, [first, second]).unwrap(),
        false => db.execute(sql, [first]).unwrap(),
    };
    Some(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: std::env::var("CACHE_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(16), ..ProptestConfig::default() })]
    #[test]
    fn a_tree_is_repaired_whatever_was_done_before(
        before in proptest::collection::vec(model::op(), 1..60),
        since in proptest::collection::vec(model::op(), 0..12),
        rots in proptest::collection::vec((0..8_u8, any::<u16>()), 1..4),
        after in proptest::collection::vec(model::op(), 0..20),
    ) {
        let (mut lab, mut sealing) = (Lab::new(), None);
        commit(&mut lab);
        for op in &before {
            model::run(&mut lab, &mut sealing, op);
        }
        if let Some(sealing) = sealing.take() {
            lab.commit(sealing);
        }
        commit(&mut lab);
        for op in &since {
            model::run(&mut lab, &mut sealing, op);
        }
        prop_assert_eq!(odd_now(&mut lab), [], "nothing is wrong yet");
        lab.crash();
        sealing = None;
        lab.cache.apply_batch().unwrap();
        for (kind, pick) in &rots {
            let _ = rot_one(&lab, *kind, *pick as usize);
        }
        let (newest, basis) = (newest(&mut lab), lab.cache.basis().unwrap());
        let found = odd(&lab, &basis, &newest);
        repair(&lab, &basis, &newest, &found);
        lab.check();
        lab.crash();
        lab.check();
        for op in &after {
            model::run(&mut lab, &mut sealing, op);
        }
        if let Some(sealing) = sealing.take() {
            lab.commit(sealing);
        }
        commit(&mut lab);
        lab.check();
        prop_assert_eq!(odd_now(&mut lab), []);
    }
}
