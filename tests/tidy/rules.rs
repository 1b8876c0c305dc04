//! The rules themselves: each takes the tree of texts and gives back its findings, one line each.

use crate::lexer::tokens;
use crate::shape;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

const FILE_LINES_MAX: usize = 500;
const FUNCTION_LINES_MAX: usize = 70;
const TEST_MODULE_LINES_MAX: usize = 150;

/// Crates with one owner: whoever else needs what they do asks the owner.
const OWNED_CRATES: &[(&str, &str)] = &[("rusqlite", "cache"), ("object_store", "store"), ("fuser", "fuse"), ("age", "format")];

/// Every text of the package by its path: `*.rs`, `*.md`, and whatever else a rule wants to know the existence of.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    pub(crate) texts: BTreeMap<String, String>,
    pub(crate) paths: BTreeSet<String>,
}

impl Tree {
    pub(crate) fn read(root: &Path) -> Self {
        let mut tree = Self::default();
        tree.walk(root, "");
        tree
    }

    /// A tree made of given texts, for the tests of the rules.
    pub(crate) fn of(texts: &[(&str, &str)]) -> Self {
        let mut tree = Self::default();
        for (path, text) in texts {
            tree.insert(path, (*text).to_owned());
        }
        tree
    }

    fn insert(&mut self, path: &str, text: String) {
        self.add_path(path);
        self.texts.insert(path.to_owned(), text);
    }

    fn add_path(&mut self, path: &str) {
        for (slash, _) in path.match_indices('/') {
            self.paths.insert(path[..slash].to_owned());
        }
        self.paths.insert(path.to_owned());
    }

    fn walk(&mut self, root: &Path, below: &str) {
        let entries = std::fs::read_dir(root.join(below)).expect("a directory of the package is readable");
        for entry in entries {
            let entry = entry.expect("a directory entry is readable");
            let name = entry.file_name().into_string().expect("names in the package are UTF-8");
            let path = if below.is_empty() { name.clone() } else { format!("{below}/{name}") };
            if matches!(path.as_str(), "target" | "tmp" | ".git") || name == "__pycache__" {
                continue;
            }
            if entry.file_type().expect("a file type").is_dir() {
                self.add_path(&path);
                self.walk(root, &path);
            } else if let Ok(text) = std::fs::read_to_string(entry.path()) {
                self.insert(&path, text);
            } else {
                self.add_path(&path);
            }
        }
    }

    pub(crate) fn rust(&self) -> impl Iterator<Item = (&str, &str)> {
        let ours = |path: &str| ["src/", "tests/", "benches/", "build.rs"].iter().any(|root| path.starts_with(root));
        self.texts.iter().filter(move |(path, _)| path.ends_with(".rs") && ours(path)).map(|(path, text)| (path.as_str(), text.as_str()))
    }

    /// Files of the library and the binaries, with their path below `src/`.
    pub(crate) fn sources(&self) -> impl Iterator<Item = (&str, &str)> {
        self.rust().filter_map(|(path, text)| Some((path.strip_prefix("src/")?, text)))
    }
}

/// `tests/tidy/allow.txt`: `file PATH LINES reason`, `function PATH NAME LINES reason`, `tests PATH LINES reason`, `edge PATH MODULE reason`.
#[derive(Debug, Default)]
pub(crate) struct Allow {
    limits: BTreeMap<String, usize>,
    edges: BTreeSet<String>,
    faults: Vec<String>,
}

impl Allow {
    pub(crate) fn read(tree: &Tree) -> Self {
        let mut allow = Self::default();
        let text = tree.texts.get("tests/tidy/allow.txt").map_or("", String::as_str);
        for line in text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let (key_words, is_edge) = match words.first() {
                Some(&("file" | "tests")) => (2, false),
                Some(&"function") => (3, false),
                Some(&"edge") => (3, true),
                _ => (usize::MAX, false),
            };
            if words.len() < key_words.saturating_add(if is_edge { 3 } else { 4 }) {
                allow.faults.push(format!("tests/tidy/allow.txt: `{line}` has no known kind, no limit or no reason of three words"));
                continue;
            }
            let key = words[..key_words].join(" ");
            match (is_edge, words[key_words].parse()) {
                (true, _) => drop(allow.edges.insert(key)),
                (false, Ok(limit)) => drop(allow.limits.insert(key, limit)),
                (false, Err(_)) => allow.faults.push(format!("tests/tidy/allow.txt: `{line}` names no number")),
            }
        }
        allow
    }

    /// Over the limit, or an allowance that has become larger than the thing.
    fn check(&mut self, key: &str, place: &str, lines: usize, max: usize, findings: &mut Vec<String>) {
        let limit = self.limits.remove(key).unwrap_or(max);
        if lines > limit {
            findings.push(format!("{place}: {lines} lines, at most {limit}"));
        } else if limit > max && lines < limit {
            findings.push(format!("{place}: {lines} lines now; lower `{key} {limit}` in tests/tidy/allow.txt"));
        }
    }
}

pub(crate) fn upward_edges(tree: &Tree, allow: &Allow) -> Vec<String> {
    let mut findings = Vec::new();
    for (file, text) in tree.sources() {
        let path = shape::module_path(file);
        let Some(own) = path.first() else { continue };
        let Some(level) = shape::level(own) else {
            findings.push(format!("src/{file}: module `{own}` is not in the table of tests/tidy/shape.rs"));
            continue;
        };
        for (line, other) in shape::references(file, text) {
            let allowed = other == *own || allow.edges.contains(&format!("edge src/{file} {other}"));
            if !allowed && shape::level(&other).is_some_and(|others| others >= level) {
                findings.push(format!("src/{file}:{line}: `{own}` refers to `{other}`"));
            }
        }
    }
    findings
}

pub(crate) fn foreign_crates(tree: &Tree) -> Vec<String> {
    let mut findings = Vec::new();
    for (file, text) in tree.sources() {
        let path = shape::module_path(file);
        let own = path.first().map_or("", String::as_str);
        let tokens = tokens(text);
        for (index, token) in tokens.iter().enumerate() {
            let Some((name, owner)) = OWNED_CRATES.iter().find(|(name, _)| token.is_word(name)) else { continue };
            let inside_path = index > 0 && (tokens[index - 1].is_mark(':') || tokens[index - 1].is_mark('.'));
            let begins_path =
                tokens.get(index + 1).is_some_and(|next| next.is_mark(':')) && tokens.get(index + 2).is_some_and(|next| next.is_mark(':'));
            if own != *owner && begins_path && !inside_path {
                findings.push(format!("src/{file}:{}: `{name}` belongs to module `{owner}`", token.line));
            }
        }
    }
    findings
}

pub(crate) fn heads_and_orphans(tree: &Tree) -> Vec<String> {
    let mut findings = Vec::new();
    for (file, text) in tree.rust() {
        if !text.starts_with("//!") {
            findings.push(format!("{file}: does not begin with `//!`"));
        }
    }
    for (file, _) in tree.sources() {
        let Some((name, parents)) = parents_of(file) else { continue };
        let (folder, last) = file.rsplit_once('/').unwrap_or(("", file));
        let siblings = tree.sources().filter(|(other, _)| other.rsplit_once('/').map_or("", |(folder, _)| folder) == folder);
        if siblings.flat_map(|(_, text)| shape::paths_declared(text)).any(|path| path == last) {
            continue;
        }
        let declared = parents.iter().filter_map(|parent| tree.texts.get(&format!("src/{parent}")));
        if !declared.flat_map(|text| shape::declared_modules(text)).any(|declared| declared == name) {
            findings.push(format!("src/{file}: no `mod {name};` in {}", parents.join(" or ")));
        }
    }
    findings
}

/// The module's name and the files that may declare it; none for roots.
fn parents_of(file: &str) -> Option<(String, Vec<String>)> {
    let path = shape::module_path(file);
    let name = path.last()?.clone();
    let parent = &path[..path.len() - 1];
    if file.starts_with("bin/") {
        return None;
    }
    if parent.is_empty() {
        return Some((name, vec!["lib.rs".to_owned(), "main.rs".to_owned()]));
    }
    // A folder may be a program of its own too.
    let parent = parent.join("/");
    Some((name, vec![format!("{parent}/mod.rs"), format!("{parent}.rs"), format!("{parent}/main.rs")]))
}

pub(crate) fn sizes(tree: &Tree, allow: &mut Allow) -> Vec<String> {
    let mut findings = std::mem::take(&mut allow.faults);
    for (file, text) in tree.rust() {
        allow.check(&format!("file {file}"), file, text.lines().count(), FILE_LINES_MAX, &mut findings);
        for (name, line, lines) in shape::functions(text) {
            let place = format!("{file}:{line} fn {name}");
            allow.check(&format!("function {file} {name}"), &place, lines, FUNCTION_LINES_MAX, &mut findings);
        }
        for (line, lines) in if file.starts_with("src/") { shape::inline_tests(text) } else { Vec::new() } {
            allow.check(&format!("tests {file}"), &format!("{file}:{line} mod tests"), lines, TEST_MODULE_LINES_MAX, &mut findings);
        }
    }
    findings.extend(allow.limits.keys().map(|key| format!("tests/tidy/allow.txt: `{key}` no longer exists or is within the limit")));
    findings
}

/// Words of a document that look like a path of this package.
pub(crate) fn paths_named(document: &str) -> Vec<(usize, String)> {
    const ROOTS: &[&str] = &["src/", "tests/", "benches/", "docs/", "proto/", ".ci/", "fuzz/", "deploy/"];
    let mut found = Vec::new();
    for (index, line) in document.lines().enumerate() {
        for word in line.split(|c: char| c.is_whitespace() || "`()[]<>,;|\"'*{}".contains(c)) {
            let word = word.split(['#', ':']).next().unwrap_or("").trim_end_matches(['.', '/']).trim_start_matches("./");
            let bare_document = word.ends_with(".md") && !word.contains('/') && word.len() > 3;
            if bare_document || ROOTS.iter().any(|root| word.starts_with(root) && word.len() > root.len()) {
                found.push((index + 1, word.to_owned()));
            }
        }
    }
    found
}

pub(crate) fn document_paths(tree: &Tree) -> Vec<String> {
    let mut findings = Vec::new();
    for (document, text) in tree.texts.iter().filter(|(path, _)| path.ends_with(".md")) {
        let folder = document.rsplit_once('/').map_or("", |(folder, _)| folder);
        for (line, path) in paths_named(text) {
            let here = if folder.is_empty() { path.clone() } else { format!("{folder}/{path}") };
            if !tree.paths.contains(&path) && !tree.paths.contains(&here) {
                findings.push(format!("{document}:{line}: {path}"));
            }
        }
    }
    findings
}

/// How the paragraphs of SEMANTICS.md begin that promise something (those with a bold beginning): their first eight words.
pub(crate) fn promises(document: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (index, line) in document.lines().enumerate() {
        // Behind the mark of an item, `-`, `*` or a number.
        let item = line.trim_start().trim_start_matches(|c: char| c == '-' || c == '.' || c.is_ascii_digit()).trim_start();
        let text = item.strip_prefix("* ").unwrap_or(item);
        if text.starts_with("**") {
            let words: Vec<&str> = text.split_whitespace().take(8).collect();
            found.push((index + 1, unmarked(&words.join(" "))));
        }
    }
    found
}

/// Without Markdown's marks, which a comment may leave out.
fn unmarked(text: &str) -> String {
    text.replace(['*', '`'], "")
}

/// Each promise is quoted in a comment of a test, which holds it.
pub(crate) fn unquoted_promises(tree: &Tree) -> Vec<String> {
    let Some(document) = tree.texts.get("SEMANTICS.md") else { return Vec::new() };
    // Over line ends: a quotation may be wrapped where the document is not.
    let flat = |text: &str| unmarked(&text.lines().map(|line| line.trim().trim_start_matches('/').trim()).collect::<Vec<_>>().join(" "));
    let tests: Vec<String> =
        tree.rust().filter(|(file, _)| file.starts_with("tests/") || is_test_file(file)).map(|(_, text)| flat(text)).collect();
    let quoted = |promise: &str| tests.iter().any(|text| text.contains(promise));
    let missing = promises(document).into_iter().filter(|(_, promise)| !quoted(promise));
    missing.map(|(line, promise)| format!("SEMANTICS.md:{line}: no test quotes \"{promise} ...\"")).collect()
}

pub(crate) fn failpoints(tree: &Tree) -> Vec<String> {
    let mut findings = Vec::new();
    let mut passed: BTreeMap<String, String> = BTreeMap::new();
    for (file, text) in tree.sources().filter(|(file, _)| !is_test_file(file) && *file != "env/mod.rs") {
        let tests = shape::inline_tests(text);
        for (line, name) in shape::calls(text, "failpoint") {
            if tests.iter().any(|(first, lines)| (*first..first + lines).contains(&line)) {
                continue;
            }
            match name {
                None => findings.push(format!("src/{file}:{line}: name the failpoint by a literal, so that its test can be found")),
                Some(name) if name.split('.').next() != shape::module_path(file).first().map(String::as_str) => {
                    findings.push(format!("src/{file}:{line}: `{name}` does not begin with its module"));
                }
                Some(name) => drop(passed.insert(name, format!("src/{file}:{line}"))),
            }
        }
    }
    let tested = strings_of_tests(tree);
    for (name, place) in &passed {
        if !tested.iter().any(|text| text.split([',', ':', '=']).any(|part| part == name)) {
            findings.push(format!("{place}: no test names `{name}`"));
        }
    }
    for (file, text) in tree.rust() {
        for (line, name) in shape::calls(text, "arm").into_iter().filter_map(|(line, name)| Some((line, name?))) {
            let module = name.split_once('.').map_or("", |(module, _)| module);
            if shape::level(module).is_some() && !passed.contains_key(&name) {
                findings.push(format!("{file}:{line}: arms `{name}`, which no code passes"));
            }
        }
    }
    findings
}

fn is_test_file(file: &str) -> bool {
    file.ends_with("tests.rs") || file.contains("/tests/")
}

/// String literals of `tests/`, of `src/**/tests.rs` and of inline test modules.
fn strings_of_tests(tree: &Tree) -> BTreeSet<String> {
    let mut strings = BTreeSet::new();
    for (file, text) in tree.rust() {
        let whole = file.starts_with("tests/") || is_test_file(file);
        let inline = shape::inline_tests(text);
        for token in tokens(text) {
            if let Some(string) = token.text()
                && (whole || inline.iter().any(|(first, lines)| (*first..first + lines).contains(&token.line)))
            {
                strings.insert(string.to_owned());
            }
        }
    }
    strings
}

pub(crate) fn ignores(tree: &Tree) -> Vec<String> {
    let mut findings = Vec::new();
    for (file, text) in tree.rust() {
        let tokens = tokens(text);
        for index in 1..tokens.len() {
            if tokens[index].is_word("ignore")
                && tokens[index - 1].is_mark('[')
                && tokens.get(index + 1).is_some_and(|next| next.is_mark(']'))
            {
                findings.push(format!("{file}:{}", tokens[index].line));
            }
        }
    }
    findings
}

/// What a text may not contain, with the reason. Written in pieces so that this file is not its own finding.
fn banned() -> Vec<(String, &'static str)> {
    [
        (["TO", "DO"], "what is not done is absent, or an issue"),
        (["FIX", "ME"], "fix it, or open an issue"),
        (["XX", "X"], "say what is meant"),
        (["unimplemented", "!("], "what is not there is absent"),
        (["todo", "!("], "what is not there is absent"),
        (["dbg", "!("], "left over from debugging"),
        (["/wo", "rk/"], "a path of one machine"),
        (["arti", "factory"], "the name of one registry mirror"),
        (["<<<<", "<<<"], "a merge's leftover"),
    ]
    .into_iter()
    .map(|(pieces, reason)| (pieces.concat(), reason))
    .collect()
}

/// Whether a line has the word by itself: `XXXXXX` of a temporary name is another word.
fn has_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(start, _)| {
        let (before, after) = (line[..start].chars().next_back(), line[start + word.len()..].chars().next());
        let joined =
            |edge: Option<char>, own: Option<char>| edge.is_some_and(char::is_alphanumeric) && own.is_some_and(char::is_alphanumeric);
        !joined(before, word.chars().next()) && !joined(after, word.chars().next_back())
    })
}

pub(crate) fn banned_words(tree: &Tree) -> Vec<String> {
    let banned = banned();
    let mut findings = Vec::new();
    for (path, text) in tree.texts.iter().filter(|(path, _)| !matches!(path.as_str(), "Cargo.lock" | "LICENSE")) {
        for (index, line) in text.lines().enumerate() {
            for (word, reason) in banned.iter().filter(|(word, _)| has_word(line, word)) {
                findings.push(format!("{path}:{}: `{word}`: {reason}", index + 1));
            }
        }
    }
    findings
}

mod tests {
    use super::*;

    #[test]
    fn upward_and_sideways_edges_are_found_and_can_be_allowed() {
        let sources = [("src/cache/meta.rs", "//! x\nuse crate::types::Ino;\nuse crate::store::Store;\nuse crate::volume::Volume;\n")];
        let tree = Tree::of(&sources);
        assert_eq!(
            upward_edges(&tree, &Allow::default()),
            ["src/cache/meta.rs:3: `cache` refers to `store`", "src/cache/meta.rs:4: `cache` refers to `volume`"]
        );
        let mut texts = sources.to_vec();
        texts.push(("tests/tidy/allow.txt", "edge src/cache/meta.rs store until it moves down\nedge src/cache/meta.rs volume\n"));
        let tree = Tree::of(&texts);
        let allow = Allow::read(&tree);
        assert_eq!(upward_edges(&tree, &allow), ["src/cache/meta.rs:4: `cache` refers to `volume`"]);
        assert_eq!(allow.faults.len(), 1, "an allowance without a reason is a finding");
        assert_eq!(upward_edges(&Tree::of(&[("src/odd/mod.rs", "")]), &allow).len(), 1, "an unknown module is a finding");
    }

    #[test]
    fn a_foreign_crate_outside_its_home_is_found() {
        let tree = Tree::of(&[
            ("src/cache/a.rs", "use rusqlite::Row;"),
            ("src/volume/b.rs", "fn f(r: &rusqlite::Row) { let fuser = 1; }"),
            ("src/log/c.rs", "crate::fuser::x"),
        ]);
        assert_eq!(foreign_crates(&tree), ["src/volume/b.rs:1: `rusqlite` belongs to module `cache`"]);
    }

    #[test]
    fn missing_heads_and_uncompiled_files_are_found() {
        let tree = Tree::of(&[
            ("src/lib.rs", "//! l\npub mod log;"),
            ("src/log/mod.rs", "//! m\nmod head;"),
            ("src/log/head.rs", "fn a() {}"),
            ("src/log/lost.rs", "//! x"),
        ]);
        assert_eq!(
            heads_and_orphans(&tree),
            ["src/log/head.rs: does not begin with `//!`", "src/log/lost.rs: no `mod lost;` in log/mod.rs or log.rs or log/main.rs"]
        );
    }

    #[test]
    fn sizes_are_a_ratchet() {
        let long = format!("//! x\nfn f() {{\n{}}}\n", "    g();\n".repeat(80));
        let check = |allowance: &str| {
            let tree = Tree::of(&[("src/log/a.rs", &long), ("tests/tidy/allow.txt", allowance)]);
            sizes(&tree, &mut Allow::read(&tree))
        };
        assert_eq!(check(""), ["src/log/a.rs:2 fn f: 82 lines, at most 70"]);
        assert!(check("function src/log/a.rs f 82 one state machine\n").is_empty());
        assert_eq!(check("function src/log/a.rs f 90 one state machine\n").len(), 1, "an allowance that grew too large is a finding");
        assert_eq!(check("function src/log/a.rs f 82 one state machine\nfile src/gone.rs 900 it was large once\n").len(), 1);
    }

    #[test]
    fn paths_in_documents_are_recognised() {
        let text = "see `src/log/mod.rs`, [the map](ARCHITECTURE.md#where) and tests/sim/*.rs:12 at https://example.org/src/no.";
        let names: Vec<String> = paths_named(text).into_iter().map(|(_, path)| path).collect();
        assert_eq!(names, ["src/log/mod.rs", "ARCHITECTURE.md", "tests/sim"]);
        let tree = Tree::of(&[
            ("README.md", "src/log/mod.rs src/log and src/gone.rs"),
            ("docs/a.md", "b.md docs/b.md"),
            ("docs/b.md", ""),
            ("src/log/mod.rs", ""),
        ]);
        assert_eq!(document_paths(&tree), ["README.md:1: src/gone.rs"]);
    }

    #[test]
    fn promises_without_a_test_are_found() {
        let document =
            "# Title\n\n**S1.** A `rename` is atomic, whoever looks finds one of both.\n\n- **fsync keeps**: yes\nNo **bold** here.\n";
        let test = "/// S1. A rename is\n/// atomic, whoever looks finds one of both.\n#[test]\nfn a() {}";
        let tree = Tree::of(&[("SEMANTICS.md", document), ("tests/fuse/rename.rs", test), ("src/log/a.rs", "// fsync keeps: yes")]);
        assert_eq!(unquoted_promises(&tree), ["SEMANTICS.md:5: no test quotes \"fsync keeps: yes ...\""]);
    }

    #[test]
    fn failpoints_without_tests_and_tests_without_failpoints_are_found() {
        let source = "//! x\nfn a(e: Env) { e.failpoint(\"log.after_put\"); e.failpoint(\"cache.wrong\"); e.failpoint(\"log.never\"); e.failpoint(NAME) }";
        let test =
            "fn t() { points.arm(\"log.after_put\", 1, x); points.arm(\"log.gone\", 1, x); set(\"HOLDFAST_FAILPOINTS=log.other:2\") }";
        let findings = failpoints(&Tree::of(&[("src/log/a.rs", source), ("tests/crash.rs", test)]));
        let expected = ["does not begin with its module", "by a literal", "no test names `log.never`", "arms `log.gone`"];
        assert_eq!(findings.len(), expected.len(), "{findings:?}");
        assert!(findings.iter().zip(expected).all(|(finding, part)| finding.contains(part)), "{findings:?}");
    }

    #[test]
    fn ignores_and_banned_words_are_found() {
        let attribute = ["#[ign", "ore]\nfn a() {}\n#[ign", "ore = \"needs a day\"]\nfn b() {}"].concat();
        assert_eq!(ignores(&Tree::of(&[("tests/a.rs", &attribute)])), ["tests/a.rs:1"]);
        let text = ["fine\n// TO", "DO later\nmktemp X", "XXXXX\n"].concat();
        assert_eq!(banned_words(&Tree::of(&[("src/a.rs", &text)])).len(), 1);
        assert_eq!(banned_words(&Tree::of(&[("src/a.rs", "fine\n")])).len(), 0);
    }
}
