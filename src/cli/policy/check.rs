//! `holdfast policy check [FILE]`.

use super::next::Next;
use crate::cli::context::{Answer, Context};
use crate::cli::exit::Exit;
use crate::config::Settings;
use crate::policy::{Policy, Tier};
use crate::types::Fault;
use clap::Args;
use serde::Serialize;
use std::io::{self, Write};
use std::path::PathBuf;

/// Which file.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// The policy's file, or `preset:NAME` [default: --policy, else the built-in policy]
    file: Option<PathBuf>,
}

#[derive(Serialize)]
struct Checked {
    policy: String,
    rules: Vec<CheckedRule>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

#[derive(Serialize)]
struct CheckedRule {
    line: usize,
    rule: String,
    tier: String,
    #[serde(skip_serializing_if = "Next::is_empty")]
    next: Next,
}

impl Answer for Checked {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        let rules = if self.rules.len() == 1 { "rule" } else { "rules" };
        writeln!(out, "{}: {} {rules}, understood", self.policy, self.rules.len())?;
        for CheckedRule { line, rule, tier, next } in &self.rules {
            writeln!(out, "{line:>5}  {rule}  ->  {tier}")?;
            if !next.is_empty() {
                writeln!(out, "       next: {next}")?;
            }
        }
        for warning in &self.warnings {
            writeln!(out, "Warning: {warning}.")?;
        }
        Ok(())
    }
}

/// The name of the policy in force, for people.
pub(super) fn name(settings: &Settings) -> String {
    settings.policy.as_ref().map_or_else(|| "the built-in policy".to_owned(), |path| path.display().to_string())
}

pub(super) fn run(context: &Context, args: CheckArgs) -> Result<Exit, Fault> {
    let mut settings = context.settings.clone();
    settings.policy = args.file.or(settings.policy);
    let policy: Policy = settings.read_policy()?;
    let now = context.env.now();
    let checked = |(line, rule, tier): (usize, &str, &Tier)| CheckedRule {
        line,
        rule: rule.to_owned(),
        tier: tier.to_string(),
        next: Next::of(tier, now),
    };
    context.answer(&Checked { policy: name(&settings), rules: policy.rules().map(checked).collect(), warnings: policy.warnings() })?;
    Ok(Exit::Done)
}
