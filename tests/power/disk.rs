//! The forgetful disk with a file system on it (`tests/power/forgetful.rs` is the disk itself), and this machine's boots.

use crate::disk::{image, run, text};
use crate::rig::PATIENCE;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

/// Where the kernel tells its boot; over it lies, in this test's mount namespace, a file of ours.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// A file system for the disk: how it is made and mounted, and its least size.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kind {
    /// Its name.
    pub(crate) name: &'static str,
    make: &'static [&'static str],
}

/// Tables written at once: else a thread of the kernel writes them while the test runs.
pub(crate) const EXT4: Kind = Kind { name: "ext4", make: &["mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0"] };
pub(crate) const XFS: Kind = Kind { name: "xfs", make: &["mkfs.xfs", "-q"] };

/// What became of the writes that no flush had followed when the power failed.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Fate {
    /// Flushes of the disk so far.
    pub(crate) flushes: u64,
    /// Writes that are on the platter all the same.
    pub(crate) kept: u64,
    /// Those of which some sectors are.
    pub(crate) torn: u64,
    /// Those that are gone.
    pub(crate) lost: u64,
}

/// The disk, with its file system mounted while the power is on.
pub(crate) struct Disk {
    served: PathBuf,
    at: PathBuf,
    image: PathBuf,
    boot: PathBuf,
    life: u64,
    process: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Disk {
    /// A new file system in `lab`, mounted on `at`, and a first boot.
    pub(crate) fn new(lab: &Path, at: &Path, kind: Kind) -> Self {
        let (path, served, boot) = (lab.join("image"), lab.join("disk"), lab.join("boot_id"));
        image(&path, 512 << 20, kind.make);
        fs::create_dir_all(&served).and_then(|()| fs::create_dir_all(at)).expect("directories");
        fs::write(&boot, "").expect("a boot's id");
        run("mount", &["--bind", text(&boot), BOOT_ID]);
        let mut command = Command::new(program());
        let mut process = command
            .arg(&served)
            .arg(&path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the disk starts (cargo build --examples)");
        let orders = process.stdin.take().expect("a pipe");
        let answers = BufReader::new(process.stdout.take().expect("a pipe"));
        let mut disk = Self { served, at: at.to_owned(), image: path, boot, life: 0, process, orders, answers };
        assert_eq!(disk.answer(), "ready");
        disk.power_on();
        disk
    }

    fn answer(&mut self) -> String {
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("the disk answers");
        line.trim().to_owned()
    }

    fn order(&mut self, line: &str) -> String {
        writeln!(self.orders, "{line}").expect("the disk listens");
        self.answer()
    }

    /// A boot, and the file system mounted: its journal is replayed.
    fn power_on(&mut self) {
        fs::write(&self.boot, format!("{:08x}-0000-4000-8000-{:012x}\n", std::process::id(), self.life)).expect("a boot's id");
        let file = self.served.join(self.life.to_string());
        let output = Command::new("losetup").args(["--find", "--show", "--direct-io=on"]).arg(&file).output().expect("losetup runs");
        let device = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        assert!(output.status.success(), "losetup: {}", String::from_utf8_lossy(&output.stderr));
        // Nothing is to be flushed but what somebody asked for.
        run("mount", &["-o", "noatime", &device, text(&self.at)]);
        // It goes with its last user.
        run("losetup", &["-d", &device]);
    }

    /// The power fails: from now on no request of the disk is answered.
    pub(crate) fn freeze(&mut self) {
        assert_eq!(self.order("freeze"), "done");
    }

    /// From now on the disk answers EIO to `reads`, `writes`, `all`, or `nothing` of what it is asked, until the power fails.
    pub(crate) fn fail(&mut self, what: &str) {
        assert_eq!(self.order(&format!("fail {what}")), "done");
    }

    /// What the platter has is decided, and whoever still waited for the disk that was gets an error.
    pub(crate) fn decide(&mut self, seed: u64, sector: u64) -> Fate {
        let answer = self.order(&format!("restore {seed} {sector}"));
        let numbers: Vec<u64> = answer.split(' ').map(|number| number.parse().expect("a number")).collect();
        let [life, flushes, kept, torn, lost] = numbers[..] else { panic!("the disk said {answer}") };
        self.life = life;
        if let Some(keep) = std::env::var_os("HOLDFAST_TEST_KEEP") {
            run("cp", &["--sparse=always", text(&self.image), text(Path::new(&keep))]);
        }
        Fate { flushes, kept, torn, lost }
    }

    /// The file system that was goes, and the machine boots: the file system is mounted as the disk has it.
    pub(crate) fn boot(&mut self) {
        let began = Instant::now();
        // The last thread of a process that was killed may still be on its way out.
        while !Command::new("umount").arg(&self.at).stderr(Stdio::null()).status().is_ok_and(|status| status.success()) {
            assert!(began.elapsed() < PATIENCE, "somebody still uses {}", self.at.display());
            std::thread::sleep(Duration::from_millis(5));
        }
        self.power_on();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = self.order("fail all");
        let _ = Command::new("umount").arg("-l").arg(&self.at).status();
        let _ = Command::new("umount").arg("-l").arg(&self.served).status();
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = Command::new("umount").arg(BOOT_ID).status();
    }
}

/// Built by `cargo test` beside the test binaries.
fn program() -> PathBuf {
    let mut path = std::env::current_exe().expect("this program's path");
    path.pop();
    path.pop();
    path.join("examples/forgetful")
}
