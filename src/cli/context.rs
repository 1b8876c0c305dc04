//! What every command has: settings, the world, and one way to answer.

use super::exit;
use crate::config::Settings;
use crate::env::Env;
use crate::types::{Fault, FaultKind};
use serde::Serialize;
use std::future::Future;
use std::io::{self, IsTerminal, Write};

/// A command's answer: the same facts for people and for programs.
pub trait Answer: Serialize {
    /// The answer for people.
    ///
    /// # Errors
    /// The output cannot be written.
    fn text(&self, out: &mut dyn Write) -> io::Result<()>;
}

/// What a command works with.
#[derive(Debug)]
pub struct Context {
    /// The checked settings.
    pub settings: Settings,
    /// Clock and chance.
    pub env: Env,
    /// Answers are JSON documents.
    pub json: bool,
}

impl Context {
    /// Writes an answer to standard output: text, or with `--json` one JSON document.
    ///
    /// # Errors
    /// It cannot be written. Who stopped reading has what was wanted: that is none.
    pub fn answer(&self, answer: &impl Answer) -> Result<(), Fault> {
        let mut out = io::BufWriter::new(io::stdout().lock());
        let written = if self.json { write_json(&mut out, answer) } else { answer.text(&mut out) };
        match written.and_then(|()| out.flush()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                Err(Fault::with(FaultKind::Local, "the answer cannot be written to standard output", error))
            }
            _ => Ok(()),
        }
    }

    /// A line for the person who waits, on standard error; nothing with `--json`.
    pub fn say(&self, line: &str) {
        if !self.json {
            let _ = writeln!(io::stderr(), "{line}");
        }
    }

    /// Now, in the local zone.
    #[must_use]
    pub fn now(&self) -> jiff::Zoned {
        super::at::now(self.env.now())
    }

    /// Whether progress may be drawn.
    #[must_use]
    pub fn draws(&self) -> bool {
        !self.json && io::stderr().is_terminal()
    }

    /// Runs a future to its end on a runtime of its own.
    ///
    /// # Errors
    /// The future's, or there is no runtime.
    pub fn run<T>(&self, future: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        runtime.map_err(|error| Fault::with(FaultKind::Local, "no threads can be started", error))?.block_on(future)
    }
}

fn write_json(out: &mut dyn Write, value: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, value)?;
    out.write_all(b"\n")
}

#[derive(Serialize)]
struct ErrorDocument {
    error: ErrorFields,
}

#[derive(Serialize)]
struct ErrorFields {
    kind: &'static str,
    message: String,
    exit_code: u8,
}

/// Where the document of an error goes, when documents are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Documents {
    /// None is asked for.
    No,
    /// As answers do.
    Output,
    /// Standard output has a file's bytes or an archive: nothing may stand behind them.
    Errors,
}

/// Tells why a command failed: for people on standard error; with `--json` also a document on standard output, or on standard error alone.
pub(super) fn report(fault: &Fault, documents: Documents) {
    let error = ErrorFields { kind: exit::word(fault.kind), message: fault.to_string(), exit_code: exit::code(fault.kind) };
    if documents == Documents::Errors {
        let _ = write_json(&mut io::stderr(), &ErrorDocument { error });
        return;
    }
    let _ = writeln!(io::stderr(), "holdfast: {fault}");
    if documents == Documents::Output {
        let _ = write_json(&mut io::stdout(), &ErrorDocument { error });
    }
}
