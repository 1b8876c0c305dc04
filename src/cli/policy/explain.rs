//! `holdfast policy explain PATH..`.

use super::next::Next;
use super::tags;
use crate::cli::context::{Answer, Context};
use crate::cli::exit::Exit;
use crate::types::{Fault, FaultKind, show_name};
use clap::Args;
use serde::Serialize;
use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Which paths.
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// Paths from the volume's root; one that ends in `/` is a directory
    #[arg(required = true)]
    paths: Vec<OsString>,
    /// Look there for what is a directory and for CACHEDIR.TAG files
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
}

#[derive(Serialize)]
struct Answers {
    policy: String,
    paths: Vec<PathAnswer>,
    #[serde(skip)]
    tags_unknown: bool,
}

#[derive(Serialize)]
struct PathAnswer {
    path: String,
    tier: String,
    line: usize,
    rule: String,
    matched: String,
    #[serde(skip_serializing_if = "Next::is_empty")]
    next: Next,
}

impl Answer for Answers {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        for PathAnswer { path, tier, line, rule, matched, next } in &self.paths {
            let about = if matched == path { String::new() } else { format!(", which matches `{matched}`") };
            writeln!(out, "{path}: {tier}\n    by line {line} of {}: `{rule}`{about}", self.policy)?;
            if !next.is_empty() {
                writeln!(out, "    next: {next}")?;
            }
        }
        if self.tags_unknown {
            writeln!(out, "No directory is taken to hold a CACHEDIR.TAG; --root DIR looks.")?;
        }
        Ok(())
    }
}

pub(super) fn run(context: &Context, args: &ExplainArgs) -> Result<Exit, Fault> {
    let policy = context.settings.read_policy()?;
    let mut paths = Vec::new();
    for given in &args.paths {
        let (path, ends_in_slash) = clean(given)?;
        let here = |part: &[u8]| args.root.as_ref().map(|root| root.join(OsStr::from_bytes(part)));
        let is_dir = ends_in_slash || here(&path).is_some_and(|path| is_dir(&path));
        let explained = policy.explain(&path, is_dir, &mut |dir| here(dir).is_some_and(|dir| tags::is_tagged(&dir)));
        paths.push(PathAnswer {
            path: shown(&path),
            next: Next::of(&explained.tier, context.env.now()),
            tier: explained.tier.to_string(),
            line: explained.line,
            rule: explained.rule,
            matched: shown(&explained.matched),
        });
    }
    let tags_unknown = args.root.is_none() && policy.needs_tags();
    context.answer(&Answers { policy: super::check::name(&context.settings), paths, tags_unknown })?;
    Ok(Exit::Done)
}

fn shown(path: &[u8]) -> String {
    if path.is_empty() { "/".to_owned() } else { show_name(path) }
}

fn is_dir(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|meta| meta.is_dir())
}

fn clean(given: &OsStr) -> Result<(Vec<u8>, bool), Fault> {
    let bytes = given.as_bytes();
    let parts: Vec<&[u8]> = bytes.split(|byte| *byte == b'/').filter(|part| !part.is_empty()).collect();
    if parts.iter().any(|part| matches!(*part, b"." | b"..")) {
        let message = format!("the path `{}` has a part `.` or `..`; write it out from the volume's root", show_name(bytes));
        return Err(Fault::new(FaultKind::Invalid, message));
    }
    Ok((parts.join(&b'/'), bytes.ends_with(b"/")))
}
