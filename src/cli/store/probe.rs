//! `holdfast store probe`.

use crate::cli::context::{Answer, Context};
use crate::cli::exit::Exit;
use crate::cli::unlock;
use crate::store::{OpenOptions, ProbeReport, Verdict, open, probe};
use crate::types::{Fault, FaultKind};
use clap::Args;
use serde::Serialize;
use std::io::{self, Write};

/// No arguments of its own.
#[derive(Debug, Args)]
#[command(after_help = "Writes a few hundred small objects under `probe/` and removes them where that is allowed.")]
pub struct ProbeArgs {}

#[derive(Serialize)]
struct Probed {
    store: String,
    trusted: bool,
    checks: Vec<ProbedCheck>,
    cleaned: bool,
    put_milliseconds: u64,
}

/// One property; it is looked at many times.
#[derive(Serialize)]
struct ProbedCheck {
    what: &'static str,
    passed: usize,
    of: usize,
}

impl Answer for Probed {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{} can be trusted with a log of commits:", self.store)?;
        for ProbedCheck { what, passed, of } in &self.checks {
            writeln!(out, "  {passed:>3} of {of:>3}  {what}")?;
        }
        writeln!(out, "A put takes {} ms.", self.put_milliseconds)?;
        if !self.cleaned {
            writeln!(out, "The probe's objects stay under `probe/`: these credentials may not delete.")?;
        }
        Ok(())
    }
}

/// The fault of a store that is not trusted.
pub(super) fn refusal(report: &ProbeReport, url: &str) -> Option<Fault> {
    let why = || report.reasons().into_iter().take(3).collect::<Vec<_>>().join("; ");
    match report.verdict {
        Verdict::Trusted => None,
        Verdict::Refused => {
            let message = format!(
                "{url} cannot hold volumes: two writers could both believe that they won a commit's number ({}); where no volume ever has \
                 two writers, `store init --single-writer` says so",
                why()
            );
            Some(Fault::new(FaultKind::Invalid, message))
        }
        Verdict::Unknown => {
            let message = format!("some of the probe's requests to {url} had no answer ({}); run it again", why());
            Some(Fault::new(FaultKind::Unknown, message))
        }
    }
}

pub(super) fn run(context: &Context, _args: &ProbeArgs) -> Result<Exit, Fault> {
    let url = unlock::url(&context.settings)?;
    let report = context.run(async {
        let store = open(&url, &context.env, &OpenOptions::default())?;
        Ok(probe(&*store, &context.env).await?)
    })?;
    if let Some(fault) = refusal(&report, &url.to_string()) {
        return Err(fault);
    }
    let mut checks: Vec<ProbedCheck> = Vec::new();
    for check in &report.checks {
        let passed = usize::from(check.passed == Some(true));
        match checks.iter_mut().find(|known| known.what == check.what) {
            Some(known) => (known.passed, known.of) = (known.passed + passed, known.of + 1),
            None => checks.push(ProbedCheck { what: check.what, passed, of: 1 }),
        }
    }
    let put_milliseconds = u64::try_from(report.put_time.as_millis()).unwrap_or(u64::MAX);
    context.answer(&Probed { store: url.to_string(), trusted: true, checks, cleaned: report.cleaned, put_milliseconds })?;
    Ok(Exit::Done)
}
