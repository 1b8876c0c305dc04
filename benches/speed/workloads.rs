//! The workloads: each works in one directory and says how fast it was, as a rate or as seconds.

use crate::Outcome;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How large everything is.
#[derive(Debug, Clone)]
pub(crate) struct Sizes {
    pub(crate) stream_mib: u64,
    pub(crate) random_operations: u64,
    pub(crate) synced_operations: u64,
    pub(crate) small_files: u64,
    pub(crate) tree_files: u64,
    pub(crate) transactions: u64,
}

impl Sizes {
    /// Seconds in all: shows that everything runs.
    pub(crate) fn smoke() -> Self {
        Self { stream_mib: 8, random_operations: 500, synced_operations: 50, small_files: 200, tree_files: 200, transactions: 100 }
    }

    pub(crate) fn real(scale: u64) -> Self {
        Self {
            stream_mib: 256 * scale,
            random_operations: 20_000 * scale,
            synced_operations: 1_000 * scale,
            small_files: 20_000 * scale,
            tree_files: 6_000 * scale,
            transactions: 2_000 * scale,
        }
    }
}

/// Which way is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    MibPerSecond,
    PerSecond,
    Seconds,
}

impl Unit {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::MibPerSecond => "MiB/s",
            Self::PerSecond => "/s",
            Self::Seconds => "s",
        }
    }
}

/// What a workload has to work with.
pub(crate) struct Place<'a> {
    pub(crate) directory: &'a Path,
    pub(crate) sizes: &'a Sizes,
    /// A tar archive of `tree_files` files, on another file system's time.
    pub(crate) archive: &'a Path,
    pub(crate) round: u64,
}

/// A named workload. Later ones use what earlier ones left in the directory.
pub(crate) struct Workload {
    pub(crate) name: &'static str,
    pub(crate) unit: Unit,
    /// Drops the kernel's caches before.
    pub(crate) cold: bool,
    pub(crate) run: fn(&Place<'_>) -> Outcome<f64>,
}

/// All, in their order.
pub(crate) const WORKLOADS: &[Workload] = &[
    Workload { name: "sequential write + fsync", unit: Unit::MibPerSecond, cold: false, run: stream_write },
    Workload { name: "sequential read, cold", unit: Unit::MibPerSecond, cold: true, run: stream_read },
    Workload { name: "sequential read, warm", unit: Unit::MibPerSecond, cold: false, run: stream_read_warm },
    Workload { name: "4 KiB random read, cold", unit: Unit::PerSecond, cold: true, run: random_read },
    Workload { name: "4 KiB random read, warm", unit: Unit::PerSecond, cold: false, run: random_read_warm },
    Workload { name: "4 KiB random write, buffered", unit: Unit::PerSecond, cold: false, run: random_write },
    Workload { name: "4 KiB random write + fdatasync", unit: Unit::PerSecond, cold: false, run: random_write_synced },
    Workload { name: "4 KiB append + fsync", unit: Unit::PerSecond, cold: false, run: append_synced },
    Workload { name: "SQLite WAL, NORMAL", unit: Unit::PerSecond, cold: false, run: sqlite_normal },
    Workload { name: "SQLite WAL, FULL", unit: Unit::PerSecond, cold: false, run: sqlite_full },
    Workload { name: "create small files", unit: Unit::Seconds, cold: false, run: create_small },
    Workload { name: "ls -lR, cold", unit: Unit::Seconds, cold: true, run: list },
    Workload { name: "ls -lR, warm", unit: Unit::Seconds, cold: false, run: list },
    Workload { name: "rm -rf of small files", unit: Unit::Seconds, cold: false, run: remove_small },
    Workload { name: "untar", unit: Unit::Seconds, cold: false, run: untar },
    Workload { name: "git add", unit: Unit::Seconds, cold: false, run: git_add },
    Workload { name: "git status", unit: Unit::Seconds, cold: false, run: git_status },
    Workload { name: "rm -rf of the tree", unit: Unit::Seconds, cold: false, run: remove_tree },
];

const MIB: u64 = 1 << 20;
const PAGE: usize = 4096;

/// Bytes that neither compress nor repeat.
pub(crate) fn fill(buffer: &mut [u8], seed: u64) {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for word in buffer.chunks_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let length = word.len();
        word.copy_from_slice(&state.to_le_bytes()[..length]);
    }
}

fn rate(amount: u64, began: Instant) -> f64 {
    amount as f64 / began.elapsed().as_secs_f64()
}

fn stream_write(place: &Place<'_>) -> Outcome<f64> {
    let mut block = vec![0; MIB as usize];
    fill(&mut block, place.round + 1);
    let path = place.directory.join("stream");
    let _ = fs::remove_file(&path);
    let began = Instant::now();
    let mut file = File::create(path)?;
    for n in 0..place.sizes.stream_mib {
        // Each block differs, at the cost of one page.
        fill(&mut block[..PAGE], n);
        file.write_all(&block)?;
    }
    file.sync_all()?;
    Ok(rate(place.sizes.stream_mib, began))
}

fn stream_read(place: &Place<'_>) -> Outcome<f64> {
    let mut block = vec![0; MIB as usize];
    let mut file = File::open(place.directory.join("stream"))?;
    let began = Instant::now();
    let mut total = 0;
    loop {
        match file.read(&mut block)? {
            0 => break,
            count => total += count as u64,
        }
    }
    if total != place.sizes.stream_mib * MIB {
        return Err(format!("read {total} bytes of {} MiB", place.sizes.stream_mib).into());
    }
    Ok(rate(place.sizes.stream_mib, began))
}

/// Read once before: what can be in memory is.
fn stream_read_warm(place: &Place<'_>) -> Outcome<f64> {
    stream_read(place)?;
    stream_read(place)
}

fn random_read_warm(place: &Place<'_>) -> Outcome<f64> {
    stream_read(place)?;
    random_read(place)
}

/// Page numbers of a file, in an order that is the same for every system.
fn pages(place: &Place<'_>, operations: u64) -> impl Iterator<Item = u64> {
    let count = place.sizes.stream_mib * MIB / PAGE as u64;
    let mut state = 0x2545_f491_4f6c_dd1d_u64 ^ (place.round << 32);
    (0..operations).map(move |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 24) % count
    })
}

fn random_read(place: &Place<'_>) -> Outcome<f64> {
    let file = File::open(place.directory.join("stream"))?;
    // SAFETY: a hint about a descriptor. Read-ahead would make this another test of streams.
    unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_RANDOM) };
    let mut page = [0; PAGE];
    let began = Instant::now();
    for number in pages(place, place.sizes.random_operations) {
        file.read_exact_at(&mut page, number * PAGE as u64)?;
    }
    Ok(rate(place.sizes.random_operations, began))
}

/// A system that is slower by orders of magnitude is not waited for: its rate is then that of this time.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The rate at which `write` writes pages of the stream at random.
fn write_pages(place: &Place<'_>, operations: u64, file: &File, write: impl Fn(&[u8], u64) -> std::io::Result<()>) -> Outcome<f64> {
    let mut page = [0; PAGE];
    let mut done = 0;
    let began = Instant::now();
    for number in pages(place, operations).take_while(|_| began.elapsed() < PATIENCE) {
        fill(&mut page, number);
        write(&page, number * PAGE as u64)?;
        done += 1;
    }
    let result = rate(done, began);
    file.sync_all()?;
    Ok(result)
}

fn random_write(place: &Place<'_>) -> Outcome<f64> {
    let file = OpenOptions::new().write(true).open(place.directory.join("stream"))?;
    write_pages(place, place.sizes.random_operations, &file, |page, offset| file.write_all_at(page, offset))
}

fn random_write_synced(place: &Place<'_>) -> Outcome<f64> {
    let file = OpenOptions::new().write(true).open(place.directory.join("stream"))?;
    write_pages(place, place.sizes.synced_operations, &file, |page, offset| {
        file.write_all_at(page, offset)?;
        file.sync_data()
    })
}

fn append_synced(place: &Place<'_>) -> Outcome<f64> {
    let path = place.directory.join("appended");
    let _ = fs::remove_file(&path);
    let mut file = File::create(path)?;
    let mut page = [0; PAGE];
    let began = Instant::now();
    for number in 0..place.sizes.synced_operations {
        fill(&mut page, number);
        file.write_all(&page)?;
        file.sync_all()?;
    }
    Ok(rate(place.sizes.synced_operations, began))
}

fn sqlite(place: &Place<'_>, synchronous: &str, transactions: u64) -> Outcome<f64> {
    let path = place.directory.join(format!("{synchronous}.db"));
    for suffix in ["", "-wal", "-shm"] {
        let _ = fs::remove_file(format!("{}{suffix}", path.display()));
    }
    let mut connection = rusqlite::Connection::open(path)?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    connection.pragma_update(None, "synchronous", synchronous)?;
    connection.execute_batch("CREATE TABLE entry (id INTEGER PRIMARY KEY, text TEXT)")?;
    let text = "x".repeat(100);
    let began = Instant::now();
    for _ in 0..transactions {
        let transaction = connection.transaction()?;
        transaction.prepare_cached("INSERT INTO entry (text) VALUES (?1)")?.execute([&text])?;
        transaction.commit()?;
    }
    Ok(rate(transactions, began))
}

fn sqlite_normal(place: &Place<'_>) -> Outcome<f64> {
    sqlite(place, "normal", place.sizes.transactions * 10)
}

fn sqlite_full(place: &Place<'_>) -> Outcome<f64> {
    sqlite(place, "full", place.sizes.transactions)
}

fn create_small(place: &Place<'_>) -> Outcome<f64> {
    let root = place.directory.join("small");
    let content = [7; PAGE];
    let began = Instant::now();
    for folder in 0..place.sizes.small_files.div_ceil(100) {
        fs::create_dir_all(root.join(folder.to_string()))?;
    }
    for n in 0..place.sizes.small_files {
        File::create_new(root.join(format!("{}/{n}", n / 100)))?.write_all(&content)?;
    }
    Ok(began.elapsed().as_secs_f64())
}

/// Seconds that a program takes.
fn timed(command: &mut Command) -> Outcome<f64> {
    let began = Instant::now();
    let output = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).output()?;
    if !output.status.success() {
        return Err(format!("{command:?} ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(began.elapsed().as_secs_f64())
}

fn list(place: &Place<'_>) -> Outcome<f64> {
    timed(Command::new("ls").arg("-lR").arg(place.directory.join("small")))
}

fn remove_small(place: &Place<'_>) -> Outcome<f64> {
    timed(Command::new("rm").arg("-rf").arg(place.directory.join("small")))
}

fn untar(place: &Place<'_>) -> Outcome<f64> {
    let tree = place.directory.join("tree");
    fs::create_dir_all(&tree)?;
    timed(Command::new("tar").arg("-xf").arg(place.archive).arg("-C").arg(tree))
}

fn git(place: &Place<'_>, arguments: &[&str]) -> Command {
    let mut command = Command::new("git");
    command.arg("-C").arg(place.directory.join("tree")).args(["-c", "gc.auto=0", "-c", "core.untrackedCache=false"]).args(arguments);
    command.env("GIT_CONFIG_GLOBAL", "/dev/null");
    command
}

fn git_add(place: &Place<'_>) -> Outcome<f64> {
    timed(&mut git(place, &["init", "-q"]))?;
    timed(&mut git(place, &["add", "-A"]))
}

fn git_status(place: &Place<'_>) -> Outcome<f64> {
    timed(&mut git(place, &["status", "--porcelain"]))
}

fn remove_tree(place: &Place<'_>) -> Outcome<f64> {
    timed(Command::new("rm").arg("-rf").arg(place.directory.join("tree")))
}

/// Makes the archive that `untar` unpacks: text files of a few KiB in directories of a few dozen.
pub(crate) fn make_archive(directory: &Path, files: u64) -> Outcome<std::path::PathBuf> {
    let tree = directory.join("archived");
    let mut bytes = vec![0; 40 << 10];
    for n in 0..files {
        let folder = tree.join(format!("{:02}/{:02}", n / 640, n / 32 % 20));
        if n.is_multiple_of(32) {
            fs::create_dir_all(&folder)?;
        }
        // Half of it compresses, as source text does.
        let length = 200 + (n as usize * 7919) % 20_000;
        fill(&mut bytes[..length], n);
        bytes[..length].iter_mut().for_each(|byte| *byte = b'a' + *byte % 16);
        fs::write(folder.join(format!("{n}.txt")), &bytes[..length])?;
    }
    let archive = directory.join("tree.tar");
    timed(Command::new("tar").arg("-cf").arg(&archive).arg("-C").arg(&tree).arg("."))?;
    fs::remove_dir_all(tree)?;
    Ok(archive)
}
