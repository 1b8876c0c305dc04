//! `make bench`: ext4, a bare FUSE daemon, Holdfast on files and on a local S3 server, and peers, in one run on one disk.
//!
//! Hypothesis: keeping every write safe and streaming it away costs an application little more than the road through FUSE itself.
//! Rounds are interleaved: in each, every workload runs on every system, in an order that rotates; what is compared is the median of the ratios
//! within rounds. Prints a table and writes `target/bench/result.json`.
//!
//! `cargo bench --bench speed -- [--smoke] [--rounds N] [--systems a,b,NAME=MOUNTED-DIRECTORY] [--workloads PART|none] [--million]`; SCALE= multiplies sizes.
#![allow(clippy::disallowed_methods, clippy::print_stdout, clippy::print_stderr, reason = "it measures time and prints it")]

#[path = "speed/process.rs"]
mod process;
#[path = "speed/recovery.rs"]
mod recovery;
#[path = "speed/report.rs"]
mod report;
#[path = "speed/systems.rs"]
mod systems;
#[path = "speed/workloads.rs"]
mod workloads;

use report::{Results, Sample, Total};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;
use systems::{Lab, System};
use workloads::{Place, Sizes, WORKLOADS, Workload};

pub(crate) type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

const SYSTEMS: &str = "ext4,bare,holdfast-file,holdfast-s3,bindfs,rclone,s3fs";

struct Options {
    sizes: Sizes,
    rounds: u64,
    systems: Vec<String>,
    workloads: String,
    /// Also lose a volume of a million files.
    million: bool,
}

fn options() -> Outcome<Options> {
    let scale = std::env::var("SCALE").ok().map_or(Ok(1), |text| text.parse())?;
    let list = |text: &str| text.split(',').map(str::to_owned).collect();
    let mut options = Options { sizes: Sizes::real(scale), rounds: 5, systems: list(SYSTEMS), workloads: String::new(), million: false };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
        match argument.as_str() {
            // Handed on by cargo.
            "--bench" => {}
            "--million" => options.million = true,
            "--smoke" => (options.sizes, options.rounds) = (Sizes::smoke(), 1),
            "--rounds" => options.rounds = value()?.parse()?,
            "--systems" => options.systems = list(&value()?),
            "--workloads" => options.workloads = value()?,
            unknown => return Err(format!("{unknown}? see the head of benches/speed.rs").into()),
        }
    }
    Ok(options)
}

/// A directory on the disk that is measured, removed at the end.
fn lab() -> Outcome<(tempfile::TempDir, Lab)> {
    let parent = std::env::var_os("HOLDFAST_BENCH_LAB").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
    let directory = tempfile::Builder::new().prefix("holdfast-bench.").tempdir_in(parent)?;
    let mut binaries = std::env::current_exe()?;
    binaries.pop();
    binaries.pop();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/servers/s3.sh");
    let installed = Command::new(&script).output().ok().filter(|output| output.status.success());
    let s3_server = installed.map(|output| PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()));
    let lab = Lab { directory: directory.path().to_owned(), binaries, s3_server };
    Ok((directory, lab))
}

/// The kernel forgets what it knows; only root can ask for it.
fn drop_caches() -> Outcome<()> {
    // SAFETY: takes nothing, gives nothing.
    unsafe { libc::sync() };
    std::fs::write("/proc/sys/vm/drop_caches", "3").map_err(|error| format!("cold reads need root: drop_caches: {error}"))?;
    Ok(())
}

fn measure(system: &mut System, workload: &Workload, place: &Place<'_>) -> Outcome<Sample> {
    if workload.cold {
        drop_caches()?;
    }
    let before = system.cost();
    let value = (workload.run)(place).map_err(|error| format!("{} on {}: {error}", workload.name, system.name))?;
    let stored = system.settle()?;
    let cost = system.cost().since(before);
    Ok(Sample { value, cpu_seconds: cost.cpu_seconds, stored_seconds: stored.as_secs_f64() })
}

fn round(number: u64, systems: &mut [System], options: &Options, archive: &Path, results: &mut Results) -> Outcome<()> {
    let mut systems: Vec<&mut System> = systems.iter_mut().filter(|system| !results.slow.contains(&system.name)).collect();
    for system in &systems {
        std::fs::create_dir_all(system.root.join("work"))?;
    }
    let chosen = WORKLOADS.iter().filter(|workload| workload.name.contains(&options.workloads));
    for (index, workload) in chosen.enumerate() {
        for turn in 0..systems.len() {
            let count = systems.len();
            let system = &mut *systems[(turn + index + number as usize) % count];
            let directory = system.root.join("work");
            let place = Place { directory: &directory, sizes: &options.sizes, archive, round: number };
            let began = Instant::now();
            let sample = measure(system, workload, &place)?;
            // It is measured in this round alone.
            if began.elapsed() > workloads::PATIENCE {
                results.slow.insert(system.name.clone());
            }
            eprintln!("round {number}  {:<34} {:<14} {:>12.2} {}", workload.name, system.name, sample.value, workload.unit.name());
            results.add(&system.name, workload.name, sample);
        }
    }
    Ok(())
}

fn about(options: &Options) -> serde_json::Value {
    let said = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output().ok();
        output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
    };
    serde_json::json!({
        "kernel": said("uname", &["-r"]), "processors": std::thread::available_parallelism().map_or(0, usize::from), "disk": said("df", &["--output=source,fstype", "/var/tmp"]),
        "memory": said("sh", &["-c", "grep MemTotal /proc/meminfo"]), "rounds": options.rounds, "sizes": format!("{:?}", options.sizes),
    })
}

fn main() -> Outcome<()> {
    let options = options()?;
    let (_directory, lab) = lab()?;
    let archive = workloads::make_archive(&lab.directory, options.sizes.tree_files)?;
    let mut systems = Vec::new();
    for name in &options.systems {
        systems.extend(lab.start(name)?);
    }
    let mut results = Results::default();
    results.systems = systems.iter().map(|system| system.name.clone()).collect();
    for number in 0..options.rounds {
        round(number, &mut systems, &options, &archive, &mut results)?;
    }
    for system in &systems {
        results
            .totals
            .insert(system.name.clone(), Total { cost: system.cost(), requests: system.requests(), stored_mib: system.stored_mib() });
    }
    drop(systems);
    let mut found = Vec::new();
    for name in options.systems.iter().filter(|name| name.starts_with("holdfast") && matches!(options.workloads.as_str(), "" | "none")) {
        found.extend(recovery::measure(&lab, name, &options.sizes, options.million)?);
    }
    println!("{}\n{}", results.table(), recovery::table(&found));
    let place = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench");
    std::fs::create_dir_all(&place)?;
    std::fs::write(place.join("result.json"), serde_json::to_string_pretty(&results.json(about(&options), &found))?)?;
    println!("the same, with every sample: {}", place.join("result.json").display());
    Ok(())
}
