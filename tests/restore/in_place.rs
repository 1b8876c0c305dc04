//! `restore --in-place`: the volume goes on from an older commit of itself, whole or not at all, and back again.

use super::diffs::change;
use super::{FIRST, Lab, content};
use crate::rig::VOLUME;
use std::fs;

/// Goes back to a commit; the number of the commit that shows it now.
#[track_caller]
fn back(lab: &Lab, at: &str) -> String {
    let said = lab.succeed(&["restore", VOLUME, "--at", at, "--in-place", "--json"]);
    let made: serde_json::Value = serde_json::from_str(&said).expect("restore answers with JSON");
    made["commit"].as_u64().expect("a commit").to_string()
}

fn there_and_back(s3: bool) {
    let lab = Lab::new(s3);
    let (first, last) = (lab.tree(VOLUME, FIRST), lab.tree(VOLUME, "3"));
    let packs = lab.count("/packs/");
    let said = lab.succeed(&["restore", VOLUME, "--at", FIRST, "--in-place", "--json"]);
    let made: serde_json::Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!((made["from_commit"].as_u64(), made["before"].as_u64()), (Some(2), Some(3)), "{made}");
    // By reference: only what lay inline was written; the megabyte was not.
    assert!(lab.count("/packs/") - packs <= 1 && made["uploaded"].as_u64().is_some_and(|bytes| bytes < 4096), "{made}");
    assert_eq!(lab.tree(VOLUME, &made["commit"].to_string()), first);
    // History has both, and the way back is the same.
    assert_eq!((lab.tree(VOLUME, FIRST), lab.tree(VOLUME, "3")), (first.clone(), last.clone()));
    assert_eq!(lab.tree(VOLUME, &back(&lab, "3")), last);
    assert_eq!(lab.tree(VOLUME, &back(&lab, FIRST)), first);
    lab.reader(&["check", VOLUME]);
    // What is there already is not made again, and the newest commit leaves no trace in the log.
    let records = lab.count("/commits/");
    assert!(lab.succeed(&["restore", VOLUME, "--at", "now", "--in-place"]).contains("nothing is to be restored"));
    assert_eq!(lab.count("/commits/"), records);

    // The machine that had it mounted does not go on with its cache, and has nothing to lose.
    let mount = lab.rig.mount("first");
    assert_eq!(fs::read(mount.root.join("large")).expect("read"), content(3, 1 << 20));
    assert_eq!(fs::read_to_string(mount.root.join("again")).expect("read"), "inline in the commit");
    assert!(!mount.root.join("other").exists());
    fs::write(mount.root.join("after"), content(9, 100_000)).expect("write");
    let (code, said) = lab.say(&["restore", VOLUME, "--at", "3", "--in-place"]);
    assert!(code == 8 && said.contains("is held by host") && said.contains("--even-if-held-by"), "{code} {said}");
    lab.rig.unmount("first", mount);
    assert!(lab.succeed(&["branch", "list", VOLUME]).contains("no branches"));
    lab.reader(&["check", VOLUME]);
}

#[test]
fn goes_back_to_an_older_commit_and_forward_again() {
    there_and_back(false);
}

#[test]
fn goes_back_to_an_older_commit_and_forward_again_s3() {
    there_and_back(true);
}

#[test]
fn what_a_lost_machine_had_not_committed_becomes_a_branch() {
    let lab = Lab::new(false);
    lab.lost_with_a_dirty_cache();
    let host = nix::sys::utsname::uname().expect("uname").nodename().to_string_lossy().into_owned();
    let (code, said) = lab.say(&["restore", VOLUME, "--at", FIRST, "--in-place", "--even-if-held-by", "another"]);
    assert!(code == 8, "{code} {said}");
    lab.succeed(&["restore", VOLUME, "--at", FIRST, "--in-place", "--even-if-held-by", &host]);
    let mount = lab.rig.mount("first");
    assert!(mount.root.join("large").exists() && !mount.root.join("in no commit").exists());
    lab.rig.unmount("first", mount);
    let branches = lab.succeed(&["branch", "list", VOLUME, "--json"]);
    assert!(branches.contains("\"safe\""), "{branches}");
}

/// Every failpoint on the way.
const STEPS: &[&str] = &[
    "log.before_control",
    "volume.turn_after_pins",
    "log.before_open",
    "log.after_open_before_read_back",
    "writeback.turn_after_packs",
    "log.after_intent_before_put",
    "log.after_put_before_resolve",
    "log.after_put_before_resolve:2",
    "volume.turn_after_close",
];

#[test]
fn killed_anywhere_the_volume_is_as_before_or_as_asked_and_the_same_command_ends_it() {
    let lab = Lab::new(false);
    let trees = [lab.tree(VOLUME, FIRST), lab.tree(VOLUME, "3")];
    for (n, step) in STEPS.iter().enumerate() {
        let (at, want) = if n % 2 == 0 { (FIRST, &trees[0]) } else { ("3", &trees[1]) };
        let command = ["restore", VOLUME, "--at", at, "--in-place"];
        lab.dies_at(step, &command);
        let newest = |lab: &Lab| {
            let shown = lab.succeed(&["diff", VOLUME, "now", "--json"]);
            let shown: serde_json::Value = serde_json::from_str(&shown).expect("JSON");
            lab.tree(VOLUME, &shown["to"]["commit"].to_string())
        };
        assert!(trees.contains(&newest(&lab)), "{step}");
        // Whoever mounts now needs no leave of the dead.
        if *step == "log.after_open_before_read_back" {
            let mount = lab.rig.mount("first");
            lab.rig.unmount("first", mount);
        }
        lab.succeed(&command);
        assert_eq!(&newest(&lab), want, "{step}");
        lab.reader(&["check", VOLUME]);
    }
    let pins = lab.succeed(&["pin", "list", VOLUME]);
    assert!(!pins.contains("under way"), "{pins}");
}

/// Drawn histories, and trees of several deltas: whatever was in between, the tree is that of the commit, and what the rules then retire is
/// not missed.
#[test]
fn any_commit_is_gone_back_to_and_outlives_retention() {
    let lab = Lab::empty(false);
    let mount = lab.rig.mount("first");
    for dir in ["a", "b"] {
        fs::create_dir(mount.root.join(dir)).expect("mkdir");
    }
    let mut seed = 7;
    let mut commits = Vec::new();
    for round in 0..5 {
        change(&mount.root, &mut seed, 60);
        if round == 2 {
            for n in 0..20_000 {
                let dir = mount.root.join(format!("many {}", n % 20));
                if n < 20 {
                    fs::create_dir(&dir).expect("mkdir");
                }
                fs::write(dir.join(format!("a name of some length, so that deltas are filled {n}")), "").expect("write");
            }
        }
        if round == 3 {
            (0..20).for_each(|n| fs::remove_dir_all(mount.root.join(format!("many {n}"))).expect("remove"));
        }
        commits.push(lab.rig.flush("first").to_string());
    }
    // Past the next checkpoint: what lies inline in older records must not be named from later ones.
    for n in 0..140 {
        fs::write(mount.root.join("counter"), n.to_string()).expect("write");
        lab.rig.flush("first");
    }
    lab.rig.unmount("first", mount);
    let trees: Vec<String> = commits.iter().map(|commit| lab.tree(VOLUME, commit)).collect();
    for (commit, tree) in commits.iter().zip(&trees).rev() {
        assert_eq!(&lab.tree(VOLUME, &back(&lab, commit)), tree, "commit {commit}");
    }
    let newest = back(&lab, &commits[2]);
    for pin in serde_json::from_str::<serde_json::Value>(&lab.succeed(&["pin", "list", VOLUME, "--json"])).expect("JSON")["pins"]
        .as_array()
        .expect("pins")
    {
        lab.succeed(&["pin", "rm", VOLUME, &pin["pin"].to_string()]);
    }
    let rules = "keep_all=0s last=commits:1 min_keep=1 before_delete=0s branches=0s";
    let swept = lab.succeed(&["janitor", "run", VOLUME, "--retention", rules]);
    assert!(!swept.contains(" 0 records retired"), "{swept}");
    assert_eq!(lab.tree(VOLUME, &newest), trees[2]);
    lab.reader(&["check", VOLUME]);
    let mount = lab.rig.mount("first");
    assert_eq!(fs::read_dir(mount.root.join("many 7")).expect("list").count(), 1000);
    fs::write(mount.root.join("many 7/more"), "").expect("write");
    lab.rig.unmount("first", mount);
    lab.reader(&["check", VOLUME]);
}
