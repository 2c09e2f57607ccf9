//! The table of events names the targets that the sources use, and no others.

use super::Finding;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The document with the table.
const TABLE: &str = "docs/observability.md";

/// Where each target is used first.
#[derive(Debug, Default)]
pub(crate) struct Events(BTreeMap<String, (PathBuf, usize)>);

impl Events {
    /// Notes the targets of a file, if it is one of a library.
    pub(crate) fn note(&mut self, path: &Path, text: &str) {
        let mut parts = path.components().map(|part| part.as_os_str());
        if parts.next().is_none_or(|top| top != "crates") || parts.nth(1).is_none_or(|folder| folder != "src")
        {
            return;
        }
        for (number, line) in text.lines().enumerate() {
            for target in quoted(line, '"') {
                let place = || (path.to_owned(), number + 1);
                self.0.entry(target.to_owned()).or_insert_with(place);
            }
        }
    }

    /// Targets without a row, and rows without a target.
    pub(crate) fn check(&self, document: &str) -> Vec<Finding> {
        let mut rows = BTreeMap::new();
        for (number, line) in document
            .lines()
            .enumerate()
            .filter(|(_, line)| line.starts_with("| `"))
        {
            // The first cell: others may speak of targets as well.
            let cell = line.split('|').nth(1).unwrap_or_default();
            rows.extend(quoted(cell, '`').map(|target| (target, number + 1)));
        }
        let missing = self
            .0
            .iter()
            .filter(|(target, _)| !rows.contains_key(target.as_str()));
        let missing = missing.map(|(target, (path, line))| {
            Finding::new(
                path,
                *line,
                format!("{TABLE} has no row for the events of `{target}`"),
            )
        });
        let stale = rows.iter().filter(|(target, _)| !self.0.contains_key(**target));
        let stale = stale
            .map(|(target, line)| Finding::new(TABLE, *line, format!("nothing uses the target `{target}`")));
        missing.chain(stale).collect()
    }

    /// The document with the table.
    pub(crate) fn is_table(path: &Path) -> bool {
        path == Path::new(TABLE)
    }
}

/// The targets between two of these marks.
fn quoted(line: &str, mark: char) -> impl Iterator<Item = &str> {
    line.split(mark).filter(|piece| {
        let mut parts = piece.split("::");
        parts.next() == Some("walmend")
            && piece.contains("::")
            && parts.all(|part| !part.is_empty() && part.chars().all(|c| c.is_ascii_lowercase()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(path: &str, text: &str) -> Events {
        let mut events = Events::default();
        events.note(Path::new(path), text);
        events
    }

    #[test]
    fn a_target_without_a_row_and_a_row_without_a_target_are_found() {
        let used = events("crates/wal/src/log.rs", "target: \"walmend::wal::log\", %error");
        assert_eq!(used.check("| `walmend::wal::log` | debug |"), []);
        let findings = used.check("\n| `walmend::wal::gone` | see `walmend::wal::log` |");
        assert_eq!(findings.len(), 2);
        assert!(
            findings[0].to_string().starts_with("crates/wal/src/log.rs:1"),
            "{}",
            findings[0]
        );
        assert!(
            findings[1].to_string().starts_with("docs/observability.md:2"),
            "{}",
            findings[1]
        );
    }

    #[test]
    fn tests_filters_and_paths_of_types_are_no_targets() {
        assert!(
            events("crates/wal/tests/log.rs", "\"walmend::wal::log\"")
                .0
                .is_empty()
        );
        assert!(
            events(
                "crates/cli/src/lib.rs",
                "\"walmend::wal=debug\" \"walmend::Store\""
            )
            .0
            .is_empty()
        );
    }
}
