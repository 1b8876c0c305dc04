//! `holdfast upgrade` and `holdfast abort`, and what the keeper knows for `status`: mounts that go from one driver to the next, and
//! mounts that have none.

use super::at;
use super::context::{Answer, Context};
use super::control::{Ask, Asked, Reply, Silent, ask, ask_all, find, resolve};
use super::exit::Exit;
use super::live::DirArgs;
use super::mount::own_program;
use super::status::{Phase, VolumeStatus};
use super::target::Which;
use crate::cache::Cache;
use crate::env::Env;
use crate::fuse::{self, Holder};
use crate::keeper::wire::Standing;
use crate::keeper::{Holding, Line};
use crate::types::{Fault, FaultKind};
use clap::Args;
use serde::Serialize;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a new driver may take until it answers.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(10);

/// This build's version. `HOLDFAST_PRETEND_NEXT` makes it say that it is the next: for the test that goes there and back.
#[must_use]
pub(super) fn version() -> String {
    let next = if std::env::var_os("HOLDFAST_PRETEND_NEXT").is_some() { "+next" } else { "" };
    format!("{}{next}", env!("CARGO_PKG_VERSION"))
}

/// `holdfast upgrade [DIR|--all]`.
#[derive(Debug, Args)]
pub struct UpgradeArgs {
    /// The mount's directory
    #[arg(value_name = "DIR", required_unless_present = "all")]
    pub dir: Option<PathBuf>,
    /// Every mount of this machine, and the keeper itself
    #[arg(long, conflicts_with = "dir")]
    pub all: bool,
    /// Go on as this program instead of this one: another version of `holdfast`
    #[arg(long, value_name = "PROGRAM")]
    pub to: Option<PathBuf>,
}

/// For the hidden command that an upgrade asks the new program with.
#[derive(Debug, Args)]
pub struct FitsArgs {
    /// The directory of a cache
    #[arg(value_name = "CACHE", id = "of")]
    pub dir: PathBuf,
}

/// `holdfast fits CACHE`.
pub(super) fn fits(args: &FitsArgs) -> Result<Exit, Fault> {
    Cache::fits(&args.dir)?;
    Ok(Exit::Done)
}

#[derive(Serialize)]
struct Upgraded {
    volume: String,
    directory: String,
    from: String,
    to: String,
    process: u32,
    milliseconds: u64,
}

#[derive(Serialize)]
#[serde(transparent)]
struct UpgradeAnswer {
    upgraded: Vec<Upgraded>,
}

impl Answer for UpgradeAnswer {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        self.upgraded.iter().try_for_each(|one| {
            let Upgraded { volume, directory, from, to, process, milliseconds } = one;
            writeln!(out, "{volume} at {directory}: version {from} handed over to {to} (process {process}) in {milliseconds} ms.")
        })
    }
}

/// `holdfast upgrade`.
pub(super) fn upgrade(context: &Context, args: &UpgradeArgs) -> Result<Exit, Fault> {
    let to = match &args.to {
        Some(program) => std::path::absolute(program)?,
        None => own_program()?,
    };
    let run_dir = &context.settings.run_dir;
    let kept = kept(run_dir);
    let upgraded = context.run(async {
        let mut all = Vec::new();
        match &args.dir {
            None => {
                let Asked { answered, silent } = ask_all(run_dir).await?;
                if let Some(one) = silent.first() {
                    let next = "nothing has changed: look at `holdfast status`, or upgrade the others by their directories";
                    return Err(Fault::new(FaultKind::Unknown, format!("{}: {}; {next}", one.shown(), one.why)));
                }
                all.extend(answered.into_iter().map(|(socket, status)| (socket, Before::of(status))));
            }
            Some(dir) => {
                let socket = find(run_dir, &Which::Dir(dir.clone())).await?;
                let before = match (standing(&socket).await, resolve(dir)) {
                    (Ok(status), _) => Before::of(status),
                    // Nobody serves it: a better program may.
                    (Err(fault), Ok(dir)) if fault.kind == FaultKind::NotFound && kept.find(&dir).is_some() => Before::unserved(&dir),
                    (Err(fault), _) => return Err(fault),
                };
                all.push((socket, before));
            }
        }
        let mut upgraded = Vec::new();
        for (socket, before) in all {
            check(&kept, &before, &to).await?;
            upgraded.push(hand_over(&context.env, &socket, &before, &to).await?);
        }
        Ok(upgraded)
    })?;
    if args.all
        && let Some(line) = Line::connect(run_dir)?
    {
        // Each supervisor sees its end and starts the one on disk.
        line.retire()?;
    }
    context.answer(&UpgradeAnswer { upgraded })?;
    Ok(Exit::Done)
}

/// A mount before its hand-over.
struct Before {
    directory: String,
    version: String,
    pid: u32,
    ready: bool,
}

impl Before {
    fn of(status: VolumeStatus) -> Self {
        Self {
            directory: status.directory.unwrap_or_default(),
            version: status.version,
            pid: status.pid,
            ready: status.phase == Phase::Mounted,
        }
    }

    fn unserved(dir: &Path) -> Self {
        Self { directory: dir.display().to_string(), version: "none".to_owned(), pid: 0, ready: true }
    }
}

async fn standing(socket: &Path) -> Result<VolumeStatus, Fault> {
    match ask(socket, Ask::Status, |_| {}).await? {
        Reply::Status(status) => Ok(*status),
        _ => Err(Fault::new(FaultKind::Unknown, "the driver answered something else: is it another version?")),
    }
}

/// Asks the new program itself whether it can go on with the cache, before anything is ended.
async fn check(kept: &Kept, before: &Before, program: &Path) -> Result<(), Fault> {
    let directory = &before.directory;
    if !before.ready {
        return Err(Fault::new(FaultKind::Busy, format!("{directory} is opening or draining: try again")));
    }
    let Some(held) = kept.find(Path::new(directory)) else {
        let message = format!("no keeper has {directory} (--no-keeper, or its program is missing): unmount it and mount it again");
        return Err(Fault::new(FaultKind::Local, message));
    };
    let cache = PathBuf::from(std::ffi::OsStr::from_bytes(&held.cache));
    let output = tokio::process::Command::new(program).arg("fits").arg(&cache).output().await;
    let output = output.map_err(|error| Fault::with(FaultKind::Local, format!("{} cannot be run", program.display()), error))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let message = format!("{} cannot go on with {directory}, nothing has changed: {}", program.display(), said.trim());
    Err(Fault::new(FaultKind::Local, message))
}

/// Hands a mount over to this very program again: its next driver reads its settings anew.
pub(super) async fn renew(env: &Env, socket: &Path, status: VolumeStatus) -> Result<(), Fault> {
    let before = Before::of(status);
    if !before.ready {
        return Err(Fault::new(FaultKind::Busy, format!("{} is opening or draining: try again", before.directory)));
    }
    hand_over(env, socket, &before, &own_program()?).await.map(drop)
}

async fn hand_over(env: &Env, socket: &Path, before: &Before, to: &Path) -> Result<Upgraded, Fault> {
    let began = env.monotonic();
    let (holder, program) = (Holder::at(socket.with_extension("hold")), to.to_path_buf());
    env.blocking(move || holder.upgrade(&program)).await?;
    loop {
        match standing(socket).await {
            Ok(now) if now.pid != before.pid && now.phase == Phase::Mounted => {
                return Ok(Upgraded {
                    volume: now.volume,
                    directory: before.directory.clone(),
                    from: before.version.clone(),
                    to: now.version,
                    process: now.pid,
                    milliseconds: u64::try_from((env.monotonic() - began).as_millis()).unwrap_or(u64::MAX),
                });
            }
            Ok(_) => {}
            Err(fault) if matches!(fault.kind, FaultKind::NotFound | FaultKind::Unknown) => {}
            Err(fault) => return Err(fault),
        }
        if env.monotonic() - began > PATIENCE {
            let message = "the new driver does not answer yet; its files wait; `holdfast status` and the mount's log tell how it stands";
            return Err(Fault::new(FaultKind::Unknown, message));
        }
        env.sleep(LOOK).await;
    }
}

/// `holdfast abort DIR`.
pub(super) fn abort(context: &Context, args: &DirArgs) -> Result<Exit, Fault> {
    let dir = resolve(&args.dir).map_err(|_| Fault::new(FaultKind::NotFound, format!("there is no directory {}", args.dir.display())))?;
    let shown = dir.display();
    if fuse::find(&dir)?.is_none_or(|mounted| mounted.kind != fuse::TYPE) {
        return Err(Fault::new(FaultKind::NotFound, format!("nothing is mounted at {shown} by holdfast")));
    }
    let socket = super::control::socket_path(&context.settings.run_dir, &dir);
    // One that does not answer in time is as good as none: it may be stopped, or wait for a disk for ever.
    let served = context.run(async { Ok(standing(&socket).await.is_ok()) })?;
    if served {
        return Err(Fault::new(FaultKind::Busy, format!("{shown} has a driver: `holdfast unmount {shown}` ends it in order")));
    }
    fuse::abort(&dir)?;
    context.say(&format!(
        "{shown} is given up. What was in no commit is in the cache, and the next mount goes on with it; what only the kernel held is gone."
    ));
    Ok(Exit::Done)
}

/// What the keeper of a run directory holds; nothing, when there is none or it does not answer.
#[derive(Debug, Default)]
pub(super) struct Kept(Option<Holding>);

/// Asks the keeper, if there is one.
pub(super) fn kept(run_dir: &Path) -> Kept {
    let asked = Line::connect(run_dir).and_then(|line| line.map(|line| line.list()).transpose());
    Kept(asked.unwrap_or_else(|fault| {
        tracing::warn!(%fault, "what the keeper holds is not known");
        None
    }))
}

impl Kept {
    /// What it knows of the mount on this directory.
    pub(super) fn find(&self, dir: &Path) -> Option<&Standing> {
        self.0.iter().flat_map(|held| &held.mounts).find(|mount| mount.dir == dir.as_os_str().as_bytes())
    }

    /// Where it holds a mount that waits for somebody to attend it.
    pub(super) fn unattended(&self) -> Vec<PathBuf> {
        let held = self.0.iter().flat_map(|held| &held.mounts).filter(|mount| mount.attendant == 0);
        held.map(|mount| PathBuf::from(std::ffi::OsStr::from_bytes(&mount.dir))).collect()
    }

    /// The keeper's process, if it holds this mount.
    pub(super) fn holder_of(&self, dir: Option<&str>) -> Option<u32> {
        self.find(Path::new(dir?))?;
        self.0.as_ref().map(|held| held.process)
    }

    /// What it holds and no driver serves, of these that answered and of these that are there all the same.
    pub(super) fn unserved(&self, served: &[VolumeStatus], silent: &[Silent]) -> Vec<Unserved> {
        let mut dirs: Vec<String> = served.iter().filter_map(|status| status.directory.clone()).collect();
        dirs.extend(silent.iter().map(Silent::shown));
        let all = self.0.iter().flat_map(|held| &held.mounts).map(Unserved::new);
        all.filter(|mount| !dirs.contains(&mount.directory)).collect()
    }

    /// The one that is asked for, if no driver answers for it.
    pub(super) async fn unserved_one(&self, run_dir: &Path, which: &Which) -> Result<Option<Unserved>, Fault> {
        let held = self.0.iter().flat_map(|held| &held.mounts);
        let held = match which {
            Which::Dir(dir) => {
                let Ok(dir) = resolve(dir) else { return Ok(None) };
                held.into_iter().find(|mount| mount.dir == dir.as_os_str().as_bytes())
            }
            Which::Volume(volume) => held.into_iter().find(|mount| mount.volume == volume.as_str().as_bytes()),
        };
        let Some(held) = held else { return Ok(None) };
        let dir = PathBuf::from(std::ffi::OsStr::from_bytes(&held.dir));
        match ask(&super::control::socket_path(run_dir, &dir), Ask::Status, |_| {}).await {
            Err(fault) if fault.kind == FaultKind::NotFound => Ok(Some(Unserved::new(held))),
            _ => Ok(None),
        }
    }
}

/// A mount that has no driver: its files wait.
#[derive(Debug, Serialize)]
pub(super) struct Unserved {
    safe: bool,
    why: String,
    volume: String,
    directory: String,
    seconds: u64,
    starts: u32,
}

impl Unserved {
    fn new(held: &Standing) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (directory, note) = (text(&held.dir), text(&held.note));
        let note = if note.is_empty() { String::new() } else { format!(": {note}") };
        let next = format!("its files wait for the next; the log says why there is none; `holdfast abort {directory}` gives the mount up");
        let why = format!("no driver has served the mount for {}{note}; {next}", at::show_age(held.seconds));
        Self { safe: false, why, volume: text(&held.volume), directory, seconds: held.seconds, starts: held.starts }
    }

    /// It has a driver, which does not answer.
    pub(super) fn silent(one: &Silent) -> Self {
        let directory = one.shown();
        let next = "it is stopped, or waits for its disk or this machine; the log may say for what";
        let why = format!("{}: {next}; `holdfast abort {directory}` gives the mount up", one.why);
        Self { safe: false, why, volume: one.volume.clone().unwrap_or_else(|| "a volume".to_owned()), directory, seconds: 0, starts: 0 }
    }
}

impl Answer for Unserved {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "NOT SAFE  {} at {}", self.volume, self.directory)?;
        writeln!(out, "  {}", self.why)
    }
}
