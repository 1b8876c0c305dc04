//! mount(2) itself, the table of mounts, and the kernel's knobs for one mount.
//!
//! Raw, without a helper program: the descriptor must be ours alone to hand to the second holder, and nothing may read it
//! before the session does.

use crate::types::{Fault, FaultKind};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The file system's type in the table of mounts.
pub const TYPE: &str = "fuse.holdfast";
/// Before the identity, in the table's column of sources.
const SOURCE: &str = "holdfast:";

/// Largest READ by read-ahead, in KiB: INIT cannot raise it above 128.
const READ_AHEAD_KIB: u64 = 1024;
/// Acknowledged bytes the kernel may hold for this mount (protocol.md 7.5).
const KERNEL_SHARE: u64 = 64 << 20;

/// How often, and how long apart, unmounting what is in use is tried again.
const BUSY_TRIES: u32 = 10;
const BUSY_PAUSE: Duration = Duration::from_millis(20);

/// How a directory is to be mounted.
#[derive(Debug, Clone)]
pub(super) struct MountPoint<'a> {
    pub(super) dir: &'a Path,
    pub(super) source: &'a str,
    pub(super) read_only: bool,
    pub(super) over_files: bool,
    pub(super) suid: bool,
    pub(super) devices: bool,
}

impl MountPoint<'_> {
    /// Refuses with the reason and the next step, before anything is changed.
    pub(super) fn check(&self) -> Result<(), Fault> {
        let dir = self.dir.display();
        let refuse = |kind, why: String| Err(Fault::new(kind, why));
        // The table first: looking at a mount asks whoever serves it, who may not answer.
        if let Some(mounted) = find(self.dir)? {
            let message = format!(
                "{dir} is mounted already (by {}): unmount it first (`umount {dir}`, or `umount -l {dir}` if it is dead), or choose another",
                mounted.source
            );
            return refuse(FaultKind::Busy, message);
        }
        match std::fs::metadata(self.dir) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return refuse(FaultKind::NotFound, format!("{dir} does not exist: create it first"));
            }
            Err(error) => return Err(Fault::with(FaultKind::Local, format!("cannot look at {dir}"), error)),
            Ok(meta) if !meta.is_dir() => return refuse(FaultKind::Invalid, format!("{dir} is not a directory")),
            Ok(_) => {}
        }
        let occupied =
            std::fs::read_dir(self.dir).map_err(|e| Fault::with(FaultKind::Local, format!("cannot list {dir}"), e))?.next().is_some();
        if occupied && !self.over_files {
            return refuse(FaultKind::Busy, format!("{dir} is not empty: what is in it would be hidden; choose an empty directory"));
        }
        Ok(())
    }

    /// Opens the device and mounts it. The kernel's INIT waits on the descriptor.
    pub(super) fn mount(&self) -> Result<OwnedFd, Fault> {
        self.check()?;
        let device = open_device()?;
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other", device.as_raw_fd());
        let mut flags = MsFlags::empty();
        flags.set(MsFlags::MS_RDONLY, self.read_only);
        flags.set(MsFlags::MS_NOSUID, !self.suid);
        flags.set(MsFlags::MS_NODEV, !self.devices);
        let source = format!("{SOURCE}{}", self.source);
        mount(Some(source.as_str()), self.dir, Some(TYPE), flags, Some(options.as_str())).map_err(|errno| {
            let dir = self.dir.display();
            match errno {
                Errno::EPERM => Fault::with(
                    FaultKind::Denied,
                    format!("not allowed to mount on {dir}: CAP_SYS_ADMIN is needed; run as root, or give the container that capability"),
                    errno,
                ),
                Errno::ENODEV => Fault::with(
                    FaultKind::Local,
                    "the kernel has no FUSE: `modprobe fuse`, or a kernel with CONFIG_FUSE_FS".to_owned(),
                    errno,
                ),
                _ => Fault::with(FaultKind::Local, format!("cannot mount on {dir}"), errno),
            }
        })?;
        Ok(device)
    }
}

fn open_device() -> Result<OwnedFd, Fault> {
    let opened = std::fs::OpenOptions::new().read(true).write(true).open("/dev/fuse");
    opened.map(OwnedFd::from).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            Fault::with(FaultKind::Local, "no /dev/fuse here: `modprobe fuse`, or pass the device into the container", error)
        }
        std::io::ErrorKind::PermissionDenied => {
            Fault::with(FaultKind::Denied, "not allowed to open /dev/fuse: run as root, or let the container use the device", error)
        }
        _ => Fault::with(FaultKind::Local, "cannot open /dev/fuse", error),
    })
}

/// Why unmounting was refused, and what to do.
pub(super) fn unmount_refused(dir: &Path, errno: Errno) -> Fault {
    let shown = dir.display();
    match errno {
        Errno::EBUSY => Fault::with(
            FaultKind::Busy,
            format!("{shown} is in use: end what has files or its working directory in it (`fuser -vm {shown}`)"),
            errno,
        ),
        Errno::EINVAL => Fault::with(FaultKind::NotFound, format!("{shown} is not mounted"), errno),
        Errno::EPERM => Fault::with(FaultKind::Denied, format!("not allowed to unmount {shown}: CAP_SYS_ADMIN is needed"), errno),
        _ => Fault::with(FaultKind::Local, format!("cannot unmount {shown}"), errno),
    }
}

/// Unmounts from this process: not to be called by a driver that has a holder.
pub(super) fn unmount(dir: &Path, lazy: bool) -> Result<(), Fault> {
    let mut flags = MntFlags::UMOUNT_NOFOLLOW;
    flags.set(MntFlags::MNT_DETACH, lazy);
    let mut tries = BUSY_TRIES;
    loop {
        match umount2(dir, flags) {
            Ok(()) => return Ok(()),
            // Perhaps only by the driver's own look at its open files.
            Err(Errno::EBUSY) if tries > 0 => {
                tries -= 1;
                super::pool::pause(BUSY_PAUSE);
            }
            Err(errno) => return Err(unmount_refused(dir, errno)),
        }
    }
}

/// Ends the connection, then takes the directory away, whoever uses it.
pub(super) fn abort(dir: &Path) -> Result<(), Fault> {
    let flags = MntFlags::UMOUNT_NOFOLLOW | MntFlags::MNT_FORCE | MntFlags::MNT_DETACH;
    umount2(dir, flags).map_err(|errno| unmount_refused(dir, errno))
}

/// One line of the table of mounts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mounted {
    /// Where.
    pub dir: PathBuf,
    /// `major:minor`, as `st_dev` of the root: the name of its knobs.
    pub device: String,
    /// The type, [`TYPE`] for ours.
    pub kind: String,
    /// The source: for ours `holdfast:` and the volume's identity.
    pub source: String,
}

impl Mounted {
    /// The volume's identity, when the mount is ours.
    #[must_use]
    pub fn identity(&self) -> Option<&str> {
        self.source.strip_prefix(SOURCE).filter(|_| self.kind == TYPE)
    }
}

/// Every mount in this namespace. Asks none of them anything, so that a dead one cannot hang this.
///
/// # Errors
/// /proc is not readable.
pub fn all_mounts() -> Result<Vec<Mounted>, Fault> {
    let table = std::fs::read("/proc/self/mountinfo").map_err(|e| Fault::with(FaultKind::Local, "cannot read the table of mounts", e))?;
    Ok(table.split(|b| *b == b'\n').filter_map(parse_line).collect())
}

/// The topmost mount on exactly this directory.
///
/// # Errors
/// /proc is not readable.
pub fn find(dir: &Path) -> Result<Option<Mounted>, Fault> {
    let wanted = absolute(dir);
    Ok(all_mounts()?.into_iter().rev().find(|mounted| mounted.dir == wanted))
}

// Resolves the parent only: looking at the directory itself would ask the mount.
fn absolute(dir: &Path) -> PathBuf {
    match (dir.parent(), dir.file_name()) {
        (Some(parent), Some(name)) => {
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            parent.canonicalize().map_or_else(|_| dir.to_path_buf(), |parent| parent.join(name))
        }
        _ => dir.canonicalize().unwrap_or_else(|_| dir.to_path_buf()),
    }
}

// `36 35 98:0 /root /dir opts - type source superopts`, with any number of optional fields before the dash.
fn parse_line(line: &[u8]) -> Option<Mounted> {
    let fields: Vec<&[u8]> = line.split(|b| *b == b' ').collect();
    let dash = fields.iter().position(|field| *field == b"-")?;
    let text = |field: &[u8]| String::from_utf8_lossy(&unescape(field)).into_owned();
    Some(Mounted {
        device: text(fields.get(2)?),
        dir: PathBuf::from(std::ffi::OsString::from_vec(unescape(fields.get(4)?))),
        kind: text(fields.get(dash + 1)?),
        source: text(fields.get(dash + 2)?),
    })
}

// Blank, tab, newline and backslash stand there as three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        let code = tail.get(..3).and_then(|digits| std::str::from_utf8(digits).ok()).and_then(|d| u8::from_str_radix(d, 8).ok());
        match (*first, code) {
            (b'\\', Some(byte)) => {
                out.push(byte);
                rest = &tail[3..];
            }
            _ => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    out
}

/// What the kernel made of the wished values, read back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Knobs {
    /// Largest read-ahead, in bytes.
    pub read_ahead: u64,
    /// Acknowledged bytes the kernel may hold for this mount; 0: not bounded by us (an old kernel, or /sys is read-only).
    pub kernel_share: u64,
}

/// Sets read-ahead and the kernel's share, and reads back what holds. The share is kept by the kernel as a ratio of all
/// memory that may be dirty, so this is called again now and then.
pub(super) fn tune(device: &str) -> Knobs {
    let knob = |name: &str| PathBuf::from(format!("/sys/class/bdi/{device}/{name}"));
    let write = |name: &str, value: u64| std::fs::write(knob(name), value.to_string());
    let read = |name: &str| std::fs::read_to_string(knob(name)).ok().and_then(|text| text.trim().parse::<u64>().ok()).unwrap_or(0);
    if let Err(error) = write("read_ahead_kb", READ_AHEAD_KIB) {
        tracing::warn!(device, %error, "the kernel's read-ahead cannot be raised: sequential reads will be slower");
    }
    // The ceiling first: a floor above it is refused. Beyond what all mounts together may hold: EINVAL, so a smaller one.
    let mut share = KERNEL_SHARE;
    while share >= 1 << 20 {
        let floor = write("min_bytes", 0).and_then(|()| write("max_bytes", share)).and_then(|()| write("min_bytes", share));
        match floor {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => share /= 2,
            Err(error) => {
                tracing::warn!(device, %error, "the kernel's share of dirty bytes cannot be bounded");
                break;
            }
            Ok(()) => break,
        }
    }
    Knobs { read_ahead: read("read_ahead_kb") << 10, kernel_share: read("max_bytes").min(read("min_bytes")) }
}

/// The identity as a source of a mount: a comma or a space would break tools that read the table.
pub(super) fn source_name(identity: &str) -> String {
    let plain = |b: u8| if b.is_ascii_graphic() && b != b',' { b as char } else { '_' };
    std::ffi::OsStr::new(identity).as_bytes().iter().map(|b| plain(*b)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_table_of_mounts() {
        let line = b"36 35 0:98 / /mnt/a\\040b\\134c rw,relatime shared:1 master:2 - fuse.holdfast holdfast:home/photos rw,user_id=0";
        let mounted = parse_line(line).unwrap();
        assert_eq!(mounted.dir, Path::new("/mnt/a b\\c"));
        assert_eq!(mounted.device, "0:98");
        assert_eq!(mounted.identity(), Some("home/photos"));
        assert_eq!(parse_line(b"36 35 0:98 / /mnt"), None);
        assert!(all_mounts().unwrap().iter().any(|m| m.dir == Path::new("/")));
    }

    #[test]
    fn refuses_what_is_no_empty_directory() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "x").unwrap();
        fn point(dir: &Path) -> MountPoint<'_> {
            MountPoint { dir, source: "t", read_only: false, over_files: false, suid: false, devices: false }
        }
        assert_eq!(point(&dir.path().join("absent")).check().unwrap_err().kind, FaultKind::NotFound);
        assert_eq!(point(&file).check().unwrap_err().kind, FaultKind::Invalid);
        let full = point(dir.path()).check().unwrap_err();
        assert!(full.to_string().contains("is not empty"), "{full}");
        assert!(MountPoint { over_files: true, ..point(dir.path()) }.check().is_ok());
        assert_eq!(point(Path::new("/")).check().unwrap_err().kind, FaultKind::Busy);
    }
}
