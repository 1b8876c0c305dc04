//! The fenced driver dies at each step of its branch; the store is away; the machine's processes are all gone.

use super::*;

/// Dies once at this place.
fn arm(rig: &Rig, name: &'static str) -> impl Fn(&mut Command) + use<> {
    let once = rig.path("reached");
    move |command: &mut Command| {
        command.env("HOLDFAST_FAILPOINTS", name).env("HOLDFAST_FAILPOINTS_ONCE", &once);
    }
}

/// The driver dies there and the next one goes on; `whole`: all processes die, and the volume is mounted again.
fn dies_at(name: &'static str, whole: bool) {
    let rig = Rig::new();
    let first = rig.mount_with("first", |command| {
        slow(&rig)(command);
        arm(&rig, name)(command);
        // Said long ago: no leave to take the volume back.
        take_over(command);
    });
    committed(&rig, "first", &first.root);
    tail(&first.root, 61);
    let second = overtaken(&rig);
    if whole {
        // It starts no successor before it is killed too.
        kill(Pid::from_raw(i32::try_from(first.family()[0]).expect("a process id")), Signal::SIGSTOP).expect("signal");
    }
    let _ = rig.run("first", &["flush", &first.root.display().to_string()]);
    until(name, Some(&first), || rig.path("reached").exists());
    if whole {
        first.kill();
        let first = rig.mount_with("first", take_over);
        until_safe(&rig, 1, Some(&first));
        until("the old cache may be deleted", Some(&first), || asides(&rig, ".stored-") == 1);
        assert_eq!(fs::read_to_string(first.root.join("other")).expect("read"), "of the second");
        rig.unmount("first", first);
        // It was the second that was taken over now, clean: no branch of it.
        assert!(!rig.run("second", &["unmount", &second.root.display().to_string()]).status.success());
        second.kill();
    } else {
        until_told(&rig, "first", &first);
        until_safe(&rig, 1, Some(&first));
        assert_eq!(File::create(first.root.join("more")).err().and_then(|e| e.raw_os_error()), Some(libc::EROFS));
        assert_eq!(File::open(first.root.join("small")).and_then(|f| f.sync_all()).err().and_then(|e| e.raw_os_error()), Some(libc::EIO));
        unmount_fenced(&rig, "first", first, 1);
        synced(&second.root.join("more"), b"the volume is still the second's");
        rig.flush("second");
        rig.unmount("second", second);
    }
    gives_back(&rig, 1, 61);
    assert_eq!(heads(&rig), 1);
    let packed = objects(&rig, |name| name.contains("/branches/") && !name.contains("/head"));
    assert_eq!(packed, 1, "what was uploaded before the death is not uploaded again");
}

#[test]
fn dies_with_the_claim() {
    dies_at("writeback.branch_after_claim", false);
}

#[test]
fn dies_with_the_packs() {
    dies_at("writeback.branch_after_packs", false);
}

#[test]
fn dies_with_the_head() {
    dies_at("writeback.branch_after_head", false);
}

#[test]
fn all_die_with_the_claim() {
    dies_at("writeback.branch_after_claim", true);
}

#[test]
fn all_die_with_the_packs() {
    dies_at("writeback.branch_after_packs", true);
}

#[test]
fn all_die_with_the_head() {
    dies_at("writeback.branch_after_head", true);
}

#[test]
fn dies_before_the_old_cache_is_said_to_be_needless() {
    let (rig, second) = lost(71);
    rig.unmount("second", second);
    let first = rig.mount_with("first", arm(&rig, "volume.branch_before_rename"));
    // The driver dies there beside its work; the next one goes on with that and with this.
    until("the old cache may be deleted", Some(&first), || asides(&rig, ".stored-") == 1);
    assert!(rig.path("reached").exists());
    rig.unmount("first", first);
    gives_back(&rig, 1, 71);
    assert_eq!(heads(&rig), 1);
}

#[test]
fn store_is_away_when_it_is_fenced() {
    let rig = Rig::new();
    let first = rig.mount_with("first", slow(&rig));
    committed(&rig, "first", &first.root);
    tail(&first.root, 81);
    signal(&first, Signal::SIGSTOP);
    let second = rig.mount_with("second", take_over);
    synced(&second.root.join("other"), b"of the second");
    rig.unmount("second", second);
    fs::rename(rig.store(), rig.path("away")).expect("the store goes");
    signal(&first, Signal::SIGCONT);
    let mut flush = rig.prepare("first", &["flush", &first.root.display().to_string()]).spawn().expect("holdfast starts");
    until("status tells that the store is gone", Some(&first), || !rig.status("first").1["status"]["store_trouble"].is_null());
    fs::rename(rig.path("away"), rig.store()).expect("the store comes back");
    assert!(!flush.wait().expect("its status").success());
    until_safe(&rig, 1, Some(&first));
    unmount_fenced(&rig, "first", first, 1);
    gives_back(&rig, 1, 81);
}

#[test]
fn store_goes_away_before_the_branch_is_stored() {
    let rig = Rig::new();
    let first = rig.mount_with("first", |command| {
        slow(&rig)(command);
        arm(&rig, "writeback.branch_after_claim")(command);
    });
    committed(&rig, "first", &first.root);
    tail(&first.root, 91);
    let second = overtaken(&rig);
    kill(Pid::from_raw(i32::try_from(first.family()[0]).expect("a process id")), Signal::SIGSTOP).expect("signal");
    let _ = rig.run("first", &["flush", &first.root.display().to_string()]);
    until("the claim", Some(&first), || rig.path("reached").exists());
    first.kill();
    fs::rename(rig.store(), rig.path("away")).expect("the store goes");
    let mut again = rig.start("first", rig.mount_command("first"));
    again.says("waiting for the store");
    assert_eq!(again.ended(), None, "{}", again.said());
    fs::rename(rig.path("away"), rig.store()).expect("the store comes back");
    let refused = again.wait().err().expect("the second holds the volume");
    assert!(refused.code == 8 && refused.said.contains("is branch 1"), "{refused:?}");
    gives_back(&rig, 1, 91);
    rig.unmount("second", second);
}
