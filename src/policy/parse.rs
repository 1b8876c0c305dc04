//! Text -> rules, with errors that say line, what is wrong and what is allowed.

use super::duration;
use super::rule::{CACHEDIR_PATTERN, Glob, Pattern, Rule};
use super::schedule::{self, Schedule};
use super::tier::Tier;
use std::time::Duration;

/// A policy is written by people: more than this is a mistake, and each rule costs a match per path.
const RULES_MAX: usize = 1000;
const TEXT_MAX: usize = 64 << 10;

const TIERS: &str = "`strict`, `continuous [LAG]`, `debounced`, `scheduled TIMES` or `local`";

/// Why a text is no policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("policy line {line}: {what}; allowed: {allowed}")]
pub struct PolicyError {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong.
    pub what: String,
    /// What would be right there.
    pub allowed: String,
}

struct Words<'t> {
    line: usize,
    words: Vec<&'t str>,
}

pub(super) fn rules(text: &str) -> Result<Vec<Rule>, PolicyError> {
    let refuse = |line, what: String, allowed: &str| Err(PolicyError { line, what, allowed: allowed.to_owned() });
    if text.len() > TEXT_MAX {
        return refuse(1, format!("the text has {} bytes", text.len()), "at most 64 KiB");
    }
    let mut rules: Vec<Rule> = Vec::new();
    let mut lines = 0;
    for (at, line) in text.lines().enumerate() {
        lines = at + 1;
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(last) = rules.last().filter(|rule| is_last(rule)) {
            let what = format!("a rule after `{}` in line {} never decides anything", last.text, last.line);
            return refuse(lines, what, "`* TIER` as the last line only");
        }
        if rules.len() == RULES_MAX {
            return refuse(lines, format!("more than {RULES_MAX} rules"), "fewer");
        }
        rules.push(rule(Words { line: lines, words: split(line) }, line)?);
    }
    if !rules.last().is_some_and(is_last) {
        return refuse(
            lines.max(1),
            "the last line does not say what all other paths have".to_owned(),
            "a last line `* TIER`, such as `* continuous 1s`",
        );
    }
    Ok(rules)
}

/// The built-in policy's rules, made without parsing so that there is nothing to fail (a test holds the two equal).
pub(super) fn built_in() -> Vec<Rule> {
    let tag = Rule { pattern: Pattern::CachedirTag, tier: Tier::Local, line: 1, text: "@cachedir-tag local".to_owned() };
    let rest = Rule { pattern: Pattern::Everything, tier: Tier::DEFAULT, line: 2, text: "* continuous 1s".to_owned() };
    vec![tag, rest]
}

fn is_last(rule: &Rule) -> bool {
    matches!(rule.pattern, Pattern::Everything)
}

/// Words divided by blanks; a blank behind a `\` belongs to its word.
fn split(line: &str) -> Vec<&str> {
    let mut words = Vec::new();
    let (mut start, mut escaped) = (None, false);
    for (at, c) in line.char_indices() {
        if c.is_whitespace() && !escaped {
            words.extend(start.take().and_then(|from: usize| line.get(from..at)));
        } else if start.is_none() {
            start = Some(at);
        }
        escaped = c == '\\' && !escaped;
    }
    words.extend(start.and_then(|from| line.get(from..)));
    words
}

fn rule(words: Words<'_>, text: &str) -> Result<Rule, PolicyError> {
    let Words { line, words } = words;
    let refuse = |what: String, allowed: &str| PolicyError { line, what, allowed: allowed.to_owned() };
    let [pattern, tier, parameters @ ..] = words.as_slice() else {
        return Err(refuse(format!("`{text}` has no tier"), "`PATTERN TIER [parameters]`; a blank inside a pattern is written `\\ `"));
    };
    let pattern = match *pattern {
        CACHEDIR_PATTERN => Pattern::CachedirTag,
        "*" => Pattern::Everything,
        other => {
            // `\@` is this grammar's own escape; the glob would take it as well, but only since it takes any.
            let glob =
                Glob::new(other).map_err(|why| refuse(format!("`{other}` is no pattern: {why}"), "one gitignore pattern without `!`"))?;
            Pattern::Glob(glob)
        }
    };
    let tier = self::tier(tier, parameters).map_err(|(what, allowed)| refuse(what, &allowed))?;
    Ok(Rule { pattern, tier, line, text: text.to_owned() })
}

type Refusal = (String, String);

fn tier(name: &str, parameters: &[&str]) -> Result<Tier, Refusal> {
    match name {
        "strict" => {
            let [wait] = times("strict", parameters, [("wait", Tier::WAIT)], None, "`strict` or `strict wait=30s`")?;
            Ok(Tier::Strict { wait })
        }
        "continuous" => {
            let allowed = "`continuous`, `continuous 1s` or `continuous lag=1s`";
            let [lag] = times("continuous", parameters, [("lag", Tier::LAG)], Some("lag"), allowed)?;
            Ok(Tier::Continuous { lag })
        }
        "debounced" => {
            let allowed = "`debounced`, with `quiet=5s` or `max=5min` or both";
            let [quiet, max] = times("debounced", parameters, [("quiet", Tier::QUIET), ("max", Tier::MAX)], None, allowed)?;
            if quiet > max {
                let what = format!("a quiet of {} is never reached before the max of {}", show(quiet), show(max));
                return Err((what, "`quiet` at most `max`".to_owned()));
            }
            Ok(Tier::Debounced { quiet, max })
        }
        "local" => match parameters {
            [] => Ok(Tier::Local),
            [first, ..] => Err(unknown_parameter("local", first, "`local` alone: it has no parameters")),
        },
        "scheduled" => match parameters.iter().find(|word| word.starts_with("max-size=")) {
            Some(word) => Err(unknown_parameter("scheduled", word, schedule::ALLOWED)),
            None => Ok(Tier::Scheduled(Schedule::parse(parameters)?)),
        },
        other => Err((format!("`{}` is no tier", other.escape_debug()), TIERS.to_owned())),
    }
}

/// The durations of a tier, in the order of `known`, which has the name of each and what it is when it is not said. `bare`: the one whose
/// name may be left out.
fn times<const N: usize>(
    tier: &str,
    parameters: &[&str],
    known: [(&str, Duration); N],
    bare: Option<&str>,
    allowed: &str,
) -> Result<[Duration; N], Refusal> {
    let mut said = [None; N];
    for word in parameters {
        let (name, value) = word.split_once('=').map_or((bare, *word), |(name, value)| (Some(name), value));
        let at = known.iter().position(|(known, _)| Some(*known) == name);
        let Some(place) = at.and_then(|at| said.get_mut(at)).filter(|place| place.is_none()) else {
            return Err(unknown_parameter(tier, word, allowed));
        };
        *place = Some(duration(name.unwrap_or_default(), value)?);
    }
    let mut times = known.map(|(_, default)| default);
    for (time, said) in times.iter_mut().zip(said) {
        *time = said.unwrap_or(*time);
    }
    Ok(times)
}

fn duration(name: &str, text: &str) -> Result<Duration, Refusal> {
    let Some(time) = duration::parse_duration(text) else {
        return Err((format!("`{}` is no duration", text.escape_debug()), duration::ALLOWED.to_owned()));
    };
    if (Tier::LAG_MIN..=Tier::LAG_MAX).contains(&time) {
        Ok(time)
    } else {
        Err((format!("a {name} of {} is out of range", show(time)), format!("{} to {}", show(Tier::LAG_MIN), show(Tier::LAG_MAX))))
    }
}

fn unknown_parameter(tier: &str, word: &str, allowed: &str) -> Refusal {
    let name = word.split_once('=').map_or(word, |(name, _)| name);
    let what = match name {
        "max-size" => "the parameter `max-size` is not in this version".to_owned(),
        _ => format!("`{}` is no parameter of {tier}", word.escape_debug()),
    };
    (what, allowed.to_owned())
}

fn show(duration: Duration) -> String {
    duration::show_duration(duration)
}
