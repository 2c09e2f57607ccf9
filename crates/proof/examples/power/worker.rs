//! What runs in the machine: writers that commit as fast as they can, and say what they were told.
//!
//! Each line goes out in one write. It may come later than a write to the disk that follows it, never earlier than one
//! that it speaks of.

use crate::database::{self, Pages};
use crate::settings::{Engine, Work};
use crate::without_syncs::WithoutSyncs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use walmend::{CheckpointMode, LogIo, Options, PageNumber, Store};
use walmend_proof::power::{Body, Found};
use walmend_proof::{Random, power::Groups};
use walmend_sync::{block_on, thread};

const MODES: [CheckpointMode; 4] = [
    CheckpointMode::Truncate,
    CheckpointMode::Full,
    CheckpointMode::Restart,
    CheckpointMode::Passive,
];

/// Works until the power goes. It comes back only with what went wrong.
pub(crate) fn work(work: &Work, db: &Path) -> String {
    let done = match work.engine {
        Engine::Walmend | Engine::WalmendWithoutSyncs => walmend(work, db),
        Engine::SqliteFull | Engine::SqliteOff => crate::sqlite::work(work, db),
        Engine::Turns => turns(work, db),
    };
    done.err().unwrap_or_else(|| "it came to an end".into())
}

/// One line, in one write.
pub(crate) fn say(line: &str) {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    let said = out
        .write_all(format!("{line}\n").as_bytes())
        .and_then(|()| out.flush());
    said.expect("the other side listens");
}

/// How stores are opened, in the machine and when it is looked at afterwards.
pub(crate) fn options(work: &Work) -> Options {
    let options = Options::new()
        .protect_database(true)
        .checkpoint_at(2 << 20)
        .preallocate(256 << 10)
        .log_io(if work.direct {
            LogIo::Direct
        } else {
            LogIo::Buffered
        });
    match work.pages {
        Pages::Sqlite => options.create(false).pages(walmend::Pages::Sqlite),
        Pages::Raw => options.pages(walmend::Pages::Raw),
    }
}

/// What a store shows of each body, and where it is.
pub(crate) fn look(store: &Store, work: &Work) -> Result<Vec<(PageNumber, Found)>, walmend::Error> {
    let snapshot = store.snapshot()?;
    let mut places = vec![None; work.groups.len() as usize];
    if work.pages == Pages::Raw {
        for (id, place) in (0u32..).zip(&mut places) {
            *place = Some((database::raw_page(id), Found::Nothing));
        }
    }
    for number in 2..=snapshot.db_pages() {
        let page = snapshot.read(PageNumber::new(number)?)?;
        if let Some((id, found)) = database::body(work.pages, number, &page)
            && let Some(place) = places.get_mut(id as usize)
        {
            *place = Some((number, found));
        }
    }
    places
        .into_iter()
        .zip(0..)
        .map(|(place, id): (_, u32)| {
            let (number, found) =
                place.ok_or_else(|| walmend::Error::Invalid(format!("no page holds row {id}")))?;
            Ok((PageNumber::new(number)?, found))
        })
        .collect()
}

/// Says at which version each group is; after that they must not fall behind it.
fn say_what_is_there(groups: Groups, bodies: &[(PageNumber, Found)]) -> Result<Vec<u64>, String> {
    let mut versions = Vec::new();
    for group in 0..groups.0 {
        let ids = groups.ids(group);
        let found: Vec<u64> = ids
            .clone()
            .map(|id| match bodies[id as usize].1 {
                Found::Nothing => Ok(0),
                Found::Whole(body) => Ok(body.version),
                Found::Rubbish => Err(format!("row {id} is rubbish")),
            })
            .collect::<Result<_, _>>()?;
        if found.iter().any(|version| *version != found[0]) {
            return Err(format!("group {group} is torn: {found:?}"));
        }
        say(&format!("seen {group} {}", found[0]));
        versions.push(found[0]);
    }
    Ok(versions)
}

fn walmend(work: &Work, db: &Path) -> Result<(), String> {
    let text = |error: walmend::Error| error.to_string();
    let mut options = options(work);
    if work.engine == Engine::WalmendWithoutSyncs {
        options = options.vfs(Arc::new(WithoutSyncs::default()));
    }
    let (store, report) = Store::open(db, options).map_err(text)?;
    let recovery = &report.recovery;
    say(&format!(
        "opened: {}, {} frames kept, {} dropped",
        recovery.decision.as_str(),
        recovery.committed_frames,
        recovery.dropped_frames
    ));
    let bodies = look(&store, work).map_err(text)?;
    let versions = say_what_is_there(work.groups, &bodies)?;
    say("ready");
    thread::scope(|scope| {
        let writers: Vec<_> = (0..work.writers)
            .map(|writer| {
                let (store, bodies, versions) = (&store, &bodies, &versions);
                scope.spawn(move || -> Result<(), walmend::Error> {
                    let mut turns = Turns::new(work, writer, versions);
                    loop {
                        turns.commit(store, work, bodies)?;
                    }
                })
            })
            .collect();
        let checkpoints = scope.spawn(|| checkpoints(&store, work.seed));
        let panicked = "a thread panicked";
        for writer in writers {
            writer.join().map_err(|_| panicked)?.map_err(text)?;
        }
        checkpoints.join().map_err(|_| panicked)?.map_err(text)
    })
}

fn checkpoints(store: &Store, seed: u64) -> Result<(), walmend::Error> {
    let mut random = Random(seed ^ 0xc4ec);
    loop {
        thread::sleep(Duration::from_millis(random.below(2000)));
        let mode = *random.pick(&MODES);
        say("checkpoint begins");
        store.checkpoint(mode)?;
        say("checkpoint ends");
    }
}

/// Who is next: the groups of one writer, and the version of each.
pub(crate) struct Turns {
    random: Random,
    mine: Vec<(u32, u64)>,
}

impl Turns {
    /// The groups of writer `writer`.
    pub(crate) fn new(work: &Work, writer: u32, versions: &[u64]) -> Self {
        let mine = (0u32..).zip(versions.iter().copied());
        Self {
            random: Random(work.seed ^ u64::from(writer)),
            mine: mine.filter(|(group, _)| group % work.writers == writer).collect(),
        }
    }

    /// The next group, and its next version.
    pub(crate) fn next(&mut self) -> (u32, u64) {
        let place = self.random.below(self.mine.len() as u64) as usize;
        let (group, version) = &mut self.mine[place];
        *version += 1;
        (*group, *version)
    }

    fn commit(
        &mut self,
        store: &Store,
        work: &Work,
        bodies: &[(PageNumber, Found)],
    ) -> Result<(), walmend::Error> {
        let (group, version) = self.next();
        let mut txn = store.begin()?;
        for id in work.groups.ids(group) {
            let (page, _) = bodies[id as usize];
            let image = match work.pages {
                Pages::Sqlite => txn.read(page)?,
                Pages::Raw => vec![0; database::PAGE],
            };
            txn.write(page, database::with_body(work.pages, image, Body { id, version }))?;
        }
        let outcome = match self.random.one_in(3) {
            true => block_on(txn.commit_async()),
            false => txn.commit(),
        };
        outcome.into_result()?;
        say(&format!("ack {group} {version}"));
        Ok(())
    }
}

/// walmend and SQLite in turns, each with a few commits before it closes the database.
fn turns(work: &Work, db: &Path) -> Result<(), String> {
    let text = |error: walmend::Error| error.to_string();
    let mut random = Random(work.seed ^ 0x7412);
    let mut turns = None;
    loop {
        let (store, _) = Store::open(db, options(work)).map_err(text)?;
        let bodies = look(&store, work).map_err(text)?;
        let versions = say_what_is_there(work.groups, &bodies)?;
        let alone = Work {
            writers: 1,
            ..work.clone()
        };
        let turns = turns.get_or_insert_with(|| {
            say("ready");
            Turns::new(&alone, 0, &versions)
        });
        for _ in 0..random.below(8) {
            turns.commit(&store, work, &bodies).map_err(text)?;
        }
        store.close().map_err(text)?;
        say("sqlite's turn");
        crate::sqlite::a_few(work, db, turns, random.below(8))?;
    }
}
