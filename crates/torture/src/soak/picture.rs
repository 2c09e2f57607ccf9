//! The picture of a soak: one panel for each of what must stay flat, over the same time.

use super::Sample;
use std::fmt::Write;

const WIDTH: f64 = 760.0;
const LEFT: f64 = 60.0;
const RIGHT: f64 = 150.0;
const TOP: f64 = 40.0;
const PANEL: f64 = 110.0;
const GAP: f64 = 34.0;
/// Told apart by people who see few colours as well (Okabe and Ito, Color Universal Design, 2008).
const COLOURS: [&str; 5] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#888888"];
/// As many points as can be told apart; of more samples, the largest of each few is drawn.
const POINTS: usize = 300;

struct Line {
    name: &'static str,
    value: fn(&Sample) -> f64,
}

struct Panel {
    title: &'static str,
    lines: &'static [Line],
}

const PANELS: [Panel; 4] = [
    Panel {
        title: "commits per second",
        lines: &[Line {
            name: "commits/s",
            value: |sample| sample.commits_per_second,
        }],
    },
    Panel {
        title: "memory of the process, MiB",
        lines: &[Line {
            name: "resident",
            value: |sample| sample.resident_mib,
        }],
    },
    Panel {
        title: "descriptors and threads",
        lines: &[
            Line {
                name: "descriptors",
                value: |sample| sample.descriptors,
            },
            Line {
                name: "threads",
                value: |sample| sample.threads,
            },
        ],
    },
    Panel {
        title: "files, MiB",
        lines: &[
            Line {
                name: "databases",
                value: |sample| sample.files_mib[0],
            },
            Line {
                name: "logs",
                value: |sample| sample.files_mib[1],
            },
            Line {
                name: "parity of logs",
                value: |sample| sample.files_mib[3],
            },
            Line {
                name: "parity of databases",
                value: |sample| sample.files_mib[4],
            },
        ],
    },
];

/// The whole file.
pub(super) fn draw(samples: &[Sample]) -> String {
    let height = TOP + PANELS.len() as f64 * (PANEL + GAP) + 10.0;
    let end = samples.last().map_or(1.0, |sample| sample.seconds).max(1.0);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\" font-size=\"11\" fill=\"#666\">\n\
         <text x=\"{LEFT}\" y=\"18\" font-size=\"14\">Two stores under full load for {:.0} minutes</text>\n",
        end / 60.0
    );
    for (number, panel) in PANELS.iter().enumerate() {
        let top = TOP + number as f64 * (PANEL + GAP);
        panel.draw(&mut svg, samples, end, top);
    }
    svg.push_str("</svg>\n");
    svg
}

impl Panel {
    fn draw(&self, svg: &mut String, samples: &[Sample], end: f64, top: f64) {
        let values = self.lines.iter().flat_map(|line| samples.iter().map(line.value));
        let most = round_up(values.fold(0.0, f64::max));
        let right = WIDTH - RIGHT;
        let bottom = top + PANEL;
        let x = |seconds: f64| LEFT + seconds / end * (right - LEFT);
        let y = |value: f64| bottom - value / most * PANEL;
        let _ = writeln!(
            svg,
            "<text x=\"{LEFT}\" y=\"{:.1}\" font-weight=\"bold\">{}</text>",
            top - 5.0,
            self.title
        );
        for part in [0.0, 0.5, 1.0] {
            let at = y(most * part);
            let _ = writeln!(
                svg,
                "<path d=\"M{LEFT} {at:.1}H{right}\" stroke=\"#bbb\" stroke-width=\"0.5\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                LEFT - 5.0,
                at + 4.0,
                most * part
            );
        }
        for part in 0..=3 {
            let seconds = end * f64::from(part) / 3.0;
            let _ = writeln!(
                svg,
                "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{:.0} min</text>",
                x(seconds),
                bottom + 13.0,
                seconds / 60.0
            );
        }
        for (number, line) in self.lines.iter().enumerate() {
            let colour = COLOURS[number % COLOURS.len()];
            let mut path = String::new();
            for few in samples.chunks(samples.len().div_ceil(POINTS).max(1)) {
                let highest = few.iter().map(line.value).fold(0.0, f64::max);
                let command = if path.is_empty() { 'M' } else { 'L' };
                let _ = write!(path, "{command}{:.1} {:.1}", x(few[0].seconds), y(highest));
            }
            let _ = writeln!(
                svg,
                "<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.2\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" fill=\"{colour}\">{}</text>",
                right + 8.0,
                top + 14.0 + 15.0 * number as f64,
                line.name
            );
        }
    }
}

/// 1, 2 or 5 times a power of ten, at least as large.
fn round_up(value: f64) -> f64 {
    let power = 10_f64.powf(value.max(1.0).log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0];
    let fits = steps.iter().find(|step| *step * power >= value);
    fits.unwrap_or(&10.0) * power
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_end_at_a_round_number() {
        for (value, end) in [(0.0, 1.0), (1.0, 1.0), (3.0, 5.0), (70.0, 100.0), (101.0, 200.0)] {
            assert_eq!(round_up(value), end);
        }
    }

    #[test]
    fn every_line_is_drawn_and_named() {
        let sample = |number| Sample {
            seconds: f64::from(number),
            resident_mib: 10.0,
            ..Sample::default()
        };
        let svg = draw(&(0..1000).map(sample).collect::<Vec<_>>());
        for panel in &PANELS {
            assert!(svg.contains(panel.title));
            for line in panel.lines {
                assert!(svg.contains(&format!(">{}</text>", line.name)));
            }
        }
        assert!(svg.len() < 100_000);
    }
}
