//! A chart of lines over a few labelled places, on a logarithmic scale, as an SVG picture. `cargo xtask peers`
//! draws with the same code.

use std::fmt::Write;
use std::path::Path;
use walmend_error::{Error, Result};

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 190.0;
const TOP: f64 = 50.0;
const BOTTOM: f64 = 50.0;
/// Names at the right end keep this distance from each other.
const LINE: f64 = 16.0;
/// Told apart by people who see few colours as well (Okabe and Ito, Color Universal Design, 2008), and on a dark
/// page as on a white one.
const COLOURS: [&str; 8] = [
    "#0072b2", "#888888", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#b8a500",
];

/// What is drawn.
#[derive(Debug)]
pub(crate) struct Chart {
    pub(crate) title: String,
    /// What the labels count.
    pub(crate) across: String,
    pub(crate) labels: Vec<String>,
    /// The first one is drawn strongest.
    pub(crate) series: Vec<Series>,
}

/// One line.
#[derive(Debug)]
pub(crate) struct Series {
    pub(crate) name: String,
    /// One value per label, where there is one; it must be greater than 0 to be seen.
    pub(crate) values: Vec<Option<f64>>,
}

impl Chart {
    /// Writes the picture to a file.
    ///
    /// # Errors
    /// I/O errors.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        std::fs::write(path, self.svg()).map_err(|error| Error::io("write", path, None, error))
    }

    /// The whole file.
    pub(crate) fn svg(&self) -> String {
        let values = || {
            self.series
                .iter()
                .flat_map(|series| series.values.iter().flatten())
        };
        let seen = || values().copied().filter(|value| *value > 0.0);
        let least = seen().fold(f64::INFINITY, f64::min);
        let low = if least.is_finite() {
            least.log10().floor()
        } else {
            0.0
        };
        let high = seen().fold(1.0, f64::max).log10().ceil().max(low + 1.0);
        let x = |place: usize| {
            let steps = self.labels.len().saturating_sub(1).max(1);
            LEFT + (WIDTH - LEFT - RIGHT) * place as f64 / steps as f64
        };
        let y = |value: f64| HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value.log10() - low) / (high - low);

        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
             font-family=\"sans-serif\" font-size=\"13\" fill=\"#888\">\n\
             <title>{title}</title>\n<text x=\"{LEFT}\" y=\"24\" font-size=\"16\">{title}</text>\n",
            title = escaped(&self.title)
        );
        for power in low as i32..=high as i32 {
            for digit in [1.0, 2.0, 5.0] {
                let value = digit * 10_f64.powi(power);
                if value.log10() <= high {
                    grid_line(&mut svg, y(value), value, digit == 1.0);
                }
            }
        }
        for (place, label) in self.labels.iter().enumerate() {
            let _ = writeln!(
                svg,
                "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                x(place),
                HEIGHT - BOTTOM + 20.0,
                escaped(label)
            );
        }
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            f64::midpoint(LEFT, WIDTH - RIGHT),
            HEIGHT - 10.0,
            escaped(&self.across)
        );
        let mut ends = Vec::new();
        for (number, series) in self.series.iter().enumerate() {
            let points = series.values.iter().enumerate();
            let points: Vec<(f64, f64)> = points
                .filter_map(|(place, value)| Some((x(place), y(value.filter(|value| *value > 0.0)?))))
                .collect();
            line(&mut svg, &points, COLOURS[number % COLOURS.len()], number == 0);
            if let Some((_, y)) = points.last() {
                ends.push((*y, number));
            }
        }
        self.names(&mut svg, ends);
        svg.push_str("</svg>\n");
        svg
    }

    /// The name of each line at the height where it ends, pushed down where two would overlap.
    fn names(&self, svg: &mut String, mut ends: Vec<(f64, usize)>) {
        ends.sort_by(|one, other| one.0.total_cmp(&other.0));
        let mut free = 0.0_f64;
        for (height, number) in ends {
            let height = height.max(free);
            free = height + LINE;
            let _ = writeln!(
                svg,
                "<text x=\"{:.1}\" y=\"{:.1}\" fill=\"{}\">{}</text>",
                WIDTH - RIGHT + 12.0,
                height + 4.0,
                COLOURS[number % COLOURS.len()],
                escaped(&self.series[number].name)
            );
        }
    }
}

fn grid_line(svg: &mut String, y: f64, value: f64, strong: bool) {
    let opacity = if strong { 0.5 } else { 0.2 };
    let _ = writeln!(
        svg,
        "<line x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{:.1}\" y2=\"{y:.1}\" stroke=\"#888\" opacity=\"{opacity}\"/>",
        WIDTH - RIGHT
    );
    let label = match value {
        value if value >= 1e6 => format!("{}M", value / 1e6),
        value if value >= 1e3 => format!("{}k", value / 1e3),
        value => format!("{value}"),
    };
    let _ = writeln!(
        svg,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>",
        LEFT - 8.0,
        y + 4.0
    );
}

fn line(svg: &mut String, points: &[(f64, f64)], colour: &str, strong: bool) {
    let width = if strong { 3.5 } else { 2.0 };
    let path: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    let _ = writeln!(
        svg,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"{width}\"/>",
        path.join(" ")
    );
    for (x, y) in points {
        let _ = writeln!(
            svg,
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{width}\" fill=\"{colour}\"/>"
        );
    }
}

/// Text that must not be taken for markup.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(values: Vec<Option<f64>>) -> String {
        Chart {
            title: "A < B & C".into(),
            across: "writers".into(),
            labels: vec!["1".into(), "64".into()],
            series: vec![Series {
                name: "walmend".into(),
                values,
            }],
        }
        .svg()
    }

    #[test]
    fn a_line_goes_through_the_values_that_are_there() {
        let svg = chart(vec![Some(1000.0), Some(100_000.0)]);
        assert!(svg.contains("points=\"70.0,370.0 570.0,50.0\""), "{svg}");
        assert!(svg.contains("A &lt; B &amp; C"), "{svg}");
        assert!(svg.contains(">walmend<"), "{svg}");
        assert_eq!(chart(vec![None, Some(5.0)]).matches("<circle").count(), 1);
    }

    #[test]
    fn nothing_to_draw_is_an_empty_chart() {
        for values in [vec![], vec![None, None], vec![Some(0.0), Some(0.0)]] {
            let svg = chart(values);
            assert!(
                svg.ends_with("</svg>\n") && !svg.contains("NaN") && !svg.contains("inf"),
                "{svg}"
            );
        }
    }
}
