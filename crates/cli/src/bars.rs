//! Bars for people, drawn with characters and never wider than the terminal.

use crate::output::Output;
use std::fmt::Write;

/// Cells of the longest bar where there is room.
const LONGEST: usize = 48;
/// Shorter ones tell nothing: on a terminal as narrow as that, lines wrap.
const SHORTEST: usize = 8;

/// Lines with a bar each, to one scale.
#[derive(Debug)]
pub(crate) struct Bars {
    /// What the labels count.
    pub(crate) across: &'static str,
    /// What the strong part of a bar stands for.
    pub(crate) strong: &'static str,
    /// What the bar stands for with its faint part.
    pub(crate) faint: &'static str,
    pub(crate) bars: Vec<Bar>,
}

/// One line. A value that is not 0 is seen, however small.
#[derive(Debug)]
pub(crate) struct Bar {
    pub(crate) label: String,
    pub(crate) strong: f64,
    /// The length with the faint part; no less than `strong` to be seen.
    pub(crate) faint: f64,
    /// Behind the bar.
    pub(crate) note: String,
}

impl Bars {
    /// The lines, a heading first.
    pub(crate) fn text(&self, out: &Output) -> String {
        let widest = |text: fn(&Bar) -> &str| {
            let widths = self.bars.iter().map(|bar| text(bar).chars().count());
            widths.max().unwrap_or(0)
        };
        let label = widest(|bar| &bar.label).max(self.across.len());
        // Two blanks before the label, two behind it, one before the note, and the last column stays free.
        let taken = label + widest(|bar| &bar.note) + 6;
        let longest = out.width().saturating_sub(taken).clamp(SHORTEST, LONGEST);
        let most = self
            .bars
            .iter()
            .map(|bar| bar.strong.max(bar.faint))
            .fold(f64::MIN_POSITIVE, f64::max);
        let cells = |value: f64| match value > 0.0 {
            true => ((value / most * longest as f64).round() as usize).max(1),
            false => 0,
        };

        let faint = out.faint(&format!("░ {}", self.faint));
        let mut text = format!("  {:>label$}  █ {}  {faint}\n", self.across, self.strong);
        for bar in &self.bars {
            let own = cells(bar.strong);
            let left = cells(bar.faint).saturating_sub(own);
            let _ = writeln!(
                text,
                "  {:>label$}  {}{} {}",
                bar.label,
                out.good(&"█".repeat(own)),
                out.faint(&"░".repeat(left)),
                bar.note,
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bar(label: &str, strong: f64, faint: f64) -> Bar {
        Bar {
            label: label.into(),
            strong,
            faint,
            note: format!("{strong}"),
        }
    }

    fn drawn(width: usize, bars: Vec<Bar>) -> Vec<String> {
        let bars = Bars {
            across: "life",
            strong: "one",
            faint: "other",
            bars,
        };
        let text = bars.text(&Output::plain(width));
        text.lines().map(Into::into).collect()
    }

    #[test]
    fn bars_are_to_scale_and_as_wide_as_the_terminal_allows() {
        let lines = drawn(30, vec![bar("1", 18.0, 18.0), bar("10", 9.0, 18.0)]);
        assert_eq!(
            lines,
            [
                "  life  █ one  ░ other",
                "     1  ██████████████████ 18",
                "    10  █████████░░░░░░░░░ 9",
            ]
        );
        assert!(drawn(300, vec![bar("1", 1.0, 1.0)])[1].chars().count() < 60);
    }

    #[test]
    fn what_is_little_is_seen_and_nothing_is_not() {
        let lines = drawn(
            80,
            vec![bar("1", 1e9, 0.0), bar("2", 1.0, 0.0), bar("3", 0.0, 0.0)],
        );
        assert_eq!(lines[2], "     2  █ 1");
        assert_eq!(lines[3], "     3   0");
        assert_eq!(drawn(80, vec![bar("1", 0.0, 0.0)])[1], "     1   0");
        assert_eq!(drawn(0, vec![bar("1", 1.0, 1.0)])[1], "     1  ████████ 1");
    }
}
