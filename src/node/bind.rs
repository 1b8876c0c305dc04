//! Binds of a mount, by the kernel: made, looked at and taken away without asking whoever serves the mount.

use super::mounter::Binding;
use crate::fuse;
use crate::types::{Fault, FaultKind};
use nix::mount::{MsFlags, mount};
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

/// The mount flags that a claim may ask for.
pub const FLAGS: [&str; 6] = ["noatime", "nodev", "nodiratime", "noexec", "nosuid", "relatime"];

fn flag(word: &str) -> MsFlags {
    match word {
        "noatime" => MsFlags::MS_NOATIME,
        "nodiratime" => MsFlags::MS_NODIRATIME,
        "noexec" => MsFlags::MS_NOEXEC,
        "relatime" => MsFlags::MS_RELATIME,
        // `nodev` and `nosuid` hold on every mount of ours.
        _ => MsFlags::empty(),
    }
}

/// Lets the mount on `dir` appear at `target`, a directory that is made where it is missing.
///
/// # Errors
/// Nothing is mounted on `dir`; something else is on `target`; the kernel refuses, or shows something else there.
pub fn bind(dir: &Path, target: &Path, binding: &Binding) -> Result<(), Fault> {
    let Some(device) = device(dir)? else {
        return Err(Fault::new(FaultKind::Local, format!("nothing is mounted at {} by holdfast", dir.display())));
    };
    match std::fs::DirBuilder::new().mode(0o750).create(target) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            return Err(Fault::with(FaultKind::Local, format!("{} cannot be made", target.display()), error));
        }
        _ => {}
    }
    if !is_bound(dir, target)? {
        // Of an earlier mount, which may be dead.
        take_away(target)?;
        let refused = |errno| Fault::with(FaultKind::Local, format!("the mount cannot appear at {}", target.display()), errno);
        mount(Some(dir), target, None::<&str>, MsFlags::MS_BIND, None::<&str>).map_err(refused)?;
    }
    let shown = self::device(target)?;
    if shown.as_deref() != Some(&device) {
        let shown = shown.unwrap_or_else(|| "no mount of ours".to_owned());
        let why = format!("{} shows {shown} instead of device {device}: does something else mount there?", target.display());
        return Err(Fault::new(FaultKind::Local, why));
    }
    let mut flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    flags.set(MsFlags::MS_RDONLY, binding.read_only);
    binding.flags.iter().for_each(|word| flags |= flag(word));
    mount(None::<&str>, target, None::<&str>, flags, None::<&str>).map_err(|errno| {
        // Never left there in a way that was not asked for.
        let _ = take_away(target);
        Fault::with(FaultKind::Local, format!("the mount at {} cannot be given its flags", target.display()), errno)
    })
}

/// Whether the mount on `dir` appears at `target`.
///
/// # Errors
/// The table of mounts cannot be read.
pub fn is_bound(dir: &Path, target: &Path) -> Result<bool, Fault> {
    let device = device(dir)?;
    Ok(device.is_some() && self::device(target)? == device)
}

/// Takes away what of ours appears at `target`, and the directory, which must be empty.
///
/// # Errors
/// Something else is mounted there, or files lie in the directory itself.
pub fn unbind(target: &Path) -> Result<(), Fault> {
    take_away(target)?;
    match std::fs::remove_dir(target) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            let why = format!("{} is no mount any more and cannot be removed; what lies in it is not the volume's", target.display());
            Err(Fault::with(FaultKind::Local, why, error))
        }
        _ => Ok(()),
    }
}

fn take_away(target: &Path) -> Result<(), Fault> {
    while let Some(mounted) = fuse::find(target)? {
        if mounted.kind != fuse::TYPE {
            let why = format!("{} ({}) is mounted at {}, which is not ours", mounted.source, mounted.kind, target.display());
            return Err(Fault::new(FaultKind::Local, why));
        }
        // Whoever still has files open there keeps them; the place is free.
        fuse::unmount(target, true)?;
    }
    Ok(())
}

/// The device of the mount of ours on a directory.
fn device(dir: &Path) -> Result<Option<String>, Fault> {
    Ok(fuse::find(dir)?.filter(|mounted| mounted.kind == fuse::TYPE).map(|mounted| mounted.device))
}
