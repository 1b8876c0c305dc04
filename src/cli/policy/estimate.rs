//! `holdfast policy estimate DIR`: walks a directory and counts what each rule would decide.

use super::tags;
use crate::cli::context::{Answer, Context};
use crate::cli::exit::Exit;
use crate::config::show_size;
use crate::policy::{Estimate, Policy, Standing};
use crate::types::{Fault, FaultKind};
use clap::Args;
use serde::Serialize;
use std::collections::HashSet;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Which directory.
#[derive(Debug, Args)]
pub struct EstimateArgs {
    /// The directory that would be the volume's root
    dir: PathBuf,
}

#[derive(Serialize)]
struct Estimated {
    policy: String,
    dir: String,
    rules: Vec<EstimatedRule>,
    commits_per_day_max: u64,
    unreadable: u64,
    #[serde(skip)]
    strict: bool,
}

#[derive(Serialize)]
struct EstimatedRule {
    line: usize,
    rule: String,
    tier: String,
    files: u64,
    bytes: u64,
}

impl Answer for Estimated {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{} under {}", self.dir, self.policy)?;
        writeln!(out, "{:>10} {:>10}  rule", "files", "bytes")?;
        for EstimatedRule { line, rule, files, bytes, .. } in &self.rules {
            writeln!(out, "{files:>10} {:>10}  {rule}  (line {line})", show_size(*bytes))?;
        }
        writeln!(out, "At most {} commits a day, if something changes all the time; none while nothing does.", self.commits_per_day_max)?;
        if self.strict {
            writeln!(out, "Each fsync in the tier strict may ask for one more.")?;
        }
        if self.unreadable > 0 {
            writeln!(out, "{} entries could not be read and are not counted.", self.unreadable)?;
        }
        Ok(())
    }
}

struct Walk {
    policy: Policy,
    estimate: Estimate,
    // Hard links: a file's bytes count once.
    seen: HashSet<(u64, u64)>,
    unreadable: u64,
    left: Vec<(PathBuf, Vec<u8>, Standing)>,
}

pub(super) fn run(context: &Context, args: &EstimateArgs) -> Result<Exit, Fault> {
    let policy = context.settings.read_policy()?;
    let cannot = |error| Fault::with(FaultKind::Invalid, format!("{} cannot be read", args.dir.display()), error);
    std::fs::read_dir(&args.dir).map_err(cannot)?;
    let root = policy.root();
    let estimate = Estimate::new(policy.clone());
    let left = vec![(args.dir.clone(), Vec::new(), root)];
    let mut walk = Walk { policy, estimate, seen: HashSet::new(), unreadable: 0, left };
    while let Some((dir, path, standing)) = walk.left.pop() {
        walk.directory(&dir, &path, standing);
    }
    let rules = walk.estimate.rules().into_iter().map(|rule| EstimatedRule {
        line: rule.line,
        rule: rule.rule,
        tier: rule.tier.to_string(),
        files: rule.files,
        bytes: rule.bytes,
    });
    let strict = walk.policy.has_strict();
    context.answer(&Estimated {
        policy: super::check::name(&context.settings),
        dir: args.dir.display().to_string(),
        rules: rules.collect(),
        commits_per_day_max: walk.estimate.commits_per_day_max(),
        unreadable: walk.unreadable,
        strict,
    })?;
    Ok(Exit::Done)
}

impl Walk {
    fn directory(&mut self, dir: &Path, path: &[u8], standing: Standing) {
        let Ok(entries) = std::fs::read_dir(dir) else {
            self.unreadable += 1;
            return;
        };
        for entry in entries {
            // Of the entry itself: links are not followed.
            let Ok((entry, meta)) = entry.and_then(|entry| entry.metadata().map(|meta| (entry, meta))) else {
                self.unreadable += 1;
                continue;
            };
            let mut below = path.to_vec();
            if !below.is_empty() {
                below.push(b'/');
            }
            below.extend_from_slice(entry.file_name().as_bytes());
            let here = entry.path();
            let standing = self.policy.enter(standing, &below, meta.is_dir(), || tags::is_tagged(&here));
            if meta.is_dir() {
                self.left.push((here, below, standing));
            } else {
                let first = meta.nlink() < 2 || self.seen.insert((meta.dev(), meta.ino()));
                self.estimate.add(standing, if meta.is_file() && first { meta.len() } else { 0 });
            }
        }
    }
}
