//! `holdfast history VOLUME`: the log of commits, newest first.

use super::at;
use super::context::{Answer, Context};
use super::exit::Exit;
use super::reader::Reading;
use super::unlock::KeyArgs;
use crate::config::show_size;
use crate::history::{self, Entry, What};
use crate::log::Phase;
use crate::log::control::Chain;
use crate::types::{Fault, Identity, Seq};
use clap::Args;
use jiff::tz::TimeZone;
use serde::Serialize;
use std::io::{self, Write};

/// Which volume, and how much of its log.
#[derive(Debug, Args)]
pub struct HistoryArgs {
    /// The volume
    #[arg(value_name = "VOLUME", value_parser = Identity::parse)]
    volume: Identity,
    /// At most so many records
    #[arg(long, short = 'n', default_value_t = 20, value_name = "N")]
    limit: usize,
    /// Only records before this number
    #[arg(long, value_name = "SEQ")]
    before: Option<Seq>,
    #[command(flatten)]
    key: KeyArgs,
}

#[derive(Serialize)]
struct Shown {
    volume: String,
    newest: Seq,
    state: &'static str,
    records: Vec<Line>,
}

#[derive(Serialize)]
struct Line {
    record: Seq,
    time: String,
    epoch: u64,
    what: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    full: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    inodes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uploaded: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    note: String,
}

impl From<Entry> for Line {
    fn from(entry: Entry) -> Self {
        let time = at::timestamp(entry.time).to_string();
        let line = |what| Self {
            record: entry.seq,
            time,
            epoch: entry.epoch,
            what,
            full: None,
            inodes: None,
            bytes: None,
            uploaded: None,
            host: None,
            note: String::new(),
        };
        match entry.what {
            What::Open { holder } => Self { host: Some(holder.host), ..line("open") },
            What::Commit { full, inodes, bytes, uploaded, note } => {
                Self { full: Some(full), inodes: Some(inodes), bytes: Some(bytes), uploaded: Some(uploaded), note, ..line("commit") }
            }
            What::Close => line("close"),
            What::Fence => line("fence"),
            What::Void => line("void"),
        }
    }
}

impl Answer for Shown {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        let zone = TimeZone::system();
        writeln!(out, "{}: {} records, {}", self.volume, self.newest, self.state)?;
        for line in &self.records {
            let time = line.time.parse().map_or_else(|_| line.time.clone(), |time| at::show(time, &zone));
            write!(out, "{:>8}  {time}  {}", line.record, line.what)?;
            match (line.inodes, line.bytes, line.uploaded, &line.host) {
                (Some(inodes), Some(bytes), uploaded, _) => {
                    let partial = if line.full == Some(false) { ", not all tiers" } else { "" };
                    let uploaded = show_size(uploaded.unwrap_or(0));
                    let note = if line.note.is_empty() { String::new() } else { format!(", {}", line.note.escape_debug()) };
                    writeln!(out, "  {inodes} files and directories, {}, {uploaded} uploaded{partial}{note}", show_size(bytes))?;
                }
                (_, _, _, Some(host)) => writeln!(out, "  epoch {} on {host}", line.epoch)?,
                _ => writeln!(out)?,
            }
        }
        Ok(())
    }
}

pub(super) fn run(context: &Context, args: &HistoryArgs) -> Result<Exit, Fault> {
    let shown = context.run(async {
        let reading = Reading::start(context, &args.volume, &args.key).await?;
        let chain = Chain::read(reading.reader.site().clone()).await?;
        let history = history::list(&reading.reader, &chain.state().retired_seqs, args.before, args.limit).await?;
        let state = match history.tip.phase {
            Phase::Empty => "nothing was ever written",
            Phase::Open => "open: a writer has it, or ended without closing it",
            Phase::Closed => "closed: nothing is missing",
            Phase::Fenced => "purged",
        };
        let records = history.entries.into_iter().map(Line::from).collect();
        Ok(Shown { volume: args.volume.to_string(), newest: history.tip.seq, state, records })
    })?;
    context.answer(&shown)?;
    Ok(Exit::Done)
}
