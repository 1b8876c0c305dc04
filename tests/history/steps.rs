//! One volume, closed and open: what is kept, what is refused, and that every step may be the last of a process.

use super::{Lab, STRICT};
use crate::rig::VOLUME;
use std::collections::BTreeMap;
use std::fs;

/// Commits by number, as `history` lists them.
fn commits(lab: &Lab) -> Vec<u64> {
    let listed = lab.json(&["history", VOLUME, "-n", "10000"]);
    let records = listed["records"].as_array().expect("records").iter();
    records.filter(|record| record["what"] == "commit").filter_map(|record| record["record"].as_u64()).collect()
}

fn thinned(s3: bool) {
    let lab = Lab::new(s3);
    let mount = lab.rig.mount("first");
    // Two checkpoints' intervals, and a rest.
    lab.write(&mount, 0..20);
    let named = lab.json(&["snapshot", "create", VOLUME, "before-upgrade"])["commit"].as_u64().expect("a commit");
    lab.write(&mount, 20..200);
    let pinned = lab.json(&["pin", "add", VOLUME, "--at", "90", "--reason", "release"])["commit"].as_u64().expect("a commit");
    let newest = lab.write(&mount, 200..300);
    let packs = lab.count("/packs/");
    let trees: BTreeMap<u64, String> =
        [named, pinned, newest - 2, newest - 1, newest].into_iter().map(|seq| (seq, lab.tree(seq))).collect();
    assert!(lab.json(&["gc", VOLUME])["volumes"][0]["retired"] == 0, "gc retires nothing");

    let plan = lab.json(&["retention", "plan", VOLUME, "--retention", STRICT]);
    let id = plan["plan"].as_str().expect("a plan").to_owned();
    let reasons = |seq: u64| {
        let mut lines = plan["commits"].as_array().expect("commits").iter();
        lines.find(|line| line["commit"] == seq).expect("in the plan")["reasons"].to_string()
    };
    assert!(reasons(named).contains("snapshot before-upgrade") && reasons(pinned).contains("pin release"), "{plan}");
    assert!(reasons(newest).contains("newest") && reasons(30) == "[]", "{plan}");
    assert!(plan["warnings"][0].as_str().expect("a warning").contains("less than 24 h"), "{plan}");
    // Whoever claims meanwhile makes the plan stale; so do other rules.
    lab.succeed(&["pin", "add", VOLUME, "--at", "50", "--reason", "late", "--for", "1h"]);
    let (code, told) = lab.say(&["retention", "apply", VOLUME, "--retention", STRICT, "--plan", &id]);
    assert!(code == 12 && told.contains("plan again"), "{code} {told}");
    let (code, told) = lab.say(&["retention", "apply", VOLUME, "--retention", "daily=3", "--plan", &id]);
    assert!(code == 12 && told.contains("made by other rules"), "{code} {told}");
    let (code, told) = lab.say(&["retention", "apply", VOLUME, "--yes"]);
    assert!(code == 2 && told.contains("nobody said which commits to keep"), "{code} {told}");
    lab.succeed(&["pin", "rm", VOLUME, &lab.json(&["pin", "list", VOLUME])["pins"][1]["pin"].to_string()]);

    // A plan holds while the writer goes on.
    let plan = lab.json(&["retention", "plan", VOLUME, "--retention", STRICT]);
    let later = lab.write(&mount, 300..302);
    lab.succeed(&["retention", "apply", VOLUME, "--retention", STRICT, "--plan", plan["plan"].as_str().expect("a plan")]);
    for seq in [named, pinned, later] {
        assert!(commits(&lab).contains(&seq), "{seq}");
    }
    for (seq, tree) in &trees {
        assert_eq!(&lab.tree(*seq), tree, "commit {seq}");
    }
    let (code, told) = lab.say(&["ls", &format!("{VOLUME}:"), "--at", "30"]);
    assert!(code == 12 && told.contains("commit 30 of volume test/days was retired"), "{code} {told}");
    let (code, told) = lab.say(&["pin", "add", VOLUME, "--at", "30", "--reason", "too late"]);
    assert!(code == 12 && told.contains("retired"), "{code} {told}");
    let (code, told) = lab.say(&["cat", &format!("{VOLUME}:small"), "--at", "before-upgrad"]);
    assert!(code == 3 && told.contains("did you mean `before-upgrade`?"), "{code} {told}");
    assert_eq!(lab.succeed(&["cat", &format!("{VOLUME}:small"), "--at", "before-upgrade"]), "round 19");
    assert!(lab.count("/packs/") < packs / 2, "{} of {packs} packs", lab.count("/packs/"));
    assert_eq!(fs::read(mount.root.join("small")).expect("read"), b"round 301");
    lab.rig.unmount("first", mount);
    lab.succeed(&["janitor", "run", VOLUME, "--retention", STRICT]);
    assert_eq!(lab.check()["unneeded"], serde_json::json!([]), "the next epoch's janitor leaves nothing");
    lab.succeed(&["snapshot", "rm", VOLUME, "before-upgrade"]);
    lab.succeed(&["janitor", "run", VOLUME, "--retention", STRICT]);
    assert!(!commits(&lab).contains(&named));
    let mount = lab.rig.mount("first");
    assert_eq!(fs::read(mount.root.join("small")).expect("read"), b"round 301");
    lab.rig.unmount("first", mount);
    lab.check();
}

#[test]
fn thinned_history_keeps_what_it_says_and_nothing_else() {
    thinned(false);
}

#[test]
fn thinned_history_keeps_what_it_says_and_nothing_else_s3() {
    thinned(true);
}

/// Each step of a janitor may be its last: the next run goes on, and at no time is anything kept that cannot be read.
#[test]
fn killed_at_each_step_the_next_run_goes_on() {
    let lab = Lab::new(false);
    let mount = lab.rig.mount("first");
    let mut round = 0;
    let janitor = ["janitor", "run", VOLUME, "--retention", STRICT];
    fs::write(mount.root.join("story"), "one").expect("write");
    let told = lab.rig.flush("first");
    lab.succeed(&["pin", "add", VOLUME, "--at", &told.to_string(), "--reason", "the story"]);
    fs::write(mount.root.join("story"), "another").expect("write");
    let commits = |count: u64| {
        for n in 0..count {
            fs::write(mount.root.join("small"), format!("{n}")).expect("write");
            lab.rig.flush("first");
        }
    };
    for step in [
        "log.before_control",
        "history.after_retire",
        "history.in_deletion",
        "history.in_deletion:3",
        "log.before_marker",
        "log.after_marker_before_delete",
        "log.in_freeing",
        "history.after_release",
    ] {
        // What may be retired lies below the newest checkpoint, and what may be freed in a block of the log that lies below it whole.
        let frees = ["log.before_marker", "log.after_marker_before_delete", "log.in_freeing"].contains(&step);
        commits(if frees { 1160 } else { 140 });
        lab.write(&mount, round..round + 8);
        round += 8;
        if step == "history.after_release" {
            lab.succeed(&["pin", "add", VOLUME, "--reason", "short", "--for", "1ms"]);
            lab.write(&mount, round..round + 1);
        }
        let (code, told) = lab.say_with(&janitor, |command| {
            command.env("HOLDFAST_FAILPOINTS", step);
        });
        assert_eq!(code, -1, "{step} was not reached: {told}");
        println!("killed at {step}");
        lab.check();
        lab.succeed(&janitor);
    }
    assert!(lab.count("/blocks/") > 0 && lab.count("/commits/") < 400, "{} records", lab.count("/commits/"));
    lab.rig.unmount("first", mount);
    lab.succeed(&janitor);
    assert_eq!(lab.check()["unneeded"], serde_json::json!([]));
    // The records of the change are gone: the trees of the commits around it tell.
    assert_eq!(lab.succeed(&["cat", &format!("{VOLUME}:story"), "--before-change"]), "one");
    let again = lab.json(&["gc", "--all", "--dry-run"]);
    assert_eq!((again["volumes"][0]["deleted"].as_u64(), again["volumes"][0]["retired"].as_u64()), (Some(0), Some(0)), "{again}");
}

/// Nightly snapshots: one a day whatever cron does, the newest ones stay, and names are taken once.
#[test]
fn snapshots_of_a_schedule_and_by_hand() {
    let lab = Lab::new(false);
    let mount = lab.rig.mount("first");
    lab.write(&mount, 0..3);
    let janitor = ["janitor", "run", "--all", "--retention", "nightly-3"];
    let first = lab.json(&janitor);
    assert!(first["volumes"][0]["snapshots"][0].as_str().expect("made").starts_with("daily-20"), "{first}");
    assert!(lab.json(&janitor)["volumes"][0]["snapshots"].is_null(), "one a day");
    lab.succeed(&["snapshot", "create", VOLUME, "by-hand", "--at", "2"]);
    let (code, told) = lab.say(&["snapshot", "create", VOLUME, "by-hand"]);
    assert!(code == 4 && told.contains("there is a snapshot `by-hand` already"), "{code} {told}");
    let (code, told) = lab.say(&["snapshot", "create", VOLUME, "2026-11-20"]);
    assert!(code == 2 && told.contains("cannot be the name of a snapshot"), "{code} {told}");
    let listed = lab.json(&["snapshot", "list", VOLUME]);
    assert_eq!(listed["snapshots"].as_array().expect("two").len(), 2, "{listed}");
    assert_eq!(lab.json(&["snapshot", "show", VOLUME, "by-hand"])["commit"], 2);
    lab.succeed(&["restore", VOLUME, "--at", "by-hand", "--to", "test/new"]);
    lab.rig.unmount("first", mount);
}
