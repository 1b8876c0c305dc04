//! A loss of power, played on a cache's directory: what was flushed is there, of the rest any part, page by page.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "each test binary uses its part, and may fail loudly")]

use std::fs;
use std::path::{Path, PathBuf};

const PAGE: usize = 4096;

/// What a `kill -9` at this moment would leave.
pub fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    let mut entries: Vec<_> = fs::read_dir(from).unwrap().flatten().collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_dir(&entry.path(), &target);
        } else if !entry.file_name().to_string_lossy().ends_with("-shm") {
            // One that was removed meanwhile is gone.
            let _ = fs::copy(entry.path(), target);
        }
    }
}

/// A file or directory of the live cache was flushed: it is durable as it is now.
pub fn keep(live: &Path, durable: &Path, name: &Path) {
    let (from, target) = (live.join(name), durable.join(name));
    if from.is_dir() {
        return copy_dir(&from, &target);
    }
    fs::create_dir_all(target.parent().unwrap()).unwrap();
    let _ = fs::copy(from, target);
}

/// Any mixture of the flushed and the present pages, of any length between. `chance`: a number below its argument.
fn mix(durable: &[u8], live: &[u8], chance: &mut dyn FnMut(u64) -> u64) -> Vec<u8> {
    let style = chance(4);
    let mut mixed = Vec::new();
    let mut at = 0;
    while at < durable.len().max(live.len()) {
        let part = |bytes: &[u8]| bytes.get(at..(at + PAGE).min(bytes.len())).map(<[u8]>::to_vec);
        let newer = match style {
            0 => false,
            1 => true,
            _ => chance(2) == 0,
        };
        let (old, new) = (part(durable), part(live));
        let chosen = if newer { new } else { old };
        mixed.resize(at, 0);
        mixed.extend(chosen.unwrap_or_default());
        at += PAGE;
    }
    mixed
}

/// Makes `to` of what is durable and what is live, as `chance` says.
pub fn lose_power(live: &Path, durable: &Path, to: &Path, chance: &mut dyn FnMut(u64) -> u64) {
    fs::create_dir_all(to.join("copies")).unwrap();
    fs::create_dir_all(to.join("data")).unwrap();
    let read = |root: &Path, name: &Path| fs::read(root.join(name)).unwrap_or_default();
    let mut names: Vec<PathBuf> = vec!["log".into()];
    for shard in fs::read_dir(live.join("data")).unwrap().flatten() {
        for slot in fs::read_dir(shard.path()).unwrap().flatten() {
            names.push(PathBuf::from("data").join(shard.file_name()).join(slot.file_name()));
        }
    }
    names.sort_unstable();
    for name in names {
        let mixed = mix(&read(durable, &name), &read(live, &name), chance);
        fs::create_dir_all(to.join(&name).parent().unwrap()).unwrap();
        fs::write(to.join(&name), mixed).unwrap();
    }
    fs::copy(live.join("meta.db"), to.join("meta.db")).unwrap();
    // The write-ahead log only grows here; what was not flushed of it may be there in part.
    let wal = Path::new("meta.db-wal");
    let (old, new) = (read(durable, wal), read(live, wal));
    let kept = old.len() as u64 + chance(new.len().saturating_sub(old.len()) as u64 + 1);
    let kept = if chance(2) == 0 { old.len() as u64 } else { kept };
    fs::write(to.join(wal), &new[..new.len().min(kept as usize)]).unwrap();
}
