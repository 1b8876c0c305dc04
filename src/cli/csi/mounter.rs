//! The real machine: each mount is made by the mount command, with its own supervisor and the keeper, and outlives this process.

use super::stores::{Directory, Named};
use crate::cli::args::Flags;
use crate::cli::context::Context;
use crate::cli::control::{Ask, Reply, ask, socket_path};
use crate::cli::exit;
use crate::cli::handover;
use crate::cli::mount::own_program;
use crate::cli::status::{Phase, VolumeStatus};
use crate::config::Settings;
use crate::env::Env;
use crate::fuse::{self, Holder};
use crate::node::{self, Binding, Drain, Mounter, Order, Usage};
use crate::types::{Fault, FaultKind};
use async_trait::async_trait;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;
use tokio::sync::watch;

/// A driver that is in order answers at once.
const ANSWER_MAX: Duration = Duration::from_secs(3);
/// Between two looks at a mount whose driver comes or goes.
const LOOK: Duration = Duration::from_millis(100);
/// For the end of a mount that is given up before it was one.
const END_MAX: Duration = Duration::from_secs(10);
/// What a mount's settings' file says, or what must not be said twice.
const OWN_KEYS: [&str; 4] = ["store", "cache", "capacity", "metrics"];
/// Words of a person to one mount, which must not reach every one.
const NOT_INHERITED: [&str; 13] = [
    "HOLDFAST_STORE",
    "HOLDFAST_CACHE",
    "HOLDFAST_CAPACITY",
    "HOLDFAST_METRICS",
    "HOLDFAST_CONFIG",
    "HOLDFAST_RECOVERY_KEY_FILE",
    "HOLDFAST_JSON",
    "HOLDFAST_AT",
    "HOLDFAST_READ_ONLY",
    "HOLDFAST_TAKE_OVER",
    "HOLDFAST_WAIT",
    "HOLDFAST_FOREGROUND",
    "HOLDFAST_OVER_FILES",
];

/// How a mount command ended; `None`: it is under way.
type Ended = Option<Result<(), (FaultKind, String)>>;

/// A mount command that was started here.
#[derive(Debug, Clone)]
struct Pending {
    ended: watch::Receiver<Ended>,
    /// The last line that it told.
    told: Arc<Mutex<String>>,
}

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Mounts {
    env: Env,
    settings: Settings,
    flags: Flags,
    stores: Arc<Directory>,
    files: PathBuf,
    keeper_apart: bool,
    pending: Mutex<BTreeMap<PathBuf, Pending>>,
}

impl Mounts {
    pub(super) fn new(context: &Context, flags: &Flags, stores: Arc<Directory>, state: &Path, keeper_apart: bool) -> Result<Self, Fault> {
        let files = state.join("settings");
        std::fs::create_dir_all(&files)?;
        let Context { env, settings, .. } = context;
        let (env, settings, flags) = (env.clone(), settings.clone(), flags.clone());
        Ok(Self { env, settings, flags, stores, files, keeper_apart, pending: Mutex::default() })
    }

    fn socket(&self, dir: &Path) -> PathBuf {
        socket_path(&self.settings.run_dir, dir)
    }

    /// What the mount's driver says; [`FaultKind::NotFound`]: there is none.
    async fn standing(&self, dir: &Path) -> Result<VolumeStatus, Fault> {
        match tokio::time::timeout(ANSWER_MAX, ask(&self.socket(dir), Ask::Status, |_| {})).await {
            Ok(Ok(Reply::Status(status))) => Ok(*status),
            Ok(Ok(_)) => Err(crate::cli::live::unexpected()),
            Ok(Err(fault)) => Err(fault),
            Err(_) => Err(Fault::new(FaultKind::Unknown, format!("the driver of {} does not answer", dir.display()))),
        }
    }

    /// Whether the mount is one that goes on: it has a driver, or a keeper that starts one.
    async fn lives(&self, dir: &Path) -> Result<bool, Fault> {
        if fuse::find(dir)?.is_none_or(|mounted| mounted.kind != fuse::TYPE) {
            return Ok(false);
        }
        match self.standing(dir).await {
            Err(fault) if fault.kind == FaultKind::NotFound => self.is_kept(dir).await,
            _ => Ok(true),
        }
    }

    async fn is_kept(&self, dir: &Path) -> Result<bool, Fault> {
        let (run_dir, dir) = (self.settings.run_dir.clone(), dir.to_owned());
        self.env.blocking(move || Ok::<_, Fault>(handover::kept(&run_dir).find(&dir).is_some())).await
    }

    /// Where the settings of a mount lie: its directory is named by its handle.
    fn settings_of(&self, dir: &Path) -> PathBuf {
        self.files.join(dir.file_name().unwrap_or_default()).with_extension("toml")
    }

    /// The settings of one mount. Its driver reads them each time it starts.
    fn write_settings(&self, order: &Order, store: &Named) -> Result<PathBuf, Fault> {
        let mut table = toml::Table::new();
        table.insert("store".to_owned(), store.url.clone().into());
        // Two stores may each have a volume of one name.
        table.insert("cache".to_owned(), self.settings.cache.join(order.handle.alias()).display().to_string().into());
        if order.capacity > 0 {
            table.insert("capacity".to_owned(), format!("{}KiB", order.capacity.div_ceil(1024)).into());
        }
        let path = self.settings_of(&order.dir);
        let new = path.with_extension("new");
        std::fs::write(&new, table.to_string())?;
        std::fs::rename(&new, &path)?;
        Ok(path)
    }

    fn command(&self, order: &Order) -> Result<Command, Fault> {
        let store = self.stores.find(order.handle.alias())?;
        let settings = self.write_settings(order, &store)?;
        let mut command = Command::new(own_program()?);
        command.arg("mount").arg(order.identity.as_str()).arg(&order.dir).arg("--wait").arg("--config").arg(settings);
        for (key, value) in self.flags.values.iter().filter(|(key, _)| !OWN_KEYS.contains(key)) {
            command.arg(format!("--{key}")).arg(value);
        }
        if self.keeper_apart {
            command.arg("--keeper-apart");
        }
        if let Some(key) = &store.key {
            command.arg("--recovery-key").arg(key);
        }
        for variable in NOT_INHERITED {
            command.env_remove(variable);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        Ok(command)
    }

    /// Ends what is on its way to be a mount, whichever process of this driver began it: left alone it would take the volume later, for
    /// nobody. What drains is left alone: its end would leave the log open.
    async fn give_up(&self, dir: &Path) -> Result<Option<Drain>, Fault> {
        match self.standing(dir).await {
            Ok(status) if status.phase == Phase::Draining => return Ok(Some(Drain::Goes)),
            Err(fault) if fault.kind == FaultKind::NotFound => {}
            // Its log is open: it is mounted in a moment.
            _ => return Err(Fault::new(FaultKind::Busy, format!("a mount at {} is under way: ask again", dir.display()))),
        }
        let holder = Holder::at(self.socket(dir).with_extension("hold"));
        self.env.blocking(move || holder.end()).await?;
        let pending = self.pending.lock().remove(dir);
        if let Some(Pending { mut ended, .. }) = pending
            && tokio::time::timeout(END_MAX, ended.wait_for(Option::is_some)).await.is_err()
        {
            return Err(Fault::new(FaultKind::Busy, format!("a mount at {} is under way and does not end: ask again", dir.display())));
        }
        Ok(None)
    }

    /// Unmounts what is mounted, by its driver; where there is none and nobody starts one, without.
    async fn end(&self, dir: &Path) -> Result<Drain, Fault> {
        loop {
            let fault = match ask(&self.socket(dir), Ask::Unmount, |_| {}).await {
                Ok(_) => return Ok(Drain::Done),
                Err(fault) if fault.kind == FaultKind::Busy => return Err(fault),
                Err(fault) => fault,
            };
            if !self.is_mounted(dir).await? {
                tracing::error!(%fault, dir = %dir.display(), "its driver did not end in order: the cache keeps what is in no commit");
                return Ok(Drain::Goes);
            }
            if fault.kind == FaultKind::NotFound && !self.is_kept(dir).await? {
                tracing::error!(dir = %dir.display(), "a mount whose driver is gone is taken away; its cache keeps what was in no commit");
                let dir = dir.to_owned();
                self.env.blocking(move || fuse::unmount(&dir, true)).await?;
                return Ok(Drain::Goes);
            }
            tracing::warn!(%fault, dir = %dir.display(), "its driver is on its way: it is asked again");
            self.env.sleep(LOOK).await;
        }
    }

    /// The mount command that is under way for this directory, or a new one.
    fn begin(&self, order: &Order) -> Result<Pending, Fault> {
        let mut pending = self.pending.lock();
        if let Some(known) = pending.get(&order.dir)
            && known.ended.borrow().is_none()
        {
            return Ok(known.clone());
        }
        let mut child = self.command(order)?.spawn()?;
        let (sender, ended) = watch::channel(None);
        let told = Arc::new(Mutex::new(String::new()));
        let (last, errors) = (Arc::clone(&told), child.stderr.take());
        tokio::spawn(async move {
            let reading = tokio::spawn(async move {
                let mut lines = errors.map(|errors| BufReader::new(errors).lines());
                while let Some(Ok(Some(line))) = read(&mut lines).await {
                    tracing::info!(line, "a mount");
                    *last.lock() = line.strip_prefix("holdfast: ").unwrap_or(&line).to_owned();
                }
                last.lock().clone()
            });
            let status = child.wait().await;
            let said = tokio::time::timeout(ANSWER_MAX, reading).await.ok().and_then(Result::ok).unwrap_or_default();
            let code = status.ok().and_then(|status| status.code()).and_then(|code| u8::try_from(code).ok());
            let result = match code {
                Some(0) => Ok(()),
                code => Err((code.map_or(FaultKind::Unknown, exit::kind_of), format!("the volume was not mounted: {said}"))),
            };
            sender.send_replace(Some(result));
        });
        let new = Pending { ended, told };
        pending.insert(order.dir.clone(), new.clone());
        Ok(new)
    }
}

async fn read(lines: &mut Option<tokio::io::Lines<BufReader<tokio::process::ChildStderr>>>) -> Option<std::io::Result<Option<String>>> {
    match lines {
        Some(lines) => Some(lines.next_line().await),
        None => None,
    }
}

#[async_trait]
impl Mounter for Mounts {
    async fn mount(&self, order: &Order, patience: Duration) -> Result<(), Fault> {
        if self.lives(&order.dir).await? {
            return Ok(());
        }
        let Pending { mut ended, told } = self.begin(order)?;
        let outcome = match tokio::time::timeout(patience, ended.wait_for(Option::is_some)).await {
            Ok(Ok(outcome)) => outcome.clone(),
            Ok(Err(_)) => None,
            Err(_) => return Err(Fault::new(FaultKind::Busy, format!("the volume is not mounted yet: {}", told.lock()))),
        };
        self.pending.lock().remove(&order.dir);
        match outcome {
            Some(Ok(())) => Ok(()),
            Some(Err((kind, why))) => Err(Fault::new(kind, why)),
            None => Err(Fault::new(FaultKind::Local, "the mount command was lost")),
        }
    }

    async fn unattended(&self) -> Result<Vec<PathBuf>, Fault> {
        let run_dir = self.settings.run_dir.clone();
        self.env.blocking(move || Ok::<_, Fault>(handover::kept(&run_dir).unattended())).await
    }

    async fn take_up(&self, order: &Order) -> Result<(), Fault> {
        self.begin(order).map(drop)
    }

    async fn unmount(&self, dir: &Path, patience: Duration) -> Result<Drain, Fault> {
        // Of a mount that goes on draining, a driver that is started again reads them.
        let forget = || drop(std::fs::remove_file(self.settings_of(dir)));
        if !self.is_mounted(dir).await?
            && let Some(drain) = self.give_up(dir).await?
        {
            return Ok(drain);
        }
        if !self.is_mounted(dir).await? {
            forget();
            return Ok(Drain::Done);
        }
        match tokio::time::timeout(patience, self.end(dir)).await {
            Ok(Ok(Drain::Done)) => {
                forget();
                Ok(Drain::Done)
            }
            Ok(ended) => ended,
            // The mount goes first; what is left is told to nobody any more.
            Err(_) if !self.is_mounted(dir).await? => Ok(Drain::Goes),
            Err(_) => Err(Fault::new(FaultKind::Busy, format!("{} is not unmounted yet", dir.display()))),
        }
    }

    async fn is_mounted(&self, dir: &Path) -> Result<bool, Fault> {
        Ok(fuse::find(dir)?.is_some_and(|mounted| mounted.kind == fuse::TYPE))
    }

    async fn resize(&self, order: &Order) -> Result<(), Fault> {
        let store = self.stores.find(order.handle.alias())?;
        self.write_settings(order, &store)?;
        let before = self.standing(&order.dir).await?;
        if before.capacity_bytes.unwrap_or(0) == order.capacity.div_ceil(1024) * 1024 {
            return Ok(());
        }
        // The next driver reads the new size; applications feel a pause.
        handover::renew(&self.env, &self.socket(&order.dir), before).await
    }

    async fn usage(&self, dir: &Path) -> Result<Usage, Fault> {
        let status = self.standing(dir).await.map_err(|fault| match fault.kind {
            FaultKind::NotFound => Fault::new(FaultKind::Unknown, format!("{} has no driver at this moment", dir.display())),
            _ => fault,
        })?;
        Ok(Usage {
            bytes: status.bytes,
            bytes_max: status.capacity_bytes.unwrap_or(crate::controller::CAPACITY_MAX),
            inodes: status.inodes,
        })
    }

    async fn give_group(&self, dir: &Path, group: u32) -> Result<(), Fault> {
        let root = dir.to_owned();
        let work = self.env.blocking(move || {
            let there = std::fs::metadata(&root)?;
            if there.gid() != group {
                std::os::unix::fs::chown(&root, None, Some(group))?;
                std::fs::set_permissions(&root, std::fs::Permissions::from_mode(there.mode() & 0o7777 | 0o2070))?;
            }
            Ok::<_, Fault>(())
        });
        let late = || Fault::new(FaultKind::Unknown, format!("the driver of {} does not answer", dir.display()));
        tokio::time::timeout(ANSWER_MAX, work).await.map_err(|_| late())?
    }

    async fn bind(&self, dir: &Path, target: &Path, binding: &Binding) -> Result<(), Fault> {
        let (dir, target, binding) = (dir.to_owned(), target.to_owned(), binding.clone());
        self.env.blocking(move || node::bind(&dir, &target, &binding)).await
    }

    async fn is_bound(&self, dir: &Path, target: &Path) -> Result<bool, Fault> {
        node::is_bound(dir, target)
    }

    async fn unbind(&self, target: &Path) -> Result<(), Fault> {
        let target = target.to_owned();
        self.env.blocking(move || node::unbind(&target)).await
    }
}
