//! `holdfast branch list`.

use super::state;
use crate::cli::at;
use crate::cli::context::{Answer, Context};
use crate::cli::exit::Exit;
use crate::cli::reader::{Reading, VolumeArgs};
use crate::config::show_size;
use crate::history::{Branch, branches};
use crate::types::{Epoch, Fault, Seq};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Serialize;
use std::io::{self, Write};

#[derive(Serialize)]
struct Listed {
    volume: String,
    branches: Vec<ListedBranch>,
}

/// A branch, as `list` and `show` tell it.
#[derive(Debug, Clone, Serialize)]
pub(super) struct ListedBranch {
    pub(super) branch: Epoch,
    /// `safe`, `unclaimed`, `unfinished` or `dropped`.
    pub(super) state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) host: Option<String>,
    /// The record that it stands on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) base: Option<Seq>,
    /// The instant that it shows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cut: Option<Timestamp>,
    /// Of the whole tree that it shows.
    pub(super) inodes: u64,
    pub(super) bytes: u64,
    /// Bytes of its own objects.
    pub(super) stored: u64,
}

impl ListedBranch {
    pub(super) fn new(branch: &Branch) -> Self {
        let head = branch.head.as_ref();
        let state = state(branch);
        let shown = head.and_then(|head| head.state.as_ref());
        let totals = shown.and_then(|shown| shown.totals).unwrap_or_default();
        Self {
            branch: branch.epoch,
            state,
            host: head.map(|head| head.host.clone()).filter(|host| !host.is_empty()),
            base: head.map(|head| head.base_seq),
            cut: shown.map(|shown| at::timestamp(shown.cut_time)),
            inodes: totals.inodes,
            bytes: totals.bytes,
            stored: branch.stored,
        }
    }

    /// One line for people.
    pub(super) fn line(&self, zone: &TimeZone) -> String {
        let Self { branch, inodes, bytes, .. } = self;
        match (self.cut, self.base) {
            (Some(cut), Some(base)) => {
                let host = self.host.as_deref().map_or_else(String::new, |host| format!(" on {host}"));
                let state = match self.state {
                    "safe" => String::new(),
                    "unclaimed" => ", not claimed: its cache must be kept".to_owned(),
                    other => format!(", {other}"),
                };
                let (when, size) = (at::show(cut, zone), show_size(*bytes));
                format!("{branch:>6}  {when}{host}, after record {base}  {inodes} files and directories, {size}{state}")
            }
            _ if self.state == "dropped" => format!("{branch:>6}  dropped; what is left of it goes with `holdfast branch drop`"),
            _ => format!("{branch:>6}  not stored yet: its machine is at it, or goes on when the volume is mounted there"),
        }
    }
}

impl Answer for Listed {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        if self.branches.is_empty() {
            return writeln!(out, "{} has no branches.", self.volume);
        }
        let zone = TimeZone::system();
        self.branches.iter().try_for_each(|branch| writeln!(out, "{}", branch.line(&zone)))
    }
}

pub(super) fn run(context: &Context, args: &VolumeArgs) -> Result<Exit, Fault> {
    let listed = context.run(async {
        let reading = Reading::start(context, &args.volume, &args.key).await?;
        let found = branches(&reading.reader).await?;
        Ok(Listed { volume: args.volume.to_string(), branches: found.iter().map(ListedBranch::new).collect() })
    })?;
    context.answer(&listed)?;
    Ok(Exit::Done)
}
