//! All checks in a row, and how long each of them took.

use crate::cargo::Workspace;
use crate::{Result, Task, find};
use std::time::{Duration, Instant};

/// The steps, cheap ones first; the words are what one types to repeat a step.
const STEPS: &[&[&str]] = &[
    &["fmt"],
    &["tidy"],
    &["bugs", "--check"],
    &["lint"],
    &["test"],
    &["loom"],
    &["doc"],
    &["torture", "--smoke"],
];

/// Runs every step and stops at the first that fails.
pub(crate) fn run(workspace: &Workspace, args: &[String]) -> Result {
    crate::args::Args::new(args).finish()?;
    let started = Instant::now();
    let mut times = Vec::new();
    for (number, words) in STEPS.iter().enumerate() {
        let line = format!("cargo xtask {}", words.join(" "));
        eprintln!("\n=== {}/{}: {line}", number + 1, STEPS.len());
        let (task, rest) = step(words)?;
        let step_started = Instant::now();
        let result = (task.run)(workspace, &rest);
        let took = step_started.elapsed();
        if let Err(error) = result {
            summary(&times, started.elapsed());
            let step = task.name;
            return Err(format!("step `{step}`: {error}\nThis step alone: {line}").into());
        }
        eprintln!("=== {} took {}", task.name, seconds(took));
        times.push((task.name, took));
    }
    summary(&times, started.elapsed());
    eprintln!("\nAll {} steps passed.", STEPS.len());
    Ok(())
}

/// The task that a step runs, and its arguments.
fn step(words: &[&str]) -> Result<(&'static Task, Vec<String>)> {
    let (name, rest) = words.split_first().ok_or("a step without a task")?;
    Ok((find(name)?, rest.iter().map(ToString::to_string).collect()))
}

fn summary(times: &[(&str, Duration)], total: Duration) {
    eprintln!("\n{:8} {:>8}", "step", "time");
    for (name, took) in times {
        eprintln!("{name:8} {:>8}", seconds(*took));
    }
    eprintln!("{:8} {:>8}", "total", seconds(total));
}

/// Minutes and seconds, or seconds alone.
pub(crate) fn seconds(time: Duration) -> String {
    let (minutes, rest) = (time.as_secs() / 60, time.as_secs_f64() % 60.0);
    if minutes == 0 {
        format!("{rest:.1} s")
    } else {
        format!("{minutes}m {rest:02.0}s")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_names_a_task() {
        for words in STEPS {
            step(words).unwrap();
        }
    }

    #[test]
    fn times_are_shown_in_seconds_below_a_minute() {
        assert_eq!(seconds(Duration::from_millis(59_900)), "59.9 s");
        assert_eq!(seconds(Duration::from_secs(125)), "2m 05s");
    }
}
