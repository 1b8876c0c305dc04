//! A store that fails now and then, loses replies, is far away, or behind a narrow line: applications see no error, and it is all there.

use super::content;
use super::way::{Way, Weather};
use crate::harness::s3::S3Server;
use crate::harness::scale;
use crate::rig::Rig;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Duration;

const WRITERS: u64 = 3;

/// Applications at work: writers with fsyncs, renames and appends, and a SQLite database.
fn work(root: &Path, files: u64, length: usize) {
    std::thread::scope(|threads| {
        for writer in 0..WRITERS {
            threads.spawn(move || write_files(&root.join(format!("writer{writer}")), writer, files, length));
        }
        threads.spawn(|| transactions(&root.join("ledger.db"), files));
    });
}

fn write_files(dir: &Path, writer: u64, files: u64, length: usize) {
    fs::create_dir(dir).expect("mkdir");
    let mut log = File::options().create(true).append(true).open(dir.join("log")).expect("a log");
    for n in 0..files {
        let (new, path) = (dir.join("new"), dir.join(format!("f{n}")));
        let mut file = File::create(&new).expect("create");
        file.write_all(&content(writer << 32 | n, length)).expect("write");
        file.sync_all().expect("fsync");
        fs::rename(&new, &path).expect("rename");
        writeln!(log, "{n} is written").expect("append");
        if n % 5 == 4 {
            log.sync_data().expect("fdatasync");
            fs::remove_file(dir.join(format!("f{}", n - 2))).expect("unlink");
            File::open(dir).and_then(|dir| dir.sync_all()).expect("fsync of a directory");
        }
    }
}

fn transactions(path: &Path, count: u64) {
    let mut db = rusqlite::Connection::open(path).expect("a database");
    db.execute_batch(
        "PRAGMA synchronous=FULL; CREATE TABLE account(id INTEGER PRIMARY KEY, coins INTEGER); INSERT INTO account VALUES(1,100),(2,100);",
    )
    .expect("its tables");
    for n in 0..i64::try_from(count).expect("a count") {
        let transfer = db.transaction().expect("begin");
        transfer.execute("UPDATE account SET coins=coins-?1 WHERE id=1", [n]).expect("update");
        transfer.execute("UPDATE account SET coins=coins+?1 WHERE id=2", [n]).expect("update");
        transfer.commit().expect("commit");
    }
}

/// Every file below a directory with its content.
fn tree(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let (mut found, mut pending) = (BTreeMap::new(), vec![root.to_owned()]);
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(&dir).expect("list") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                pending.push(path);
            } else {
                let content = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                found.insert(path.strip_prefix(root).expect("below it").to_owned(), content);
            }
        }
    }
    found
}

/// Work, a flush and the end on one machine, and another one that reads: all of it by that way.
fn there_and_back(weather: Weather, files: u64, length: usize) -> std::sync::Arc<Way> {
    let server = S3Server::start();
    let rig = Rig::on(server.url("slow"));
    let way = Way::to(&server, weather);
    let url = way.url(&rig.url);
    let first = rig.mount_with("first", |command| {
        command.env("HOLDFAST_STORE", &url);
    });
    work(&first.root, files, length);
    rig.succeed("first", &["flush", &first.root.display().to_string()]);
    // After a flush too: the last commit is made by the unmount.
    fs::write(first.root.join("last"), content(1 << 40, length)).expect("write");
    let written = tree(&first.root);
    rig.unmount("first", first);
    let second = rig.mount_with("second", |command| {
        command.env("HOLDFAST_STORE", &url);
    });
    let read = tree(&second.root);
    assert_eq!(written.keys().collect::<Vec<_>>(), read.keys().collect::<Vec<_>>());
    assert!(
        written == read,
        "the content of {:?}",
        written.iter().find(|(path, content)| read.get(*path) != Some(content)).map(|(path, _)| path)
    );
    let db = rusqlite::Connection::open(second.root.join("ledger.db")).expect("the database");
    let sum: i64 = db.query_row("SELECT sum(coins) FROM account", [], |row| row.get(0)).expect("its accounts");
    assert_eq!(sum, 200);
    drop(db);
    rig.unmount("second", second);
    way
}

#[test]
fn errors_and_lost_replies_reach_no_application() {
    let way = there_and_back(Weather { fail_each: 7, slow_down_each: 11, lose_each: 13, ..Weather::default() }, 25 * scale(), 20_000);
    let met = |count: &std::sync::atomic::AtomicU64| count.load(Ordering::SeqCst);
    assert!(met(&way.met.failed) >= 3 && met(&way.met.slowed) >= 2 && met(&way.met.lost) >= 2, "{:?}", way.met);
}

#[test]
fn a_store_far_away_on_a_narrow_line_is_only_slow() {
    // 1 Mbit/s.
    let way =
        there_and_back(Weather { latency: Duration::from_millis(200), bytes_a_second: 125_000, ..Weather::default() }, 12 * scale(), 8_000);
    assert!(way.met.requests.load(Ordering::SeqCst) > 10, "{:?}", way.met);
}
