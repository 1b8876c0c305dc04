//! The code and the documents look at their own shape: the house's module table, sizes, names, paths and words.
//!
//! Every rule is a pure function with a test of its own on small strings, so that a rule that stopped seeing anything is noticed.
//! What may exceed a limit stands in `tests/tidy/allow.txt` with its reason; the limits there only ever go down.
#![allow(clippy::expect_used, reason = "a tree that cannot be read is a failed test")]

#[path = "tidy/lexer.rs"]
mod lexer;
#[path = "tidy/licences.rs"]
mod licences;
#[path = "tidy/named.rs"]
mod named;
#[path = "tidy/rules.rs"]
mod rules;
#[path = "tidy/shape.rs"]
mod shape;

use rules::{Allow, Tree};
use std::path::Path;

fn report(title: &str, findings: Vec<String>) {
    assert!(findings.is_empty(), "{title}:\n  {}\n", findings.join("\n  "));
}

fn tree() -> Tree {
    Tree::read(Path::new(env!("CARGO_MANIFEST_DIR")))
}

#[test]
fn modules_depend_only_downwards() {
    let tree = tree();
    report("a module refers to its own level or above (levels: tests/tidy/shape.rs)", rules::upward_edges(&tree, &Allow::read(&tree)));
}

#[test]
fn each_foreign_crate_has_one_home() {
    report("a crate is used outside the one module that owns it", rules::foreign_crates(&tree()));
}

#[test]
fn licences_bans_and_sources_are_those_of_deny_toml() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let lists = licences::Lists::read(&std::fs::read_to_string(root.join("deny.toml")).expect("deny.toml"));
    let mut command = std::process::Command::new(env!("CARGO"));
    // The platform of this machine: the manifests of other platforms' crates may not be here.
    command.args(["metadata", "--format-version", "1", "--offline", "--locked", "--filter-platform", "x86_64-unknown-linux-gnu"]);
    let output = command.current_dir(root).output().expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata = serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON");
    report("a dependency that deny.toml does not allow", licences::findings(&lists, &metadata));
}

#[test]
fn licence_expressions_are_read_as_spdx_says() {
    let lists =
        licences::Lists::read("[licenses]\nallow = [\n  \"MIT\", # why\n  \"A WITH B\",\n]\n[bans]\ndeny = [\n { crate = \"bad\" },\n]\n");
    let met = |expression: &str| licences::met(expression, &lists.allowed);
    for good in ["MIT", "GPL-3.0 OR MIT", "MIT/Apache-2.0", "(GPL-3.0 OR MIT) AND MIT", "A WITH B", "GPL AND X OR MIT"] {
        assert!(met(good), "{good}");
    }
    for bad in ["", "GPL-3.0", "MIT AND GPL-3.0", "A", "(MIT", "MIT MIT", "GPL OR (MIT AND X)", "A WITH C"] {
        assert!(!met(bad), "{bad}");
    }
    let package = |name: &str, license: &str, source: &str| serde_json::json!({"name": name, "version": "1.0.0", "license": license, "source": source});
    let metadata = serde_json::json!({"packages": [package("bad", "MIT", ""), package("x", "GPL", ""), package("y", "MIT", "git+https://example.org/y")]});
    assert_eq!(licences::findings(&lists, &metadata).len(), 3);
}

#[test]
fn each_file_says_what_it_is_for_and_is_compiled() {
    report("a file has no head (`//!`) or no `mod` line declares it", rules::heads_and_orphans(&tree()));
}

#[test]
fn files_and_functions_stay_small() {
    let tree = tree();
    report("too long, or tests/tidy/allow.txt can be lowered", rules::sizes(&tree, &mut Allow::read(&tree)));
}

/// Who writes a reader of their own has this one to go by: it stays one that is read in an hour.
#[test]
fn the_independent_reader_stays_below_300_lines() {
    let reader = include_str!("reader/holdfast_reader.py");
    assert!(reader.lines().count() <= 300, "tests/reader/holdfast_reader.py has {} lines", reader.lines().count());
}

#[test]
fn every_path_named_in_a_document_exists() {
    report("a document names a path that is not there", rules::document_paths(&tree()));
}

#[test]
fn every_test_named_in_a_document_exists() {
    report("a document names a test that is not there", named::missing(&tree()));
}

#[test]
fn every_promise_has_a_test_that_quotes_it() {
    report("SEMANTICS.md promises what no test holds", rules::unquoted_promises(&tree()));
}

#[test]
fn every_failpoint_has_a_test_and_every_armed_one_exists() {
    report("failpoints and tests disagree", rules::failpoints(&tree()));
}

#[test]
fn every_ignored_test_says_why() {
    report("`#[ignore]` without a reason", rules::ignores(&tree()));
}

#[test]
fn banned_words_stay_out() {
    report("a banned word", rules::banned_words(&tree()));
}
