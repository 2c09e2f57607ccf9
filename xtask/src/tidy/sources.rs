//! Rules for single Rust files: the loom shim, leftovers, length.

use super::Finding;
use crate::fuzz;
use crate::syntax::{PathUse, Token, paths, tokens};
use std::path::Path;

/// Files get hard to keep in mind beyond this many lines.
const LONG: usize = 500;
/// And beyond this many they have to be split.
const TOO_LONG: usize = 800;

/// Words that stand for unfinished work. Put together here, or this file would break its own rule.
const LEFTOVERS: &[&str] = &[
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X"),
    concat!("unimple", "mented!"),
    concat!("to", "do!"),
    concat!("db", "g!"),
];

/// What the shim covers, below `std::sync`.
const COVERED: &[&str] = &[
    "atomic",
    "Mutex",
    "MutexGuard",
    "Condvar",
    "RwLock",
    "RwLockReadGuard",
    "RwLockWriteGuard",
    "*",
];

/// All rules for one file.
pub(crate) fn check(path: &Path, text: &str) -> Vec<Finding> {
    let tokens = tokens(text);
    let mut findings = leftovers(path, text);
    findings.extend(length(path, text));
    findings.extend(cases(path, &tokens));
    // xtask is no part of what loom checks, examples are what a user would write, and the shim itself has to use what
    // it covers.
    let example = path.components().any(|part| part.as_os_str() == "examples");
    if !example && !path.starts_with("xtask") && !path.starts_with("crates/sync") {
        findings.extend(shim(path, &tokens));
    }
    findings
}

fn leftovers(path: &Path, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (number, line) in text.lines().enumerate() {
        for word in LEFTOVERS.iter().filter(|word| has_word(line, word)) {
            findings.push(Finding::new(
                path,
                number + 1,
                format!("`{word}`: finish it or open an issue"),
            ));
        }
    }
    findings
}

/// Whether the word stands in the line by itself, not as a part of a longer one.
fn has_word(line: &str, word: &str) -> bool {
    let part = |c: char| c == '_' || c.is_alphanumeric();
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        !before.is_some_and(part) && (word.ends_with('!') || !after.is_some_and(part))
    })
}

fn length(path: &Path, text: &str) -> Option<Finding> {
    let lines = text.lines().count();
    if lines > TOO_LONG {
        let message = format!("{lines} lines: split it by topic ({TOO_LONG} at most)");
        Some(Finding::new(path, lines, message))
    } else if lines > LONG {
        let message = format!("{lines} lines: more than {LONG} are hard to keep in mind");
        Some(Finding::hint(path, lines, message))
    } else {
        None
    }
}

/// What threads share comes from the shim, or the models check something else than what runs.
fn shim(path: &Path, tokens: &[Token]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for used in paths(tokens, &["std", "core", "loom"]) {
        if is_covered(&used) {
            let message = format!("`{}`: take it from walmend_sync", used.words.join("::"));
            findings.push(Finding::new(path, used.line, message));
        } else if used.words.first().is_some_and(|word| word == "loom") {
            findings.push(Finding::new(path, used.line, "only walmend_sync may use loom"));
        }
    }
    // `cargo xtask loom` runs test targets with that name and nothing else.
    let in_model = path
        .components()
        .any(|part| part.as_os_str().to_string_lossy().starts_with("loom"));
    for used in paths(tokens, &["walmend_sync"]) {
        if used.words.get(1).is_some_and(|word| word == "model") && !in_model {
            findings.push(Finding::new(
                path,
                used.line,
                "models live in tests/loom*.rs: this one never runs",
            ));
        }
    }
    findings
}

fn is_covered(used: &PathUse) -> bool {
    let words: Vec<&str> = used.words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["std" | "core", "sync"] => true,
        ["std" | "core", "sync", "self"] => true,
        ["std" | "core", "sync", name, ..] => COVERED.contains(name),
        ["std", "thread", ..] => true,
        _ => false,
    }
}

/// `cargo xtask fuzz` raises the number of cases through the environment, which a fixed number overrides.
fn cases(path: &Path, tokens: &[Token]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let fixed = concat!("with_", "cases");
    for (at, token) in tokens.iter().enumerate() {
        let is_parser_test = token.is_word("fn")
            && tokens.get(at + 1).is_some_and(
                |name| matches!(&name.kind, crate::syntax::Kind::Word(word) if word.contains(fuzz::MARK)),
            );
        let block = tokens[..at].iter().rposition(|token| token.is_word("proptest"));
        if is_parser_test
            && let Some(block) = block
            && tokens[block..at].iter().any(|token| token.is_word(fixed))
        {
            let message = format!("`{fixed}` keeps `cargo xtask fuzz` from raising the number of cases");
            findings.push(Finding::new(path, token.line, message));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shim_lines(source: &str) -> Vec<usize> {
        let findings = shim(Path::new("crates/x/src/lib.rs"), &tokens(source));
        findings.iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn what_the_shim_covers_is_found_however_it_is_written() {
        let source = "use std::sync::Mutex;\n\
                      use std::{sync::{Arc, atomic::AtomicU8}, fmt};\n\
                      fn f() { std::thread::spawn(|| ()); }\n\
                      use std::sync;\n\
                      use std::sync::*;\n\
                      use loom::model;\n\
                      use core::sync::atomic::fence;\n\
                      use std::thread;\n";
        assert_eq!(shim_lines(source), [1, 2, 3, 4, 5, 6, 7, 8]);
    }

    #[test]
    fn what_the_shim_does_not_cover_is_allowed() {
        let source = "use std::sync::{Arc, Weak, OnceLock, mpsc};\n// std::thread::spawn\n\
                      thread_local! {}\nstd::thread_local! {}\nuse walmend_sync::{Mutex, thread};\n";
        assert!(shim_lines(source).is_empty());
    }

    #[test]
    fn the_shim_itself_and_xtask_are_free() {
        let source = "use std::sync::Mutex;\n";
        assert_eq!(check(Path::new("crates/sync/src/lock.rs"), source), []);
        assert_eq!(check(Path::new("xtask/src/loom.rs"), source), []);
        assert_eq!(check(Path::new("crates/wal/tests/a.rs"), source).len(), 1);
        assert_eq!(check(Path::new("benches/benches/a.rs"), source).len(), 1);
    }

    #[test]
    fn a_model_outside_a_loom_target_is_found() {
        let source = "use walmend_sync::model::model;\n";
        assert_eq!(check(Path::new("crates/wal/src/fence.rs"), source).len(), 1);
        assert_eq!(check(Path::new("crates/wal/tests/loom_fence.rs"), source), []);
    }

    #[test]
    fn leftovers_are_found_as_whole_words() {
        let path = Path::new("crates/x/src/lib.rs");
        for word in LEFTOVERS {
            let findings = leftovers(path, &format!("fine\n// {word} later"));
            assert_eq!(findings.len(), 1, "{word}");
            assert_eq!(findings[0].line, 2);
        }
        assert_eq!(
            leftovers(path, &format!("let template = \"a{0}{0}\";", LEFTOVERS[2])),
            []
        );
    }

    #[test]
    fn a_long_file_is_a_hint_and_a_very_long_one_an_error() {
        let path = Path::new("crates/x/src/lib.rs");
        assert_eq!(length(path, &"\n".repeat(LONG)), None);
        assert!(length(path, &"\n".repeat(TOO_LONG)).unwrap().hint);
        assert!(!length(path, &"\n".repeat(TOO_LONG + 1)).unwrap().hint);
    }

    #[test]
    fn a_fixed_number_of_cases_is_found_on_parser_tests_only() {
        let config = concat!("#![proptest_config(Config::with_", "cases(9))]");
        let path = Path::new("crates/x/tests/p.rs");
        let of = |name: &str| format!("proptest! {{ {config}\n#[test] fn {name}() {{}} }}");
        assert_eq!(cases(path, &tokens(&of("any_bytes_are_refused"))).len(), 1);
        assert_eq!(cases(path, &tokens(&of("a_model_agrees"))), []);
        let apart = format!(
            "{} proptest! {{ #[test] fn any_bytes() {{}} }}",
            of("a_model_agrees")
        );
        assert_eq!(cases(path, &tokens(&apart)), []);
    }
}
