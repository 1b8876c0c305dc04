//! The file systems that are compared: each is a directory, processes behind it, and perhaps a store.

use crate::Outcome;
use crate::process::{Cost, cost};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

/// One system under measurement.
pub(crate) struct System {
    pub(crate) name: String,
    /// The directory that the workloads use.
    pub(crate) root: PathBuf,
    /// Ends by being unmounted; whose costs count.
    processes: Vec<Child>,
    server: Option<S3Server>,
    /// Waits until everything written is stored.
    flush: Option<Command>,
    mounted: bool,
    /// Where its store's objects lie.
    store: Option<PathBuf>,
    /// Where its `/metrics` are.
    pub(crate) metrics: Option<String>,
    machine: Option<Machine>,
}

/// How a machine that lost everything comes back.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Return {
    /// `--hydrate`.
    pub(crate) hydrate: &'static str,
    /// On one processor core alone.
    pub(crate) one_core: bool,
}

/// What belongs to one machine with Holdfast: everything but the store and the key goes with it.
struct Machine {
    program: PathBuf,
    store: String,
    home: PathBuf,
    key: PathBuf,
}

impl Machine {
    fn command(&self, arguments: &[&str]) -> Command {
        self.settings(Command::new(&self.program), arguments)
    }

    /// As [`Self::command`], kept on the first processor core.
    fn one_core(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("taskset");
        command.args(["-c", "0"]).arg(&self.program);
        self.settings(command, arguments)
    }

    fn settings(&self, mut command: Command, arguments: &[&str]) -> Command {
        command
            .args(arguments)
            .env("HOME", &self.home)
            .env("HOLDFAST_RUN_DIR", self.home.join("run"))
            // The machine is lost by killing a holder and its children.
            .env("HOLDFAST_NO_KEEPER", "1")
            .env("HOLDFAST_CACHE", self.home.join("caches"));
        command.env("HOLDFAST_STORE", &self.store).env("HOLDFAST_RECOVERY_KEY_FILE", &self.key);
        command.env("AWS_ACCESS_KEY_ID", ACCESS_KEY).env("AWS_SECRET_ACCESS_KEY", SECRET_KEY);
        for variable in ["XDG_DATA_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME"] {
            command.env_remove(variable);
        }
        command
    }
}

/// An S3 server of its own for each system that needs one, so that its log counts that system's requests.
struct S3Server {
    child: Child,
    log: PathBuf,
    objects: PathBuf,
    port: u16,
}

/// What is measured, and where it may put things.
pub(crate) struct Lab {
    pub(crate) directory: PathBuf,
    /// Where this program's own binaries are.
    pub(crate) binaries: PathBuf,
    /// The program of the S3 server, when there is one.
    pub(crate) s3_server: Option<PathBuf>,
}

const ACCESS_KEY: &str = "bench-access";
const SECRET_KEY: &str = "bench-secret-key";

impl Lab {
    fn place(&self, system: &str, what: &str) -> Outcome<PathBuf> {
        let path = self.directory.join(system).join(what);
        fs::create_dir_all(&path)?;
        Ok(path)
    }

    /// Starts a system by its name. `None` says that it is not there to be measured, with the reason on standard error.
    pub(crate) fn start(&self, name: &str) -> Outcome<Option<System>> {
        let started = match name {
            "ext4" => self.plain("ext4", &self.place("ext4", "mounted")?),
            "bare" => self.bare(),
            "holdfast-file" => self.start_holdfast(name, false),
            "holdfast-s3" => self.start_holdfast(name, true),
            "bindfs" => self.bindfs(),
            "rclone" => self.rclone(),
            "s3fs" => self.s3fs(),
            _ => match name.split_once('=') {
                Some((name, directory)) => self.plain(name, Path::new(directory)),
                None => Err(format!(
                    "no system {name}: ext4, bare, holdfast-file, holdfast-s3, bindfs, rclone, s3fs, or NAME=MOUNTED-DIRECTORY"
                )
                .into()),
            },
        };
        match started {
            Ok(system) => Ok(Some(system)),
            Err(error) if error.to_string().starts_with("not here: ") => {
                eprintln!("{name} is not measured: {error}");
                Ok(None)
            }
            Err(error) => Err(format!("{name}: {error}").into()),
        }
    }

    /// A directory that is there already: the reference, or a peer that somebody mounted.
    fn plain(&self, name: &str, directory: &Path) -> Outcome<System> {
        let root = directory.join("holdfast-bench");
        fs::create_dir_all(&root)?;
        Ok(System {
            name: name.to_owned(),
            root,
            processes: Vec::new(),
            server: None,
            flush: None,
            mounted: false,
            store: None,
            metrics: None,
            machine: None,
        })
    }

    fn mounted(&self, name: &str, mut command: Command, server: Option<S3Server>) -> Outcome<System> {
        let root = self.place(name, "mounted")?;
        let log = File::create(self.directory.join(name).join("log"))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = match command.spawn() {
            Ok(child) => child,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(format!("not here: {:?} is not installed", command.get_program()).into());
            }
            Err(error) => return Err(error.into()),
        };
        let mut system = System {
            name: name.to_owned(),
            root,
            processes: vec![child],
            store: server.as_ref().map(|server| server.objects.clone()),
            server,
            flush: None,
            mounted: true,
            metrics: None,
            machine: None,
        };
        let began = Instant::now();
        while !is_mounted(&system.root) {
            if let Some(status) = system.processes[0].try_wait()? {
                system.mounted = false;
                let log = fs::read_to_string(self.directory.join(name).join("log"))?;
                return Err(format!("ended with {status}: {log}").into());
            }
            if began.elapsed() > PATIENCE {
                return Err("is not mounted after a minute".into());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(system)
    }

    fn bare(&self) -> Outcome<System> {
        let mut command = Command::new(self.binaries.join("examples/bare"));
        command.arg(self.place("bare", "mounted")?).arg(self.place("bare", "backing")?);
        self.mounted("bare", command, None)
    }

    fn bindfs(&self) -> Outcome<System> {
        let mut command = Command::new("bindfs");
        command.arg("-f").arg(self.place("bindfs", "backing")?).arg(self.place("bindfs", "mounted")?);
        self.mounted("bindfs", command, None)
    }

    /// A new store and an empty volume on it.
    pub(crate) fn start_holdfast(&self, name: &str, s3: bool) -> Outcome<System> {
        let server = if s3 { Some(self.start_s3(name)?) } else { None };
        let machine = Machine {
            program: self.binaries.join("holdfast"),
            store: match &server {
                Some(server) => format!("s3://bench/store?endpoint=http://127.0.0.1:{}&region=us-east-1", server.port),
                None => format!("file://{}", self.directory.join(name).join("store").display()),
            },
            home: self.place(name, "home")?,
            key: self.directory.join(name).join("recovery.key"),
        };
        let made = machine.command(&["store", "init", "--recovery-file", &machine.key.display().to_string()]).output();
        let made = made.map_err(|error| format!("not here: {}: {error}", machine.program.display()))?;
        if !made.status.success() {
            return Err(format!("store init: {}", String::from_utf8_lossy(&made.stderr)).into());
        }
        let mut system = self.mount_holdfast(name, &machine, server, None)?;
        if !s3 {
            system.store = Some(self.directory.join(name).join("store"));
        }
        system.machine = Some(machine);
        Ok(system)
    }

    fn mount_holdfast(&self, name: &str, machine: &Machine, server: Option<S3Server>, again: Option<Return>) -> Outcome<System> {
        let metrics = format!("127.0.0.1:{}", free_port()?);
        let arguments = ["mount", "bench/volume"];
        let one_core = again.is_some_and(|again| again.one_core);
        let mut command = if one_core { machine.one_core(&arguments) } else { machine.command(&arguments) };
        command.arg(self.place(name, "mounted")?).args(["--foreground", "--metrics", &metrics]);
        if let Some(again) = again {
            command.args(["--take-over", "--hydrate", again.hydrate]);
        }
        let mut system = self.mounted(name, command, server)?;
        let mut flush = machine.command(&["flush"]);
        flush.arg(&system.root).stdin(Stdio::null()).stdout(Stdio::null());
        system.flush = Some(flush);
        system.metrics = Some(metrics);
        Ok(system)
    }

    fn rclone(&self) -> Outcome<System> {
        let server = self.start_s3("rclone")?;
        let remote = format!(
            ":s3,provider=Other,endpoint='http://127.0.0.1:{}',access_key_id={ACCESS_KEY},secret_access_key={SECRET_KEY},region=us-east-1,force_path_style=true:bench/rclone",
            server.port
        );
        let mut command = Command::new("rclone");
        command.args(["mount", &remote]).arg(self.place("rclone", "mounted")?).args(["--vfs-cache-mode", "full", "--allow-other"]);
        command.arg("--cache-dir").arg(self.place("rclone", "cache")?).env("HOME", self.place("rclone", "home")?);
        // rclone 1.60 ends at once when it is set, even for plain http.
        command.env_remove("AWS_CA_BUNDLE");
        self.mounted("rclone", command, Some(server))
    }

    fn s3fs(&self) -> Outcome<System> {
        use std::os::unix::fs::PermissionsExt;
        let server = self.start_s3("s3fs")?;
        let password = self.directory.join("s3fs/password");
        fs::write(&password, format!("{ACCESS_KEY}:{SECRET_KEY}"))?;
        fs::set_permissions(&password, fs::Permissions::from_mode(0o600))?;
        let options = format!(
            "url=http://127.0.0.1:{},use_path_request_style,endpoint=us-east-1,allow_other,passwd_file={},use_cache={}",
            server.port,
            password.display(),
            self.place("s3fs", "cache")?.display()
        );
        let mut command = Command::new("s3fs");
        command.arg("bench").arg(self.place("s3fs", "mounted")?).args(["-f", "-o", &options]);
        self.mounted("s3fs", command, Some(server))
    }

    fn start_s3(&self, system: &str) -> Outcome<S3Server> {
        let program = self.s3_server.as_ref().ok_or("not here: no S3 server (tests/servers/s3.sh installs it)")?;
        let objects = self.place(system, "objects")?;
        fs::create_dir_all(objects.join("bench"))?;
        let port = free_port()?;
        let log = self.directory.join(system).join("requests.log");
        let said = File::create(self.directory.join(system).join("server.log"))?;
        let mut command = Command::new(program);
        command.args(["--access", ACCESS_KEY, "--secret", SECRET_KEY, "--region", "us-east-1", "--port"]).arg(format!("127.0.0.1:{port}"));
        command.arg("--access-log").arg(&log).arg("posix").arg(&objects);
        let child = command.stdin(Stdio::null()).stdout(said.try_clone()?).stderr(said).spawn()?;
        let server = S3Server { child, log, objects, port };
        let began = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            if began.elapsed() > PATIENCE {
                return Err("the S3 server does not answer".into());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(server)
    }
}

impl System {
    /// The processes behind the directory.
    pub(crate) fn pids(&self) -> Vec<u32> {
        self.processes.iter().map(Child::id).collect()
    }

    /// `kill -9` of everything, the cache deleted, and mounted again from store and key alone. Returns when the new machine was asked.
    pub(crate) fn lose_machine(&mut self, lab: &Lab, how: Return) -> Outcome<Instant> {
        let mut holder = self.processes.pop().ok_or("not mounted")?;
        let children = crate::process::family(holder.id());
        holder.kill()?;
        for child in children.into_iter().skip(1) {
            // SAFETY: a system call without memory, on a child of a process that this one started.
            unsafe { libc::kill(child as i32, libc::SIGKILL) };
        }
        holder.wait()?;
        Command::new("umount").arg("-l").arg(&self.root).status()?;
        let machine = self.machine.take().ok_or("not a machine of Holdfast")?;
        fs::remove_dir_all(&machine.home)?;
        fs::create_dir_all(&machine.home)?;
        let (server, store) = (self.server.take(), self.store.take());
        self.mounted = false;
        // Deleting the old machine's cache is the bench's work, and a slow one on a disk that discards.
        let began = Instant::now();
        let mut again = lab.mount_holdfast(&self.name, &machine, server, Some(how))?;
        again.store = store;
        again.machine = Some(machine);
        *self = again;
        Ok(began)
    }

    /// Cost of the processes behind the directory; the S3 server's is not theirs.
    pub(crate) fn cost(&self) -> Cost {
        cost(&self.pids())
    }

    /// Waits until everything is stored, as far as the system can be asked.
    pub(crate) fn settle(&mut self) -> Outcome<Duration> {
        let began = Instant::now();
        if let Some(flush) = self.flush.as_mut() {
            let status = flush.status()?;
            if !status.success() {
                return Err(format!("{}: flush ended with {status}", self.name).into());
            }
        }
        let stored = began.elapsed();
        // What is left in the kernel would be paid by the next measurement.
        // SAFETY: takes nothing, gives nothing.
        unsafe { libc::sync() };
        Ok(stored)
    }

    /// Requests that the system's S3 server has answered, by their name in the protocol.
    pub(crate) fn requests(&self) -> BTreeMap<String, u64> {
        let mut count = BTreeMap::new();
        let Some(server) = &self.server else { return count };
        for line in fs::read_to_string(&server.log).unwrap_or_default().lines() {
            if let Some(action) = line.split(' ').find_map(|word| word.strip_prefix("s3_")) {
                *count.entry(action.to_owned()).or_default() += 1;
            }
        }
        count
    }

    /// The packs of its store, by their files.
    fn packs(&self) -> Outcome<Vec<PathBuf>> {
        let mut pending = vec![self.store.clone().ok_or("no store that can be seen")?];
        let mut packs = Vec::new();
        while let Some(path) = pending.pop() {
            if path.is_dir() {
                for entry in fs::read_dir(path)? {
                    pending.push(entry?.path());
                }
            } else if path.parent().is_some_and(|folder| folder.ends_with("packs")) {
                packs.push(path);
            }
        }
        Ok(packs)
    }

    /// Reads all packs with nothing in between, eight at a time: curl from the S3 server, cat from a directory. Bytes and time.
    pub(crate) fn plain_get(&self) -> Outcome<(u64, Duration)> {
        let packs = self.packs()?;
        let bytes = packs.iter().map(|pack| Ok(fs::metadata(pack)?.len())).sum::<Outcome<u64>>()?;
        let mut command = match &self.server {
            None => {
                let mut command = Command::new("xargs");
                command.args(["-P", "8", "-n", "1", "cat"]);
                command
            }
            Some(_) => {
                let mut command = Command::new("curl");
                command.args([
                    "--silent",
                    "--fail",
                    "--parallel",
                    "--parallel-max",
                    "8",
                    "--noproxy",
                    "*",
                    "--aws-sigv4",
                    "aws:amz:us-east-1:s3",
                ]);
                // The server wants it signed, and curl 7.88 does not say it by itself.
                command.args(["--header", "x-amz-content-sha256: UNSIGNED-PAYLOAD"]);
                command.arg("--user").arg(format!("{ACCESS_KEY}:{SECRET_KEY}")).args(["--config", "-"]);
                command
            }
        };
        let line = |pack: &PathBuf| -> Outcome<String> {
            let Some(server) = &self.server else { return Ok(format!("{}\n", pack.display())) };
            let name = pack.strip_prefix(&server.objects)?.display().to_string();
            Ok(format!("url = \"http://127.0.0.1:{}/{name}\"\noutput = \"/dev/null\"\n", server.port))
        };
        let input: String = packs.iter().map(line).collect::<Outcome<_>>()?;
        let began = Instant::now();
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
        std::io::Write::write_all(&mut child.stdin.take().ok_or("no input")?, input.as_bytes())?;
        let status = child.wait()?;
        if !status.success() {
            return Err(format!("{:?} ended with {status}", command.get_program()).into());
        }
        Ok((bytes, began.elapsed()))
    }

    /// MiB that lie in the system's store, where it can be seen.
    pub(crate) fn stored_mib(&self) -> Option<f64> {
        let store = self.store.as_ref()?;
        let said = Command::new("du").args(["-s", "--apparent-size", "-B1"]).arg(store).output().ok()?;
        let bytes: f64 = String::from_utf8_lossy(&said.stdout).split_whitespace().next()?.parse().ok()?;
        Some(bytes / (1 << 20) as f64)
    }
}

impl Drop for System {
    fn drop(&mut self) {
        if self.mounted {
            let _ = Command::new("umount").arg(&self.root).stderr(Stdio::null()).status();
            let _ = Command::new("umount").arg("-l").arg(&self.root).stderr(Stdio::null()).status();
        }
        for process in &mut self.processes {
            let began = Instant::now();
            while process.try_wait().is_ok_and(|status| status.is_none()) {
                if began.elapsed() > PATIENCE {
                    let _ = process.kill();
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A free port, which nobody else takes in the instant between.
fn free_port() -> Outcome<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn is_mounted(root: &Path) -> bool {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let here = |line: &str| line.split(' ').nth(4).is_some_and(|place| Path::new(place) == root);
    table.lines().any(here) && fs::read_dir(root).is_ok()
}
