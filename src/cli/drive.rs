//! `holdfast drive`: the driver of one mount. Started by `hold`, and again by it after a death; then it takes the live mount over.

use super::at;
use super::context::Context;
use super::control::{ControlServer, socket_path};
use super::exit::Exit;
use super::mount::{MountArgs, tell};
use super::reader::find;
use super::serve::{Driver, DriverParts};
use super::status::Fence;
use super::unlock::{self, Unlocked};
use crate::cache::CacheOptions;
use crate::config::{Hydrate, RequestBudget, Settings, SizeLimit};
use crate::fuse::{Held, Holder, Mount, MountOptions};
use crate::hydrate::FetchOptions;
use crate::log::lookup::Books;
use crate::peer::Desk;
use crate::policy::Policy;
use crate::store::Counters;
use crate::store::plan::Budget;
use crate::telemetry::{Exporter, Metrics};
use crate::types::{Fault, FaultKind, Seq};
use crate::volume::{HydrateMode, Moment, OpenParams, RunOptions, Sizes, Volume, reader_of};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// The kernel's share is set again this often: it is kept as a ratio of its memory.
const TUNE_EVERY: Duration = Duration::from_secs(60);

pub(super) fn run(context: &Context, args: &MountArgs, dir: PathBuf) -> Result<Exit, Fault> {
    let holder = Holder::from_environment();
    let held = match &holder {
        Some(holder) => holder.take()?,
        None => None,
    };
    context.run(drive(context, args, dir, holder, held))
}

async fn drive(context: &Context, args: &MountArgs, dir: PathBuf, holder: Option<Holder>, held: Option<Held>) -> Result<Exit, Fault> {
    raise_descriptor_limit();
    let (counters, fence) = (Arc::new(Counters::default()), Arc::default());
    let resumed = held.is_some();
    let desk = desk(context, args, resumed).await?;
    let volume = open(context, args, &dir, (&counters, &fence), desk.clone(), resumed).await?;
    if let Some(damaged) = volume.report().damaged {
        tell(&damaged);
    }
    let options = MountOptions {
        threads: usize::from(args.threads),
        read_only: volume.posix().is_read_only(),
        over_files: args.over_files,
        ..MountOptions::new(&dir, args.volume.as_str())
    };
    let parts = DriverParts {
        volume: Arc::clone(&volume),
        dir: dir.clone(),
        store: context.settings.store.clone(),
        counters,
        metrics: Metrics::new(),
        fence,
        env: context.env.clone(),
        answers: desk.as_ref().map(|desk| desk.address()),
    };
    let driver = Driver::new(parts);
    if let Some(desk) = &desk {
        desk.asks(Arc::clone(&driver) as _);
    }
    let server = ControlServer::start(&context.settings.run_dir, &dir, Arc::clone(&driver) as _)?;
    debug_assert_eq!(server.path(), socket_path(&context.settings.run_dir, &dir));
    let _exporter = match context.settings.metrics {
        Some(address) => Some(Exporter::start(address, driver.metrics()).await?),
        None => None,
    };
    let (env, posix, line) = (context.env.clone(), Arc::clone(volume.posix()), holder.clone());
    let started = tokio::task::spawn_blocking(move || match &held {
        Some(held) => Mount::resume(&env, &posix, &options, held),
        None => Mount::start(&env, &posix, &options, line.as_ref()),
    });
    let mount = match started.await.map_err(|error| Fault::with(FaultKind::Local, "the mount's thread did not end", error))? {
        Ok(mount) => Arc::new(mount),
        Err(fault) => {
            // Nothing was written: the log is closed again so that the next one need not ask anybody.
            let _ = volume.close().await;
            // A mount that is there already is taken over from its cache, by the next driver.
            if !resumed {
                remove_reader_cache(&volume, context, args);
            }
            return Err(fault);
        }
    };
    if holder.is_some() {
        watch_supervisor(context, args, &dir, &mount)?;
    }
    let pages = mount.kernel_pages();
    let later = Arc::clone(&volume);
    tokio::spawn(async move { later.mounted(pages).await });
    driver.mounted(Arc::clone(&mount));
    let ended = serve(context, &driver, &mount).await;
    if let Some(holder) = &holder {
        holder.let_go()?;
    }
    let closed = driver.drain().await;
    remove_reader_cache(&volume, context, args);
    driver.finished(&closed);
    server.close().await;
    ended?;
    closed.map(|_| Exit::Done)
}

// Should it die from now on, or have died already, this driver sees to it that the mount gets another.
fn watch_supervisor(context: &Context, args: &MountArgs, dir: &Path, mount: &Mount) -> Result<(), Fault> {
    context.env.failpoint("cli.after_mount_before_watch");
    super::mount::custody(context, args, dir)?.map_or(Ok(()), |custody| mount.watch_supervisor(custody))
}

/// Where whoever wants the volume is answered, when the settings say so. A live mount goes on without.
async fn desk(context: &Context, args: &MountArgs, resumed: bool) -> Result<Option<Arc<Desk>>, Fault> {
    let Some(address) = context.settings.peer_listen.filter(|_| !args.reads()) else { return Ok(None) };
    match Desk::start(address).await {
        Err(fault) if resumed => {
            tracing::error!(%fault, "nobody who wants this volume is answered");
            Ok(None)
        }
        started => started.map(|desk| Some(Arc::new(desk))),
    }
}

/// One descriptor for each file that is in use or frozen: the usual soft limit of 1,024 would fail writes.
fn raise_descriptor_limit() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: plain numbers in a buffer of the right type.
    let raised = unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 && {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) == 0
        }
    };
    if !raised {
        tracing::warn!(error = %std::io::Error::last_os_error(), "the limit of open files could not be raised");
    }
}

/// Until the mount is gone, whoever took it away. A first signal unmounts and drains, a second one gives the drain up.
async fn serve(context: &Context, driver: &Arc<Driver>, mount: &Arc<Mount>) -> Result<(), Fault> {
    let waiting = Arc::clone(mount);
    let mut gone = tokio::task::spawn_blocking(move || waiting.wait());
    let cannot = |error| Fault::with(FaultKind::Local, "signals cannot be received", error);
    let mut terminate = signal(SignalKind::terminate()).map_err(cannot)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(cannot)?;
    let mut signals = 0;
    loop {
        tokio::select! {
            ended = &mut gone => {
                spawn_second_signal(driver, terminate, interrupt);
                return ended.map_err(|error| Fault::with(FaultKind::Local, "the mount's thread did not end", error))?;
            }
            _ = terminate.recv() => signals += 1,
            _ = interrupt.recv() => signals += 1,
            () = context.env.sleep(TUNE_EVERY) => { mount.tune(); continue }
        }
        if signals > 1 {
            driver.give_up();
        }
        let mount = Arc::clone(mount);
        // In use: it ends with its last user; new ones see the directory below.
        tokio::task::spawn_blocking(move || {
            if let Err(fault) = mount.unmount(false) {
                tracing::warn!(%fault, "the directory is in use: it is taken away now and ends with its last user");
                if let Err(fault) = mount.unmount(true) {
                    tracing::error!(%fault, "the mount cannot be taken away");
                }
            }
        });
    }
}

/// While the volume drains, a signal gives it up: the cache stays to be resumed.
fn spawn_second_signal(driver: &Arc<Driver>, mut terminate: tokio::signal::unix::Signal, mut interrupt: tokio::signal::unix::Signal) {
    let driver = Arc::clone(driver);
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tell("given up before everything was committed: the cache keeps the rest, and the next mount here goes on with it");
        driver.give_up();
    });
}

/// Whether the supervisor has said that this volume's requests crash its drivers.
pub(super) fn quarantined() -> bool {
    std::env::var_os(crate::fuse::QUARANTINE_VARIABLE).is_some()
}

async fn open(
    context: &Context,
    args: &MountArgs,
    dir: &Path,
    told: Told<'_>,
    desk: Option<Arc<Desk>>,
    resumed: bool,
) -> Result<Arc<Volume>, Fault> {
    let run = RunOptions {
        hydrate: match context.settings.hydrate {
            Hydrate::Lazy => HydrateMode::Lazy,
            Hydrate::Eager => HydrateMode::Eager,
            Hydrate::Metadata => HydrateMode::Metadata,
        },
        fetch: FetchOptions::default(),
        quarantined: quarantined(),
    };
    let waiting = |why: &str| tell(&format!("waiting for the store: {why}"));
    let mut cache = CacheOptions::new(args.cache_at(context, dir)?);
    if args.reads() && resumed {
        return Volume::resume_reader(context.env.clone(), &args.volume, cache, run, late_books(context, args, told)).await;
    }
    if args.reads() {
        let books = books(unlock_waiting(context, args, told, &waiting).await?, context);
        let at = match (&args.at, args.branch) {
            (_, Some(epoch)) => Moment::Branch(epoch),
            (Some(text), None) => Moment::Commit(resolve_at(context, &books, args, text).await?),
            (None, None) => Moment::Newest,
        };
        remove_leftover(&cache.dir)?;
        return Volume::open_reader(&books, &args.volume, cache, at, run, &waiting).await;
    }
    cache.bytes_max = context.settings.capacity.unwrap_or(1 << 50);
    let sizes = sizes(&context.settings, &cache.dir)?;
    if resumed {
        let params = late_params(context, args, told, desk, cache.clone(), sizes);
        // A file that cannot be read any more is reported when the log is to be opened with it.
        let policy = context.settings.read_policy().unwrap_or_else(|_| Policy::built_in());
        return Volume::resume(context.env.clone(), &args.volume, cache, sizes, run, &policy, params).await;
    }
    let unlocked = unlock_waiting(context, args, told, &waiting).await?;
    let params = open_params(&context.settings, args, books(unlocked, context), cache, sizes, context.settings.read_policy()?)?;
    Volume::open(OpenParams { desk, ..params }, run, &waiting).await
}

/// A mount of this place that is only read, and ended with its machine, has left its cache: nothing in it is wanted any more.
fn remove_leftover(dir: &Path) -> Result<(), Fault> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Fault::with(FaultKind::Local, format!("the cache {} of an earlier mount cannot be removed", dir.display()), error))
        }
        _ => Ok(()),
    }
}

/// Where a resumed mount reads; asked for again while it cannot be had.
fn late_books(context: &Context, args: &MountArgs, told: Told<'_>) -> impl FnMut() -> LateBooks + Send + 'static + use<> {
    let inner = Arc::new(Context { settings: context.settings.clone(), env: context.env.clone(), json: context.json });
    let (args, counters, fence) = (args.clone(), Arc::clone(told.0), Arc::clone(told.1));
    move || {
        let (inner, args, counters, fence) = (Arc::clone(&inner), args.clone(), Arc::clone(&counters), Arc::clone(&fence));
        Box::pin(async move { Ok(books(unlock_once(&inner, &args, (&counters, &fence)).await?, &inner)) })
    }
}

type LateBooks = Pin<Box<dyn Future<Output = Result<Books, Fault>> + Send>>;

/// What a resumed mount opens its log with; asked for again while it cannot be had.
fn late_params(
    context: &Context,
    args: &MountArgs,
    told: Told<'_>,
    desk: Option<Arc<Desk>>,
    cache: CacheOptions,
    sizes: Sizes,
) -> impl FnMut() -> LateParams + Send + 'static + use<> {
    let inner = Arc::new(Context { settings: context.settings.clone(), env: context.env.clone(), json: context.json });
    let (args, counters, fence) = (args.clone(), Arc::clone(told.0), Arc::clone(told.1));
    move || {
        let (inner, args, counters, fence) = (Arc::clone(&inner), args.clone(), Arc::clone(&counters), Arc::clone(&fence));
        let (desk, cache) = (desk.clone(), cache.clone());
        Box::pin(async move {
            let unlocked = unlock_once(&inner, &args, (&counters, &fence)).await?;
            let params = open_params(&inner.settings, &args, books(unlocked, &inner), cache, sizes, inner.settings.read_policy()?)?;
            Ok(OpenParams { desk, ..params })
        })
    }
}

type LateParams = Pin<Box<dyn Future<Output = Result<OpenParams, Fault>> + Send>>;

fn open_params(
    settings: &Settings,
    args: &MountArgs,
    books: Books,
    cache: CacheOptions,
    sizes: Sizes,
    policy: Policy,
) -> Result<OpenParams, Fault> {
    let crate::rpc::Holder { host, installation, boot_id, .. } = holder([0; 16]);
    debug_assert!(settings.store_is_default || !settings.store.is_empty());
    let budget = match settings.request_budget {
        None => Budget::default_for(&unlock::url(settings)?),
        Some(RequestBudget::Unbounded) => Budget { requests_per_hour: None },
        Some(RequestBudget::PerHour(number)) => Budget { requests_per_hour: Some(number) },
    };
    let identity = args.volume.clone();
    let (take_over, wait) = (args.take_over, args.wait);
    Ok(OpenParams { books, identity, cache, policy, sizes, budget, take_over, host, installation, boot_id, desk: None, wait, tell })
}

/// This machine, as an `open` names it.
pub(super) fn holder(cache_id: [u8; 16]) -> crate::rpc::Holder {
    let read = |path: &str| std::fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default();
    let host = nix::sys::utsname::uname().map(|names| names.nodename().to_string_lossy().into_owned()).unwrap_or_default();
    crate::rpc::Holder {
        host,
        installation: read("/etc/machine-id"),
        boot_id: read("/proc/sys/kernel/random/boot_id"),
        cache_id: cache_id.to_vec().into(),
        ..crate::rpc::Holder::default()
    }
}

/// A reader's cache holds nothing of its own: it ends with the mount.
fn remove_reader_cache(volume: &Volume, context: &Context, args: &MountArgs) {
    if !volume.posix().is_read_only() {
        return;
    }
    let dir = volume.cache_dir();
    if dir == context.settings.cache_of(&args.volume) {
        return;
    }
    if let Err(error) = std::fs::remove_dir_all(dir) {
        tracing::warn!(%error, dir = %dir.display(), "a reader's cache is left behind");
    }
}

fn books(unlocked: Unlocked, context: &Context) -> Books {
    Books { store: unlocked.connected.store, env: context.env.clone(), sealer: unlocked.sealer }
}

/// Where it is told what the store is asked, and what its marker says of two writers.
type Told<'a> = (&'a Arc<Counters>, &'a Arc<OnceLock<Fence>>);

/// Marker and key, waiting as long as the store says nothing: *unreachable* is never *absent*.
pub(super) async fn unlock_waiting(
    context: &Context,
    args: &MountArgs,
    told: Told<'_>,
    waiting: &(dyn Fn(&str) + Sync),
) -> Result<Unlocked, Fault> {
    let mut pause = Duration::from_millis(250);
    loop {
        match unlock_once(context, args, told).await {
            Err(fault) if fault.kind == FaultKind::Unknown => {
                waiting(&fault.to_string());
                context.env.sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(30));
            }
            done => return done,
        }
    }
}

/// Marker and key, asked for once.
async fn unlock_once(context: &Context, args: &MountArgs, (counters, fence): Told<'_>) -> Result<Unlocked, Fault> {
    let connected = unlock::connect(&context.settings, &context.env, Some(Arc::clone(counters))).await?;
    let unlocked = unlock::unlock(connected, &context.settings, &args.key).await?;
    let _ = fence.set(if unlocked.connected.marker.single_writer { Fence::SingleWriter } else { Fence::PutIfAbsent });
    Ok(unlocked)
}

/// The commit that `--at` means; told to the person.
async fn resolve_at(context: &Context, books: &Books, args: &MountArgs, text: &str) -> Result<Seq, Fault> {
    let (_, reader) = reader_of(books, &args.volume, &|_| {}).await?;
    let now = context.now();
    let asked = at::parse(text, &now).map_err(|error| Fault::new(FaultKind::Invalid, error.to_string()))?;
    let entry = find(&reader, &args.volume, &asked).await?;
    tell(&format!("showing commit {} of {}", entry.seq, at::show(at::timestamp(entry.time), now.time_zone())));
    Ok(entry.seq)
}

/// The limits on this disk: 10 GiB or 20 % of it, half of that dirty, and always a tenth of the disk left free.
fn sizes(settings: &Settings, cache: &Path) -> Result<Sizes, Fault> {
    let existing = cache.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let stat = nix::sys::statvfs::statvfs(existing)
        .map_err(|errno| Fault::with(FaultKind::Local, format!("the disk of {} cannot be looked at", existing.display()), errno))?;
    let disk = stat.blocks() as u64 * stat.fragment_size() as u64;
    let cache_max = settings.cache_size.map_or_else(|| SizeLimit::default_cache(disk), |limit| limit.bytes(disk)).min(disk / 10 * 9);
    let dirty_max = settings.dirty_size.map_or(cache_max / 2, |limit| limit.bytes(disk)).min(cache_max);
    Ok(Sizes { cache_max, dirty_max, capacity: settings.capacity })
}
