//! A Rust lexer just good enough to look at the shape of code: words, strings and punctuation with their lines, no comments.

/// One token and the line it begins on, counted from 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) line: usize,
    pub(crate) what: What,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum What {
    Word(String),
    Text(String),
    Mark(char),
}

impl Token {
    pub(crate) fn is_word(&self, word: &str) -> bool {
        matches!(&self.what, What::Word(own) if own == word)
    }

    pub(crate) fn is_mark(&self, mark: char) -> bool {
        self.what == What::Mark(mark)
    }

    pub(crate) fn word(&self) -> Option<&str> {
        if let What::Word(word) = &self.what { Some(word) } else { None }
    }

    pub(crate) fn text(&self) -> Option<&str> {
        if let What::Text(text) = &self.what { Some(text) } else { None }
    }
}

struct Lexer<'a> {
    rest: &'a [u8],
    line: usize,
    tokens: Vec<Token>,
}

/// The tokens of a source text. Comments, numbers' meaning and lifetimes are dropped; escapes in strings are left as they are.
pub(crate) fn tokens(source: &str) -> Vec<Token> {
    let mut lexer = Lexer { rest: source.as_bytes(), line: 1, tokens: Vec::new() };
    while !lexer.rest.is_empty() {
        lexer.step();
    }
    lexer.tokens
}

impl Lexer<'_> {
    fn take(&mut self, count: usize) -> String {
        let (taken, rest) = self.rest.split_at(count.min(self.rest.len()));
        self.line += taken.iter().filter(|byte| **byte == b'\n').count();
        self.rest = rest;
        String::from_utf8_lossy(taken).into_owned()
    }

    fn push(&mut self, line: usize, what: What) {
        self.tokens.push(Token { line, what });
    }

    fn step(&mut self) {
        let line = self.line;
        let first = self.rest[0];
        if self.rest.starts_with(b"//") {
            let end = self.rest.iter().position(|byte| *byte == b'\n').unwrap_or(self.rest.len());
            self.take(end);
        } else if self.rest.starts_with(b"/*") {
            self.block_comment();
        } else if let Some((open, hashes)) = raw_string(self.rest) {
            self.take(open);
            let close = format!("\"{}", "#".repeat(hashes));
            let end = find(self.rest, close.as_bytes());
            let text = self.take(end);
            self.take(close.len());
            self.push(line, What::Text(text));
        } else if first == b'"' || self.rest.starts_with(b"b\"") || self.rest.starts_with(b"c\"") {
            self.take(if first == b'"' { 1 } else { 2 });
            let text = self.until_quote(b'"');
            self.push(line, What::Text(text));
        } else if first == b'\'' {
            self.quote();
        } else if first == b'_' || first.is_ascii_alphabetic() || first >= 0x80 {
            let end = self.rest.iter().position(|byte| !is_word_byte(*byte)).unwrap_or(self.rest.len());
            let word = self.take(end);
            self.push(line, What::Word(word));
        } else if first.is_ascii_digit() {
            let end = self.rest.iter().position(|byte| !is_word_byte(*byte)).unwrap_or(self.rest.len());
            self.take(end);
        } else {
            self.take(1);
            if !first.is_ascii_whitespace() {
                self.push(line, What::Mark(char::from(first)));
            }
        }
    }

    fn block_comment(&mut self) {
        let mut depth = 0;
        loop {
            if self.rest.starts_with(b"/*") {
                depth += 1;
                self.take(2);
            } else if self.rest.starts_with(b"*/") {
                depth -= 1;
                self.take(2);
            } else {
                self.take(1);
            }
            if depth == 0 || self.rest.is_empty() {
                return;
            }
        }
    }

    fn until_quote(&mut self, quote: u8) -> String {
        let mut end = 0;
        while end < self.rest.len() && self.rest[end] != quote {
            end += if self.rest[end] == b'\\' { 2 } else { 1 };
        }
        let text = self.take(end);
        self.take(1);
        text
    }

    /// A character literal or a lifetime.
    fn quote(&mut self) {
        let lifetime = self.rest.len() > 2 && is_word_byte(self.rest[1]) && self.rest[1] < 0x80 && self.rest[2] != b'\'';
        self.take(1);
        if !lifetime {
            self.until_quote(b'\'');
        } else {
            let end = self.rest.iter().position(|byte| !is_word_byte(*byte)).unwrap_or(self.rest.len());
            self.take(end);
        }
    }
}

fn is_word_byte(byte: u8) -> bool {
    byte == b'_' || byte.is_ascii_alphanumeric() || byte >= 0x80
}

/// How long the opening of a raw string is, and how many `#` it has.
fn raw_string(rest: &[u8]) -> Option<(usize, usize)> {
    let letters = if rest.starts_with(b"r") {
        1
    } else if rest.starts_with(b"br") {
        2
    } else {
        return None;
    };
    let hashes = rest[letters..].iter().take_while(|byte| **byte == b'#').count();
    (rest.get(letters + hashes) == Some(&b'"')).then_some((letters + hashes + 1, hashes))
}

fn find(haystack: &[u8], needle: &[u8]) -> usize {
    haystack.windows(needle.len()).position(|window| window == needle).unwrap_or(haystack.len())
}

#[test]
fn a_lexer_drops_comments_and_keeps_strings_whole() {
    let source = "let a = \"x // {\\\" y\"; /* crate::b /* nested */ { */ 'c'; &'life r#\"raw \" }\"# // crate::c\n'\\'' word";
    let texts: Vec<_> = tokens(source).iter().filter_map(|token| token.text().map(str::to_owned)).collect();
    assert_eq!(texts, ["x // {\\\" y", "raw \" }"]);
    let words: Vec<_> = tokens(source).iter().filter_map(|token| token.word().map(str::to_owned)).collect();
    assert_eq!(words, ["let", "a", "word"]);
    assert_eq!(tokens(source).last().map(|token| token.line), Some(2));
}
