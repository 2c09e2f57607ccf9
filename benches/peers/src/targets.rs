//! What walmend is meant to reach, against what was measured.

use crate::report::{Cell, NO_REPAIR, RAW_BUFFERED, RAW_DIRECT, Report, TASKS, WALMEND};
use std::fmt::Write;

/// One target.
struct Target {
    what: &'static str,
    /// `None` if the run did not measure it.
    measured: Option<f64>,
    bound: Bound,
}

enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

/// The table of targets, met and missed.
pub(crate) fn markdown(report: &Report) -> String {
    let mut text = String::from("| target | wanted | measured | |\n|---|---:|---:|---|\n");
    for target in targets(report) {
        let wanted = match target.bound {
            Bound::AtLeast(least) => format!("at least {least}"),
            Bound::AtMost(most) => format!("at most {most}"),
        };
        let (measured, verdict) = match (target.measured, target.bound) {
            (None, _) => ("-".into(), "not measured"),
            (Some(value), Bound::AtLeast(least)) => (format!("{value:.3}"), verdict(value >= least)),
            (Some(value), Bound::AtMost(most)) => (format!("{value:.3}"), verdict(value <= most)),
        };
        let _ = writeln!(text, "| {} | {wanted} | {measured} | {verdict} |", target.what);
    }
    text
}

fn verdict(met: bool) -> &'static str {
    if met { "met" } else { "**missed**" }
}

fn targets(report: &Report) -> Vec<Target> {
    let over = |name: &str, writers: u32, other: Option<f64>| Some(report.rate(name, writers)? / other?);
    let against = |peer: &str, writers: u32| over(WALMEND, writers, report.rate(peer, writers));
    let raw = |writers: u32| {
        let (buffered, direct) = (
            report.rate(RAW_BUFFERED, writers),
            report.rate(RAW_DIRECT, writers),
        );
        [buffered, direct].into_iter().flatten().reduce(f64::max)
    };
    // Where there is no O_DIRECT, the buffered limit stands in for it.
    let raw_alone = report.rate(RAW_DIRECT, 1).or(report.rate(RAW_BUFFERED, 1));
    let most = report.find(WALMEND, 64);
    let spread = |cell: &Cell| {
        let totals = cell.totals.as_ref()?;
        Some(totals.quantile_us(0.99) / totals.quantile_us(0.5))
    };
    let fairness = |cell: &Cell| Some(cell.totals.as_ref()?.least_over_most());
    let least = |what, measured, bound| Target {
        what,
        measured,
        bound: Bound::AtLeast(bound),
    };
    let at_most = |what, measured, bound| Target {
        what,
        measured,
        bound: Bound::AtMost(bound),
    };
    vec![
        least("T=1, over the raw limit", over(WALMEND, 1, raw_alone), 0.97),
        least("T=1, over okaywal", against("okaywal", 1), 1.05),
        least("T=1, over SQLite", against("SQLite", 1), 1.4),
        least("T=2, over okaywal", against("okaywal", 2), 1.3),
        least("T=8, over okaywal", against("okaywal", 8), 1.6),
        least("T=8, over SQLite", against("SQLite", 8), 5.0),
        least("T=64, over okaywal", against("okaywal", 64), 3.0),
        least("T=64, over SQLite", against("SQLite", 64), 15.0),
        least(
            "T=64, over the raw limit for groups",
            over(WALMEND, 64, raw(64)),
            0.6,
        ),
        at_most(
            "T=64, syncs per commit",
            most.and_then(Cell::syncs_per_commit),
            0.035,
        ),
        least(
            "64 async tasks, over the raw limit for groups",
            over(TASKS, 64, raw(64)),
            0.75,
        ),
        at_most("T=64, p99 over p50", most.and_then(spread), 3.0),
        least(
            "T=64, least over most commits of any writer",
            most.and_then(fairness),
            0.8,
        ),
        least(
            "T=1, with repair symbols over without",
            against(NO_REPAIR, 1),
            0.95,
        ),
        least(
            "T=64, with repair symbols over without",
            against(NO_REPAIR, 64),
            0.85,
        ),
    ]
}
