//! Applications at work while drivers are killed, replaced, and the keeper with them: fio with fsync and verify, SQLite, `git clone`, a
//! writer by mmap, a walker. None may see an error, nothing that was acknowledged may be missing. `SCALE=1`: a few kills; `SCALE=20`: 200
//! kills and 20 upgrades. How long the pauses were is printed, not asserted.

use super::{Kept, Stop, kill, wait_until_gone};
use crate::harness::command::{shell, succeed};
use crate::harness::{Chance, scale};
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

const TREE: u64 = 200;

fn fio(root: &Path, stop: &AtomicBool) -> u64 {
    super::until_stopped(stop, |_| {
        let mut fio = Command::new("fio");
        fio.args(["--name=v", "--rw=randwrite", "--bs=4k", "--size=4m", "--fsync=16", "--verify=crc32c", "--verify_fatal=1"]);
        fio.args(["--ioengine=psync", "--verify_state_save=0", "--fallocate=none", "--minimal"])
            .arg(format!("--directory={}", root.display()));
        succeed(&mut fio);
    })
}

/// Rows in the database, all of which were acknowledged.
fn sqlite(root: &Path, stop: &AtomicBool) -> u64 {
    let db = rusqlite::Connection::open(root.join("db")).unwrap();
    db.execute_batch("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; CREATE TABLE t (n INTEGER PRIMARY KEY, text TEXT)").unwrap();
    let rows = super::until_stopped(stop, |n| {
        let inserted = db.execute("INSERT INTO t VALUES (?1, ?2)", (n as i64, format!("row {n}")));
        inserted.unwrap_or_else(|error| panic!("row {n}: {error}: {}", std::io::Error::last_os_error()));
    });
    drop(db);
    let db = rusqlite::Connection::open(root.join("db")).unwrap();
    let ok: String = db.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    let (count, max): (i64, i64) = db.query_row("SELECT count(*), max(n) FROM t", [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    assert_eq!((ok.as_str(), count, max + 1), ("ok", rows as i64, rows as i64));
    rows
}

fn clones(root: &Path, origin: &Path, stop: &AtomicBool) -> u64 {
    super::until_stopped(stop, |_| {
        let line =
            "git clone -q --no-hardlinks \"$1\" clone && git -C clone fsck --strict && git -C clone status --porcelain && rm -rf clone";
        shell(root, line, &[origin.as_os_str()]);
    })
}

/// Writes counters through a shared mapping; msync now and then; reads all back in the end.
fn mapped(root: &Path, stop: &AtomicBool) -> u64 {
    const WORDS: usize = 1 << 17;
    let file = File::options().read(true).write(true).create_new(true).open(root.join("mapped")).unwrap();
    file.set_len(WORDS as u64 * 8).unwrap();
    // SAFETY: a mapping of our own file, with its length; not used after it is taken away.
    let words = unsafe {
        let start = libc::mmap(std::ptr::null_mut(), WORDS * 8, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED, file.as_raw_fd(), 0);
        assert_ne!(start, libc::MAP_FAILED);
        std::slice::from_raw_parts_mut(start.cast::<u64>(), WORDS)
    };
    let rounds = super::until_stopped(stop, |n| {
        let at = (n as usize * 7919) % WORDS;
        words[at] = n + 1;
        if n % 4096 == 0 {
            // SAFETY: the mapping from above.
            let synced = unsafe { libc::msync(words.as_mut_ptr().cast(), WORDS * 8, libc::MS_SYNC) };
            assert_eq!(synced, 0, "msync: {}", std::io::Error::last_os_error());
        }
    });
    let expected = words.to_vec();
    // SAFETY: the mapping from above, for the last time.
    unsafe { libc::munmap(words.as_mut_ptr().cast(), WORDS * 8) };
    file.sync_all().unwrap();
    let bytes = fs::read(root.join("mapped")).unwrap();
    assert!(bytes.chunks_exact(8).zip(&expected).all(|(bytes, word)| bytes == word.to_le_bytes()));
    rounds
}

fn walks(root: &Path, stop: &AtomicBool) -> u64 {
    super::until_stopped(stop, |_| {
        let mut seen = 0;
        let mut pending = vec![root.to_path_buf()];
        while let Some(dir) = pending.pop() {
            for entry in fs::read_dir(&dir).unwrap() {
                let entry = entry.unwrap();
                let meta = entry.metadata().unwrap();
                seen += 1;
                if meta.is_dir() {
                    pending.push(entry.path());
                } else {
                    assert_eq!(meta.len(), entry.file_name().len() as u64);
                }
            }
        }
        assert_eq!(seen, TREE + TREE / 10);
    })
}

fn plant(root: &Path) {
    for n in 0..TREE {
        let dir = root.join(format!("d{}", n / 10));
        fs::create_dir_all(&dir).unwrap();
        let name = format!("file-{n}");
        fs::write(dir.join(&name), &name).unwrap();
    }
}

fn origin(dir: &Path) {
    fs::create_dir(dir).unwrap();
    let line = "git init -q . && for i in $(seq 60); do seq $i 400 > file$i; done && git add . && git -c user.name=a -c user.email=a@b commit -qm one";
    shell(dir, line, &[]);
}

fn print(what: &str, mut pauses: Vec<Duration>) {
    pauses.sort();
    let (median, max) = (pauses.get(pauses.len() / 2), pauses.last());
    println!("{}: median pause {:?}, longest {:?}", format_args!("{} {what}", pauses.len()), median.unwrap(), max.unwrap());
}

#[test]
fn applications_feel_pauses_and_no_error() {
    let (kills, upgrades) = if scale() >= 20 { (200, 20) } else { (5, 2) };
    let kept = Kept::new();
    let root = kept.root();
    for name in ["fio", "sqlite", "git", "mmap", "tree"] {
        fs::create_dir(root.join(name)).unwrap();
    }
    plant(&root.join("tree"));
    let from = kept.rig.path("origin");
    origin(&from);
    let (stop, mut chance) = (AtomicBool::new(false), Chance::new("show"));
    let done = std::thread::scope(|scope| {
        let workers = [
            scope.spawn(|| fio(&root.join("fio"), &stop)),
            scope.spawn(|| sqlite(&root.join("sqlite"), &stop)),
            scope.spawn(|| clones(&root.join("git"), &from, &stop)),
            scope.spawn(|| mapped(&root.join("mmap"), &stop)),
            scope.spawn(|| walks(&root.join("tree"), &stop)),
        ];
        let stopped = Stop(&stop);
        let (mut paused, mut handed_over) = (Vec::new(), Vec::new());
        for n in 0..kills + upgrades {
            std::thread::sleep(Duration::from_millis(chance.between(20, 400)));
            let [keeper, supervisor, driver] = kept.three();
            if n % (kills / upgrades + 1) == 1 {
                let said = kept.rig.succeed("first", &["upgrade", "--json", &root.display().to_string()]);
                let said: serde_json::Value = serde_json::from_str(&said).unwrap();
                handed_over.push(Duration::from_millis(said[0]["milliseconds"].as_u64().unwrap()));
                continue;
            }
            let began = Instant::now();
            kill(driver);
            assert!(fs::metadata(root.join(format!("no such name {n}"))).is_err());
            paused.push(began.elapsed());
            wait_until_gone(driver);
            // The keeper, or the supervisor, in between: never with the driver at once.
            match n % 4 {
                2 => drop(kept.lose(&[keeper])),
                3 => drop(kept.lose(&[supervisor])),
                _ => {}
            }
        }
        assert_eq!((paused.len() as u64, handed_over.len() as u64), (kills, upgrades));
        print("kills of the driver", paused);
        print("upgrades, until the new driver answers", handed_over);
        drop(stopped);
        workers.map(|worker| worker.join().expect("an application saw an error"))
    });
    println!("fio runs, rows, clones, words, walks: {done:?}");
    assert!(done.iter().all(|count| *count > 0));
    let (code, status) = kept.status();
    assert!(code == 0 || status["status"]["dirty_bytes"].as_u64() > Some(0), "{status}");
    kept.unmount();
}
