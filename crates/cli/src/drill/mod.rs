//! `drill`: the promise on show. Writers commit in a child process, which is killed again and again; each time
//! the parent recovers the store and looks for every acknowledged transaction.

mod check;
mod child;
mod content;
mod flips;
mod lives;
mod plan;
mod protocol;
mod random;
mod report;
mod source;

use crate::args;
use crate::folder::Folder;
use crate::output::{Output, Status, complain};
use crate::progress::Progress;
use content::{Content, FINAL, Version};
use flips::Flips;
use lives::Life;
use plan::{Group, Kill};
use protocol::Assignment;
use report::{Report, Row};
use source::Source;
use std::collections::HashSet;
use std::io::IsTerminal;
use std::time::{Duration, Instant};
use walmend::{CheckpointMode, Decision, OpenReport, Options, Store};
use walmend_error::{ErrorKind, Result};
use walmend_vfs::{OpenFlags, ReadSource, UnixVfs, Vfs};

/// Seeds of the drill's own choice stay below 2^48, so that any reader of JSON can carry them.
const SEEDS: u64 = 0xffff_ffff_ffff;
/// Bytes compared in one go.
const COMPARE: usize = 1 << 20;

/// The process that `drill` kills.
pub(crate) fn child() -> Result<Status> {
    child::live().map(|()| Status::Well)
}

/// `walmend drill`.
pub(crate) fn run(args: &args::Drill, out: &Output) -> Result<Status> {
    let folder = Folder::new(args.dir.as_deref())?;
    let seed = args.seed.unwrap_or_else(|| UnixVfs::new().random() & SEEDS);
    let result = Drill::prepare(args, out, &folder, seed).and_then(Drill::run);
    let worth_keeping = match &result {
        Ok(report) => !report.passed(),
        Err(error) => matches!(
            error.kind(),
            ErrorKind::WalCorrupt
                | ErrorKind::WalAmbiguous
                | ErrorKind::DatabaseCorrupt
                | ErrorKind::Internal
        ),
    };
    if args.dir.is_some() || worth_keeping {
        folder.keep();
    }
    if worth_keeping {
        complain(&format!(
            "the drill with seed {seed} failed; its files are kept in {}",
            folder.path().display()
        ));
    }
    let mut report = result?;
    if args.dir.is_some() || worth_keeping {
        report.result = Some(folder.path().display().to_string());
    }
    if let Some(path) = &args.svg {
        report.chart().write(path)?;
    }
    if out.json() {
        out.object(&report)?;
    } else {
        out.text(&report.closing(out))?;
    }
    Ok(if report.passed() {
        Status::Well
    } else {
        Status::Damage
    })
}

struct Drill<'a> {
    out: &'a Output,
    folder: &'a Folder,
    source: Source,
    content: Content,
    groups: Vec<Group>,
    kills: Vec<Kill>,
    /// The version at which each group stands.
    versions: Vec<Version>,
    /// Every commit number that was acknowledged so far.
    numbers: HashSet<u64>,
    /// Commits and syncs of all children, as far as they told.
    totals: (u64, u64),
    committing: Duration,
    recovering: Duration,
    checking: Duration,
    started: Instant,
    /// The median of each life's window.
    windows: Vec<u64>,
    flips: u32,
    report: Report,
}

impl<'a> Drill<'a> {
    fn prepare(args: &args::Drill, out: &'a Output, folder: &'a Folder, seed: u64) -> Result<Self> {
        let started = Instant::now();
        let image = folder.file("source.db");
        let source = match &args.source {
            Some(path) => {
                let _progress = Progress::spinner("copying the source");
                source::copy(path, &image)?
            }
            None => source::make(&image, seed)?,
        };
        let groups = plan::groups(seed, source.db_pages, source.page_size);
        let mut report = Report {
            seed,
            writers: args.writers,
            pages: source.db_pages,
            page_size: source.page_size.get(),
            kills: args.kills,
            in_memory: folder.is_in_memory(),
            from_source: args.source.is_some(),
            ..Report::default()
        };
        report.seconds.preparing = started.elapsed().as_secs_f64();
        if !out.json() {
            out.text(&report.opening(&folder.path().display().to_string(), groups.len(), out))?;
        }
        report.kills = 0;
        Ok(Self {
            out,
            folder,
            content: Content::new(seed, source.pages, source.page_size, &image)?,
            kills: plan::kills(seed, source.db_pages, args.kills),
            versions: vec![0; groups.len()],
            groups,
            source,
            numbers: HashSet::new(),
            totals: (0, 0),
            windows: Vec::new(),
            flips: args.flips,
            committing: Duration::ZERO,
            recovering: Duration::ZERO,
            checking: Duration::ZERO,
            started,
            report,
        })
    }

    fn run(mut self) -> Result<Report> {
        let kills = std::mem::take(&mut self.kills);
        // The rows of the table are progress enough, where they can be seen.
        let seen = !self.out.json() && std::io::stdout().is_terminal();
        let progress = match seen {
            true => Progress::hidden(),
            false => Progress::steps("drilling", kills.len() as u64 + 1),
        };
        for (kill, number) in kills.into_iter().zip(1..) {
            self.live(number, Some(kill))?;
            progress.set(u64::from(number));
            if !self.report.problems.is_empty() {
                // What went wrong is on the disk now; going on would bury it.
                return Ok(self.finished());
            }
        }
        self.live(self.report.kills + 1, None)?;
        drop(progress);
        if self.report.problems.is_empty() {
            self.flip_the_log()?;
        }
        if self.report.problems.is_empty() {
            self.finish()?;
        }
        Ok(self.finished())
    }

    /// One life of the child and the recovery after it.
    fn live(&mut self, number: u32, kill: Option<Kill>) -> Result<()> {
        let assignment = Assignment {
            seed: self.report.seed,
            database: self.folder.file("drill.db"),
            source: self.folder.file("source.db"),
            sqlite: self.source.pages == walmend::Pages::Sqlite,
            page_size: self.source.page_size.get(),
            db_pages: self.source.db_pages,
            writers: self.report.writers,
            versions: self.versions.clone(),
            finish: kill.is_none(),
        };
        let life = lives::live(self.folder, &assignment, kill)?;
        self.report.kills += u32::from(kill.is_some());
        self.report.acknowledged += life.acks.len() as u64;
        self.report.checkpoints += life.checkpoints;
        self.committing += life.committing;
        self.totals = (self.totals.0 + life.totals.0, self.totals.1 + life.totals.1);
        let [p50, p99, max] = life.window;
        // A life that was killed before its first parity was synced has measured none.
        if max > 0 {
            self.windows.push(p50);
        }
        self.report.repair_window_us.p99 = self.report.repair_window_us.p99.max(p99);
        self.report.repair_window_us.max = self.report.repair_window_us.max.max(max);
        let acknowledged = self.take_acks(&life);

        let started = Instant::now();
        let (store, opened) = self.open()?;
        let recovery = started.elapsed();
        self.recovering += recovery;
        self.check_recovery(&opened, &life);

        let started = Instant::now();
        let snapshot = store.snapshot()?;
        let checked = check::groups(
            &snapshot,
            &self.content,
            &self.groups,
            &self.versions,
            &acknowledged,
        )?;
        drop(snapshot);
        store.close()?;
        self.checking += started.elapsed();

        let found = life.acks.len() as u64 + checked.unheard - checked.lost.min(life.acks.len() as u64);
        self.report.commits += found;
        self.report.lost += checked.lost;
        self.report.torn += checked.torn;
        self.report.problems.extend(checked.problems);
        self.versions = checked.versions;
        let row = Row {
            life: number,
            acknowledged: life.acks.len() as u64,
            recovered: found,
            lost: checked.lost,
            log_frames: opened.recovery.committed_frames,
            dropped_frames: opened.recovery.dropped_frames,
            recovery,
            killed_in: match (kill, life.in_checkpoint) {
                (None, _) => "not killed: it finished its work",
                (_, true) => "a checkpoint",
                (_, false) => "commits",
            },
        };
        if kill.is_some() {
            self.report.recovered += found;
            self.report.unacknowledged += checked.unheard;
            self.report.kills_in_checkpoint += u32::from(life.in_checkpoint);
            self.report.torn_tails += u32::from(opened.recovery.dropped_frames > 0);
        } else if checked.unheard > 0 {
            self.problem("a child that was not killed left commits that it never acknowledged".into());
        }
        let line = row.line();
        self.report.lives.push(row);
        if self.out.json() {
            return Ok(());
        }
        self.out.text(&line)
    }

    /// The versions after the acknowledgements of a life.
    fn take_acks(&mut self, life: &Life) -> Vec<Version> {
        let mut versions = self.versions.clone();
        for ack in &life.acks {
            if !self.numbers.insert(ack.commit_seq) {
                self.problem(format!(
                    "commit number {} was given to two commits",
                    ack.commit_seq
                ));
            }
            match versions.get_mut(ack.group) {
                Some(version) => *version = (*version).max(ack.version),
                None => self.problem(format!("a commit of group {}, which does not exist", ack.group)),
            }
        }
        versions
    }

    /// What must hold of every recovery, beside the content.
    fn check_recovery(&mut self, opened: &OpenReport, life: &Life) {
        let recovery = &opened.recovery;
        if !matches!(recovery.decision, Decision::Clean | Decision::TornTail) {
            self.problem(format!("recovery decided {}", recovery.decision.as_str()));
        }
        let numbers = life.acks.iter().map(|ack| ack.commit_seq);
        if let Some(last) = numbers.clone().max()
            && opened.commit_seq.0 < last
        {
            self.problem(format!(
                "commit {last} was acknowledged, but recovery ends at commit {}",
                opened.commit_seq.0
            ));
        }
        if let Some(first) = numbers.min()
            && first <= life.opened_at
        {
            self.problem(format!(
                "commit number {first} was given again: the store was opened at {}",
                life.opened_at
            ));
        }
    }

    /// Flips bits of the log, and has them found and healed.
    fn flip_the_log(&mut self) -> Result<()> {
        let started = Instant::now();
        let flips = flips::in_log(&self.folder.file("drill.db"), self.flips, self.report.seed)?;
        self.flipped(flips, started);
        Ok(())
    }

    /// The same for the database file. What comes of it is compared with the source afterwards.
    fn flip_the_database(&mut self) -> Result<()> {
        let started = Instant::now();
        let flips = flips::in_database(&self.folder.file("drill.db"), self.flips, self.report.seed)?;
        self.report.flips_in_database = flips.flipped;
        self.flipped(flips, started);
        Ok(())
    }

    fn flipped(&mut self, flips: Flips, started: Instant) {
        self.report.flips += flips.flipped;
        self.report.flips_found += flips.found;
        self.report.flips_healed += flips.healed;
        self.report.problems.extend(flips.problems);
        self.report.seconds.healing += started.elapsed().as_secs_f64();
    }

    /// Checkpoints, flips bits of the database file, and compares with the source what was healed.
    fn finish(&mut self) -> Result<()> {
        let started = Instant::now();
        if self.versions.iter().any(|version| *version != FINAL) {
            self.problem("the last child did not commit every group".into());
        }
        let (store, _) = self.open()?;
        let checkpoint = store.checkpoint(CheckpointMode::Truncate)?;
        store.close()?;
        if checkpoint.blocked_by_readers {
            self.problem("the last checkpoint was blocked although nobody reads".into());
        }
        self.report.pages_verified = checkpoint.pages_verified;
        self.report.verified_from = Some(match checkpoint.verified_from {
            ReadSource::Device => "device",
            ReadSource::Cache => "cache",
        });
        self.report.seconds.finishing = started.elapsed().as_secs_f64();
        self.flip_the_database()?;
        let started = Instant::now();
        self.report.identical = self.compare()?;
        self.report.seconds.finishing += started.elapsed().as_secs_f64();
        Ok(())
    }

    /// The database as its child left it, protected like there.
    fn open(&self) -> Result<(Store, OpenReport)> {
        let options = Options::new().create(false).protect_database(true);
        Store::open(self.folder.file("drill.db"), options)
    }

    fn compare(&mut self) -> Result<bool> {
        let vfs = UnixVfs::new();
        let ours = vfs.open(&self.folder.file("drill.db"), OpenFlags::READ)?;
        let source = vfs.open(&self.folder.file("source.db"), OpenFlags::READ)?;
        let (mut left, mut right) = (vec![0; COMPARE], vec![0; COMPARE]);
        let mut offset = 0;
        loop {
            let read = ours.read_at(&mut left, offset)?;
            if source.read_at(&mut right, offset)? != read || left[..read] != right[..read] {
                self.problem(format!("the result differs from the source near offset {offset}"));
                return Ok(false);
            }
            if read == 0 {
                return Ok(true);
            }
            offset += read as u64;
        }
    }

    fn problem(&mut self, problem: String) {
        self.report.problems.push(problem);
    }

    fn finished(mut self) -> Report {
        self.windows.sort_unstable();
        self.report.repair_window_us.p50 = self.windows.get(self.windows.len() / 2).copied().unwrap_or(0);
        let seconds = &mut self.report.seconds;
        seconds.committing = self.committing.as_secs_f64();
        seconds.recovering = self.recovering.as_secs_f64();
        seconds.checking = self.checking.as_secs_f64();
        seconds.total = self.started.elapsed().as_secs_f64();
        if seconds.committing > 0.0 {
            self.report.commits_per_second = self.report.acknowledged as f64 / seconds.committing;
        }
        if self.totals.0 > 0 {
            self.report.syncs_per_commit = self.totals.1 as f64 / self.totals.0 as f64;
        }
        self.report
    }
}
