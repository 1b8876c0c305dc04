//! `volume rm`: refused while anybody needs the volume, undone within the grace, and ended however often it is cut short.

use super::{FIRST, Lab, content};
use crate::rig::VOLUME;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;

const NOW: [&str; 7] = ["volume", "rm", VOLUME, "--yes", VOLUME, "--grace", "0s"];

fn removed_and_made_anew(s3: bool) {
    let lab = Lab::new(s3);
    let begun = lab.succeed(&["volume", "rm", VOLUME, "--yes", VOLUME, "--json"]);
    assert!(begun.contains(r#""state": "removing""#), "{begun}");
    // The same again, before the grace is over, ends nothing and begins nothing.
    assert!(lab.succeed(&["volume", "rm", VOLUME]).contains("is being removed; nothing is deleted yet"));
    assert!(lab.succeed(&["volume", "list"]).contains(", removing"));
    let (code, said) = lab.say(&["restore", VOLUME, "--to", "test/new"]);
    assert!(code == 8 && said.contains("is being removed"), "{said}");
    let refused = lab.rig.refused("third", |_| {});
    assert!(refused.code == 8 && refused.said.contains("--undo"), "{}", refused.said);
    assert!(lab.succeed(&["volume", "rm", VOLUME, "--undo"]).contains("is kept"));
    let (code, _) = lab.say(&["volume", "rm", VOLUME, "--undo"]);
    assert_eq!(code, 2, "nothing is under way");
    let mount = lab.rig.mount("first");
    assert_eq!(fs::read(mount.root.join("other")).expect("read"), content(4, 300_000));
    lab.rig.unmount("first", mount);

    lab.succeed(&["volume", "rm", VOLUME, "--yes", VOLUME]);
    assert!(lab.succeed(&NOW).contains("is removed"), "a grace that is over");
    assert_eq!((lab.count("/packs/"), lab.count("/checkpoints/")), (0, 0));
    let (code, said) = lab.say(&NOW);
    assert!(code == 3 && said.contains("it was removed"), "{said}");
    assert!(lab.succeed(&["volume", "list"]).contains(", removed"));
    for arguments in [&["ls", "test/days:"][..], &["status", VOLUME], &["restore", VOLUME, "--to", "test/new"]] {
        let (code, said) = lab.say(arguments);
        assert!(code == 3 && said.contains("removed"), "{arguments:?}: {code} {said}");
    }
    // The next life is empty; the cache of the one before is set aside.
    let mount = lab.rig.mount("first");
    assert_eq!(fs::read_dir(&mount.root).expect("list").count(), 0);
    fs::write(mount.root.join("b"), "of the second life").expect("write");
    lab.rig.unmount("first", mount);
    assert!(!lab.succeed(&["volume", "list"]).contains("removed"));
    lab.reader(&["check", VOLUME]);
}

#[test]
fn removed_volume_is_gone_and_may_be_made_anew() {
    removed_and_made_anew(false);
}

#[test]
fn removed_volume_is_gone_and_may_be_made_anew_s3() {
    removed_and_made_anew(true);
}

#[test]
fn killed_anywhere_the_same_command_ends_it() {
    // The first: nothing is stored yet. The second is begun and not ended: the same command ends it, its grace being none.
    for step in [
        "log.before_control",
        "history.after_purge_begun",
        "log.before_control:2",
        "history.after_purge_done",
        "log.before_open",
        "log.after_open_before_read_back",
        "history.after_fence",
        "log.before_control:3",
        "history.after_retire",
        "history.in_deletion",
        "history.in_deletion:2",
    ] {
        let lab = Lab::new(false);
        lab.dies_at(step, &NOW);
        let (code, said) = lab.say(&NOW);
        // Killed when all was done, it has nothing left to do, and says so.
        assert!(code == 0 || said.contains("it was removed"), "{step}: {code} {said}");
        assert_eq!((lab.count("/packs/"), lab.count("/checkpoints/")), (0, 0), "{step}");
        let (code, said) = lab.say(&NOW);
        assert!(code == 3 && said.contains("it was removed"), "{step}: {said}");
        let mount = lab.mount(VOLUME);
        assert_eq!(fs::read_dir(&mount.root).expect("list").count(), 0, "{step}");
        lab.unmount(mount);
    }
}

#[test]
fn past_the_point_of_return_nobody_opens_it() {
    let lab = Lab::new(false);
    lab.dies_at("history.after_purge_done", &NOW);
    let (code, _) = lab.say(&["volume", "rm", VOLUME, "--undo"]);
    assert_eq!(code, 2);
    let refused = lab.rig.refused("second", |_| {});
    assert!(refused.code == 8 && refused.said.contains("did not get to its end"), "{}", refused.said);
    lab.succeed(&NOW);
}

/// A life whose deletion was cut short is swept when the next one is removed.
#[test]
fn what_an_earlier_life_left_goes_with_the_next() {
    let lab = Lab::new(false);
    lab.dies_at("history.after_fence", &NOW);
    let mount = lab.mount(VOLUME);
    fs::write(mount.root.join("b"), "of the second life").expect("write");
    lab.unmount(mount);
    assert!(lab.count("/packs/") > 0);
    lab.succeed(&["volume", "rm", VOLUME, "--yes", VOLUME]);
    assert_eq!(lab.count("/packs/"), 0, "of the first life");
    lab.reader(&["check", VOLUME]);
}

#[test]
fn refused_while_somebody_needs_it() {
    let lab = Lab::new(false);
    let rm = |name: &'static str| ["volume", "rm", name, "--yes", name, "--grace", "0s"];
    lab.succeed(&["restore", VOLUME, "--at", FIRST, "--to", "test/new"]);
    let (code, said) = lab.say(&rm(VOLUME));
    assert!(code == 8 && said.contains("volume test/new reads data of commit 2 of test/days: remove test/new first"), "{said}");
    // A restore that did not end holds its commit as well; ended and removed, it is no hindrance.
    lab.dies_at("volume.restore_before_name", &["restore", "test/new", "--to", "test/third"]);
    let (code, said) = lab.say(&rm("test/new"));
    assert!(code == 8 && said.contains("its restore did not end: run that again"), "{said}");
    lab.succeed(&["restore", "test/new", "--to", "test/third"]);
    lab.succeed(&rm("test/third"));
    // Nor is one whose name came to mean another volume.
    lab.dies_at("volume.restore_before_name", &["restore", "test/new", "--to", "test/fourth"]);
    let mount = lab.mount("test/fourth");
    lab.unmount(mount);
    lab.succeed(&rm("test/new"));
    for (arguments, says) in [
        (&["volume", "rm", VOLUME, "--yes", "test/day"][..], "is not the name of the volume, test/days: nothing was done"),
        (&["volume", "rm", VOLUME], "the name test/days was not typed: nothing was done"),
        (&["volume", "rm", VOLUME, "--grace", "soon"], "a grace is a whole number"),
    ] {
        let (code, said) = lab.say(arguments);
        assert!(code == 2 && said.contains(says), "{arguments:?}: {said}");
    }
    lab.succeed(&rm(VOLUME));
    assert_eq!(lab.say(&rm(VOLUME)).0, 3);
}

/// Who opens the volume while a person still types its name keeps it.
#[test]
fn writer_that_comes_before_the_name_is_typed_keeps_it() {
    use std::io::Write;
    let lab = Lab::new(false);
    let mut command = lab.rig.prepare("first", &["volume", "rm", VOLUME, "--grace", "0s"]);
    let mut asking = command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("holdfast starts");
    let mut said = String::new();
    let mut lines = BufReader::new(asking.stderr.take().expect("piped"));
    while !said.contains("Type its name") {
        assert!(lines.read_line(&mut said).expect("what it says") > 0, "{said}");
    }
    let mount = lab.rig.mount("first");
    asking.stdin.take().expect("piped").write_all(format!("{VOLUME}\n").as_bytes()).expect("type");
    lines.read_to_string(&mut said).expect("what it says");
    assert_eq!(asking.wait().expect("its end").code(), Some(8), "{said}");
    fs::write(mount.root.join("kept"), "still in use").expect("write");
    lab.rig.flush("first");
    lab.rig.unmount("first", mount);
    assert!(!lab.succeed(&["volume", "list"]).contains("remov"));
}

#[test]
fn writer_that_lives_on_is_fenced() {
    let lab = Lab::new(false);
    let mount = lab.rig.mount("first");
    fs::write(mount.root.join("a"), "committed").expect("write");
    lab.rig.flush("first");
    let (code, said) = lab.say(&NOW);
    assert!(code == 8 && said.contains("and was not closed there"), "{said}");
    let host = said.split("--even-if-held-by ").nth(1).and_then(|rest| rest.split(':').next()).expect("the host").to_owned();
    let (code, _) = lab.say(&[&NOW[..], &["--even-if-held-by", "another"]].concat());
    assert_eq!(code, 8);
    lab.succeed(&[&NOW[..], &["--even-if-held-by", &host]].concat());
    // What it writes now is in no commit, and it says so; the next life has nothing of it.
    let _ = fs::write(mount.root.join("late"), "too late");
    let (code, said) = lab.say(&["flush", &mount.root.display().to_string()]);
    assert!(code != 0 && said.contains("purged"), "{code} {said}");
    let (code, status) = lab.rig.status("first");
    assert_eq!(code, 20, "{status}");
    let next = lab.mount(VOLUME);
    assert_eq!(fs::read_dir(&next.root).expect("list").count(), 0);
    // A driver that comes back to the live mount of a removed volume makes nothing in its place.
    mount.kill_driver();
    mount.says("was removed from the store while it was mounted");
    mount.kill();
    lab.unmount(next);
}
