//! `holdfast mount VOLUME DIR`: three processes of this one program.
//!
//! ```text
//! mount   checks what a person wrote, starts the holder, waits until the directory is usable, tells why when it is not
//! hold    keeps the kernel's descriptor, starts the driver, starts it again when it dies        (hidden)
//! drive   the driver: opens the volume, serves, drains at the end                               (hidden)
//! ```
//! `--foreground` holds in the process that was started: for units and containers. A keeper (`src/keeper/`) has the mount besides,
//! started beside these when none runs; without its program, and with `--no-keeper`, these processes are all there is.

use super::control::resolve;
use super::drive;
use super::exit::Exit;
use super::unlock::{self, KeyArgs};
use crate::cli::context::Context;
use crate::config::file_name_of;
use crate::fuse::{Custody, HoldOptions, MountOptions, check_place, hold};
use crate::keeper;
use crate::types::{Fault, FaultKind, Identity};
use crate::volume::mounted_reader_cache;
use clap::Args;
use clap::builder::FalseyValueParser;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use sha2::{Digest, Sha256};
use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// What to mount, where and how.
#[derive(Debug, Clone, Args)]
pub struct MountArgs {
    /// The volume: `name`, `group/name` or `cluster/namespace/name`; made when it is proven absent
    #[arg(value_name = "VOLUME", value_parser = Identity::parse)]
    pub volume: Identity,
    /// An empty directory
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// Nothing may be changed; shows the newest commit as of now
    #[arg(long, env = "HOLDFAST_READ_ONLY", hide_env_values = true, value_parser = FalseyValueParser::new())]
    pub read_only: bool,
    /// Shows an older commit, read-only: a number, an RFC 3339 time, `10:00`, `yesterday`, `2h ago`
    #[arg(long, value_name = "WHEN", env = "HOLDFAST_AT", hide_env_values = true)]
    pub at: Option<String>,
    /// Shows a branch, read-only: what a fenced writer had not committed, on what it had
    #[arg(long, value_name = "BRANCH", conflicts_with = "at")]
    pub branch: Option<u64>,
    /// Take the volume from a machine that is gone for good and could not close it
    #[arg(long, env = "HOLDFAST_TAKE_OVER", hide_env_values = true, value_parser = FalseyValueParser::new())]
    pub take_over: bool,
    /// Wait for a machine that has the volume in use, until it is unmounted there
    #[arg(long, env = "HOLDFAST_WAIT", hide_env_values = true, value_parser = FalseyValueParser::new())]
    pub wait: bool,
    /// Stay in the foreground, for units and containers
    #[arg(long, env = "HOLDFAST_FOREGROUND", hide_env_values = true, value_parser = FalseyValueParser::new())]
    pub foreground: bool,
    /// Mount over a directory that is not empty
    #[arg(long, env = "HOLDFAST_OVER_FILES", hide_env_values = true, value_parser = FalseyValueParser::new())]
    pub over_files: bool,
    /// Do without a keeper: when the mount's supervisor and its driver die at once, the mount ends
    #[arg(long, env = "HOLDFAST_NO_KEEPER", hide_env_values = true, value_parser = FalseyValueParser::new())]
    pub no_keeper: bool,
    /// The keeper is run by others, who see to it that it is there: none is started here, and it starts nobody
    #[arg(long, env = "HOLDFAST_KEEPER_APART", hide_env_values = true, conflicts_with = "no_keeper", value_parser = FalseyValueParser::new())]
    pub keeper_apart: bool,
    /// Threads that answer the kernel
    #[arg(long, default_value_t = 4, value_name = "N", env = "HOLDFAST_THREADS", hide_env_values = true, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub threads: u16,
    /// A driver that died twice within this many seconds is started again only after them
    #[arg(long, value_name = "SECONDS", env = "HOLDFAST_CALM", hide = true, value_parser = seconds)]
    pub(super) calm: Option<u64>,
    #[command(flatten)]
    pub(super) key: KeyArgs,
}

impl MountArgs {
    /// Nothing is written through this mount.
    pub(super) fn reads(&self) -> bool {
        self.read_only || self.at.is_some() || self.branch.is_some()
    }

    /// Where the cache of this mount lies. One that is only read has another than the volume's, known by the mount's place, so that its
    /// next driver finds it; two of one place are kept apart by their holder.
    pub(super) fn cache_at(&self, context: &Context, dir: &Path) -> Result<PathBuf, Fault> {
        let base = context.settings.cache_of(&self.volume);
        if !self.reads() {
            return Ok(base);
        }
        let socket = std::path::absolute(super::control::socket_path(&context.settings.run_dir, dir))?;
        let digest = Sha256::digest(socket.as_os_str().as_bytes());
        Ok(mounted_reader_cache(&base, digest.first_chunk().copied().unwrap_or_default()))
    }
}

fn seconds(text: &str) -> Result<u64, std::num::ParseIntError> {
    text.strip_suffix('s').unwrap_or(text).parse()
}

/// For the driver's and the holder's hidden commands: the same arguments.
#[derive(Debug, Clone, Args)]
pub struct InnerArgs {
    #[command(flatten)]
    pub(super) mount: MountArgs,
}

/// The user's command.
pub(super) fn run(context: &Context, args: &MountArgs) -> Result<Exit, Fault> {
    let dir = absolute(&args.dir)?;
    check(context, args, &dir)?;
    // The one store that a mount makes by itself, and only where nobody named a store.
    if context.settings.store_is_default {
        super::store::init::make_embedded(context)?;
    }
    let log_path = log_path(context, &args.volume);
    keeper::make_run_dir(&context.settings.run_dir)?;
    if args.foreground {
        return run_hold(context, args);
    }
    let written = OpenOptions::new().create(true).append(true).mode(0o600).open(&log_path)?;
    // A description of its own: a duplicate would share its position with those who write.
    let mut log = File::open(&log_path)?;
    log.seek(SeekFrom::End(0))?;
    let (ready, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(std::io::Error::from)?;
    let mut command = Command::new(own_program()?);
    command.arg("hold").args(inner_arguments()).stdin(Stdio::null()).stdout(Stdio::from(write)).stderr(written);
    // SAFETY: setsid is async-signal-safe and touches nothing of this process.
    unsafe {
        command.pre_exec(|| nix::unistd::setsid().map(drop).map_err(Into::into));
    }
    let mut holder = command.spawn()?;
    drop(command);
    let mut seen = String::new();
    let usable = wait_until_usable(context, ready, &mut log, &mut seen)?;
    if usable {
        context.say(&format!("{} is mounted at {}; log: {}", args.volume, dir.display(), log_path.display()));
        return Ok(Exit::Done);
    }
    let status = holder.wait()?;
    // Why it failed is said by the holder's last line, behind the end of its pipe.
    relay(context, &mut log, &mut seen)?;
    let code = u8::try_from(status.code().unwrap_or(13)).unwrap_or(13);
    Ok(Exit::Code(if code == 0 { 13 } else { code }))
}

/// Everything that can be told before a process is started.
fn check(context: &Context, args: &MountArgs, dir: &Path) -> Result<(), Fault> {
    context.settings.read_policy()?;
    unlock::url(&context.settings)?;
    if args.key.recovery_key.as_deref() == Some(Path::new("-")) {
        let why = "each driver of this mount reads the recovery key when it starts: name a file for --recovery-key, not `-`";
        let next = "`holdfast key add NAME --this-machine --recovery-key -` gives this machine a key of its own";
        return Err(Fault::new(FaultKind::Invalid, format!("{why}; {next}")));
    }
    if let Some(at) = &args.at {
        super::at::parse(at, &context.now()).map_err(|error| Fault::new(FaultKind::Invalid, error.to_string()))?;
    }
    // A mount that waits for a successor: this command is to be it. Nothing there may be looked at, it would wait too.
    if waits_for_successor(context, args, dir)? {
        return Ok(());
    }
    // Last: it may take a dead mount away.
    check_place(&MountOptions { read_only: args.read_only, over_files: args.over_files, ..MountOptions::new(dir, args.volume.as_str()) })
}

fn waits_for_successor(context: &Context, args: &MountArgs, dir: &Path) -> Result<bool, Fault> {
    if args.no_keeper {
        return Ok(false);
    }
    let kept = super::handover::kept(&context.settings.run_dir);
    let Some(held) = kept.find(dir).filter(|mount| mount.attendant == 0) else { return Ok(false) };
    if held.volume != args.volume.as_str().as_bytes() {
        let other = String::from_utf8_lossy(&held.volume).into_owned();
        let message = format!(
            "{0} is mounted already, by {other}, and waits for a driver: mount {other} there, or give it up with `holdfast abort {0}`",
            dir.display()
        );
        return Err(Fault::new(FaultKind::Busy, message));
    }
    Ok(true)
}

/// Relays what the driver tells a person (`holdfast: ...`) until the mount is usable or will not be.
fn wait_until_usable(context: &Context, ready: OwnedFd, log: &mut File, seen: &mut String) -> Result<bool, Fault> {
    let mut ready = File::from(ready);
    loop {
        let mut fds = [PollFd::new(ready.as_fd(), PollFlags::POLLIN)];
        let came = poll(&mut fds, PollTimeout::from(200u16)).unwrap_or(0) > 0;
        relay(context, log, seen)?;
        if came {
            let mut byte = [0];
            let usable = ready.read(&mut byte)? == 1;
            relay(context, log, seen)?;
            return Ok(usable);
        }
    }
}

fn relay(context: &Context, log: &mut File, seen: &mut String) -> Result<(), Fault> {
    let mut bytes = Vec::new();
    log.read_to_end(&mut bytes)?;
    seen.push_str(&String::from_utf8_lossy(&bytes));
    while let Some(end) = seen.find('\n') {
        let line: String = seen.drain(..=end).collect();
        if line.starts_with("holdfast: ") {
            context.say(line.trim_end());
        }
    }
    Ok(())
}

/// `holdfast hold`: the second holder, which starts the driver. Runs before any thread is started.
pub(super) fn run_hold(context: &Context, args: &MountArgs) -> Result<Exit, Fault> {
    keeper::make_run_dir(&context.settings.run_dir)?;
    let dir = absolute(&args.dir)?;
    let socket = super::control::socket_path(&context.settings.run_dir, &dir).with_extension("hold");
    let mut command: Vec<OsString> = vec![own_program()?.into(), "drive".into()];
    command.extend(inner_arguments());
    // The pipe to the waiting command is our standard output.
    let ready = (!args.foreground).then(|| {
        // SAFETY: a fresh duplicate of descriptor 1, owned by nobody else.
        unsafe { libc::fcntl(1, libc::F_DUPFD_CLOEXEC, 3) }
    });
    // SAFETY: as above; a failed duplication is -1 and is passed over.
    let ready = ready.filter(|fd| *fd >= 0).map(|fd| unsafe { File::from_raw_fd(fd) });
    let calm = args.calm.map_or(crate::fuse::CALM, Duration::from_secs);
    let needs = args.key.recovery_key.iter().cloned().collect();
    let code = hold(&context.env, HoldOptions { socket, command, needs, ready, calm, custody: custody(context, args, &dir)? })?;
    Ok(Exit::Code(u8::try_from(code).unwrap_or(13)))
}

/// The keeper of this machine, and what it is told of this mount; none with `--no-keeper`.
pub(super) fn custody(context: &Context, args: &MountArgs, dir: &Path) -> Result<Option<Custody>, Fault> {
    if args.no_keeper {
        return Ok(None);
    }
    let own = own_program()?;
    let mut restart: Vec<OsString> = vec![own.clone().into(), "hold".into()];
    restart.extend(inner_arguments());
    Ok(Some(Custody {
        run_dir: std::path::absolute(&context.settings.run_dir)?,
        program: (!args.keeper_apart).then(|| own.with_file_name(keeper::PROGRAM)),
        dir: dir.to_path_buf(),
        volume: args.volume.as_str().to_owned(),
        cache: std::path::absolute(args.cache_at(context, dir)?)?,
        log: std::path::absolute(log_path(context, &args.volume))?,
        // In the foreground whoever started this one starts the next: a unit, a container. A keeper apart is in another container, perhaps.
        restart: (!args.foreground && !args.keeper_apart).then_some(restart),
        say: tell,
    }))
}

/// This program's path, also when another version lies there meanwhile.
pub(super) fn own_program() -> Result<PathBuf, Fault> {
    let path = std::env::current_exe()?;
    let replaced = path.as_os_str().as_bytes().strip_suffix(b" (deleted)").map(OsStr::from_bytes);
    Ok(replaced.map_or(path.clone(), PathBuf::from))
}

/// `holdfast drive`: the driver.
pub(super) fn run_drive(context: &Context, args: &MountArgs) -> Result<Exit, Fault> {
    drive::run(context, args, absolute(&args.dir)?)
}

/// The arguments of this process, for the next one: everything but the command's own word.
fn inner_arguments() -> Vec<OsString> {
    let mut skipped = false;
    let is_word = |argument: &OsString| ["mount", "hold", "drive"].iter().any(|word| argument == word);
    std::env::args_os()
        .skip(1)
        .filter(|argument| {
            let skip = !skipped && is_word(argument);
            skipped |= skip;
            !skip
        })
        .collect()
}

/// Where holder and driver write their log.
#[must_use]
pub(super) fn log_path(context: &Context, volume: &Identity) -> PathBuf {
    context.settings.run_dir.join(format!("{}.log", file_name_of(volume)))
}

fn absolute(dir: &Path) -> Result<PathBuf, Fault> {
    resolve(dir).map_err(|error| Fault::with(FaultKind::NotFound, format!("there is no directory {}", dir.display()), error))
}

/// A line for the person who waits, which the user's command relays from the log.
pub(super) fn tell(line: &str) {
    let _ = writeln!(std::io::stderr(), "holdfast: {line}");
}
