//! The other half of speed, of Holdfast alone: how soon a volume is usable on a machine that has never seen it, how fast all of it is there, how
//! far the store is behind a writer, what an idle volume asks of the store, and how much memory many files take.

use crate::Outcome;
use crate::process::cost;
use crate::systems::{Lab, Return, System};
use crate::workloads::Sizes;
use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};

/// Bytes of each file of the volume that is lost.
const FILE_BYTES: usize = 10 << 10;

/// One line of the result.
pub(crate) struct Finding {
    pub(crate) name: String,
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
    /// To reach: at most this.
    pub(crate) at_most: Option<f64>,
}

fn finding(name: String, value: f64, unit: &'static str, at_most: Option<f64>) -> Finding {
    eprintln!("{name:<60} {value:>12.3} {unit}");
    Finding { name, value, unit, at_most }
}

/// All of it, on one kind of store.
pub(crate) fn measure(lab: &Lab, system: &str, sizes: &Sizes, million: bool) -> Outcome<Vec<Finding>> {
    let mut found = Vec::new();
    let many = million.then_some(1_000_000);
    for files in [sizes.small_files / 2, sizes.small_files * 5].into_iter().chain(many) {
        found.extend(lose(lab, system, files)?);
    }
    found.extend(large(lab, system, sizes)?);
    found.extend(lag(lab, system, sizes)?);
    Ok(found)
}

/// Fills a volume, kills everything, deletes the cache, and mounts it again.
fn lose(lab: &Lab, kind: &str, files: u64) -> Outcome<Vec<Finding>> {
    let mut found = Vec::new();
    let name = format!("{kind}-{files}");
    let mut system = lab.start_holdfast(&name, kind.ends_with("s3"))?;
    let mut content = vec![0; FILE_BYTES];
    for n in 0..files {
        let folder = system.root.join(format!("{}/{}", n / 10_000, n / 100 % 100));
        if n.is_multiple_of(100) {
            fs::create_dir_all(&folder)?;
        }
        crate::workloads::fill(&mut content, n);
        fs::write(folder.join(n.to_string()), &content)?;
    }
    let stored = system.settle()?;
    found.push(finding(format!("{kind}: {files} files, time until all is stored"), stored.as_secs_f64(), "s", None));
    let memory = cost(&system.pids()).peak_rss_mib;
    found.push(finding(format!("{kind}: {files} files, peak memory while writing"), memory, "MiB", bound_of_memory(files)));
    let before: u64 = system.requests().values().sum();
    std::thread::sleep(Duration::from_secs(10));
    let idle = system.requests().values().sum::<u64>() - before;
    if kind.ends_with("s3") {
        found.push(finding(format!("{kind}: {files} files, requests in 10 idle seconds"), idle as f64, "", Some(0.0)));
    }

    let took = first_byte(lab, &mut system, Return { hydrate: "lazy", one_core: false })?;
    found.push(finding(format!("{kind}: {files} files, lost machine to first byte"), took.as_secs_f64(), "s", Some(1.0)));
    let began = Instant::now();
    let bytes = read_all(&system.root)?;
    let seconds = began.elapsed().as_secs_f64();
    if bytes != files * FILE_BYTES as u64 {
        return Err(format!("{bytes} bytes came back of {files} files").into());
    }
    found.push(finding(format!("{kind}: {files} files, read whole"), bytes as f64 / seconds / (1 << 20) as f64, "MiB/s", None));
    found.push(finding(
        format!("{kind}: {files} files, peak memory after a hydrate"),
        cost(&system.pids()).peak_rss_mib,
        "MiB",
        bound_of_memory(files),
    ));
    let took = first_byte(lab, &mut system, Return { hydrate: "metadata", one_core: true })?;
    found.push(finding(format!("{kind}: {files} files, the same on one core"), took.as_secs_f64(), "s", None));
    found.extend(whole(lab, &format!("{kind}: {files} files"), &mut system)?);
    Ok(found)
}

/// Loses the machine and reads one byte.
fn first_byte(lab: &Lab, system: &mut System, how: Return) -> Outcome<Duration> {
    let began = system.lose_machine(lab, how)?;
    fs::File::open(system.root.join("0/0/0"))?.read_exact(&mut [0])?;
    Ok(began.elapsed())
}

/// All of a lost volume here, against the same packs read with nothing in between.
fn whole(lab: &Lab, what: &str, system: &mut System) -> Outcome<Vec<Finding>> {
    crate::drop_caches()?;
    let (bytes, plain) = system.plain_get()?;
    crate::drop_caches()?;
    let began = system.lose_machine(lab, Return { hydrate: "eager", one_core: false })?;
    let took = began.elapsed();
    let rate = |took: Duration| bytes as f64 / took.as_secs_f64() / (1 << 20) as f64;
    Ok(vec![
        finding(format!("{what}, plain parallel GET of the packs"), rate(plain), "MiB/s", None),
        finding(format!("{what}, whole hydrate"), rate(took), "MiB/s", None),
        finding(format!("{what}, whole hydrate, times a plain GET's time"), took.as_secs_f64() / plain.as_secs_f64(), "", Some(1.25)),
    ])
}

/// A few large files instead: what one core of ciphers and checksums does to a stream.
fn large(lab: &Lab, kind: &str, sizes: &Sizes) -> Outcome<Vec<Finding>> {
    let mut system = lab.start_holdfast(&format!("{kind}-large"), kind.ends_with("s3"))?;
    let mut block = vec![0; 1 << 20];
    for name in 0..4 {
        let mut file = fs::File::create(system.root.join(name.to_string()))?;
        for n in 0..sizes.stream_mib {
            crate::workloads::fill(&mut block, name << 32 | n);
            file.write_all(&block)?;
        }
    }
    system.settle()?;
    whole(lab, &format!("{kind}: 4 files of {} MiB", sizes.stream_mib), &mut system)
}

fn bound_of_memory(files: u64) -> Option<f64> {
    match files {
        0..=100_000 => Some(64.0),
        100_001..=1_000_000 => Some(256.0),
        _ => None,
    }
}

fn read_all(root: &Path) -> Outcome<u64> {
    let (mut pending, mut bytes) = (vec![root.to_owned()], 0);
    let mut buffer = vec![0; 1 << 20];
    while let Some(path) = pending.pop() {
        if path.is_dir() {
            for entry in fs::read_dir(path)? {
                pending.push(entry?.path());
            }
        } else {
            let mut file = fs::File::open(path)?;
            while let count @ 1.. = file.read(&mut buffer)? {
                bytes += count as u64;
            }
        }
    }
    Ok(bytes)
}

/// A writer that never pauses, and the age of the newest commit as `/metrics` tells it.
fn lag(lab: &Lab, kind: &str, sizes: &Sizes) -> Outcome<Vec<Finding>> {
    let system = lab.start_holdfast(&format!("{kind}-lag"), kind.ends_with("s3"))?;
    let mut file = fs::File::create(system.root.join("always"))?;
    let mut block = vec![0; 64 << 10];
    let (began, mut ages) = (Instant::now(), Vec::new());
    let mut written = 0_u64;
    let duration = Duration::from_secs(if sizes.stream_mib < 100 { 5 } else { 30 });
    while began.elapsed() < duration {
        crate::workloads::fill(&mut block, written);
        file.write_all(&block)?;
        written += block.len() as u64;
        // 3 MiB a second: under load, but not limited by the disk.
        std::thread::sleep(Duration::from_millis(20));
        // Until the first commits are there, the age is that of the volume.
        if began.elapsed() > Duration::from_secs(3) {
            ages.push(system.seconds_since_commit()?);
        }
    }
    ages.sort_by(f64::total_cmp);
    let at = |share: f64| ages[((ages.len() - 1) as f64 * share) as usize];
    Ok(vec![
        finding(format!("{kind}: how far the newest commit is behind, median"), at(0.5), "s", None),
        finding(format!("{kind}: how far the newest commit is behind, 99th percentile"), at(0.99), "s", Some(1.5)),
    ])
}

/// What was found, for people.
pub(crate) fn table(found: &[Finding]) -> String {
    let line = |finding: &Finding| {
        let verdict = match finding.at_most {
            Some(most) if finding.value <= most => format!("met    (to reach: <= {most})"),
            Some(most) => format!("MISSED (to reach: <= {most})"),
            None => String::new(),
        };
        format!("{:<64}{:>12.3} {:<6}{verdict}\n", finding.name, finding.value, finding.unit)
    };
    found.iter().map(line).collect()
}

impl System {
    /// `holdfast_writeback_last_commit_timestamp_seconds` of this system's exporter, as an age.
    fn seconds_since_commit(&self) -> Outcome<f64> {
        let address = self.metrics.as_ref().ok_or("no metrics")?;
        let mut stream = std::net::TcpStream::connect(address)?;
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let line = text.lines().find(|line| line.starts_with("holdfast_writeback_last_commit_timestamp_seconds"));
        let value: f64 = line.and_then(|line| line.rsplit(' ').next()).ok_or("no such metric")?.parse()?;
        let now = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH)?;
        Ok(now.as_secs_f64() - value)
    }
}
