//! The Kubernetes driver with real mounts, asked on its socket as a kubelet asks: data that comes back with its claim's name, restarts of the
//! driver under live mounts, two machines, a store that is away. Needs root and /dev/fuse. (Upstream's own tests: `csi-sanity/run.sh`.)
#![allow(clippy::expect_used, clippy::panic, clippy::print_stdout, clippy::disallowed_methods, reason = "tests against the real world")]

#[path = "csi/client.rs"]
mod client;
mod harness;
#[path = "csi/snapshots.rs"]
mod snapshots;

use client::Question;
use harness::command::{run, succeed};
use harness::lab;
use harness::process::{at_home, in_mount_table, wait_until_gone};
use holdfast::rpc::csi::volume_capability::access_mode::Mode;
use holdfast::rpc::csi::volume_capability::{AccessMode, AccessType, MountVolume};
use holdfast::rpc::csi::*;
use std::io::{BufRead, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;
use tonic::{Code, Status};

const NAME: &str = "pvc-0b6c2f7e-4d0c-4c8e-9f53-0d6c8d0a1b2c";
const NEXT: &str = "pvc-1b6c2f7e-4d0c-4c8e-9f53-0d6c8d0a1b2c";
const GIB: i64 = 1 << 30;

/// One store, and the machines of a cluster.
struct Cluster {
    lab: TempDir,
}

/// One machine with its driver.
struct Machine<'a> {
    cluster: &'a Cluster,
    name: &'static str,
    arguments: &'static [&'static str],
    /// The driver and all that it starts end at once, as a container does; its keeper is another container.
    contained: bool,
    keeper: Option<Child>,
    driver: Option<Child>,
}

impl Cluster {
    fn new() -> Self {
        let new = Self { lab: lab() };
        let named = new.lab.path().join("stores/main");
        std::fs::create_dir_all(&named).expect("a directory");
        let url = format!("file://{}", new.lab.path().join("store").display());
        let mut init = Command::new(env!("CARGO_BIN_EXE_holdfast"));
        at_home(&mut init, &new.lab.path().join("admin"));
        succeed(init.args(["--store", &url, "store", "init", "--recovery-file"]).arg(named.join("key")));
        std::fs::write(named.join("url"), url).expect("a file");
        new
    }

    fn machine(&self, name: &'static str) -> Machine<'_> {
        self.machine_with(name, &[])
    }

    fn machine_with(&self, name: &'static str, arguments: &'static [&'static str]) -> Machine<'_> {
        std::fs::create_dir_all(self.lab.path().join(name)).expect("a directory");
        let mut machine = Machine { cluster: self, name, arguments, contained: false, keeper: None, driver: None };
        machine.start();
        machine
    }

    /// One whose driver is a container, and its keeper another.
    fn machine_of_containers(&self, name: &'static str) -> Machine<'_> {
        std::fs::create_dir_all(self.lab.path().join(name)).expect("a directory");
        let mut machine = Machine { cluster: self, name, arguments: &["--keeper-apart"], contained: true, keeper: None, driver: None };
        machine.start_keeper();
        machine.start();
        machine
    }

    /// The store is away, or comes back.
    fn store_is_away(&self, away: bool) {
        let (store, aside) = (self.lab.path().join("store"), self.lab.path().join("aside"));
        let (from, to) = if away { (store, aside) } else { (aside, store) };
        std::fs::rename(from, to).expect("the store's directory moves");
    }
}

impl Machine<'_> {
    fn at(&self, name: &str) -> PathBuf {
        self.cluster.lab.path().join(self.name).join(name)
    }

    fn text(&self, name: &str) -> String {
        self.at(name).display().to_string()
    }

    fn start(&mut self) {
        let log = std::fs::File::options().create(true).append(true).open(self.at("log")).expect("a log");
        let mut command = Command::new(if self.contained { "unshare" } else { env!("CARGO_BIN_EXE_holdfast") });
        if self.contained {
            command.args(["--pid", "--fork", "--kill-child=KILL", env!("CARGO_BIN_EXE_holdfast")]);
        }
        at_home(&mut command, &self.at("home"));
        command.args(["csi", "--controller", "--node", "--cluster", "home", "--node-id", self.name]).args(self.arguments);
        command.arg("--endpoint").arg(format!("unix://{}", self.text("csi.sock"))).arg("--state").arg(self.at("state"));
        command.arg("--stores").arg(self.cluster.lab.path().join("stores"));
        command.env("HOLDFAST_LOG_LEVEL", "info").stdin(Stdio::null()).stderr(log).stdout(Stdio::null());
        let mut driver = command.spawn().expect("the driver starts");
        while std::os::unix::net::UnixStream::connect(self.at("csi.sock")).is_err() {
            if let Some(status) = driver.try_wait().expect("a child's status") {
                panic!("the driver ended with {status}\n{}", self.log());
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        self.driver = Some(driver);
    }

    /// In the place of the one before.
    fn start_keeper(&mut self) {
        self.end_keeper();
        let mut keeper = Command::new(env!("CARGO_BIN_EXE_holdfast-keeper"));
        at_home(&mut keeper, &self.at("home"));
        self.keeper = Some(keeper.arg("--socket").arg(self.at("home/run/keeper.socket")).spawn().expect("the keeper starts"));
    }

    fn end_keeper(&mut self) {
        if let Some(mut keeper) = self.keeper.take() {
            keeper.kill().and_then(|()| keeper.wait()).expect("the keeper's end");
        }
    }

    /// `kill -9` of the driver, and the next one.
    fn restart(&mut self) {
        let inside = if self.contained { self.children(1) } else { Vec::new() };
        let mut driver = self.driver.take().expect("a driver");
        driver.kill().expect("kill");
        driver.wait().expect("its end");
        inside.into_iter().for_each(wait_until_gone);
        self.start();
    }

    /// The children of process 1 of the container, or of what started it.
    fn children(&self, depth: usize) -> Vec<u32> {
        let mut all = vec![self.driver.as_ref().expect("a driver").id()];
        for _ in 0..depth {
            let of = all[0];
            let text = std::fs::read_to_string(format!("/proc/{of}/task/{of}/children")).expect("its children");
            all = text.split_whitespace().map(|pid| pid.parse().expect("a number")).collect();
        }
        all
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.at("log")).unwrap_or_default()
    }

    fn ask<Q: Question>(&self, question: Q) -> Result<Q::Answer, Status> {
        question.ask(&self.at("csi.sock"))
    }

    fn create(&self, name: &str, bytes: i64) -> Volume {
        let parameters = [("csi.storage.k8s.io/pvc/namespace", "media"), ("csi.storage.k8s.io/pvc/name", "photos")];
        let asked = CreateVolumeRequest {
            name: name.to_owned(),
            capacity_range: Some(CapacityRange { required_bytes: bytes, limit_bytes: 0 }),
            volume_capabilities: vec![capability("")],
            parameters: parameters.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
            ..Default::default()
        };
        self.ask(asked).expect("a volume").volume.expect("a volume")
    }

    fn delete(&self, id: &str) {
        self.ask(DeleteVolumeRequest { volume_id: id.to_owned(), ..Default::default() }).expect("a deletion");
    }

    fn stage(&self, id: &str, group: &str) -> Result<NodeStageVolumeResponse, Status> {
        self.ask(NodeStageVolumeRequest {
            volume_id: id.to_owned(),
            staging_target_path: self.text("staging"),
            volume_capability: Some(capability(group)),
            ..Default::default()
        })
    }

    /// Asks again, as a kubelet does.
    fn stage_at_last(&self, id: &str) {
        while let Err(status) = self.stage(id, "") {
            assert_eq!(status.code(), Code::Aborted, "{status}\n{}", self.log());
        }
    }

    fn publish(&self, id: &str, target: &str, readonly: bool, group: &str) -> PathBuf {
        let asked = NodePublishVolumeRequest {
            volume_id: id.to_owned(),
            staging_target_path: self.text("staging"),
            target_path: self.text(target),
            volume_capability: Some(capability(group)),
            readonly,
            ..Default::default()
        };
        self.ask(asked).unwrap_or_else(|status| panic!("{status}\n{}", self.log()));
        self.at(target)
    }

    fn unpublish(&self, id: &str, target: &str) {
        let asked = NodeUnpublishVolumeRequest { volume_id: id.to_owned(), target_path: self.text(target) };
        self.ask(asked).unwrap_or_else(|status| panic!("{status}\n{}", self.log()));
        assert!(!self.at(target).exists());
    }

    /// Asks again while it is told to, as a kubelet does.
    fn unstage(&self, id: &str) {
        let asked = NodeUnstageVolumeRequest { volume_id: id.to_owned(), staging_target_path: self.text("staging") };
        while let Err(status) = self.ask(asked.clone()) {
            assert!(matches!(status.code(), Code::Aborted | Code::Unavailable), "{status}\n{}", self.log());
        }
    }

    /// Whether a process holds a mount, or is on its way to one.
    fn waits(&self) -> bool {
        let run = std::fs::read_dir(self.at("home/run")).expect("the run directory");
        run.flatten().any(|entry| entry.path().extension().is_some_and(|extension| extension == "hold"))
    }

    fn stats(&self, id: &str, place: &str) -> Result<NodeGetVolumeStatsResponse, Status> {
        self.ask(NodeGetVolumeStatsRequest { volume_id: id.to_owned(), volume_path: self.text(place), ..Default::default() })
    }
}

impl Drop for Machine<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("the log of {}:\n{}", self.name, self.log());
        }
        for mut process in [self.driver.take(), self.keeper.take()].into_iter().flatten() {
            let _ = process.kill();
            let _ = process.wait();
        }
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let of = self.at("");
        let mounts = table.lines().filter_map(|line| line.split(' ').nth(4)).filter(|dir| Path::new(dir).starts_with(&of));
        mounts.for_each(|dir| drop(Command::new("umount").args(["-l", dir]).status()));
    }
}

fn capability(group: &str) -> VolumeCapability {
    let mount = MountVolume { volume_mount_group: group.to_owned(), ..Default::default() };
    VolumeCapability { access_mode: Some(AccessMode { mode: Mode::SingleNodeWriter.into() }), access_type: Some(AccessType::Mount(mount)) }
}

#[test]
fn claim_that_is_made_again_has_its_data_though_the_driver_dies_before_each_request() {
    let cluster = Cluster::new();
    let mut machine = cluster.machine("node-a");
    let id = machine.create(NAME, GIB).volume_id;
    machine.restart();
    machine.stage(&id, "").expect("staged");
    machine.restart();
    let pod = machine.publish(&id, "pod", false, "");
    let mut open = std::fs::File::create(pod.join("open")).expect("a file");
    std::fs::write(pod.join(".dotfile"), "here").expect("a file");
    std::fs::set_permissions(pod.join(".dotfile"), PermissionsExt::from_mode(0o600)).expect("chmod");
    run("chown", [Path::new("70:71"), &pod.join(".dotfile")]);
    machine.restart();
    open.write_all(b"through the restart").expect("an open file goes on");
    drop(open);
    let reader = machine.publish(&id, "reader", true, "");
    assert_eq!(std::fs::read(reader.join("open")).expect("read"), b"through the restart");
    let refused = std::fs::write(reader.join("new"), "").expect_err("read-only");
    assert_eq!(refused.raw_os_error(), Some(libc::EROFS));
    for target in ["pod", "reader"] {
        machine.restart();
        machine.unpublish(&id, target);
    }
    machine.restart();
    machine.unstage(&id);
    machine.restart();
    machine.delete(&id);
    // The same claim, applied again, smaller, on another machine.
    let other = cluster.machine("node-b");
    let again = other.create(NEXT, GIB / 2);
    machine.delete(&id);
    other.stage(&again.volume_id, "").expect("staged");
    let pod = other.publish(&again.volume_id, "pod", false, "");
    assert_eq!(std::fs::read(pod.join("open")).expect("read"), b"through the restart");
    let kept = std::fs::metadata(pod.join(".dotfile")).expect("its attributes");
    assert_eq!((kept.mode() & 0o7777, kept.uid(), kept.gid()), (0o600, 70, 71));
    machine.delete(&id);
    std::fs::write(pod.join("more"), "a late deletion changed nothing").expect("write");
    other.unpublish(&again.volume_id, "pod");
    other.unstage(&again.volume_id);
}

#[test]
fn two_machines_wait_for_each_other_and_nothing_is_lost() {
    let cluster = Cluster::new();
    let machine = |name| cluster.machine_with(name, &["--stage-wait", "2s"]);
    let (mut first, second) = (machine("node-a"), machine("node-b"));
    let id = first.create(NAME, GIB).volume_id;
    first.stage_at_last(&id);
    let pod = first.publish(&id, "pod", false, "");
    std::fs::write(pod.join("data"), vec![7; 3 << 20]).expect("write");
    let refused = second.stage(&id, "").expect_err("the first has it");
    assert_eq!(refused.code(), Code::Aborted, "{refused}");
    assert!(!second.at("staging").exists() && second.at("state/mounts").read_dir().is_ok_and(|all| all.count() == 1));
    first.unpublish(&id, "pod");
    first.unstage(&id);
    second.stage_at_last(&id);
    let pod = second.publish(&id, "pod", false, "");
    assert_eq!(std::fs::read(pod.join("data")).expect("read"), vec![7; 3 << 20]);
    // A stage that waits is given up by its unstage, also by another process of the driver: nothing is left that would mount later.
    assert_eq!(first.stage(&id, "").expect_err("the second has it").code(), Code::Aborted);
    first.restart();
    first.unstage(&id);
    while first.waits() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    second.unpublish(&id, "pod");
    second.unstage(&id);
    assert!(first.at("state/mounts").read_dir().is_ok_and(|mut all| all.next().is_none()));
}

#[test]
fn live_volume_grows_and_its_numbers_come_without_the_store() {
    let cluster = Cluster::new();
    let machine = cluster.machine("node-a");
    let id = machine.create(NAME, 4 << 20).volume_id;
    machine.stage(&id, "").expect("staged");
    let pod = machine.publish(&id, "pod", false, "");
    std::fs::write(pod.join("small"), vec![1; 1 << 20]).expect("write");
    let grow = |bytes| std::fs::File::options().create(true).append(true).open(pod.join("large")).and_then(|file| allocate(&file, bytes));
    assert_eq!(grow(8 << 20).expect_err("the claim's size holds").raw_os_error(), Some(libc::ENOSPC));
    let range = Some(CapacityRange { required_bytes: 64 << 20, limit_bytes: 0 });
    let asked = ControllerExpandVolumeRequest { volume_id: id.clone(), capacity_range: range, ..Default::default() };
    assert_eq!(machine.ask(asked).expect("expanded").capacity_bytes, 64 << 20);
    let mut open = std::fs::File::create(pod.join("open")).expect("a file");
    for _ in 0..2 {
        let asked = NodeExpandVolumeRequest { volume_id: id.clone(), volume_path: machine.text("pod"), ..Default::default() };
        assert_eq!(machine.ask(asked).expect("expanded").capacity_bytes, 64 << 20);
    }
    open.write_all(b"a pause").expect("an open file goes on");
    grow(8 << 20).expect("there is room now");
    cluster.store_is_away(true);
    let usage = machine.stats(&id, "pod").expect("no store is asked").usage;
    assert_eq!(usage[0].total, 64 << 20);
    assert!(usage[0].used >= 9 << 20 && usage[1].used == 4, "{usage:?}");
    cluster.store_is_away(false);
    // Who keeps a file open beyond the end of its pod keeps the volume from its end: the drain would be waited for.
    drop(open);
    machine.unpublish(&id, "pod");
    machine.unstage(&id);
}

fn allocate(file: &std::fs::File, bytes: i64) -> std::io::Result<()> {
    // SAFETY: a system call on a descriptor that lives.
    match unsafe { libc::posix_fallocate(std::os::fd::AsRawFd::as_raw_fd(file), 0, bytes) } {
        0 => Ok(()),
        errno => Err(std::io::Error::from_raw_os_error(errno)),
    }
}

#[test]
fn group_of_a_pod_can_write_and_private_files_stay_private() {
    let cluster = Cluster::new();
    let machine = cluster.machine("node-a");
    let id = machine.create(NAME, GIB).volume_id;
    machine.stage(&id, "").expect("staged");
    let pod = machine.publish(&id, "pod", false, "");
    std::fs::create_dir(pod.join("private")).expect("mkdir");
    std::fs::set_permissions(pod.join("private"), PermissionsExt::from_mode(0o700)).expect("chmod");
    machine.unpublish(&id, "pod");
    machine.unstage(&id);
    machine.stage(&id, "2000").expect("staged");
    let pod = machine.publish(&id, "pod", false, "2000");
    run("setpriv", ["--reuid", "1000", "--regid", "1000", "--groups", "2000", "touch", &format!("{}/mine", pod.display())]);
    assert_eq!(std::fs::metadata(pod.join("mine")).expect("a file").gid(), 2000, "what is made there is the group's");
    let private = std::fs::metadata(pod.join("private")).expect("a directory");
    assert_eq!((private.mode() & 0o7777, private.gid()), (0o700, 0));
    machine.unpublish(&id, "pod");
    machine.unstage(&id);
}

#[test]
fn container_of_the_driver_ends_and_the_next_one_takes_its_mounts_up() {
    let cluster = Cluster::new();
    let mut machine = cluster.machine_of_containers("node-a");
    let id = machine.create(NAME, GIB).volume_id;
    machine.stage(&id, "").expect("staged");
    let pod = machine.publish(&id, "pod", false, "");
    // In a process of its own: a driver that is started from here would begin by closing what is open here, and wait for itself.
    let writes = "exec 3>>open; while read line; do echo \"$line\" >&3 && sync open && echo written; done";
    let mut writer = Command::new("sh");
    let mut writer = writer.args(["-c", writes]).current_dir(&pod).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a shell");
    let mut says = std::io::BufReader::new(writer.stdout.take().expect("a pipe")).lines();
    for round in 0..3 {
        // Every process of the mount ends, whichever it is.
        machine.restart();
        writeln!(writer.stdin.as_mut().expect("a pipe"), "round {round}").expect("a line");
        assert_eq!(says.next().expect("a line").expect("a line"), "written", "an open file goes on");
        std::fs::write(pod.join(format!("new {round}")), "made").expect("a file");
    }
    drop(writer.stdin.take());
    assert!(writer.wait().expect("its end").success());
    assert_eq!(std::fs::read_to_string(pod.join("open")).expect("read"), "round 0\nround 1\nround 2\n");
    // With another keeper, which is told of the mount by those who serve it.
    machine.start_keeper();
    let status = || {
        let mut asked = Command::new(env!("CARGO_BIN_EXE_holdfast"));
        at_home(&mut asked, &machine.at("home"));
        String::from_utf8(asked.args(["status", "--json"]).output().expect("status").stdout).expect("text")
    };
    while !status().contains("\"keeper\"") {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    machine.restart();
    assert_eq!(std::fs::read_to_string(pod.join("new 2")).expect("read"), "made");
    machine.unpublish(&id, "pod");
    machine.unstage(&id);
    // What served the mount was process 1's in the end, and it takes it: beside the driver itself nothing is left there.
    while machine.children(2).len() != 1 {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let probe = |endpoint: String| Command::new(env!("CARGO_BIN_EXE_holdfast")).args(["csi", "--probe", "--endpoint", &endpoint]).status();
    assert_eq!(probe(format!("unix://{}", machine.text("csi.sock"))).expect("a probe").code(), Some(0));
    assert_eq!(probe(format!("unix://{}", machine.text("nobody.sock"))).expect("a probe").code(), Some(5));
    // A signal to process 1 ends it in order.
    run("kill", ["-TERM", &machine.children(1)[0].to_string()]);
    assert_eq!(machine.driver.take().expect("a driver").wait().expect("its end").code(), Some(0));
}

#[test]
fn dead_mount_is_taken_away_and_staged_anew() {
    let cluster = Cluster::new();
    let machine = cluster.machine("node-a");
    let id = machine.create(NAME, GIB).volume_id;
    machine.stage(&id, "").expect("staged");
    let pod = machine.publish(&id, "pod", false, "");
    std::fs::write(pod.join("data"), "in the cache").expect("write");
    // As when every process of the mount and the keeper died at once.
    let mount = std::fs::read_dir(machine.at("state/mounts")).expect("a directory").next().expect("a mount").expect("a mount").path();
    let device = std::fs::metadata(&mount).expect("a mount").dev();
    abort_connection(device);
    assert!(in_mount_table(&pod) && std::fs::metadata(pod.join("data")).is_err());
    machine.unpublish(&id, "pod");
    machine.unstage(&id);
    machine.stage(&id, "").expect("staged anew");
    let pod = machine.publish(&id, "pod", false, "");
    assert_eq!(std::fs::read_to_string(pod.join("data")).expect("read"), "in the cache");
    machine.unpublish(&id, "pod");
    machine.unstage(&id);
}

/// Ends a connection as the kernel does when nobody holds it any more.
fn abort_connection(device: u64) {
    let control = Path::new("/sys/fs/fuse/connections");
    if std::fs::read_dir(control).is_ok_and(|mut all| all.next().is_none()) {
        run("mount", ["-t", "fusectl", "none", "/sys/fs/fuse/connections"]);
    }
    std::fs::write(control.join(format!("{}/abort", libc::minor(device))), "1").expect("an abort");
}

#[test]
fn method_that_is_not_there_is_unimplemented_and_a_store_comes_later() {
    let cluster = Cluster::new();
    let stores = cluster.lab.path().join("stores");
    std::fs::rename(stores.join("main"), stores.join("later")).expect("no Secret yet");
    let machine = cluster.machine("node-a");
    assert_eq!(machine.ask(ListVolumesRequest::default()).expect_err("not advertised").code(), Code::Unimplemented);
    let capabilities = machine.ask(GetPluginCapabilitiesRequest {}).expect("capabilities").capabilities;
    assert_eq!(capabilities.len(), 2);
    let asked = CreateVolumeRequest { name: "plain".into(), volume_capabilities: vec![capability("")], ..Default::default() };
    let waits = machine.ask(asked.clone()).expect_err("no store of that name");
    assert!(waits.code() == Code::Unavailable && waits.message().contains("no store `main`"), "{waits}");
    std::fs::rename(stores.join("later"), stores.join("main")).expect("the Secret comes");
    let volume = machine.ask(asked).expect("no restart").volume.expect("a volume");
    assert_eq!(volume.volume_context["identity"], "home/_/plain");
}
