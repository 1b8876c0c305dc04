//! Tests that a document names, as "`a`, `b` in `tests/file.rs`": they are where it says.

use super::rules::Tree;

fn is_place(text: &str) -> bool {
    text.starts_with("tests/") || text.starts_with("src/")
}

/// The names before each "in `place`" of a line, with that place.
pub(crate) fn tests_named(line: &str) -> Vec<(Vec<String>, String)> {
    let parts: Vec<&str> = line.split('`').collect();
    let mut found = Vec::new();
    // Odd parts stand in backticks.
    for at in (1..parts.len()).step_by(2) {
        let place = parts[at];
        if parts[at - 1] != " in " || !is_place(place) {
            continue;
        }
        let mut names = Vec::new();
        let mut name = at - 1;
        while let Some(before) = name.checked_sub(1).filter(|before| !is_place(parts[*before])) {
            names.push(parts[before].to_owned());
            match before.checked_sub(1) {
                Some(between) if [", ", " and "].contains(&parts[between]) => name = between,
                _ => break,
            }
        }
        found.push((names, place.to_owned()));
    }
    found
}

/// Names of a document that no file of their place has.
pub(crate) fn missing(tree: &Tree) -> Vec<String> {
    let mut findings = Vec::new();
    for (document, text) in tree.texts.iter().filter(|(path, _)| path.ends_with(".md")) {
        for (index, line) in text.lines().enumerate() {
            for (names, place) in tests_named(line) {
                let below = format!("{place}/");
                let texts: Vec<&String> =
                    tree.texts.iter().filter(|(path, _)| **path == place || path.starts_with(&below)).map(|(_, text)| text).collect();
                let has = |name: &String| {
                    texts.iter().any(|text| text.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == name))
                };
                findings
                    .extend(names.iter().filter(|name| !has(name)).map(|name| format!("{document}:{}: `{name}` in {place}", index + 1)));
            }
        }
    }
    findings
}

#[test]
fn names_before_a_place_are_found_and_looked_for() {
    let line = "| a | `one`, `two_b` in `tests/a.rs`, `three` in `src/b`; planted: `Four` in `tests/sim/bugs.rs` and `five` |";
    let found: Vec<(usize, String)> = tests_named(line).into_iter().map(|(names, place)| (names.len(), place)).collect();
    assert_eq!(found, [(2, "tests/a.rs".to_owned()), (1, "src/b".to_owned()), (1, "tests/sim/bugs.rs".to_owned())]);
    let tree = Tree::of(&[
        ("docs/a.md", line),
        ("tests/a.rs", "fn one() {} fn two_bc() {}"),
        ("src/b/c.rs", "fn three() {}"),
        ("tests/sim/bugs.rs", "Four,"),
    ]);
    assert_eq!(missing(&tree), ["docs/a.md:1: `two_b` in tests/a.rs"]);
}
