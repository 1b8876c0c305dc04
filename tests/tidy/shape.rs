//! Who refers to whom, and how long things are: pure functions from source text to findings.

use crate::lexer::{Token, tokens};

/// The modules of the house and their levels: a module refers only to modules of lower levels.
pub(crate) const LEVELS: &[(&str, u8)] = &[
    ("types", 0),
    ("rpc", 0),
    ("env", 1),
    ("telemetry", 1),
    ("format", 1),
    ("policy", 1),
    ("keeper", 1),
    ("config", 2),
    ("store", 2),
    ("cache", 2),
    ("k8s", 2),
    ("log", 3),
    ("peer", 3),
    ("hydrate", 4),
    ("writeback", 4),
    ("history", 4),
    ("volume", 5),
    ("controller", 6),
    ("fuse", 6),
    ("node", 7),
    ("csi", 8),
    ("cli", 9),
];

pub(crate) fn level(module: &str) -> Option<u8> {
    LEVELS.iter().find(|(name, _)| *name == module).map(|(_, level)| *level)
}

/// The module path of a file below `src/`: `cache/meta/mod.rs` is `cache::meta`.
pub(crate) fn module_path(file: &str) -> Vec<String> {
    let mut path: Vec<String> = file.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
    if path.last().is_some_and(|last| last == "mod" || last == "lib" || last == "main") {
        path.pop();
    }
    path
}

/// Every reference to a top-level module, by `crate::x`, `crate::{x, y}` or enough `super`s: line and name.
pub(crate) fn references(file: &str, source: &str) -> Vec<(usize, String)> {
    let tokens = tokens(source);
    let home = module_path(file).len();
    let mut inline: Vec<usize> = Vec::new();
    let (mut depth, mut index) = (0, 0);
    let mut found = Vec::new();
    while index < tokens.len() {
        let token = &tokens[index];
        if token.is_mark('{') {
            depth += 1;
            if index >= 2 && tokens[index - 2].is_word("mod") {
                inline.push(depth);
            }
        } else if token.is_mark('}') {
            if inline.last() == Some(&depth) {
                inline.pop();
            }
            depth -= 1;
        }
        let starts_path = index == 0 || !(tokens[index - 1].is_mark(':') && index > 1 && tokens[index - 2].is_mark(':'));
        if starts_path && token.is_word("crate") && at_colons(&tokens, index + 1) {
            first_segments(&tokens, index + 3, &mut found);
        } else if starts_path && token.is_word("super") {
            let mut supers = 1;
            while at_colons(&tokens, index + 1) && tokens.get(index + 3).is_some_and(|next| next.is_word("super")) {
                supers += 1;
                index += 3;
            }
            if supers >= home + inline.len() && at_colons(&tokens, index + 1) {
                first_segments(&tokens, index + 3, &mut found);
            }
        }
        index += 1;
    }
    found
}

fn at_colons(tokens: &[Token], index: usize) -> bool {
    tokens.get(index).is_some_and(|token| token.is_mark(':')) && tokens.get(index + 1).is_some_and(|token| token.is_mark(':'))
}

/// The first names of a path, or of each path of a use tree.
fn first_segments(tokens: &[Token], start: usize, found: &mut Vec<(usize, String)>) {
    let Some(first) = tokens.get(start) else { return };
    if let Some(word) = first.word() {
        found.push((first.line, word.to_owned()));
    } else if first.is_mark('{') {
        let (mut depth, mut expects) = (0, false);
        for token in &tokens[start..] {
            if token.is_mark('{') {
                depth += 1;
                expects = depth == 1;
            } else if token.is_mark('}') {
                depth -= 1;
                if depth == 0 {
                    return;
                }
            } else if token.is_mark(',') {
                expects = depth == 1;
            } else if let (Some(word), true) = (token.word(), expects) {
                found.push((token.line, word.to_owned()));
                expects = false;
            }
        }
    }
}

/// Every function with a body: name, first line, number of lines from `fn` to its closing brace.
pub(crate) fn functions(source: &str) -> Vec<(String, usize, usize)> {
    let tokens = tokens(source);
    let mut found = Vec::new();
    for (index, token) in tokens.iter().enumerate() {
        let Some(name) = tokens.get(index + 1).and_then(Token::word) else { continue };
        if !token.is_word("fn") {
            continue;
        }
        if let Some(open) = body(&tokens, index) {
            found.push((name.to_owned(), token.line, tokens[close(&tokens, open)].line - token.line + 1));
        }
    }
    found
}

/// Inline test modules: first line and number of lines.
pub(crate) fn inline_tests(source: &str) -> Vec<(usize, usize)> {
    let tokens = tokens(source);
    let opens = (2..tokens.len()).filter(|index| {
        tokens[*index].is_mark('{')
            && tokens[index - 2].is_word("mod")
            && tokens[index - 1].word().is_some_and(|name| name.contains("test"))
    });
    opens.map(|open| (tokens[open].line, tokens[close(&tokens, open)].line - tokens[open].line + 1)).collect()
}

/// The `{` of a function's body; none for a declaration.
fn body(tokens: &[Token], start: usize) -> Option<usize> {
    let mut depth = 0;
    for (index, token) in tokens.iter().enumerate().skip(start) {
        if token.is_mark('(') || token.is_mark('[') {
            depth += 1;
        } else if token.is_mark(')') || token.is_mark(']') {
            depth -= 1;
        } else if depth == 0 && token.is_mark(';') {
            return None;
        } else if depth == 0 && token.is_mark('{') {
            return Some(index);
        }
    }
    None
}

fn close(tokens: &[Token], open: usize) -> usize {
    let mut depth = 0;
    for (index, token) in tokens.iter().enumerate().skip(open) {
        if token.is_mark('{') {
            depth += 1;
        } else if token.is_mark('}') {
            depth -= 1;
            if depth == 0 {
                return index;
            }
        }
    }
    tokens.len() - 1
}

/// Names given to `mod x;`, so that a file nobody compiles is noticed.
pub(crate) fn declared_modules(source: &str) -> Vec<String> {
    let tokens = tokens(source);
    let names = (0..tokens.len().saturating_sub(2)).filter(|index| tokens[*index].is_word("mod"));
    names.filter_map(|index| tokens[index + 1].word().map(str::to_owned)).collect()
}

/// Files named by `#[path = "..."]`.
pub(crate) fn paths_declared(source: &str) -> Vec<String> {
    let tokens = tokens(source);
    let places = (0..tokens.len().saturating_sub(2)).filter(|index| tokens[*index].is_word("path") && tokens[index + 1].is_mark('='));
    places.filter_map(|index| tokens[index + 2].text().map(str::to_owned)).collect()
}

/// String literals that are the argument of the method `name`: line and text; `None` for any other argument.
pub(crate) fn calls(source: &str, name: &str) -> Vec<(usize, Option<String>)> {
    let tokens = tokens(source);
    let mut found = Vec::new();
    for index in 1..tokens.len() {
        if tokens[index].is_word(name) && tokens[index - 1].is_mark('.') && tokens.get(index + 1).is_some_and(|token| token.is_mark('(')) {
            found.push((tokens[index].line, tokens.get(index + 2).and_then(Token::text).map(str::to_owned)));
        }
    }
    found
}

mod tests {
    use super::*;

    fn names(file: &str, source: &str) -> Vec<String> {
        references(file, source).into_iter().map(|(_, name)| name).collect()
    }

    #[test]
    fn references_are_seen_in_every_spelling() {
        assert_eq!(names("cache/mod.rs", "use crate::log::Writer;"), ["log"]);
        assert_eq!(names("cache/mod.rs", "use crate::{types::{Ino, Seq}, env::Env, log};"), ["types", "env", "log"]);
        assert_eq!(names("cache/mod.rs", "fn a() { super::fuse::run() }"), ["fuse"]);
        assert_eq!(names("cache/meta.rs", "use super::fuse; use super::super::fuse::x;"), ["fuse"]);
        assert_eq!(names("cache/mod.rs", "mod tests { use super::fuse; use super::super::volume; }"), ["volume"]);
        assert_eq!(names("cache/mod.rs", "// crate::fuse\nlet a = \"crate::fuse\"; pub(crate) fn b() {} pub(super) fn c() {}"), [""; 0]);
    }

    #[test]
    fn function_lengths_skip_declarations_and_see_bodies() {
        let source = "trait T { fn declared(&self, a: [u8; 4]); }\nfn one() -> u8 { 1 }\nfn three<F>(f: F)\nwhere F: Fn() {\n}\n";
        assert_eq!(functions(source), [("one".to_owned(), 2, 1), ("three".to_owned(), 3, 3)]);
    }

    #[test]
    fn test_modules_and_declarations_are_measured() {
        assert_eq!(inline_tests("fn a() {}\nmod tests {\n fn b() { {} }\n}\n"), [(2, 3)]);
        assert_eq!(declared_modules("pub mod a; mod b { }"), ["a", "b"]);
    }

    #[test]
    fn failpoint_calls_give_their_literal() {
        let source = "env.failpoint(\"log.after_put\"); env.failpoint(NAME); fn failpoint(x: u8) {}";
        assert_eq!(calls(source, "failpoint"), [(1, Some("log.after_put".to_owned())), (1, None)]);
    }
}
