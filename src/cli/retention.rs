//! `holdfast retention plan|apply`: which commits the rules keep, each with its reasons, and an end to the others.

use super::at;
use super::context::{Answer, Context};
use super::exit::Exit;
use super::gc::Done;
use super::reader::{Reading, VolumeArgs};
use crate::history::retention::{Plan, PlanId, Planned, plan};
use crate::history::{Sweeping, sweep};
use crate::log::plan::Why;
use crate::policy::retention::{DEFAULT_PROFILE, Last, Rules};
use crate::rpc::Claim;
use crate::store;
use crate::types::{Fault, FaultKind, Identity, Seq};
use crate::volume::AUTHOR;
use clap::{Args, Subcommand};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::{self, Write};

/// What to do with the rules of `--retention`.
#[derive(Debug, Subcommand)]
pub enum RetentionCommand {
    /// Show what the rules keep of a volume and why, and what would go; nothing is changed
    Plan(VolumeArgs),
    /// Retire what the rules do not keep, and delete what only that needed
    Apply(ApplyArgs),
}

/// Which volume, and which plan.
#[derive(Debug, Args)]
pub struct ApplyArgs {
    #[command(flatten)]
    of: VolumeArgs,
    /// The plan's name, as `retention plan` printed it: just that is carried out, or nothing
    #[arg(long, value_name = "PLAN", required_unless_present = "yes")]
    plan: Option<PlanId>,
    /// Plan now and carry it out at once
    #[arg(long, conflicts_with = "plan")]
    yes: bool,
}

/// A plan older than this is not carried out, in seconds.
const PLAN_SECONDS_MAX: i64 = 86_400;
/// A plan that keeps less than this is warned of, in nanoseconds.
const SPAN_MIN: i64 = 86_400 * 1_000_000_000;

#[derive(Serialize)]
struct Shown {
    volume: String,
    plan: String,
    rules: String,
    /// Nobody gave rules: these are the default profile's.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    default_rules: bool,
    kept: usize,
    retiring: usize,
    span_seconds: i64,
    warnings: Vec<String>,
    commits: Vec<Line>,
    ending: Vec<Ending>,
}

#[derive(Serialize)]
struct Line {
    commit: Seq,
    cut: Timestamp,
    full: bool,
    /// None: it goes.
    reasons: Vec<String>,
}

#[derive(Serialize)]
struct Ending {
    claim: u64,
    kind: String,
    name: String,
    commit: Seq,
}

fn reason(why: &Why, claims: &BTreeMap<u64, Claim>) -> String {
    match why {
        Why::Head => "newest".to_owned(),
        Why::BeforeOpen => "a branch may stand on it".to_owned(),
        Why::Recent => "not below the newest checkpoint".to_owned(),
        Why::Rule(reason) => reason.to_string(),
        Why::Claimed(number) => claims.get(number).map_or_else(String::new, |claim| {
            let of = if claim.name.is_empty() { &claim.reason } else { &claim.name };
            format!("{} {}", claim.kind, of.escape_debug())
        }),
    }
}

impl Shown {
    fn new(volume: &Identity, plan: &Plan, rules: &Rules, default_rules: bool) -> Self {
        let line = |commit: &Planned| Line {
            commit: commit.seq,
            cut: at::timestamp(commit.cut),
            full: commit.full,
            reasons: commit.why.iter().map(|why| reason(why, &plan.claims)).collect(),
        };
        let ending = |(number, claim): (&u64, &Claim)| Ending {
            claim: *number,
            kind: claim.kind.clone(),
            name: claim.name.clone(),
            commit: claim.seq,
        };
        Self {
            volume: volume.to_string(),
            plan: plan.id.to_string(),
            rules: rules.to_string(),
            default_rules,
            kept: plan.kept(),
            retiring: plan.commits.len() - plan.kept(),
            span_seconds: plan.span() / 1_000_000_000,
            warnings: warnings(plan, rules),
            commits: plan.commits.iter().map(line).collect(),
            ending: plan.ending.iter().map(ending).collect(),
        }
    }
}

fn warnings(plan: &Plan, rules: &Rules) -> Vec<String> {
    let mut warnings = Vec::new();
    if plan.span() < SPAN_MIN && plan.kept() < plan.commits.len() {
        warnings.push("what is kept spans less than 24 h: a mistake that is noticed tomorrow cannot be undone".to_owned());
    }
    if matches!(rules.last, Some(Last::Snapshots(_))) && rules.snapshot.is_none() {
        let why = "`last` counts snapshots of a schedule, and no rule makes any: `snapshot=daily`, or `last=commits:N` for commits";
        warnings.push(why.to_owned());
    }
    warnings
}

impl Answer for Shown {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        let zone = TimeZone::system();
        if self.default_rules {
            writeln!(out, "No rules were given; these are the profile {DEFAULT_PROFILE}'s, which nothing carries out unless it is said.")?;
        }
        writeln!(out, "rules: {}", self.rules)?;
        for line in &self.commits {
            let what = if line.reasons.is_empty() { "goes".to_owned() } else { line.reasons.join(", ") };
            writeln!(out, "{:>8}  {}  {what}", line.commit, at::show(line.cut, &zone))?;
        }
        for ending in &self.ending {
            writeln!(out, "{} {} (commit {}) ends", ending.kind, ending.name.escape_debug(), ending.commit)?;
        }
        let span = at::show_age(u64::try_from(self.span_seconds).unwrap_or(0));
        writeln!(out, "{}: {} commits are kept, over {span}; {} go.", self.volume, self.kept, self.retiring)?;
        self.warnings.iter().try_for_each(|warning| writeln!(out, "Note: {warning}."))?;
        writeln!(out, "plan {}", self.plan)
    }
}

pub(super) fn run(context: &Context, command: RetentionCommand) -> Result<Exit, Fault> {
    match command {
        RetentionCommand::Plan(args) => context.answer(&context.run(show(context, &args))?)?,
        RetentionCommand::Apply(args) => context.answer(&context.run(apply(context, &args))?)?,
    }
    Ok(Exit::Done)
}

async fn show(context: &Context, args: &VolumeArgs) -> Result<Shown, Fault> {
    let given = context.settings.retention.clone();
    let default_rules = given.is_none();
    let rules = match given {
        Some(rules) => rules,
        None => Rules::parse(DEFAULT_PROFILE).map_err(|error| Fault::new(FaultKind::Invalid, error.to_string()))?,
    };
    let reading = Reading::start(context, &args.volume, &args.key).await?;
    let now = store::now(&*reading.books.store, &context.env).await?;
    let plan = plan(&reading.objects, &reading.reader, &rules, now).await?;
    Ok(Shown::new(&args.volume, &plan, &rules, default_rules))
}

/// The rules that were given; retention is never carried out by rules that nobody gave.
pub(super) fn rules(context: &Context) -> Result<&Rules, Fault> {
    context.settings.retention.as_ref().ok_or_else(|| {
        let why = format!(
            "nobody said which commits to keep: give rules, in the settings' file or with --retention, such as `--retention {DEFAULT_PROFILE}`; \
             `holdfast retention plan` shows what they keep"
        );
        Fault::new(FaultKind::Invalid, why)
    })
}

async fn apply(context: &Context, args: &ApplyArgs) -> Result<Done, Fault> {
    let rules = rules(context)?;
    let VolumeArgs { volume, key } = &args.of;
    let reading = Reading::start(context, volume, key).await?;
    let now = store::now(&*reading.books.store, &context.env).await?;
    let (mut planned, mut when) = (None, now);
    if let Some(id) = args.plan {
        let age = now.div_euclid(1_000_000_000) - id.seconds;
        let stale =
            |why: &str| Fault::new(FaultKind::Stale, format!("plan {id} is not carried out: {why}; plan again: `holdfast retention plan`"));
        if id.rules != PlanId::fingerprint(rules) {
            return Err(stale("it was made by other rules"));
        }
        if age > PLAN_SECONDS_MAX {
            return Err(stale("it is more than a day old"));
        }
        // The store's clock counts whole seconds on some stores.
        if age < -1 {
            return Err(stale("it is of a time that has not come yet"));
        }
        (planned, when) = (Some((id.newest, id.control)), id.now());
    }
    let sweeping = Sweeping { rules: Some(rules), planned, dry_run: false, author: AUTHOR, now: when };
    let swept = sweep(&reading.objects, &reading.reader, &sweeping).await?;
    Ok(Done::new(volume, &swept, false))
}
