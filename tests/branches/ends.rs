//! The end of a branch: refused while somebody needs it, killed at each step and given again; nobody makes it anew.

use super::*;

fn with_a_branch() -> Rig {
    let (rig, second) = lost(5);
    assert_eq!(rig.refused("first", |_| {}).code, 8);
    rig.unmount("second", second);
    rig
}

#[test]
fn dropped_only_when_nobody_needs_it() {
    let rig = with_a_branch();
    let (code, said) = say(&rig, &["branch", "drop", VOLUME, "1"]);
    assert!(code == 2 && said.contains("is in no commit"), "{code} {said}");
    let (code, said) = say(&rig, &["branch", "drop", VOLUME, "9", "--yes"]);
    assert!(code == 3 && said.contains("there is no branch 9"), "{code} {said}");
    let (code, said) = say(&rig, &["volume", "rm", VOLUME, "--yes", VOLUME]);
    assert!(code == 8 && said.contains("branch"), "{code} {said}");
    succeed(&rig, &["branch", "restore", VOLUME, "1", "--to", "test/new"]);
    let (code, said) = say(&rig, &["branch", "restore", VOLUME, "1", "--to", "test/new"]);
    assert!(code == 4 && said.contains("is there already"), "{code} {said}");
    let (code, said) = say(&rig, &["branch", "drop", VOLUME, "1", "--yes"]);
    assert!(code == 8 && said.contains("test/new was restored from branch 1"), "{code} {said}");
    succeed(&rig, &["volume", "rm", "test/new", "--yes", "test/new", "--grace", "0s"]);
    succeed(&rig, &["branch", "drop", VOLUME, "1", "--yes"]);
    assert_eq!(branches(&rig), []);
    assert_eq!(objects(&rig, |name| name.contains("/branches/")), 0);
    for arguments in [vec!["branch", "show", VOLUME, "1"], vec!["branch", "restore", VOLUME, "1", "--to", "test/x"]] {
        assert_eq!(say(&rig, &arguments).0, 3, "{arguments:?}");
    }
    // The cache that it was of is still there, dirty: a person has decided about that.
    let first = rig.mount("first");
    until("the old cache may be deleted", Some(&first), || asides(&rig, ".stored-") == 1);
    rig.unmount("first", first);
    assert_eq!(branches(&rig), []);
    succeed(&rig, &["volume", "rm", VOLUME, "--yes", VOLUME, "--grace", "0s"]);
}

#[test]
fn drop_goes_on_wherever_it_was_killed() {
    for step in ["history.branch_after_retire", "history.branch_after_release"] {
        let rig = with_a_branch();
        let mut command = rig.prepare("desk", &["branch", "drop", VOLUME, "1", "--yes", "--recovery-key"]);
        let output = command.arg(rig.key()).env("HOLDFAST_FAILPOINTS", step).output().expect("holdfast starts");
        assert_eq!(output.status.code(), None, "{step} was not reached: {}", said(&output));
        succeed(&rig, &["branch", "drop", VOLUME, "1", "--yes"]);
        assert_eq!((branches(&rig), objects(&rig, |name| name.contains("/branches/"))), (Vec::new(), 0), "{step}");
        assert_eq!(say(&rig, &["branch", "drop", VOLUME, "1", "--yes"]).0, 3);
    }
}
