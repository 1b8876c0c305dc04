//! Text -> rules, with errors that say line, what is wrong and what is allowed.

use super::duration;
use super::rule::{CACHEDIR_PATTERN, Glob, Pattern, Rule};
use super::tier::Tier;
use std::time::Duration;

/// A policy is written by people: more than this is a mistake, and each rule costs a match per path.
const RULES_MAX: usize = 1000;
const TEXT_MAX: usize = 64 << 10;

const TIERS: &str = "`continuous [LAG]` or `local`";

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
        "continuous" => continuous(parameters),
        "local" => match parameters {
            [] => Ok(Tier::Local),
            [first, ..] => Err(unknown_parameter("local", first, "`local` alone: it has no parameters")),
        },
        "strict" | "debounced" | "scheduled" => {
            Err((format!("the tier `{name}` is not in this version, which has continuous and local"), TIERS.to_owned()))
        }
        other => Err((format!("`{}` is no tier", other.escape_debug()), TIERS.to_owned())),
    }
}

fn continuous(parameters: &[&str]) -> Result<Tier, Refusal> {
    let allowed = "`continuous`, `continuous 1s` or `continuous lag=1s`";
    let lag = match parameters {
        [] => return Ok(Tier::DEFAULT),
        [one] => match one.split_once('=') {
            None => one,
            Some(("lag", value)) => value,
            Some(_) => return Err(unknown_parameter("continuous", one, allowed)),
        },
        [first, second, ..] => {
            let extra = if first.starts_with("lag=") || !first.contains('=') { second } else { first };
            return Err(unknown_parameter("continuous", extra, allowed));
        }
    };
    let Some(lag) = duration::parse_duration(lag) else {
        return Err((format!("`{}` is no duration", lag.escape_debug()), duration::ALLOWED.to_owned()));
    };
    if (Tier::LAG_MIN..=Tier::LAG_MAX).contains(&lag) {
        Ok(Tier::Continuous { lag })
    } else {
        Err((format!("a lag of {} is out of range", show(lag)), format!("{} to {}", show(Tier::LAG_MIN), show(Tier::LAG_MAX))))
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
