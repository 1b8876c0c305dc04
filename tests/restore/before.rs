//! `--before-change`: the newest commit before a path's last change, by name, by content, by mode, by what a restore brought back. (After retention: `tests/history/steps.rs`.)

use super::Lab;
use crate::rig::{Mount, VOLUME};
use std::fs;
use std::os::unix::fs::PermissionsExt;

/// What is said of a path: the commit it changed in and the one before, or why there is none.
fn before(lab: &Lab, path: &str) -> String {
    let (code, said) = lab.say(&["ls", &format!("{VOLUME}:{path}"), "--before-change"]);
    let line = said.lines().find(|line| line.contains("last changed in") || line.contains("is the same")).unwrap_or(&said);
    let numbers: Vec<&str> = line.split("commit ").skip(1).map(|rest| rest.split([' ', ',']).next().unwrap_or_default()).collect();
    if code == 0 || !line.starts_with("holdfast") { numbers.join(" after ") } else { line.to_owned() }
}

fn found(s3: bool) {
    let lab = Lab::empty(s3);
    let mount: Mount = lab.rig.mount("first");
    let at = |name: &str| mount.root.join(name);
    let flush = |want: &str| assert_eq!(lab.rig.flush("first").to_string(), want);
    fs::create_dir(at("d")).expect("mkdir");
    fs::write(at("d/f"), "one").expect("write");
    flush("2");
    fs::write(at("other"), "1").expect("write");
    flush("3");
    fs::write(at("d/f"), "two").expect("write");
    flush("4");
    fs::write(at("other"), "2").expect("write");
    flush("5");
    fs::set_permissions(at("d/f"), fs::Permissions::from_mode(0o600)).expect("chmod");
    flush("6");
    assert_eq!(before(&lab, "d/f"), "6 after 5");
    fs::rename(at("d/f"), at("d/g")).expect("rename");
    flush("7");
    fs::rename(at("d"), at("e")).expect("rename");
    flush("8");
    fs::remove_file(at("e/g")).expect("remove");
    flush("9");
    fs::write(at("other"), "3").expect("write");
    flush("10");
    lab.rig.unmount("first", mount);

    // What is gone by now changed when it went, and so did all that a directory held when that was renamed.
    for (path, want) in [("e/g", "9 after 8"), ("d/g", "8 after 7"), ("d/f", "8 after 7"), ("e", "9 after 8"), ("other", "10 after 9")] {
        assert_eq!(before(&lab, path), want, "{path}");
    }
    assert!(before(&lab, "nothing").contains("is the same in every kept commit"), "{}", before(&lab, "nothing"));
    assert_eq!(lab.succeed(&["cat", &format!("{VOLUME}:e/g"), "--before-change"]), "two");
    let target = lab.rig.path("copy");
    lab.succeed(&["cp", &format!("{VOLUME}:/e/g"), &target.display().to_string(), "--before-change"]);
    assert_eq!(fs::read_to_string(&target).expect("read"), "two");

    lab.succeed(&["restore", VOLUME, "--before-change", "e/g", "--to", "test/new"]);
    assert_eq!(lab.tree("test/new", "2"), lab.tree(VOLUME, "8"));
    lab.succeed(&["restore", VOLUME, "--before-change", "e/g", "--in-place"]);
    assert_eq!(lab.succeed(&["cat", &format!("{VOLUME}:e/g")]), "two");
    // A restore in place is a change like any other, also of what it brought back.
    assert_eq!(before(&lab, "e/g"), "13 after 10");
}

#[test]
fn newest_commit_before_the_last_change_of_a_path() {
    found(false);
}

#[test]
fn newest_commit_before_the_last_change_of_a_path_s3() {
    found(true);
}
