//! `restore --on-next-mount`: recorded while the volume is in use, carried out by the mount that begins next and by none after it, and never
//! mixed with what a cache had in no commit.

use super::{FIRST, Lab};
use crate::rig::{Mount, VOLUME};
use std::fs;

fn ask(lab: &Lab, at: &str) {
    let said = lab.succeed(&["restore", VOLUME, "--at", at, "--on-next-mount"]);
    assert!(said.contains("when it is next mounted"), "{said}");
}

/// What the mount shows: the tree of `FIRST`, or that of commit 3.
fn is_first(mount: &Mount) -> bool {
    let (large, other) = (mount.root.join("large").exists(), mount.root.join("other").exists());
    assert_ne!(large, other, "one tree or the other");
    large
}

fn branches(lab: &Lab) -> serde_json::Value {
    serde_json::from_str(&lab.succeed(&["branch", "list", VOLUME, "--json"])).expect("JSON")
}

fn carried_out_once(s3: bool) {
    let lab = Lab::new(s3);
    let mount = lab.rig.mount("first");
    ask(&lab, FIRST);
    for (arguments, code, says) in [
        (vec!["restore", VOLUME, "--at", "3", "--on-next-mount"], 4, "is to go back to commit 2 when it is next mounted"),
        (vec!["restore", VOLUME, "--at", "3", "--in-place"], 8, "is to go back to commit 2"),
        (vec!["volume", "rm", VOLUME, "--yes", VOLUME], 8, "is held by host"),
    ] {
        let (was, said) = lab.say(&arguments);
        assert!(was == code && said.contains(says), "{arguments:?}: {was} {said}");
    }
    // Taken back, it does not happen.
    lab.succeed(&["restore", VOLUME, "--withdraw"]);
    let (code, said) = lab.say(&["restore", VOLUME, "--withdraw"]);
    assert!(code == 3 && said.contains("no restore of volume test/days is recorded"), "{code} {said}");
    lab.rig.unmount("first", mount);
    let mount = lab.rig.mount("first");
    assert!(!is_first(&mount));

    // A driver that dies under the mount is no next mount: what the application works with stays.
    ask(&lab, FIRST);
    fs::write(mount.root.join("written"), "since").expect("write");
    mount.kill_driver();
    assert_eq!(fs::read_to_string(mount.root.join("written")).expect("read"), "since");
    assert!(!is_first(&mount));
    let before = lab.rig.flush("first").to_string();
    lab.rig.unmount("first", mount);

    let mount = lab.rig.mount("first");
    assert!(is_first(&mount) && !mount.root.join("written").exists());
    mount.says("goes on from commit 2, as was asked for");
    fs::write(mount.root.join("after"), "kept").expect("write");
    lab.rig.unmount("first", mount);
    assert_eq!(branches(&lab)["branches"].as_array().map(Vec::len), Some(0), "nothing was in no commit");
    lab.reader(&["check", VOLUME]);
    // Once, wherever it is mounted next; and undone by the number before.
    let mount = lab.mount(VOLUME);
    assert!(is_first(&mount) && mount.root.join("after").exists());
    lab.unmount(mount);
    lab.succeed(&["restore", VOLUME, "--at", &before, "--in-place"]);
    let mount = lab.rig.mount("first");
    assert!(mount.root.join("written").exists() && !mount.root.join("after").exists());
    lab.rig.unmount("first", mount);
    lab.reader(&["check", VOLUME]);
}

#[test]
fn carried_out_by_the_next_mount_and_by_none_after_it() {
    carried_out_once(false);
}

#[test]
fn carried_out_by_the_next_mount_and_by_none_after_it_s3() {
    carried_out_once(true);
}

#[test]
fn what_the_cache_had_in_no_commit_becomes_a_branch() {
    // Also when the tree is the newest commit's: it is what was asked for, and nothing else.
    for (at, first) in [(FIRST, true), ("now", false)] {
        let lab = Lab::new(false);
        lab.lost_with_a_dirty_cache();
        ask(&lab, at);
        let mount = lab.rig.mount("first");
        assert!(is_first(&mount) == first && !mount.root.join("in no commit").exists(), "{at}");
        lab.rig.unmount("first", mount);
        let branches = branches(&lab);
        assert_eq!(branches["branches"][0]["state"], "safe", "{at}: {branches}");
        let shown = lab.succeed(&["branch", "show", VOLUME, &branches["branches"][0]["branch"].to_string()]);
        assert!(shown.contains("/in no commit"), "{at}: {shown}");
        lab.reader(&["check", VOLUME]);
    }
}

#[test]
fn killed_while_it_is_carried_out_the_next_mount_ends_it() {
    for step in [
        "volume.turn_after_pins",
        "writeback.turn_after_packs",
        "volume.turn_after_close",
        "volume.asked_after_commit",
        "volume.asked_after_release",
    ] {
        let lab = Lab::new(false);
        lab.lost_with_a_dirty_cache();
        ask(&lab, FIRST);
        let mut command = lab.rig.mount_command("first");
        command.env("HOLDFAST_FAILPOINTS", step);
        let ended = lab.rig.start("first", command).wait();
        assert!(ended.is_err(), "{step} was not reached");
        drop(ended);
        let mount = lab.rig.mount("first");
        assert!(is_first(&mount) && !mount.root.join("in no commit").exists(), "{step}");
        lab.rig.unmount("first", mount);
        let branches = branches(&lab);
        assert_eq!(branches["branches"][0]["state"], "safe", "{step}: {branches}");
        let (code, said) = lab.say(&["restore", VOLUME, "--withdraw"]);
        assert_eq!(code, 3, "{step}: {said}");
        lab.reader(&["check", VOLUME]);
    }
}
