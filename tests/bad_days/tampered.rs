//! A store that gives another volume's objects, or an old log: named, refused, and never served.

use super::{content, errno, packs};
use crate::rig::{Mount, Rig};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const OTHER: &str = "test/other";

/// Another volume of the same store, with one file like the first one's.
fn other(rig: &Rig) -> Mount {
    let mut command = rig.prepare("other", &["mount", OTHER]);
    command.arg(rig.root("other")).arg("--foreground").arg("--cache").arg(rig.cache("other"));
    command.arg("--recovery-key").arg(rig.key());
    let mount = rig.start("other", command).wait().unwrap_or_else(|refused| panic!("{refused:?}"));
    fs::write(mount.root.join("file"), content(2, 300_000)).expect("write");
    rig.flush("other");
    mount
}

fn swap(a: &Path, b: &Path) {
    let (one, two) = (fs::read(a).expect("an object"), fs::read(b).expect("an object"));
    fs::write(a, two).expect("swap");
    fs::write(b, one).expect("swap");
}

/// The newest record of the log that a pack belongs to.
fn newest_record(pack: &Path) -> PathBuf {
    let life = pack.parent().and_then(Path::parent).expect("an incarnation");
    let records = fs::read_dir(life.join("commits")).expect("list").map(|entry| entry.expect("an entry").path());
    records.max().expect("a record")
}

#[test]
fn objects_swapped_with_another_volumes_are_named_and_not_served() {
    let rig = Rig::new();
    let first = rig.mount("first");
    fs::write(first.root.join("file"), content(1, 300_000)).expect("write");
    rig.unmount("first", first);
    let mine: BTreeSet<PathBuf> = packs(&rig.store()).into_iter().collect();
    let mount = other(&rig);
    rig.unmount("other", mount);
    let theirs: BTreeSet<PathBuf> = packs(&rig.store()).into_iter().filter(|pack| !mine.contains(pack)).collect();
    let (mine, theirs) = (mine.first().expect("a pack"), theirs.first().expect("a pack"));
    let length = |path: &Path| fs::metadata(path).expect("stat").len();
    assert_eq!(length(mine), length(theirs), "it is not their length that tells them apart");
    swap(mine, theirs);
    let second = rig.mount("second");
    assert_eq!(errno(fs::read(second.root.join("file"))), libc::EIO, "bytes of another volume");
    let name = mine.file_name().expect("a name").to_string_lossy().into_owned();
    let (code, status) = rig.status("second");
    assert!(code != 0 && status["status"]["damage"].to_string().contains(&name), "{code} {status}");
    swap(mine, theirs);
    assert_eq!(fs::read(second.root.join("file")).expect("the right bytes are back"), content(1, 300_000));
    rig.unmount("second", second);
    // And the newest record of the log.
    let (ours, others) = (newest_record(mine), newest_record(theirs));
    swap(&ours, &others);
    let refused = rig.refused("second", |_| {});
    let name = ours.file_name().expect("a name").to_string_lossy().into_owned();
    assert!(refused.code == 6 && refused.said.contains(&format!("commits/{name}")), "{refused:?}");
    swap(&ours, &others);
    let second = rig.mount("second");
    assert_eq!(fs::read(second.root.join("file")).expect("read"), content(1, 300_000));
    rig.unmount("second", second);
}

fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-a").args([from, to]).status().expect("cp").success());
}

#[test]
fn an_old_log_is_noticed_by_a_node_that_knew_a_newer_one() {
    let rig = Rig::new();
    let first = rig.mount("first");
    fs::write(first.root.join("early"), "early").expect("write");
    rig.unmount("first", first);
    copy(&rig.store(), &rig.path("old"));
    let first = rig.mount("first");
    fs::write(first.root.join("late"), "late").expect("write");
    rig.unmount("first", first);
    fs::rename(rig.store(), rig.path("new")).expect("the store goes");
    copy(&rig.path("old"), &rig.store());
    let before = fs::read_dir(rig.cache("first")).expect("list").count();
    let refused = rig.refused("first", |_| {});
    assert!(refused.code == 6 && refused.said.contains("an older copy of the store"), "{refused:?}");
    // The right one is back, and nothing happened.
    fs::remove_dir_all(rig.store()).expect("the old one goes");
    fs::rename(rig.path("new"), rig.store()).expect("the store comes back");
    let first = rig.mount("first");
    assert_eq!(fs::read_dir(rig.cache("first")).expect("list").count(), before, "the cache was not set aside");
    assert_eq!(fs::read_to_string(first.root.join("late")).expect("read"), "late");
    rig.unmount("first", first);
    // The loss is meant: without that cache the volume is as the store says.
    fs::rename(rig.store(), rig.path("new")).expect("the store goes");
    copy(&rig.path("old"), &rig.store());
    fs::remove_dir_all(rig.cache("first")).expect("the cache is given up");
    let first = rig.mount("first");
    assert_eq!(fs::read_to_string(first.root.join("early")).expect("read"), "early");
    assert_eq!(errno(fs::metadata(first.root.join("late"))), libc::ENOENT);
    rig.unmount("first", first);
}
