//! One machine that loses its power again and again, and the applications on it.

use crate::files::{Seen, Writer};
use crate::forgetful::{Disk, Fate, Kind};
use crate::harness::Chance;
use crate::harness::process::wait_until_gone;
use crate::rig::{Mount, PATIENCE, Rig, content};
use crate::running::{Running, Stepper};
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::Duration;

const WRITERS: u64 = 3;
const CONTROL_BYTES: usize = 64 << 10;
/// The number of bytes that are written to a control and never flushed.
const UNSYNCED: u64 = 1 << 40;

/// An application that keeps its own books, and the step that it must show from now on.
struct Ledger {
    stepper: Stepper,
    place: &'static str,
    at_least: u64,
}

/// Applications at work.
struct Busy {
    writers: Vec<JoinHandle<Writer>>,
    steps: Receiver<()>,
    ledgers: Vec<Running>,
}

/// What happened by now.
#[derive(Default)]
struct Sums {
    cuts: u64,
    fate: Fate,
    controls: u64,
    bytes_vanished: u64,
    names_vanished: u64,
    acknowledged: u64,
    synced: u64,
    elsewhere: u64,
    failing: u64,
}

/// See the module's head.
pub(crate) struct Machine {
    mount: Option<Mount>,
    disk: Disk,
    rig: Rig,
    writers: Vec<Writer>,
    ledgers: Vec<Ledger>,
    busy: Option<Busy>,
    // Told when something fails: the newest cut, and what the driver had said before it.
    last: String,
    before: String,
    sums: Sums,
}

impl Machine {
    /// A machine whose cache lies on a forgetful disk; the store does not.
    pub(crate) fn new(kind: Kind) -> Self {
        let rig = Rig::new();
        let disk = Disk::new(&rig.path(""), &rig.cache("first"), kind);
        fs::write(rig.path("policy"), "* continuous 200ms\n").expect("a policy");
        let (last, sums) = ("the first boot".to_owned(), Sums::default());
        let before = String::new();
        let mut machine = Self { mount: None, disk, rig, writers: Vec::new(), ledgers: Vec::new(), busy: None, last, before, sums };
        machine.mount(false);
        machine.control("synced");
        machine
    }

    /// Gives it applications.
    pub(crate) fn employ(&mut self, seed: u64) {
        let root = self.root();
        self.writers = (0..WRITERS).map(|n| Writer::new(&root.join(format!("writer{n}")), seed ^ (n << 32))).collect();
        let ledger = |name, place| Ledger { stepper: Stepper::worker(name), place, at_least: 0 };
        self.ledgers = vec![ledger("sqlite-wal", "wal"), ledger("sqlite-journal", "journal")];
        for ledger in &self.ledgers {
            fs::create_dir(root.join(ledger.place)).expect("a directory");
        }
        File::open(&root).and_then(|file| file.sync_all()).expect("fsync of the root");
    }

    /// Where the volume is mounted.
    pub(crate) fn root(&self) -> PathBuf {
        self.rig.root("first")
    }

    fn mount(&mut self, take_over: bool) {
        let policy = self.rig.path("policy");
        self.mount = Some(self.rig.mount_with("first", |command| {
            command.arg("--policy").arg(policy).args(take_over.then_some("--take-over"));
        }));
    }

    fn control_path(&self, name: &str) -> PathBuf {
        self.rig.cache("first").join(format!("control-{name}"))
    }

    /// Bytes and a name beside the cache that are flushed.
    fn control(&self, name: &str) {
        let mut file = File::create(self.control_path(name)).expect("a control");
        file.write_all(&content(self.sums.cuts, CONTROL_BYTES)).and_then(|()| file.sync_all()).expect("a synced control");
        File::open(self.rig.cache("first")).and_then(|file| file.sync_all()).expect("fsync of a directory");
    }

    /// Applications work, for a while that chance decides.
    pub(crate) fn work(&mut self, chance: &mut Chance) {
        let root = self.root();
        let (told, steps) = channel();
        let writers = std::mem::take(&mut self.writers).into_iter().map(|mut writer| {
            let told = told.clone();
            std::thread::spawn(move || {
                while writer.step().is_ok() {
                    let _ = told.send(());
                }
                writer
            })
        });
        let writers = writers.collect();
        let ledgers: Vec<Running> = self.ledgers.iter().map(|ledger| ledger.stepper.start(&root.join(ledger.place))).collect();
        // Now and then nothing else than the first moments after a mount.
        let count = [5, 60, 300, 900][chance.between(0, 4) as usize];
        let busy = Busy { writers, steps, ledgers };
        for _ in 0..chance.between(1, count) {
            match busy.steps.recv_timeout(PATIENCE) {
                Ok(()) => {}
                Err(RecvTimeoutError::Timeout) => panic!("the writers stand still after {}\n{}", self.last, self.said()),
                Err(RecvTimeoutError::Disconnected) => panic!("a writer was told an error after {}\n{}", self.last, self.said()),
            }
        }
        self.busy = Some(busy);
    }

    fn said(&self) -> String {
        self.mount.as_ref().map(Mount::said).unwrap_or_default()
    }

    /// The power fails while they work, and the machine boots.
    pub(crate) fn cut(&mut self, chance: &mut Chance) {
        let (seed, sector) = (chance.between(0, u64::MAX), [512, 4096][chance.between(0, 2) as usize]);
        if chance.between(0, 2) == 0 {
            self.write_back();
        }
        let failing = chance.between(0, 3) == 0 || std::env::var_os("HOLDFAST_TEST_FAILING").is_some();
        if failing {
            self.fail(chance);
        }
        // What they say later does not count: SQLite calls a transaction done when its directory cannot be opened any more for an fsync.
        for (ledger, running) in self.ledgers.iter_mut().zip(self.busy.iter().flat_map(|busy| &busy.ledgers)) {
            ledger.at_least = ledger.at_least.max(running.told().kept);
        }
        if !failing {
            self.write_controls();
        }
        self.disk.freeze();
        let struck = self.mount.as_ref().map(Mount::strike).unwrap_or_default();
        let fate = self.disk.decide(seed, sector);
        self.before = self.said();
        if let Some(mount) = self.mount.take() {
            mount.kill();
        }
        struck.into_iter().for_each(wait_until_gone);
        self.end_work();
        self.disk.boot();
        self.sums.cuts += 1;
        self.last = format!("cut {} (disk {seed}, sectors of {sector}, {fate:?})", self.sums.cuts);
        self.look_at_controls(failing);
        let sum = &mut self.sums.fate;
        *sum = Fate { flushes: fate.flushes, kept: sum.kept + fate.kept, torn: sum.torn + fate.torn, lost: sum.lost + fate.lost };
        self.mount(false);
    }

    /// The disk is failing before it ends, for a moment or for good: what is acknowledged meanwhile must be true as well. (A file system
    /// whose journal met an error is read-only from then on, also when the disk works again.)
    fn fail(&mut self, chance: &mut Chance) {
        self.sums.failing += 1;
        self.disk.fail(["writes", "all"][chance.between(0, 2) as usize]);
        let last = Duration::from_millis(chance.between(1, 400));
        // Nothing tells how far they come: they may stop at the first error, or wait for a driver that dies of it.
        std::thread::sleep(last / 2);
        if chance.between(0, 2) == 0 {
            self.disk.fail("nothing");
        }
        std::thread::sleep(last / 2);
    }

    /// What the kernel does when it likes: what the cache has in memory goes to the disk, and no flush follows.
    fn write_back(&self) {
        let mut pending = vec![self.rig.cache("first")];
        while let Some(path) = pending.pop() {
            if path.is_dir() {
                pending.extend(fs::read_dir(&path).into_iter().flatten().flatten().map(|entry| entry.path()));
            } else if let Ok(file) = File::open(&path)
                && !path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("control-"))
            {
                // SAFETY: a system call with numbers only, on a descriptor that outlives it.
                unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, libc::SYNC_FILE_RANGE_WRITE) };
            }
        }
    }

    fn end_work(&mut self) {
        let Some(busy) = self.busy.take() else { return };
        busy.ledgers.into_iter().for_each(|running| _ = running.kill());
        self.writers = busy.writers.into_iter().map(|writer| writer.join().expect("a writer does not panic")).collect();
    }

    /// Bytes that no flush follows in a file that is there, and a name. At the last moment: the cache's batches flush the whole file system
    /// when many data files have changed.
    fn write_controls(&self) {
        let file = File::options().write(true).open(self.control_path("synced")).expect("the control");
        file.write_all_at(&content(UNSYNCED, CONTROL_BYTES), 0).expect("an unsynced control");
        fs::write(self.control_path("unsynced"), "never flushed").expect("an unsynced control");
    }

    /// What is left of them; of a disk that failed they were not asked.
    fn look_at_controls(&mut self, failing: bool) {
        let synced = fs::read(self.control_path("synced")).unwrap_or_else(|error| panic!("{}: the synced control: {error}", self.last));
        let (old, new) = (content(self.sums.cuts - 1, CONTROL_BYTES), content(UNSYNCED, CONTROL_BYTES));
        let known = synced.chunks(512).zip(old.chunks(512).zip(new.chunks(512))).all(|(found, (old, new))| found == old || found == new);
        assert!(synced.len() == old.len() && known, "{}: the synced control has neither the old nor the new bytes", self.last);
        if !failing {
            self.sums.controls += 1;
            self.sums.bytes_vanished += u64::from(synced == old);
            self.sums.names_vanished += u64::from(!self.control_path("unsynced").exists());
        }
        let _ = fs::remove_file(self.control_path("unsynced"));
        self.control("synced");
    }

    /// Everything that was acknowledged as durable is there.
    pub(crate) fn check(&mut self) {
        let root = self.root();
        for writer in &mut self.writers {
            self.sums.acknowledged += std::mem::take(&mut writer.done);
            self.sums.synced += std::mem::take(&mut writer.synced);
            writer.recover(&self.last);
        }
        for ledger in &mut self.ledgers {
            let place = root.join(ledger.place);
            let files: Vec<_> = fs::read_dir(&place).into_iter().flatten().flatten().map(|entry| entry.file_name()).collect();
            let found = ledger.stepper.check(&place);
            let (name, least) = (ledger.stepper.name, ledger.at_least);
            assert!(found >= least, "{}: {name}: step {least} was acknowledged, {found} is there, by {files:?}", self.last);
            ledger.at_least = found;
        }
    }

    /// All is flushed, the cache is deleted, and the volume mounted on a machine without one: the same is there.
    pub(crate) fn elsewhere(&mut self) {
        let see = |writers: &[Writer]| writers.iter().map(|writer| Seen::read(writer.directory()).expect("read")).collect::<Vec<_>>();
        let before = see(&self.writers);
        self.rig.flush("first");
        if let Some(mount) = self.mount.take() {
            mount.kill();
        }
        for entry in fs::read_dir(self.rig.cache("first")).expect("the cache").flatten() {
            if entry.path().is_dir() && entry.file_name() != "lost+found" {
                fs::remove_dir_all(entry.path()).expect("the cache goes");
            }
        }
        self.mount(true);
        self.last = format!("{}, then mounted elsewhere", self.last);
        let after = see(&self.writers);
        assert!(before == after, "{}: another tree than was flushed", self.last);
        for writer in &mut self.writers {
            writer.recover(&self.last);
        }
        for ledger in &self.ledgers {
            let found = ledger.stepper.check(&self.root().join(ledger.place));
            assert_eq!(found, ledger.at_least, "{}: {}", self.last, ledger.stepper.name);
        }
        self.sums.elsewhere += 1;
    }

    /// The numbers; and that the disk did forget.
    pub(crate) fn tell(self, name: &str) {
        let Sums { cuts, fate, controls, bytes_vanished, names_vanished, acknowledged, synced, elsewhere, failing } = self.sums;
        println!(
            "{name}: {cuts} cuts, {failing} of a disk that failed before, {elsewhere} times mounted elsewhere; {acknowledged} operations of files, {synced} made durable; steps {:?}; \
             of the disk's writes without a flush {} were lost, {} torn, {} kept; of {controls} unsynced controls vanished: bytes {bytes_vanished}, names {names_vanished}",
            self.ledgers.iter().map(|ledger| (ledger.place, ledger.at_least)).collect::<Vec<_>>(),
            fate.lost,
            fate.torn,
            fate.kept
        );
        // A flush of something else may have taken one with it: once is chance.
        let enough = controls.saturating_sub((controls / 20).max(1));
        assert!(bytes_vanished >= enough, "unsynced bytes vanished in {bytes_vanished} of {controls} cuts only");
        assert!(names_vanished >= enough, "unsynced names vanished in {names_vanished} of {controls} cuts only");
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("{}, before which the driver had said:\n{}", self.last, self.before);
        }
    }
}
