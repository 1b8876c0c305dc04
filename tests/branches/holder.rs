//! Who wants a volume asks the process that holds it: two machines, a cable between them, and what is said over it.

use super::partition::{PASS, TRICKLE, apart};
use super::*;
use crate::harness::network::Cable;

/// The first machine is at one end of the cable and answers there.
fn first(cable: &Cable) -> impl Fn(&mut Command) + '_ {
    |command| {
        cable.on(0, "first", command);
        command.args(["--peer-listen", &format!("{}:0", Cable::address(0))]);
    }
}

/// The second is at the other end.
fn second(cable: &Cable) -> impl Fn(&mut Command) + '_ {
    |command| cable.on(1, "second", command)
}

/// Starts a mount on the second machine that waits for the volume.
fn waiting(rig: &Rig, cable: &Cable) -> Mount {
    let mut command = rig.mount_command("second");
    second(cable)(&mut command);
    command.arg("--wait");
    rig.start("second", command)
}

/// Where the first machine says that it answers.
fn answers(rig: &Rig) -> String {
    let (_, status) = rig.status("first");
    status["status"]["answers"].as_str().unwrap_or_else(|| panic!("{status}")).to_owned()
}

#[track_caller]
fn is_refused(rig: &Rig, cable: &Cable, because: &[&str]) {
    let refused = rig.refused("second", second(cable));
    assert_eq!(refused.code, 8, "{}", refused.said);
    for part in because {
        assert!(refused.said.contains(part), "{part:?} is not in: {}", refused.said);
    }
}

#[test]
fn in_use_is_refused_or_waited_for() {
    let (rig, cable) = (Rig::new(), Cable::new());
    let held = rig.mount_with("first", first(&cable));
    let address = answers(&rig);
    is_refused(&rig, &cable, &["volume test/days is in use on host first", &address, "unmount it there, or wait for that with --wait"]);
    let mut status = rig.prepare("second", &["status", VOLUME, "--recovery-key"]);
    second(&cable)(status.arg(rig.key()));
    let told = said(&status.output().expect("holdfast starts"));
    assert!(told.contains("in use on first: what it has not committed `holdfast status` tells there"), "{told}");
    let waits = waiting(&rig, &cable);
    waits.says("waiting for host first, which has volume test/days in use");
    // A driver that is started again has another certificate, and says so in its `open`.
    held.kill_driver();
    until("the new driver has the log", Some(&held), || rig.status("first").1["status"]["epoch"] == 2);
    let refused = rig.refused("third", |command| cable.on(1, "third", command));
    assert!(refused.said.contains("in use on host first") && refused.said.contains(&answers(&rig)), "{}", refused.said);
    synced(&held.root.join("last"), b"written while another waits");
    rig.unmount("first", held);
    let mount = waits.wait().unwrap_or_else(|refused| panic!("{refused:?}"));
    assert_eq!(fs::read(mount.root.join("last")).expect("read"), b"written while another waits");
    rig.unmount("second", mount);
}

#[test]
fn cut_cable_is_unknown() {
    let (rig, cable) = (Rig::new(), Cable::new());
    let held = rig.mount_with("first", first(&cable));
    let address = answers(&rig);
    synced(&held.root.join("first"), b"and then it is quiet");
    rig.flush("first");
    cable.cut();
    let held_by = format!("volume test/days is held by host first (since record 1) and was not closed there; asked at {address}");
    is_refused(&rig, &cable, &[&held_by, "--take-over"]);
    let waits = waiting(&rig, &cable);
    waits.says("waiting until it is unmounted there; if that machine is gone for good");
    synced(&held.root.join("meanwhile"), b"behind the cut");
    rig.flush("first");
    waits.says("its log has grown since, so that machine is at work, and this one cannot reach it");
    cable.mend();
    waits.says("waiting for host first, which has volume test/days in use");
    cable.cut();
    // Nobody can be asked; the log says that it is closed.
    synced(&held.root.join("last"), b"behind the cut");
    rig.unmount("first", held);
    let mount = waits.wait().unwrap_or_else(|refused| panic!("{refused:?}"));
    assert_eq!(fs::read(mount.root.join("last")).expect("read"), b"behind the cut");
    rig.unmount("second", mount);
    // Where the first answered stands in its `open`: a reader that does not know of it reads the store all the same.
    crate::harness::command::succeed(&mut reader(&rig.store(), Some(&rig.key()), &["check", VOLUME]));
}

#[test]
fn stopped_holder_is_unknown() {
    let (rig, cable) = (Rig::new(), Cable::new());
    let held = rig.mount_with("first", first(&cable));
    signal(&held, Signal::SIGSTOP);
    is_refused(&rig, &cable, &["held by host first", "it did not answer within 5 s", "--take-over"]);
    signal(&held, Signal::SIGCONT);
    is_refused(&rig, &cable, &["in use on host first"]);
    rig.unmount("first", held);
}

#[test]
fn stranger_at_the_address_is_unknown() {
    let (rig, other, cable) = (Rig::new(), Rig::new(), Cable::new());
    let held = rig.mount_with("first", first(&cable));
    let address = answers(&rig);
    held.kill();
    is_refused(&rig, &cable, &["asked at", "Connection refused"]);
    // A volume of another store, with another certificate and another key.
    let stranger = other.mount_with("first", |command| {
        cable.on(0, "first", command);
        command.args(["--peer-listen", &address]);
    });
    is_refused(&rig, &cable, &["held by host first", "somebody else listens there", "--take-over"]);
    // One port is one mount's.
    stranger.kill_driver();
    until("the new driver has the log", Some(&stranger), || other.status("first").1["status"]["epoch"] == 2);
    assert_eq!(answers(&other), address);
    let third = rig.refused("third", |command| {
        cable.on(0, "third", command);
        command.args(["--peer-listen", &address]);
    });
    assert!(third.code == 2 && third.said.contains("each mount needs a port of its own"), "{}", third.said);
    other.unmount("first", stranger);
    let mount = rig.mount_with("second", |command| {
        second(&cable)(command);
        take_over(command);
    });
    rig.unmount("second", mount);
}

#[test]
fn draining_is_waited_for() {
    let (rig, _server, way, by_way) = apart();
    let held = rig.mount_with("first", |command| {
        slow(&rig)(command);
        command.env("HOLDFAST_STORE", &by_way).args(["--peer-listen", "127.0.0.1:0"]);
    });
    fs::write(held.root.join("early"), "early").expect("write");
    rig.flush("first");
    way.set(TRICKLE);
    let large = content(7, 16 << 20);
    synced(&held.root.join("large"), &large);
    let mut unmount = rig.prepare("first", &["unmount", &held.root.display().to_string()]).spawn().expect("holdfast starts");
    until("it drains", Some(&held), || rig.status("first").1["status"]["phase"] == "draining");
    let waits = rig.start("second", rig.mount_command("second"));
    waits.says("which is unmounting volume test/days: ");
    waits.says(" are in no commit yet");
    assert!(unmount.try_wait().expect("its status").is_none(), "it drained through a trickle");
    way.set(PASS);
    assert!(unmount.wait().expect("its status").success(), "{}", held.said());
    let mount = waits.wait().unwrap_or_else(|refused| panic!("{refused:?}"));
    assert!(fs::read(mount.root.join("large")).expect("read") == large, "not all of it is here");
    rig.unmount("second", mount);
    held.kill();
}
