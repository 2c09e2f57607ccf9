//! Full load for long, with what the process takes sampled meanwhile: a table, and a picture.

mod picture;

use crate::content;
use crate::files;
use crate::life::{End, Lives, Setting};
use crate::model::Model;
use crate::protocol::{Line, StoreTask, Task};
use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// Bytes of the log at which the store begins it anew, and at which it refuses commits.
const CHECKPOINT_AT: u64 = 16 << 20;
const LOG_LIMIT: u64 = 256 << 20;
/// Cells of the raw database (80 MiB), and of SQLite's.
const CELLS: u32 = 20_000;
const SQLITE_CELLS: u32 = 340;

/// What was measured at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Sample {
    pub(crate) seconds: f64,
    /// Since the sample before.
    pub(crate) commits_per_second: f64,
    pub(crate) resident_mib: f64,
    pub(crate) descriptors: f64,
    pub(crate) threads: f64,
    /// Of all databases, logs, companions and parity files.
    pub(crate) files_mib: [f64; 5],
}

/// Runs one, and leaves its table and picture in `out`.
///
/// # Errors
/// What is wrong.
pub(crate) fn run(folder: &Path, time: Duration, seed: u64, out: Option<&Path>) -> Result<(), String> {
    let folder = folder.join(format!("soak-{seed}"));
    let _ = fs::remove_dir_all(&folder);
    let failed = |error: std::io::Error| error.to_string();
    fs::create_dir_all(&folder).map_err(failed)?;
    let out = out.unwrap_or(&folder);
    let task = task(&folder, seed)?;
    let mut lives = Lives {
        folder: &folder,
        setting: Setting::default(),
        count: 0,
    };
    println!(
        "soak of {} s, seed {seed}, files in {}",
        time.as_secs(),
        folder.display()
    );
    let mut sampler = Sampler::new(&task);
    let mut wrong: Option<String> = None;
    let mut blame = |what: String| {
        wrong.get_or_insert(what);
    };
    let begun = Instant::now();
    let ended = lives.live(
        &task,
        End::Asked(time),
        &mut |line| match line {
            Line::Sample(values) => sampler.take(begun.elapsed(), values),
            Line::Wrong(what) => blame(what),
            Line::Fault { what, kind, text, .. } => blame(format!("{what}: {kind}: {text}")),
            _ => {}
        },
        &mut || {},
    )?;
    fs::create_dir_all(out).map_err(failed)?;
    fs::write(out.join("soak.csv"), table(&sampler.samples)).map_err(failed)?;
    fs::write(out.join("soak.svg"), picture::draw(&sampler.samples)).map_err(failed)?;
    println!("{}", summary(&sampler));
    if let Some(what) = ended.hung {
        return Err(format!("a hang: {what}"));
    }
    if let Some(what) = wrong {
        return Err(what);
    }
    if !ended.done || !ended.status.success() {
        return Err(format!(
            "the worker ended with {}: {}",
            ended.status, ended.errors
        ));
    }
    for store in &task.stores {
        let (cells, number) = files::examine(store, &store.path, &folder)?;
        let by = if number.is_some() { ", sound to SQLite" } else { "" };
        println!("{}: {} cells{by}", store.path.display(), cells.len());
    }
    fs::remove_dir_all(&folder).map_err(failed)
}

fn task(folder: &Path, seed: u64) -> Result<Task, String> {
    let template = folder.join("template.db");
    content::template(&template, 4096, SQLITE_CELLS).map_err(|error| error.to_string())?;
    let raw = StoreTask {
        path: folder.join("raw.db"),
        template: None,
        page_size: 4096,
        cells: CELLS,
        next_txn: Model::new().next_txn,
    };
    let sqlite = StoreTask {
        path: folder.join("sqlite.db"),
        template: Some(template.clone()),
        cells: SQLITE_CELLS,
        ..raw.clone()
    };
    fs::copy(&template, &sqlite.path).map_err(|error| error.to_string())?;
    Ok(Task {
        seed,
        stores: vec![raw, sqlite],
        writers: 4,
        async_writers: 8,
        serializable_writers: 1,
        readers: 2,
        cycles: 0,
        checkpoint_at: CHECKPOINT_AT,
        log_limit: LOG_LIMIT,
        preallocate: 1 << 20,
        direct: None,
        salvage: false,
        backup: true,
        look_only: false,
        squeeze: None,
        soak: true,
    })
}

/// Looks at the worker from outside each time that it says how far it is.
struct Sampler {
    stores: Vec<StoreTask>,
    samples: Vec<Sample>,
    last: (f64, u64),
    totals: [u64; 6],
}

impl Sampler {
    fn new(task: &Task) -> Self {
        Self {
            stores: task.stores.clone(),
            samples: Vec::new(),
            last: (0.0, 0),
            totals: [0; 6],
        }
    }

    fn take(&mut self, at: Duration, values: [u64; 6]) {
        self.totals = values;
        let seconds = at.as_secs_f64();
        let (before, commits) = self.last;
        self.last = (seconds, values[0]);
        let Some(process) = self.worker() else { return };
        let count = |what: &str| fs::read_dir(process.join(what)).map_or(0, Iterator::count) as f64;
        let status = fs::read_to_string(process.join("status")).unwrap_or_default();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let resident = resident.and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok());
        let files_mib = files::SUFFIXES.map(|suffix| {
            let bytes = |store: &StoreTask| {
                fs::metadata(files::with(&store.path, suffix)).map_or(0, |file| file.len())
            };
            self.stores.iter().map(bytes).sum::<u64>() as f64 / f64::from(1 << 20)
        });
        self.samples.push(Sample {
            seconds,
            commits_per_second: (values[0] - commits) as f64 / (seconds - before).max(0.001),
            resident_mib: resident.unwrap_or(0.0) / 1024.0,
            descriptors: count("fd"),
            threads: count("task"),
            files_mib,
        });
    }

    /// The process that has this soak's first store on its command line.
    fn worker(&self) -> Option<std::path::PathBuf> {
        let path = self.stores[0].path.display().to_string();
        let processes = fs::read_dir("/proc").ok()?.flatten().map(|entry| entry.path());
        let mut ours = processes.filter(|process| {
            let line = fs::read_to_string(process.join("cmdline")).unwrap_or_default();
            let words: Vec<&str> = line.split('\0').collect();
            words.get(1) == Some(&"worker") && words.get(2) == Some(&path.as_str())
        });
        ours.next()
    }
}

fn table(samples: &[Sample]) -> String {
    let mut text = String::from(
        "seconds,commits_per_second,resident_mib,descriptors,threads,database_mib,log_mib,companion_mib,\
         log_parity_mib,database_parity_mib\n",
    );
    for sample in samples {
        let _ = write!(
            text,
            "{:.1},{:.0},{:.1},{},{}",
            sample.seconds,
            sample.commits_per_second,
            sample.resident_mib,
            sample.descriptors,
            sample.threads
        );
        for file in sample.files_mib {
            let _ = write!(text, ",{file:.2}");
        }
        text.push('\n');
    }
    text
}

/// A column of the table by its name.
type Column = (&'static str, fn(&Sample) -> f64);

/// The first and the last sixth beside each other: what grows shows there.
fn summary(sampler: &Sampler) -> String {
    let samples = &sampler.samples;
    let part = samples.len() / 6;
    let [commits, syncs, reads, checkpoints, backups, scrubbed] = sampler.totals;
    let mut text = format!(
        "{commits} commits, {syncs} syncs, {reads} cells read, {checkpoints} checkpoints by hand, {backups} backups, \
         {scrubbed} bytes scrubbed in the last store that was looked at\n{:24} {:>12} {:>12} {:>12}",
        "", "first sixth", "last sixth", "most"
    );
    let values: [Column; 9] = [
        ("commits per second", |sample| sample.commits_per_second),
        ("resident, MiB", |sample| sample.resident_mib),
        ("descriptors", |sample| sample.descriptors),
        ("threads", |sample| sample.threads),
        ("databases, MiB", |sample| sample.files_mib[0]),
        ("logs, MiB", |sample| sample.files_mib[1]),
        ("companions, MiB", |sample| sample.files_mib[2]),
        ("parity of logs, MiB", |sample| sample.files_mib[3]),
        ("parity of databases, MiB", |sample| sample.files_mib[4]),
    ];
    for (name, value) in values {
        let mean = |samples: &[Sample]| samples.iter().map(value).sum::<f64>() / samples.len().max(1) as f64;
        let most = samples.iter().map(value).fold(0.0, f64::max);
        let (first, last) = (mean(&samples[..part]), mean(&samples[samples.len() - part..]));
        let _ = write!(text, "\n{name:24} {first:12.1} {last:12.1} {most:12.1}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sample_is_a_row_and_the_sixths_are_compared() {
        let samples: Vec<Sample> = (0..12)
            .map(|number| Sample {
                seconds: f64::from(number),
                resident_mib: f64::from(number),
                ..Sample::default()
            })
            .collect();
        assert_eq!(table(&samples).lines().count(), 13);
        let sampler = Sampler {
            stores: Vec::new(),
            samples,
            last: (0.0, 0),
            totals: [0; 6],
        };
        let shown = summary(&sampler);
        let row = shown.lines().find(|line| line.starts_with("resident")).unwrap();
        let words: Vec<&str> = row.split_whitespace().collect();
        assert_eq!(words[2..], ["0.5", "10.5", "11.0"]);
    }
}
