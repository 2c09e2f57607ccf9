//! As much of Rust's syntax as the rules need: words and signs with their lines, without comments.
//!
//! Not a parser: it knows comments, strings, characters and lifetimes, so that the rules never mistake text
//! for code, and it resolves paths inside nested `use` groups.

/// One word or sign of a source file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Token {
    /// The line, from 1.
    pub(crate) line: usize,
    /// What it is.
    pub(crate) kind: Kind,
}

/// The kinds of [`Token`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    /// An identifier, keyword or number.
    Word(String),
    /// The content of a string literal, escapes left as they are.
    Text(String),
    /// `::`
    PathSep,
    /// Any other sign.
    Sign(char),
}

impl Token {
    /// Whether this is the word.
    pub(crate) fn is_word(&self, word: &str) -> bool {
        matches!(&self.kind, Kind::Word(own) if own == word)
    }

    /// Whether this is the sign.
    pub(crate) fn is_sign(&self, sign: char) -> bool {
        self.kind == Kind::Sign(sign)
    }
}

/// Takes a source file apart.
pub(crate) fn tokens(source: &str) -> Vec<Token> {
    let chars: Vec<char> = source.chars().collect();
    Lexer {
        chars: &chars,
        at: 0,
        line: 1,
        tokens: Vec::new(),
    }
    .run()
}

struct Lexer<'a> {
    chars: &'a [char],
    at: usize,
    line: usize,
    tokens: Vec<Token>,
}

impl Lexer<'_> {
    fn run(mut self) -> Vec<Token> {
        while let Some(c) = self.peek(0) {
            match c {
                '/' if self.peek(1) == Some('/') => self.skip_while(|c| c != '\n'),
                '/' if self.peek(1) == Some('*') => self.skip_block_comment(),
                '"' => self.string(),
                '\'' => self.quote(),
                c if c == '_' || c.is_alphanumeric() => self.word(),
                ':' if self.peek(1) == Some(':') => {
                    self.push(Kind::PathSep);
                    self.at += 2;
                }
                c if c.is_whitespace() => self.bump(),
                c => {
                    self.push(Kind::Sign(c));
                    self.bump();
                }
            }
        }
        self.tokens
    }

    fn peek(&self, ahead: usize) -> Option<char> {
        self.chars.get(self.at + ahead).copied()
    }

    fn bump(&mut self) {
        if self.peek(0) == Some('\n') {
            self.line += 1;
        }
        self.at += 1;
    }

    fn skip_while(&mut self, keep: impl Fn(char) -> bool) {
        while self.peek(0).is_some_and(&keep) {
            self.bump();
        }
    }

    fn push(&mut self, kind: Kind) {
        self.tokens.push(Token {
            line: self.line,
            kind,
        });
    }

    fn skip_block_comment(&mut self) {
        let mut depth = 0_usize;
        while self.peek(0).is_some() {
            match (self.peek(0), self.peek(1)) {
                (Some('/'), Some('*')) => {
                    depth += 1;
                    self.at += 2;
                }
                (Some('*'), Some('/')) => {
                    depth -= 1;
                    self.at += 2;
                    if depth == 0 {
                        return;
                    }
                }
                _ => self.bump(),
            }
        }
    }

    /// A word, or the prefix of a string: `b"`, `r#"`, `br##"`, `c"`.
    fn word(&mut self) {
        let start = self.at;
        self.skip_while(|c| c == '_' || c.is_alphanumeric());
        let word: String = self.chars[start..self.at].iter().collect();
        let prefix = matches!(word.as_str(), "b" | "r" | "br" | "c" | "cr");
        let hashes = (0..).take_while(|&n| self.peek(n) == Some('#')).count();
        match self.peek(hashes) {
            Some('"') if prefix && word.ends_with('r') => self.raw_string(hashes),
            Some('"') if prefix && hashes == 0 => self.string(),
            Some('\'') if word == "b" && hashes == 0 => self.quote(),
            _ => self.push(Kind::Word(word)),
        }
    }

    fn string(&mut self) {
        let line = self.line;
        self.bump();
        let start = self.at;
        while let Some(c) = self.peek(0) {
            if c == '"' {
                break;
            }
            if c == '\\' {
                self.bump();
            }
            self.bump();
        }
        self.finish_string(line, start, 1);
    }

    fn raw_string(&mut self, hashes: usize) {
        let line = self.line;
        self.at += hashes + 1;
        let start = self.at;
        let closes = |at: usize| (0..hashes).all(|n| self.chars.get(at + 1 + n) == Some(&'#'));
        let end = (start..self.chars.len())
            .find(|&at| self.chars[at] == '"' && closes(at))
            .unwrap_or(self.chars.len());
        while self.at < end {
            self.bump();
        }
        self.finish_string(line, start, 1 + hashes);
    }

    fn finish_string(&mut self, line: usize, start: usize, closing: usize) {
        let end = self.at.min(self.chars.len());
        let text = self.chars[start.min(end)..end].iter().collect();
        self.tokens.push(Token {
            line,
            kind: Kind::Text(text),
        });
        self.at += closing;
    }

    /// A character literal, or a lifetime.
    fn quote(&mut self) {
        if self.peek(1) == Some('\\') {
            self.at += 3;
            self.skip_while(|c| c != '\'');
            self.bump();
        } else if self.peek(2) == Some('\'') {
            self.bump();
            self.bump();
            self.bump();
        } else {
            self.bump();
            self.skip_while(|c| c == '_' || c.is_alphanumeric());
        }
    }
}

/// One path of a file, groups resolved: `use a::{b, c::d}` holds `a::b` and `a::c::d`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PathUse {
    /// The line of its last word.
    pub(crate) line: usize,
    /// Its words; a glob is `*`.
    pub(crate) words: Vec<String>,
}

/// Every path in the file whose first word is one of `roots`.
pub(crate) fn paths(tokens: &[Token], roots: &[&str]) -> Vec<PathUse> {
    let mut found = Vec::new();
    let mut in_use = false;
    let mut depth = 0_usize;
    let mut at = 0;
    while at < tokens.len() {
        let token = &tokens[at];
        match &token.kind {
            Kind::Word(word) if word == "use" => (in_use, depth) = (true, 0),
            Kind::Sign(';') => in_use = false,
            Kind::Sign('{') if in_use => depth += 1,
            Kind::Word(word) if roots.contains(&word.as_str()) && starts_path(tokens, at) => {
                let joined = tokens.get(at + 1).is_some_and(|next| next.kind == Kind::PathSep);
                // `use loom;` and `use loom as x;` are paths too; elsewhere a lone word is a name.
                if joined || (in_use && (depth > 0 || at > 0 && tokens[at - 1].is_word("use"))) {
                    at = path(tokens, at, &mut Vec::new(), &mut found);
                    continue;
                }
            }
            _ => {}
        }
        at += 1;
    }
    found
}

/// Whether the word at `at` is not the middle of a longer path and not a field or method.
fn starts_path(tokens: &[Token], at: usize) -> bool {
    let before = |n: usize| at.checked_sub(n).map(|at| &tokens[at].kind);
    match before(1) {
        // `::std::x` starts one; `own::std::x` does not.
        Some(Kind::PathSep) => !matches!(before(2), Some(Kind::Word(word)) if word != "use"),
        Some(Kind::Sign('.')) => false,
        _ => true,
    }
}

/// Reads the path (or group) that starts at `at` behind `prefix`; answers where it ends.
fn path(tokens: &[Token], mut at: usize, prefix: &mut Vec<String>, found: &mut Vec<PathUse>) -> usize {
    let depth = prefix.len();
    let mut line = tokens.get(at).map_or(0, |token| token.line);
    while let Some(token) = tokens.get(at) {
        match &token.kind {
            Kind::Word(word) => prefix.push(word.clone()),
            Kind::Sign('*') => prefix.push("*".into()),
            Kind::Sign('{') => {
                at += 1;
                while tokens.get(at).is_some_and(|token| !token.is_sign('}')) {
                    let next = path(tokens, at, prefix, found).max(at + 1);
                    // A rename, the comma: nothing that belongs to the path.
                    at = skip_to_next(tokens, next);
                }
                prefix.truncate(depth);
                return at + 1;
            }
            _ => break,
        }
        line = token.line;
        at += 1;
        if tokens.get(at).is_none_or(|token| token.kind != Kind::PathSep) {
            break;
        }
        at += 1;
    }
    if prefix.len() > depth {
        found.push(PathUse {
            line,
            words: prefix.clone(),
        });
    }
    prefix.truncate(depth);
    at
}

/// Behind the next comma of a group, or at its closing brace.
fn skip_to_next(tokens: &[Token], mut at: usize) -> usize {
    while let Some(token) = tokens.get(at) {
        match token.kind {
            Kind::Sign(',') => return at + 1,
            Kind::Sign('}') => return at,
            _ => at += 1,
        }
    }
    at
}

/// How many functions carry `#[test]`.
pub(crate) fn count_tests(tokens: &[Token]) -> usize {
    tokens
        .windows(4)
        .filter(|w| w[0].is_sign('#') && w[1].is_sign('[') && w[2].is_word("test") && w[3].is_sign(']'))
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(source: &str) -> Vec<String> {
        let found = paths(&tokens(source), &["std", "loom"]);
        found.iter().map(|path| path.words.join("::")).collect()
    }

    #[test]
    fn comments_and_strings_hold_no_paths() {
        let source = r##"
            // std::a
            /* std::b /* std::c */ std::d */
            let x = "std::e \" std::f"; let y = r#"std::g" std::h"#; let z = b"std::i";
            let q = '"'; let r = '\''; fn f<'a>(s: &'a str) { std::real() }
        "##;
        assert_eq!(joined(source), ["std::real"]);
    }

    #[test]
    fn groups_are_resolved_at_any_depth() {
        let source = "use std::{fmt, sync::{Arc, atomic::{AtomicU32 as A, Ordering}, Mutex}, io::*};";
        assert_eq!(
            joined(source),
            [
                "std::fmt",
                "std::sync::Arc",
                "std::sync::atomic::AtomicU32",
                "std::sync::atomic::Ordering",
                "std::sync::Mutex",
                "std::io::*",
            ]
        );
    }

    #[test]
    fn a_path_is_found_wherever_it_stands() {
        let source = "use ::std::a; use {std::b, loom}; fn f(x: std::c<std::d>) { own::std::e(); y.std }";
        assert_eq!(joined(source), ["std::a", "std::b", "loom", "std::c", "std::d"]);
    }

    #[test]
    fn a_path_carries_the_line_of_its_last_word() {
        let found = paths(&tokens("use std::{\n  fmt,\n  sync::\n  Mutex};"), &["std"]);
        assert_eq!(found.iter().map(|path| path.line).collect::<Vec<_>>(), [2, 4]);
    }

    #[test]
    fn tests_are_counted_but_not_those_in_comments() {
        let source = "#[test] fn a() {}\n// #[test]\n#[cfg(test)] mod x { #[test]\nfn b() {} }";
        assert_eq!(count_tests(&tokens(source)), 2);
    }
}
