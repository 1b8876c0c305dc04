//! `holdfast scrub DIR`: asks the driver of a mount to look at its cache.

use super::context::{Answer, Context};
use super::control::{Ask, Reply, Scrubbed};
use super::exit::{Exit, code};
use super::live::{ask_with_bar, unexpected};
use crate::config::{parse_size, show_size};
use crate::types::{Fault, FaultKind};
use clap::Args;
use serde::Serialize;
use std::io::{self, Write};
use std::path::PathBuf;

/// `holdfast scrub`.
#[derive(Debug, Args)]
#[command(after_help = "Exits with 0 when nothing differed or all that did is mended, with 6 when bytes could not be fetched anew.")]
pub struct ScrubArgs {
    /// The directory where the volume is mounted
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// Bytes of the cache looked at in a second
    #[arg(long, value_name = "SIZE", default_value = "32MiB", value_parser = rate)]
    pub rate: u64,
}

fn rate(text: &str) -> Result<u64, String> {
    parse_size(text).ok_or_else(|| "a size with its unit, such as 32MiB".to_owned())
}

/// `holdfast scrub`.
pub(super) fn run(context: &Context, args: &ScrubArgs) -> Result<Exit, Fault> {
    match ask_with_bar(context, &args.dir, Ask::Scrub { rate: args.rate })? {
        Reply::Scrubbed(scrubbed) => {
            let left = scrubbed.bad_bytes > scrubbed.healed_bytes;
            context.answer(&ScrubAnswer { scrubbed })?;
            Ok(if left { Exit::Code(code(FaultKind::Damaged)) } else { Exit::Done })
        }
        _ => Err(unexpected()),
    }
}

#[derive(Serialize)]
struct ScrubAnswer {
    #[serde(flatten)]
    scrubbed: Scrubbed,
}

impl Answer for ScrubAnswer {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        let Scrubbed { commit, rows, difference_count, repaired_in, bytes, uncompared_bytes, bad_bytes, healed_bytes, .. } = &self.scrubbed;
        match commit {
            Some(commit) => writeln!(out, "{rows} names and inodes compared with record {commit}, {difference_count} differed.")?,
            None => writeln!(out, "There is no commit to compare the names with.")?,
        }
        for found in &self.scrubbed.differences {
            writeln!(out, "  {}: {}", found.path, if found.kept { "newer here, kept" } else { "now as committed" })?;
        }
        if let Some(repaired) = repaired_in {
            writeln!(out, "  The repair is in commit {repaired}.")?;
        }
        let beside = if *uncompared_bytes == 0 { String::new() } else { format!(" ({} could not be)", show_size(*uncompared_bytes)) };
        writeln!(out, "{} of clean data compared with their checksums{beside}, {} differed.", show_size(*bytes), show_size(*bad_bytes))?;
        for bad in &self.scrubbed.bad {
            let left = bad.left.as_ref().map_or_else(|| "fetched anew".to_owned(), |why| format!("NOT fetched anew: {why}"));
            writeln!(out, "  {} at {}, {} bytes: {left}", bad.path, bad.offset, bad.length)?;
        }
        if bad_bytes > healed_bytes {
            writeln!(out, "Reads of what was not fetched wait for the store; nothing wrong is shown.")?;
        }
        Ok(())
    }
}
