//! `holdfast status`, `flush` and `unmount`: what is asked of a running driver.

use super::at;
use super::context::{Answer, Context};
use super::control::{Ask, Asked, Flushed, Progress, Reply, Silent, Unmounted, ask, ask_all, find};
use super::exit::Exit;
use super::handover;
use super::status::{Report, StatusArgs, VolumeStatus};
use super::stored::{self, StoredReport};
use super::target::Which;
use crate::config::show_size;
use crate::fuse;
use crate::types::{Fault, FaultKind};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use jiff::tz::TimeZone;
use serde::Serialize;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A mount.
#[derive(Debug, Args)]
pub struct DirArgs {
    /// The directory where the volume is mounted
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
}

/// `holdfast flush`.
pub(super) fn flush(context: &Context, args: &DirArgs) -> Result<Exit, Fault> {
    match ask_with_bar(context, &args.dir, Ask::Flush)? {
        Reply::Flushed(flushed) => {
            context.answer(&FlushAnswer { flushed })?;
            Ok(Exit::Done)
        }
        _ => Err(unexpected()),
    }
}

/// `holdfast unmount`: drains. A mount whose driver is gone is taken away.
pub(super) fn unmount(context: &Context, args: &DirArgs) -> Result<Exit, Fault> {
    match ask_with_bar(context, &args.dir, Ask::Unmount) {
        Ok(Reply::Unmounted(unmounted)) => {
            context.answer(&UnmountAnswer { unmounted })?;
            Ok(Exit::Done)
        }
        Ok(_) => Err(unexpected()),
        Err(fault) if fault.kind == FaultKind::NotFound => take_away(context, &args.dir, fault),
        Err(fault) => Err(fault),
    }
}

fn take_away(context: &Context, dir: &Path, fault: Fault) -> Result<Exit, Fault> {
    let resolved =
        super::control::resolve(dir).map_err(|_| Fault::new(FaultKind::NotFound, format!("there is no directory {}", dir.display())))?;
    match fuse::find(&resolved)? {
        Some(mounted) if mounted.kind == fuse::TYPE => {
            context.say(
                "Its driver is gone: the mount is taken away. What was in no commit is in the cache, and the next mount goes on with it.",
            );
            fuse::unmount(&resolved, true)?;
            Ok(Exit::Done)
        }
        _ => Err(fault),
    }
}

pub(super) fn ask_with_bar(context: &Context, dir: &Path, what: Ask) -> Result<Reply, Fault> {
    context.run(async {
        let socket = find(&context.settings.run_dir, &Which::Dir(dir.to_path_buf())).await?;
        let bar = context.draws().then(|| {
            let style = ProgressStyle::with_template("{bar:30} {bytes} of {total_bytes}").unwrap_or_else(|_| ProgressStyle::default_bar());
            ProgressBar::new(0).with_style(style)
        });
        let reply = ask(&socket, what, |Progress { done, total }| {
            if let Some(bar) = &bar {
                bar.set_length(total);
                bar.set_position(done);
            }
        })
        .await;
        if let Some(bar) = bar {
            bar.finish_and_clear();
        }
        reply
    })
}

pub(super) fn unexpected() -> Fault {
    Fault::new(FaultKind::Unknown, "the driver answered something else: is it another version?")
}

#[derive(Serialize)]
struct FlushAnswer {
    #[serde(flatten)]
    flushed: Flushed,
}

impl Answer for FlushAnswer {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        let Flushed { commit, full, cut, uploaded } = &self.flushed;
        let kind = if *full { "" } else { " (not all tiers)" };
        writeln!(
            out,
            "Everything is in commit {commit}{kind} of {}; {} uploaded.",
            at::show(*cut, &TimeZone::system()),
            show_size(*uploaded)
        )
    }
}

#[derive(Serialize)]
struct UnmountAnswer {
    #[serde(flatten)]
    unmounted: Unmounted,
}

impl Answer for UnmountAnswer {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        match (self.unmounted.commit, self.unmounted.cut) {
            (Some(commit), Some(cut)) => {
                writeln!(out, "Unmounted; everything is in commit {commit} of {}.", at::show(cut, &TimeZone::system()))
            }
            _ => writeln!(out, "Unmounted."),
        }
    }
}

/// `holdfast status`.
pub(super) fn status(context: &Context, args: &StatusArgs) -> Result<Exit, Fault> {
    loop {
        let exit = status_once(context, args)?;
        let Some(seconds) = args.watch else { return Ok(exit) };
        context.run(async {
            context.env.sleep(Duration::from_secs(seconds)).await;
            Ok(())
        })?;
    }
}

fn status_once(context: &Context, args: &StatusArgs) -> Result<Exit, Fault> {
    let which =
        args.which.clone().map(|text| Which::parse(text).map_err(|error| Fault::new(FaultKind::Invalid, error.to_string()))).transpose()?;
    let kept = handover::kept(&context.settings.run_dir);
    let mounted = |status: VolumeStatus| {
        let keeper = kept.holder_of(status.directory.as_deref());
        Either::Mounted(Box::new(Report::new(status, TimeZone::system()).kept_by(keeper)))
    };
    let reports: Vec<Either> = context.run(async {
        let Some(which) = which else {
            let Asked { answered, silent } = ask_all(&context.settings.run_dir).await?;
            let served: Vec<VolumeStatus> = answered.into_iter().map(|(_, status)| status).collect();
            let forsaken = kept.unserved(&served, &silent).into_iter().chain(silent.iter().map(handover::Unserved::silent));
            return Ok(forsaken.map(Either::Unserved).chain(served.into_iter().map(mounted)).collect());
        };
        if let Some(unserved) = kept.unserved_one(&context.settings.run_dir, &which).await? {
            return Ok(vec![Either::Unserved(unserved)]);
        }
        let socket = match (find(&context.settings.run_dir, &which).await, &which) {
            (Err(fault), Which::Volume(volume)) if fault.kind == FaultKind::NotFound => {
                return Ok(vec![Either::Stored(Box::new(stored::ask(context, volume, &args.key).await?))]);
            }
            (found, _) => found?,
        };
        match ask(&socket, Ask::Status, |_| {}).await {
            Ok(Reply::Status(status)) => Ok(vec![mounted(*status)]),
            Ok(_) => Err(unexpected()),
            Err(fault) if fault.kind == FaultKind::Unknown => {
                let silent = Silent::new(&context.settings.run_dir, socket, &fault);
                Ok(vec![Either::Unserved(handover::Unserved::silent(&silent))])
            }
            Err(fault) => Err(fault),
        }
    })?;
    if reports.is_empty() {
        context.say("Nothing is mounted here by holdfast.");
    }
    let safe = reports.iter().all(Either::is_safe);
    context.answer(&Reports { reports })?;
    Ok(if safe { Exit::Done } else { Exit::NotSafe })
}

/// What a driver here says, or the store.
#[derive(Serialize)]
#[serde(untagged)]
enum Either {
    Mounted(Box<Report>),
    Unserved(handover::Unserved),
    Stored(Box<StoredReport>),
}

impl Either {
    fn is_safe(&self) -> bool {
        match self {
            Self::Mounted(report) => report.verdict.safe,
            Self::Unserved(_) => false,
            Self::Stored(report) => report.verdict.safe,
        }
    }
}

#[derive(Serialize)]
#[serde(transparent)]
struct Reports {
    reports: Vec<Either>,
}

impl Answer for Reports {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        self.reports.iter().try_for_each(|report| match report {
            Either::Mounted(report) => report.text(out),
            Either::Unserved(report) => report.text(out),
            Either::Stored(report) => report.text(out),
        })
    }
}
