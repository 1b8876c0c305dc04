//! `holdfast doctor`: does this machine have what a mount needs? Facts are collected here; what they mean is decided by
//! [`judge`], which is pure.

use super::context::{Answer, Context};
use super::exit::Exit;
use crate::config::{Settings, show_size};
use crate::types::Fault;
use clap::Args;
use serde::Serialize;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

/// No arguments of its own.
#[derive(Debug, Args)]
pub struct DoctorArgs {}

/// What was found on the machine.
#[derive(Debug, Clone)]
struct Facts {
    kernel: String,
    root: bool,
    fuse_device: Result<(), String>,
    fuse_known: bool,
    max_pages: Option<u64>,
    request_timeout: Option<u64>,
    bdi_limits: bool,
    keeper: bool,
    /// Where other machines are to ask, and whether this machine has that address.
    answers: Option<(SocketAddr, Result<(), String>)>,
    cache: PathBuf,
    disk: Result<Disk, String>,
}

#[derive(Debug, Clone, Default)]
struct Disk {
    kind: i64,
    size: u64,
    free: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Good,
    /// A mount works, with what is said.
    Note,
    /// No mount works before this is changed.
    Bad,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Check {
    what: &'static str,
    verdict: Verdict,
    found: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

#[derive(Serialize)]
struct Diagnosis {
    usable: bool,
    checks: Vec<Check>,
}

impl Answer for Diagnosis {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{}", if self.usable { "This machine can mount volumes." } else { "This machine CANNOT mount volumes." })?;
        for check in &self.checks {
            let sign = match check.verdict {
                Verdict::Good => "ok  ",
                Verdict::Note => "note",
                Verdict::Bad => "BAD ",
            };
            writeln!(out, "{sign}  {}: {}", check.what, check.found)?;
            if let Some(next) = &check.next {
                writeln!(out, "      {next}")?;
            }
        }
        Ok(())
    }
}

pub(super) fn run(context: &Context, _args: &DoctorArgs) -> Result<Exit, Fault> {
    let checks = judge(&collect(&context.settings));
    let usable = checks.iter().all(|check| check.verdict != Verdict::Bad);
    context.answer(&Diagnosis { usable, checks })?;
    Ok(if usable { Exit::Done } else { Exit::Lacking })
}

fn collect(settings: &Settings) -> Facts {
    // Any port: a mount that runs has the one in the settings.
    let listen = |address: SocketAddr| TcpListener::bind((address.ip(), 0)).map(drop).map_err(|error| error.to_string());
    let cache = &settings.cache;
    let number = |path: &str| std::fs::read_to_string(path).ok()?.trim().parse().ok();
    let open = |path: &str| std::fs::OpenOptions::new().read(true).write(true).open(path);
    let bdi = std::fs::read_dir("/sys/class/bdi").ok().and_then(|mut entries| entries.next()?.ok());
    let filesystems = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    Facts {
        kernel: std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
        root: nix::unistd::geteuid().is_root(),
        fuse_device: open("/dev/fuse").map(drop).map_err(|error| error.to_string()),
        fuse_known: filesystems.lines().any(|line| line.trim_start_matches("nodev").trim() == "fuse"),
        max_pages: number("/proc/sys/fs/fuse/max_pages_limit"),
        request_timeout: number("/proc/sys/fs/fuse/default_request_timeout"),
        bdi_limits: bdi.is_some_and(|entry| entry.path().join("max_bytes").exists() && entry.path().join("min_bytes").exists()),
        keeper: super::mount::own_program().is_ok_and(|own| own.with_file_name(crate::keeper::PROGRAM).exists()),
        answers: settings.peer_listen.map(|address| (address, listen(address))),
        cache: cache.to_owned(),
        disk: disk(cache),
    }
}

/// The disk that holds a directory, or would: the nearest parent that exists.
fn disk(dir: &Path) -> Result<Disk, String> {
    let there = dir.ancestors().find(|path| path.exists()).ok_or_else(|| "no parent of it exists".to_owned())?;
    let found = nix::sys::statfs::statfs(there).map_err(|error| error.to_string())?;
    let block = u64::try_from(found.block_size()).unwrap_or(0);
    Ok(Disk { kind: found.filesystem_type().0, size: found.blocks() * block, free: found.blocks_available() * block })
}

fn judge(facts: &Facts) -> Vec<Check> {
    let mut checks = vec![kernel(&facts.kernel), device(facts)];
    checks.push(if facts.root {
        check("root", Verdict::Good, "yes", None)
    } else {
        check("root", Verdict::Bad, "no", Some("a mount needs root (or CAP_SYS_ADMIN): run it with sudo or from a unit".to_owned()))
    });
    if let Some(timeout) = facts.request_timeout.filter(|seconds| *seconds > 0) {
        let next = "a driver that restarts slower than that loses its mounts: sysctl fs.fuse.default_request_timeout=0";
        checks.push(check("FUSE request timeout", Verdict::Bad, format!("{timeout} s"), Some(next.to_owned())));
    }
    if let Some(pages) = facts.max_pages {
        let small = pages < 256;
        let next = small.then(|| "writes reach the driver in pieces smaller than 1 MiB: sysctl fs.fuse.max_pages_limit=256".to_owned());
        checks.push(check("FUSE pages per request", if small { Verdict::Note } else { Verdict::Good }, pages.to_string(), next));
    }
    checks.push(if facts.bdi_limits {
        check("bound on the kernel's dirty share", Verdict::Good, "bdi min_bytes and max_bytes", None)
    } else {
        let next =
            "what an application wrote and nobody fsynced is bounded by vm.dirty_bytes alone; kernel 6.2 and later bound it per mount";
        check("bound on the kernel's dirty share", Verdict::Note, "not in this kernel", Some(next.to_owned()))
    });
    checks.push(if facts.keeper {
        check("keeper", Verdict::Good, "its program is beside this one", None)
    } else {
        let next =
            format!("a mount ends should its supervisor and its driver die at once; put {} beside this program", crate::keeper::PROGRAM);
        check("keeper", Verdict::Note, "its program is missing", Some(next))
    });
    checks.push(answers(facts.answers.as_ref()));
    checks.push(cache(facts));
    checks
}

fn answers(listens: Option<&(SocketAddr, Result<(), String>)>) -> Check {
    let what = "answers about its volumes";
    match listens {
        Some((address, Ok(()))) => check(what, Verdict::Good, format!("on {address}"), None),
        Some((address, Err(why))) => {
            let next = "peer-listen is to be an address of this machine by which others reach it".to_owned();
            check(what, Verdict::Bad, format!("cannot listen on {address}: {why}"), Some(next))
        }
        None => {
            let next = "a machine that wants a volume which is in use here must ask a person; with --peer-listen ADDRESS:0 it is told";
            check(what, Verdict::Note, "to nobody", Some(next.to_owned()))
        }
    }
}

fn check(what: &'static str, verdict: Verdict, found: impl Into<String>, next: Option<String>) -> Check {
    Check { what, verdict, found: found.into(), next }
}

fn kernel(release: &str) -> Check {
    let mut numbers = release.split(['.', '-', '+']).map_while(|part| part.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let (verdict, next) = match version {
        (6.., 9..) | (7.., _) => (Verdict::Good, None),
        (5, 10..) | (6, _) => {
            let next = "the kernel cannot resend (6.9 and later can): requests under way when a driver dies end with EIO";
            (Verdict::Note, Some(next.to_owned()))
        }
        _ => (Verdict::Bad, Some("Linux 5.10 or later is needed, 6.9 or later is better".to_owned())),
    };
    check("kernel", verdict, if release.is_empty() { "unknown" } else { release }, next)
}

fn device(facts: &Facts) -> Check {
    match &facts.fuse_device {
        Ok(()) => check("/dev/fuse", Verdict::Good, "can be opened", None),
        Err(why) => {
            let next = match (facts.fuse_known, facts.root) {
                (false, _) => "load the kernel's module: modprobe fuse",
                (true, true) => "in a container, pass the device in: --device /dev/fuse --cap-add SYS_ADMIN",
                (true, false) => "run as root",
            };
            check("/dev/fuse", Verdict::Bad, why, Some(next.to_owned()))
        }
    }
}

// From linux/magic.h.
const GOOD_DISKS: &[(i64, &str)] = &[(0xEF53, "ext4"), (0x5846_5342, "XFS")];
const BAD_DISKS: &[(i64, &str)] = &[
    (0x0102_1994, "tmpfs"),
    (0x794c_7630, "overlay"),
    (0x6969, "NFS"),
    (0xFF53_4D42, "SMB"),
    (0xFE53_4D42, "SMB"),
    (0x6573_5546, "FUSE"),
    (0x0102_1997, "9p"),
    (0x00c3_6400, "Ceph"),
];

fn cache(facts: &Facts) -> Check {
    let what = "disk of the caches";
    let dir = facts.cache.display();
    let disk = match &facts.disk {
        Ok(disk) => disk,
        Err(why) => return check(what, Verdict::Bad, format!("{dir}: {why}"), Some("name another with --cache".to_owned())),
    };
    let named = |list: &[(i64, &'static str)]| list.iter().find(|(kind, _)| *kind == disk.kind).map(|(_, name)| *name);
    let room = format!("{} free of {}", show_size(disk.free), show_size(disk.size));
    if let Some(name) = named(BAD_DISKS) {
        let next = "a cache must survive a reboot and honour fsync: put it on ext4 or XFS with --cache DIR".to_owned();
        return check(what, Verdict::Bad, format!("{dir} is on {name}"), Some(next));
    }
    if disk.free < disk.size / 10 || disk.free < 1 << 30 {
        let next = "a cache leaves 10 % of the disk free: make room, or name another with --cache".to_owned();
        return check(what, Verdict::Note, format!("{dir}: {room}"), Some(next));
    }
    match named(GOOD_DISKS) {
        Some(name) => check(what, Verdict::Good, format!("{dir} on {name}, {room}"), None),
        None => {
            let next = "only ext4 and XFS are tested".to_owned();
            check(what, Verdict::Note, format!("{dir} on file system {:#x}, {room}", disk.kind), Some(next))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Facts {
        Facts {
            kernel: "6.18.1-amd64".to_owned(),
            root: true,
            fuse_device: Ok(()),
            fuse_known: true,
            max_pages: Some(256),
            request_timeout: Some(0),
            bdi_limits: true,
            keeper: true,
            answers: Some(([10, 0, 0, 5], 0).into()).map(|address| (address, Ok(()))),
            cache: "/c".into(),
            disk: Ok(Disk { kind: 0xEF53, size: 100 << 30, free: 50 << 30 }),
        }
    }

    fn verdict(facts: &Facts, what: &str) -> (Verdict, String) {
        let check = judge(facts).into_iter().find(|check| check.what == what).unwrap();
        (check.verdict, check.next.unwrap_or_default())
    }

    #[test]
    fn good_machine_has_nothing_to_say() {
        for check in judge(&good()) {
            assert_eq!((check.verdict, &check.next), (Verdict::Good, &None), "{check:?}");
        }
    }

    #[test]
    fn kernels_are_told_apart_by_what_they_can() {
        for (release, expected) in [
            ("7.0.0", Verdict::Good),
            ("6.9.0-rc1", Verdict::Good),
            ("6.8.12", Verdict::Note),
            ("5.10.0", Verdict::Note),
            ("5.4.1", Verdict::Bad),
            ("", Verdict::Bad),
        ] {
            assert_eq!(verdict(&Facts { kernel: release.to_owned(), ..good() }, "kernel").0, expected, "{release}");
        }
    }

    #[test]
    fn each_lack_says_the_next_step() {
        let missing = |fuse_known, root| Facts { fuse_device: Err("No such file".to_owned()), fuse_known, root, ..good() };
        assert!(verdict(&missing(false, true), "/dev/fuse").1.contains("modprobe fuse"));
        assert!(verdict(&missing(true, true), "/dev/fuse").1.contains("--device /dev/fuse"));
        assert_eq!(verdict(&missing(true, false), "root").0, Verdict::Bad);
        assert_eq!(verdict(&Facts { request_timeout: Some(30), ..good() }, "FUSE request timeout").0, Verdict::Bad);
        assert_eq!(verdict(&Facts { max_pages: Some(32), ..good() }, "FUSE pages per request").0, Verdict::Note);
        assert_eq!(verdict(&Facts { bdi_limits: false, ..good() }, "bound on the kernel's dirty share").0, Verdict::Note);
        assert_eq!(verdict(&Facts { keeper: false, ..good() }, "keeper").0, Verdict::Note);
        let what = "answers about its volumes";
        assert_eq!(verdict(&Facts { answers: None, ..good() }, what).0, Verdict::Note);
        let foreign = Some((([10, 0, 0, 5], 0).into(), Err("Cannot assign requested address".to_owned())));
        assert_eq!(verdict(&Facts { answers: foreign, ..good() }, what).0, Verdict::Bad);
        let disk = |kind, free| Facts { disk: Ok(Disk { kind, size: 100 << 30, free }), ..good() };
        assert_eq!(verdict(&disk(0x0102_1994, 50 << 30), "disk of the caches").0, Verdict::Bad);
        assert_eq!(verdict(&disk(0xEF53, 5 << 30), "disk of the caches").0, Verdict::Note);
        assert_eq!(verdict(&disk(0x1234, 50 << 30), "disk of the caches").0, Verdict::Note);
        assert_eq!(verdict(&Facts { disk: Err("gone".to_owned()), ..good() }, "disk of the caches").0, Verdict::Bad);
    }
}
