//! Numbers and tables for people. Counts get separators; numbers that name something, like that of a frame, do
//! not.

use crate::output::Output;
use std::fmt::Write;

/// `1234567` as `1,234,567`.
pub(crate) fn number(value: impl Into<u64>) -> String {
    let digits = value.into().to_string();
    let mut grouped = String::with_capacity(digits.len() * 4 / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// `1 frame`, `2 frames`.
pub(crate) fn count(value: impl Into<u64>, one: &str) -> String {
    let value = value.into();
    let plural = if value == 1 { "" } else { "s" };
    format!("{} {one}{plural}", number(value))
}

/// Bytes in decimal units, as disks are sold: `8.2 MB`.
pub(crate) fn bytes(value: u64) -> String {
    const UNITS: [&str; 5] = ["bytes", "kB", "MB", "GB", "TB"];
    let mut amount = value as f64;
    let mut unit = 0;
    while amount >= 1000.0 && unit + 1 < UNITS.len() {
        amount /= 1000.0;
        unit += 1;
    }
    match unit {
        0 => count(value, "byte"),
        _ => format!("{amount:.1} {}", UNITS[unit]),
    }
}

/// Which side of its column a cell stands on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Right,
}

/// Aligned columns under a heading, each line indented by two blanks.
#[derive(Debug)]
pub(crate) struct Table {
    aligns: Vec<Align>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new<const N: usize>(heading: [(&str, Align); N]) -> Self {
        Self {
            aligns: heading.iter().map(|(_, align)| *align).collect(),
            rows: vec![heading.iter().map(|(name, _)| (*name).to_owned()).collect()],
        }
    }

    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.into());
    }

    /// The lines, the heading first; where they are wider than the terminal, a line for each cell instead.
    pub(crate) fn text(&self, out: &Output) -> String {
        let lines = self.lines();
        if lines.iter().any(|line| line.chars().count() > out.width()) {
            return self.cells(out);
        }
        let mut text = String::new();
        for (number, line) in lines.iter().enumerate() {
            let _ = match number {
                0 => writeln!(text, "{}", out.strong(line)),
                _ => writeln!(text, "{line}"),
            };
        }
        text
    }

    fn lines(&self) -> Vec<String> {
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.aligns.len()).map(width).collect();
        let line = |row: &Vec<String>| {
            let cells = row.iter().zip(&self.aligns).zip(&widths);
            let padded = cells.map(|((cell, align), &width)| match align {
                Align::Left => format!("{cell:<width$}"),
                Align::Right => format!("{cell:>width$}"),
            });
            format!("  {}", padded.collect::<Vec<_>>().join("  "))
                .trim_end()
                .to_owned()
        };
        self.rows.iter().map(line).collect()
    }

    /// Each row as lines of a name and a value, an empty line between rows.
    fn cells(&self, out: &Output) -> String {
        let Some((names, rows)) = self.rows.split_first() else {
            return String::new();
        };
        let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0);
        let mut text = String::new();
        for (number, row) in rows.iter().enumerate() {
            if number > 0 {
                text.push('\n');
            }
            for (name, cell) in names.iter().zip(row) {
                let name = out.faint(&format!("{name:<width$}"));
                let _ = writeln!(text, "  {name}  {cell}");
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_stand_in_groups_of_three() {
        for (value, shown) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(number(value as u64), shown);
        }
    }

    #[test]
    fn one_is_not_a_plural() {
        assert_eq!(count(1u32, "commit"), "1 commit");
        assert_eq!(count(0u32, "commit"), "0 commits");
    }

    #[test]
    fn bytes_have_one_digit_behind_the_point() {
        assert_eq!(bytes(999), "999 bytes");
        assert_eq!(bytes(8_245_248), "8.2 MB");
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new([("frame", Align::Right), ("what", Align::Left)]);
        table.row(["7".into(), "page".into()]);
        table.row(["123456".into(), "x".into()]);
        let text = |width| table.text(&Output::plain(width));
        assert_eq!(text(14), "   frame  what\n       7  page\n  123456  x\n");
        assert_eq!(
            text(13),
            "  frame  7\n  what   page\n\n  frame  123456\n  what   x\n",
            "too wide"
        );
    }
}
