//! The set-up of the log: `tracing` to standard error, as text for people or JSON for machines.

use crate::types::{Fault, FaultKind};
use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

/// How a line of the log looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Checks a filter: a level (`info`) or `module=level` parts separated by commas.
///
/// # Errors
/// Says what is allowed.
pub(crate) fn parse_filter(filter: &str) -> Result<EnvFilter, Fault> {
    // The parser's own message says the same twice and not which text it was.
    EnvFilter::builder().parse(filter).map_err(|_| {
        let allowed = "error, warn, info, debug, trace, off, or parts such as `holdfast::store=debug,info`";
        Fault::new(FaultKind::Invalid, format!("`{}` is no log level; allowed: {allowed}", filter.escape_debug()))
    })
}

/// Starts the log of this process, once.
///
/// # Errors
/// The filter is malformed, or a log was started before.
pub fn init_logs(format: LogFormat, filter: &str) -> Result<(), Fault> {
    let filter = parse_filter(filter)?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let result = match format {
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    result.map_err(|error| Fault::new(FaultKind::Invalid, format!("the log cannot be started: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filter_takes_levels_and_parts_and_refuses_the_rest() {
        for good in ["info", "warn", "holdfast::store=debug,info", "off"] {
            assert!(parse_filter(good).is_ok(), "{good}");
        }
        let error = parse_filter("holdfast=loud").unwrap_err().to_string();
        assert!(error.contains("holdfast=loud") && error.contains("debug"), "{error}");
    }
}
