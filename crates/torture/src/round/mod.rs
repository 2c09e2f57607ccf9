//! One round: databases in a folder of their own, and workers on them, one after the other, until the last one ends in
//! good order; after each of them everything is checked.

mod hearing;
mod rot;

use crate::contender::{self, Contender};
use crate::content;
use crate::disk::Disk;
use crate::files;
use crate::flips;
use crate::life::{End, Ended, Lives, program};
use crate::modes::{Mode, set_clock};
use crate::protocol::{StoreTask, Task};
use crate::report::Tally;
use hearing::Hearing;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use walmend_proof::Random;

/// How a round is run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) mode: Mode,
    pub(crate) seed: u64,
    /// Three short lives instead of many.
    pub(crate) short: bool,
}

/// Everything of a round.
struct Round<'a> {
    plan: Plan,
    folder: &'a Path,
    random: Random,
    task: Task,
    hearing: Hearing<'a>,
    disk: Option<Disk>,
    /// The last life ended in good order.
    closed: bool,
    /// Bits have flipped, and no worker has been through its opening since.
    flipped: bool,
    /// When a store had the database open.
    held: Vec<(u64, u64)>,
}

/// Runs a round in `folder`, and adds to `tally` what happened.
///
/// # Errors
/// What is wrong.
pub(crate) fn run(plan: Plan, folder: &Path, tally: &mut Tally) -> Result<(), String> {
    tally.rounds += 1;
    if plan.mode == Mode::Drill {
        return drill(plan, folder, tally);
    }
    let mut random = Random(plan.seed);
    let disk = match plan.mode {
        Mode::Full => {
            // More file system than room, so that syncs fail; or room for all of it, so that it runs full.
            let (backing, image) = *random.pick(&[(24, 256), (40, 256), (64, 48)]);
            match Disk::make(folder, backing, image) {
                Ok(disk) => Some(disk),
                Err(why) => {
                    tally.skipped = Some(why);
                    return Ok(());
                }
            }
        }
        _ => None,
    };
    let setting = match plan.mode.setting(folder) {
        Ok(setting) => setting,
        Err(why) => {
            tally.skipped = Some(why);
            return Ok(());
        }
    };
    let place = disk.as_ref().map_or_else(|| folder.to_owned(), Disk::path);
    let task = plan.mode.task(&place, &mut random);
    for store in &task.stores {
        make(store)?;
    }
    let mut round = Round {
        hearing: Hearing::new(plan.mode, task.stores.len(), tally),
        plan,
        folder,
        random,
        task,
        disk,
        closed: true,
        flipped: false,
        held: Vec::new(),
    };
    let mut lives = Lives {
        folder,
        setting,
        count: 0,
    };
    let done = match plan.mode {
        Mode::Rot => round.rot(&mut lives),
        _ => round.all(&mut lives),
    };
    round.hearing.count();
    done
}

/// Puts the template of an SQLite database in its place; a raw one is made by the store.
fn make(store: &StoreTask) -> Result<(), String> {
    let Some(template) = &store.template else {
        return Ok(());
    };
    content::template(template, store.page_size as usize, store.cells).map_err(|error| error.to_string())?;
    fs::copy(template, &store.path).map_err(|error| error.to_string())?;
    Ok(())
}

impl Round<'_> {
    fn all(&mut self, lives: &mut Lives<'_>) -> Result<(), String> {
        let (count, most) = match self.plan.short {
            true => (3, Duration::from_millis(400)),
            false => (5 + self.random.below(6), Duration::from_millis(2500)),
        };
        let contender = match self.plan.mode {
            Mode::Sqlite => {
                // It must not be the one who finds an empty database.
                let seed = self.random.next();
                Some(Contender::start(&self.task.stores[0].path, seed)?)
            }
            _ => None,
        };
        for _ in 0..count {
            let end = End::draw(&mut self.random, most);
            self.task.cycles = 0;
            self.life(lives, end)?;
            if contender.is_none() {
                self.check()?;
            } else {
                // It shall have its turn.
                walmend_sync::thread::sleep(Duration::from_millis(self.random.below(60)));
            }
            if self.plan.mode == Mode::Flips {
                self.flip()?;
            }
        }
        let attempts = contender.map(Contender::finish);
        self.last(lives)?;
        self.check()?;
        if let Some(attempts) = attempts {
            let found = self.hearing.number.unwrap_or(0);
            let (busy, turns) = contender::judge(&attempts, &self.held, found)?;
            self.hearing.tally.busy += busy;
            self.hearing.tally.turns += turns;
        }
        self.leftovers()
    }

    /// The last life: nothing is in its way, it opens and closes a few times, and ends in good order.
    fn last(&mut self, lives: &mut Lives<'_>) -> Result<(), String> {
        if let Some(disk) = &mut self.disk {
            disk.free();
            disk.grow(300)?;
            disk.remount()?;
        }
        self.task.squeeze = None;
        self.task.cycles = 2;
        let ended = self.life(lives, End::Asked(Duration::from_millis(300)))?;
        if !ended.done {
            return Err(format!(
                "the last worker of the round ended with {}: {}",
                ended.status, ended.errors
            ));
        }
        Ok(())
    }

    fn life(&mut self, lives: &mut Lives<'_>, end: End) -> Result<Ended, String> {
        self.task.seed = self.random.next();
        let next = self.hearing.models.iter().map(|model| model.next_txn);
        for (store, next) in self.task.stores.iter_mut().zip(next) {
            store.next_txn = next;
        }
        self.hearing.opened_at = None;
        // One that is killed before it says anything has opened nothing.
        self.hearing.all_stated = false;
        let mut pusher = Pusher::new(
            self.plan.mode,
            self.folder,
            self.disk.as_ref(),
            self.random.next(),
        );
        let hearing = &mut self.hearing;
        let ended = lives.live(&self.task, end, &mut |line| hearing.hear(line), &mut || {
            pusher.push()
        })?;
        self.hearing.tally.pushes += pusher.pushes;
        self.hearing.tally.lives += 1;
        self.judge(&ended)?;
        self.closed = ended.done;
        if let Some(from) = self.hearing.opened_at {
            let to = ended.killed_at.or(ended.asked_at).unwrap_or(from);
            self.held.push((from, to));
        }
        if self.hearing.all_stated {
            self.flipped = false;
        }
        if let Some(disk) = &mut self.disk {
            // What is on the disk is what counts, and the next worker shall have something to fill.
            disk.free();
            // Without any room below, neither mounting nor reading what was never written works.
            disk.grow(32)?;
            disk.remount()?;
        }
        Ok(ended)
    }

    /// Whether a worker ended as it should.
    fn judge(&mut self, ended: &Ended) -> Result<(), String> {
        if let Some(what) = &ended.hung {
            return Err(format!("a hang: {what}"));
        }
        if let Some(wrong) = self.hearing.wrong.take() {
            return Err(wrong);
        }
        for model in &mut self.hearing.models {
            model.judge()?;
        }
        let tally = &mut *self.hearing.tally;
        if ended.killed_at.is_some() && ended.signal() == Some(nix::libc::SIGKILL) {
            tally.kills += 1;
            tally.in_recovery += u64::from(ended.in_recovery);
            tally.in_checkpoint += u64::from(ended.in_checkpoint);
            return Ok(());
        }
        if ended.status.success() && ended.done {
            return Ok(());
        }
        if self.plan.mode.may_end() && self.plan.mode != Mode::Rot {
            tally.aborted += 1;
            return Ok(());
        }
        Err(format!(
            "the worker ended before its time: {}: {}",
            ended.status, ended.errors
        ))
    }

    /// Looks at the files while nobody has them.
    fn check(&mut self) -> Result<(), String> {
        if self.flipped {
            return Ok(());
        }
        for (store, model) in self.task.stores.iter().zip(&self.hearing.models) {
            let path = &store.path;
            let named = |what: String| format!("{}: {what}", path.display());
            let copy = files::with(path, "-copy");
            // A raw one may not have been made yet.
            if !path.exists() {
                continue;
            }
            let (cells, number) = files::examine(store, path, self.folder).map_err(named)?;
            model.check(&cells).map_err(named)?;
            self.hearing.number = number;
            self.hearing.tally.sound += u64::from(number.is_some());
            // A backup that has its name is whole, whatever became of who made it.
            if copy.exists() {
                let named = |what: String| format!("{}: {what}", copy.display());
                files::examine(store, &copy, self.folder).map_err(named)?;
            }
        }
        Ok(())
    }

    /// Flips bits, and lets `verify` and `heal` see them, or the next worker alone.
    fn flip(&mut self) -> Result<(), String> {
        if self.random.one_in(4) {
            return Ok(());
        }
        let closed = self.closed;
        for number in 0..self.task.stores.len() {
            let path = self.task.stores[number].path.clone();
            let strike = flips::within_parity(&path, &mut self.random, closed)?;
            self.note(&strike.done)?;
            self.hearing.tally.flips += strike.done.len() as u64;
            self.flipped |= !strike.done.is_empty();
            if strike.hit > 0 {
                let (status, said) = walmend(self.folder, &["verify", &path.display().to_string()])?;
                if status != 1 {
                    return Err(format!(
                        "{} bits flipped, and `verify` ended with {status}: {said}",
                        strike.hit
                    ));
                }
            }
            if strike.in_database || (strike.hit > 0 && self.random.one_in(2)) {
                let (status, said) = walmend(self.folder, &["heal", &path.display().to_string()])?;
                if status != 0 {
                    return Err(format!(
                        "{} bits flipped, and `heal` ended with {status}: {said}",
                        strike.hit
                    ));
                }
                self.hearing.tally.healed += strike.hit;
                self.flipped = false;
                self.check()?;
            }
        }
        Ok(())
    }

    /// What was done to the files is kept with them.
    fn note(&self, done: &[String]) -> Result<(), String> {
        use std::io::Write;
        let path = self.folder.join("flips.txt");
        let file = fs::OpenOptions::new().create(true).append(true).open(path);
        let mut file = file.map_err(|error| error.to_string())?;
        let text = format!(
            "after worker {}:\n{}\n",
            self.hearing.tally.lives,
            done.join("\n")
        );
        file.write_all(text.as_bytes()).map_err(|error| error.to_string())
    }

    /// Files that should not be there any more.
    fn leftovers(&self) -> Result<(), String> {
        let place = self
            .disk
            .as_ref()
            .map_or_else(|| self.folder.to_owned(), Disk::path);
        let mut known: Vec<PathBuf> = Vec::new();
        for store in &self.task.stores {
            for suffix in files::SUFFIXES {
                known.push(files::with(&store.path, suffix));
            }
            // The last one is what a kill leaves of a backup; the next one takes its place.
            let copies = ["-copy", "-copy-wal-meta", "-copy-backup-partial"];
            known.extend(copies.map(|suffix| files::with(&store.path, suffix)));
        }
        for entry in fs::read_dir(place).map_err(|error| error.to_string())?.flatten() {
            let path = entry.path();
            let name = entry.file_name().to_string_lossy().into_owned();
            // Damaged bytes are kept by those who healed them.
            let kept = name.contains("-damaged-") && self.hearing.tally.flips > 0;
            if name.starts_with("store-") && !kept && !known.contains(&path) {
                return Err(format!("a leak: {} is left", path.display()));
            }
        }
        Ok(())
    }
}

/// Runs one of walmend's commands; answers its exit status and what it said.
fn walmend(folder: &Path, args: &[&str]) -> Result<(i32, String), String> {
    let output = Command::new(program()?)
        .args(args)
        .arg("--json")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| error.to_string())?;
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    let _ = fs::write(folder.join(format!("{}.txt", args[0])), &said);
    match output.status.code() {
        Some(status @ 0..=2) => Ok((status, said)),
        _ => Err(format!(
            "`walmend {}` ended with {}: {said}",
            args.join(" "),
            output.status
        )),
    }
}

/// What the surroundings do while a worker is at work.
struct Pusher<'a> {
    mode: Mode,
    folder: &'a Path,
    disk: Option<&'a Disk>,
    random: Random,
    full: bool,
    pushes: u64,
}

impl<'a> Pusher<'a> {
    fn new(mode: Mode, folder: &'a Path, disk: Option<&'a Disk>, seed: u64) -> Self {
        let mut pusher = Self {
            mode,
            folder,
            disk,
            random: Random(seed),
            full: false,
            pushes: 0,
        };
        if mode == Mode::Clock {
            pusher.jump();
        }
        pusher
    }

    fn push(&mut self) {
        match (self.mode, self.disk) {
            (Mode::Clock, _) if self.random.one_in(4) => self.jump(),
            (Mode::Full, Some(disk)) if self.random.one_in(12) => {
                self.full = !self.full;
                match self.full {
                    true => disk.fill(),
                    false => disk.free(),
                }
                self.pushes += u64::from(self.full);
            }
            _ => {}
        }
    }

    /// By a second or by years, back and forth.
    fn jump(&mut self) {
        let far = *self.random.pick(&[2, 3600, 86_400, 40_000_000, 900_000_000]);
        let by = self.random.below(2 * far + 1) as i64 - far as i64;
        set_clock(self.folder, by);
        self.pushes += 1;
    }
}

/// `walmend drill`, with a plan of its own.
fn drill(plan: Plan, folder: &Path, tally: &mut Tally) -> Result<(), String> {
    let mut random = Random(plan.seed);
    let (writers, kills) = (
        1 + random.below(16),
        if plan.short { 3 } else { 2 + random.below(11) },
    );
    let [writers, kills, seed] = [writers, kills, plan.seed >> 16].map(|number| number.to_string());
    let place = folder.display().to_string();
    let (status, said) = walmend(
        folder,
        &[
            "drill",
            "--writers",
            &writers,
            "--kills",
            &kills,
            "--seed",
            &seed,
            "--dir",
            &place,
        ],
    )?;
    let report: serde_json::Value = serde_json::from_str(said.trim()).unwrap_or_default();
    let number = |name: &str| report[name].as_u64().unwrap_or(0);
    tally.committed += number("acknowledged");
    tally.kills += number("kills");
    tally.lives += number("kills") + 1;
    tally.flips += number("flips");
    tally.healed += number("flips_healed");
    if status != 0 || number("acknowledged") == 0 || report["identical"] != serde_json::Value::Bool(true) {
        return Err(format!("the drill ended with {status}: {said}"));
    }
    Ok(())
}
