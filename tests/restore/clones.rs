//! `restore`: the new volume is the commit, lives on its own, and is there whole or not at all.

use super::{FIRST, Lab, content};
use crate::rig::VOLUME;
use std::fs;

const NEW: &str = "test/new";

fn whole_and_its_own(s3: bool) {
    let lab = Lab::new(s3);
    let packs = lab.count("/packs/");
    let said = lab.succeed(&["restore", VOLUME, "--at", FIRST, "--to", NEW, "--json"]);
    let made: serde_json::Value = serde_json::from_str(&said).expect("restore answers with JSON");
    assert_eq!((made["commit"].as_u64(), made["from_commit"].as_u64()), (Some(2), Some(2)), "{made}");
    // By reference: only what lay inline, and the metadata, was written; the megabyte was not.
    assert!(lab.count("/packs/") - packs <= 2 && made["uploaded"].as_u64().is_some_and(|bytes| bytes < 4096), "{made}");
    assert_eq!(lab.tree(NEW, "2"), lab.tree(VOLUME, FIRST));
    assert_eq!(lab.tree(NEW, "4"), lab.tree(VOLUME, FIRST));
    lab.reader(&["check", NEW]);
    let history = lab.succeed(&["history", NEW]);
    assert!(history.contains("restored from test/days: commit 2"), "{history}");

    let mount = lab.mount(NEW);
    assert_eq!(fs::read(mount.root.join("large")).expect("read"), content(3, 1 << 20));
    assert_eq!(fs::read_to_string(mount.root.join("again")).expect("read"), "inline in the commit");
    fs::write(mount.root.join("mine"), "of the new one").expect("write");
    fs::write(mount.root.join("d/small"), "changed here").expect("write");
    lab.unmount(mount);
    lab.reader(&["check", NEW]);
    lab.reader(&["check", VOLUME]);
    assert!(!lab.succeed(&["ls", &format!("{VOLUME}:")]).contains("mine"));
    // A clone of a clone reads packs of both. `now` is the newest commit, however long ago that was.
    lab.succeed(&["restore", NEW, "--at", "now", "--to", "test/third"]);
    lab.reader(&["check", "test/third"]);
    let copy = lab.rig.path("copy");
    lab.succeed(&["export", "test/third:", &copy.display().to_string()]);
    assert_eq!(fs::read(copy.join("large")).expect("read"), content(3, 1 << 20));
    assert_eq!(fs::read_to_string(copy.join("again")).expect("read"), "changed here");
}

#[test]
fn restored_volume_is_the_commit_and_lives_on_its_own() {
    whole_and_its_own(false);
}

#[test]
fn restored_volume_is_the_commit_and_lives_on_its_own_s3() {
    whole_and_its_own(true);
}

#[test]
fn what_cannot_be_restored_is_said() {
    let lab = Lab::new(false);
    lab.succeed(&["restore", VOLUME, "--at", FIRST, "--to", NEW]);
    let time = "2020-01-01 10:00";
    for (arguments, code, says) in [
        (
            ["restore", VOLUME, "--at", FIRST, "--to", NEW],
            4,
            "volume test/new is there already: it was restored from commit 2 of test/days",
        ),
        (["restore", NEW, "--at", FIRST, "--to", VOLUME], 4, "volume test/days is there already; give the new one another name"),
        (["restore", VOLUME, "--at", FIRST, "--to", VOLUME], 2, "cannot be restored into itself"),
        (["restore", "test/none", "--at", FIRST, "--to", "test/x"], 3, "there is no volume test/none"),
        (["restore", VOLUME, "--at", "1", "--to", "test/x"], 3, "volume test/days has no commit 1"),
        (["restore", VOLUME, "--at", "99", "--to", "test/x"], 3, "volume test/days has no commit 99"),
        (["restore", VOLUME, "--at", "soon", "--to", "test/x"], 3, "there is no snapshot `soon`"),
        (["restore", VOLUME, "--at", time, "--to", "test/x"], 3, "the volume has no commit that old"),
        (["restore", VOLUME, "--at", "0s ago", "--to", "test/x"], 3, "is after the newest commit of volume test/days, commit 3 of"),
        (["restore", VOLUME, "--at", FIRST, "--to", "a//b"], 2, "`a//b` is no volume name"),
    ] {
        let (was, said) = lab.say(&arguments);
        assert!(was == code && said.contains(says), "{arguments:?}: {was} {said}");
    }
    assert_eq!(lab.succeed(&["volume", "list"]).lines().count(), 2);
}

/// Every failpoint on the way: those of the log that a restore passes too.
const STEPS: &[&str] = &[
    "log.before_control",
    "volume.restore_after_claim",
    "log.before_open",
    "log.after_open_before_read_back",
    "log.after_intent_before_put",
    "log.after_put_before_resolve",
    "log.before_checkpoint_index",
    "log.after_put_before_resolve:2",
    "log.after_put_before_resolve:3",
    "volume.restore_before_name",
    "log.after_volume_before_name",
];

#[test]
fn killed_anywhere_it_is_not_there_and_the_same_command_makes_it() {
    let lab = Lab::new(false);
    let want = lab.tree(VOLUME, FIRST);
    for (n, step) in STEPS.iter().enumerate() {
        let new = format!("test/new{n}");
        let command = ["restore", VOLUME, "--at", FIRST, "--to", &new];
        let claims = lab.count("/control/");
        lab.dies_at(step, &command);
        let (code, said) = lab.say(&["ls", &format!("{new}:")]);
        assert!(code == 3 && said.contains("there is no volume"), "{step}: {code} {said}");
        lab.succeed(&command);
        assert_eq!(lab.tree(&new, "2"), want, "{step}");
        lab.reader(&["check", &new]);
        assert_eq!(lab.count("/control/"), claims + 1, "{step}: the claim of the first attempt is used again");
    }
    lab.dies_at("volume.restore_after_name", &["restore", VOLUME, "--at", FIRST, "--to", "test/last"]);
    let (code, said) = lab.say(&["restore", VOLUME, "--at", FIRST, "--to", "test/last"]);
    assert!(code == 4 && said.contains("it was restored from commit 2 of test/days"), "{said}");
    assert_eq!(lab.tree("test/last", "2"), want);
}

/// Enough metadata for several parts and frames: `ready at once` must not mean `only when small`.
#[test]
fn many_files_come_in_many_parts() {
    let lab = Lab::empty(false);
    let mount = lab.rig.mount("first");
    let files = 30_000;
    for n in 0..files {
        let dir = mount.root.join(format!("{}", n % 50));
        if n < 50 {
            fs::create_dir(&dir).expect("mkdir");
        }
        fs::write(dir.join(format!("a name of some length, so that the parts are filled {n}")), "").expect("write");
    }
    let at = lab.rig.flush("first").to_string();
    lab.rig.unmount("first", mount);
    lab.succeed(&["restore", VOLUME, "--to", NEW]);
    assert_eq!(lab.tree(NEW, "2"), lab.tree(VOLUME, &at));
    lab.reader(&["check", NEW]);
    assert!(lab.count("/checkpoints/00000000000000000002/") > 2, "several parts");
    let mount = lab.mount(NEW);
    assert_eq!(fs::read_dir(mount.root.join("7")).expect("list").count(), files / 50);
    lab.unmount(mount);
}
