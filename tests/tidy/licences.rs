//! What `cargo deny check licenses bans sources` says of `deny.toml`, from what cargo itself knows: no tool to be installed, no network.

use std::collections::BTreeSet;

/// The lists of `deny.toml`: quoted strings of `allow = [...]`, and the crates that are banned.
pub(crate) struct Lists {
    pub(crate) allowed: BTreeSet<String>,
    pub(crate) banned: BTreeSet<String>,
}

impl Lists {
    pub(crate) fn read(toml: &str) -> Self {
        let text: String = toml.lines().map(|line| line.split('#').next().unwrap_or_default()).collect::<Vec<_>>().join("\n");
        let within = |opening: &str| {
            let rest = text.split_once(opening).map_or("", |(_, rest)| rest);
            rest.split_once(']').map_or("", |(list, _)| list).to_owned()
        };
        let quoted = |list: String| list.split('"').skip(1).step_by(2).map(str::to_owned).collect();
        Self { allowed: quoted(within("\nallow = [")), banned: quoted(within("\ndeny = [")) }
    }
}

/// Whether an SPDX expression can be met with these licences: one of `OR`, all of `AND`; `AND` binds closer, and `/` is an old `OR`.
pub(crate) fn met(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    let met = either(&words, &mut at, allowed);
    met && at == words.len()
}

fn either(words: &[&str], at: &mut usize, allowed: &BTreeSet<String>) -> bool {
    let mut met = both(words, at, allowed);
    while words.get(*at) == Some(&"OR") {
        *at += 1;
        met |= both(words, at, allowed);
    }
    met
}

fn both(words: &[&str], at: &mut usize, allowed: &BTreeSet<String>) -> bool {
    let mut met = one(words, at, allowed);
    while words.get(*at) == Some(&"AND") {
        *at += 1;
        met &= one(words, at, allowed);
    }
    met
}

fn one(words: &[&str], at: &mut usize, allowed: &BTreeSet<String>) -> bool {
    let Some(word) = words.get(*at) else { return false };
    *at += 1;
    if *word == "(" {
        let met = either(words, at, allowed);
        let closed = words.get(*at) == Some(&")");
        *at += 1;
        return met && closed;
    }
    let mut name = (*word).to_owned();
    if words.get(*at) == Some(&"WITH") {
        name = format!("{word} WITH {}", words.get(*at + 1).unwrap_or(&""));
        *at += 2;
    }
    allowed.contains(&name)
}

/// One finding for each package that the lists do not allow. `metadata`: what `cargo metadata` prints.
pub(crate) fn findings(lists: &Lists, metadata: &serde_json::Value) -> Vec<String> {
    let mut findings = Vec::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let text = |field: &str| package[field].as_str().unwrap_or_default();
        let (name, version) = (text("name"), text("version"));
        if !met(text("license"), &lists.allowed) {
            findings.push(format!("{name} {version}: licence `{}` is not met by deny.toml", text("license")));
        }
        if lists.banned.contains(name) {
            findings.push(format!("{name} {version}: deny.toml bans it"));
        }
        let source = text("source");
        // Empty: a package of this tree.
        if !source.is_empty() && source != "registry+https://github.com/rust-lang/crates.io-index" {
            findings.push(format!("{name} {version}: it comes from {source}"));
        }
    }
    findings
}
