//! Writers that fight over a few hot pages: what is acknowledged is in the log exactly once, no update is lost, and no
//! snapshot sees half of a commit.
//!
//! Each transaction takes two of ten pages, and writes into both who it is, and which version of each it makes. So the
//! log tells by itself whether every version was made from the one before it, and a snapshot whether it is whole.

use std::collections::BTreeSet;
use std::path::Path;
use walmend::{CheckpointMode, CommitOutcome, LogFate, Options, PageNumber, PageSize, Snapshot, Store};
use walmend_sync::atomic::{AtomicBool, AtomicU64, Ordering};
use walmend_sync::thread;

const WRITERS: u64 = 8;
const PAGES: usize = 10;
const PAGE: usize = 512;
/// Bytes of a frame's header, and of the log's.
const FRAME_HEADER: usize = 24;
const LOG_HEADER: usize = 32;

/// What a page holds: the transaction, and for both of its pages the place, from 0, and the version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Content {
    /// 0 for a page that was never written.
    id: u64,
    places: [usize; 2],
    versions: [u64; 2],
}

impl Content {
    /// The whole page: the same words again and again, so that a mixture of two is noticed.
    fn encode(&self) -> Vec<u8> {
        let [first, second] = self.places.map(|place| place as u64);
        let words = [
            self.id,
            first,
            second,
            self.versions[0],
            self.versions[1],
            !self.id,
        ];
        let words = words.into_iter().cycle().take(PAGE / 8);
        words.flat_map(u64::to_le_bytes).collect()
    }

    fn decode(page: &[u8]) -> Self {
        let word = |at: usize| u64::from_le_bytes(page[at * 8..][..8].try_into().unwrap());
        if page.iter().all(|byte| *byte == 0) {
            return Self::default();
        }
        let content = Self {
            id: word(0),
            places: [word(1) as usize, word(2) as usize],
            versions: [word(3), word(4)],
        };
        assert!(content.encode() == page, "a mixture of two pages: {content:?}");
        content
    }

    /// The version of this page that it makes.
    fn version_of(&self, place: usize) -> u64 {
        let mut both = self.places.iter().zip(self.versions);
        both.find(|(other, _)| **other == place)
            .map_or(0, |(_, version)| version)
    }
}

fn number(place: usize) -> PageNumber {
    PageNumber::new(place as u32 + 1).unwrap()
}

fn read_all(snapshot: &Snapshot) -> [Content; PAGES] {
    std::array::from_fn(|place| match number(place).get() <= snapshot.db_pages() {
        true => Content::decode(&snapshot.read(number(place)).unwrap()),
        false => Content::default(),
    })
}

/// A snapshot that shows one of a transaction's two pages shows the other one as well, or what came later.
fn assert_whole(pages: &[Content; PAGES]) {
    for (place, content) in pages.iter().enumerate().filter(|(_, content)| content.id > 0) {
        assert!(content.places.contains(&place), "{content:?} on page {place}");
        for (other, version) in content.places.iter().zip(content.versions) {
            let seen = pages[*other].version_of(*other);
            assert!(
                seen >= version,
                "half of {content:?}: page {other} has version {seen}"
            );
        }
    }
}

/// What the threads of one round come back with.
#[derive(Default)]
struct Told {
    /// Commit number and transaction of what was acknowledged.
    acknowledged: Vec<(u64, u64)>,
    conflicts: u64,
    /// Commit number and versions of all pages, as some snapshots showed them.
    seen: Vec<(u64, [u64; PAGES])>,
}

fn write(store: &Store, writer: u64, commits: u64, next: &AtomicU64) -> Told {
    let mut told = Told::default();
    // Multiplication spreads them (Knuth's constant); it need not be random.
    let mut dice = writer + 1;
    for _ in 0..commits {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let first = (dice >> 33) as usize % PAGES;
        let second = (first + 1 + (dice >> 48) as usize % (PAGES - 1)) % PAGES;
        let mut txn = store.begin().unwrap();
        let before = [first, second].map(|place| match number(place).get() <= txn.db_pages() {
            true => Content::decode(&txn.read(number(place)).unwrap()).version_of(place),
            false => 0,
        });
        let content = Content {
            id: next.fetch_add(1, Ordering::Relaxed),
            places: [first, second],
            versions: before.map(|version| version + 1),
        };
        for place in content.places {
            txn.write(number(place), content.encode()).unwrap();
        }
        match txn.commit() {
            CommitOutcome::Committed { commit_seq, .. } => told.acknowledged.push((commit_seq.0, content.id)),
            CommitOutcome::Conflict(conflict) => {
                let page = conflict.page.unwrap();
                assert!(content.places.iter().any(|place| number(*place) == page));
                told.conflicts += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    told
}

fn look(store: &Store, stop: &AtomicBool) -> Told {
    let mut told = Told::default();
    while !stop.load(Ordering::Relaxed) {
        let snapshot = store.snapshot().unwrap();
        let pages = read_all(&snapshot);
        assert_whole(&pages);
        let versions = std::array::from_fn(|place| pages[place].version_of(place));
        told.seen.push((snapshot.commit_seq().0, versions));
        drop(snapshot);
        thread::yield_now();
    }
    told
}

/// Reads the frames of the log as they stand in the file, by nothing of walmend's: each commit's pages.
fn commits_in_log(log: &Path, frames: u32) -> Vec<Vec<(usize, Content)>> {
    let bytes = std::fs::read(log).unwrap();
    let word = |at: usize| u32::from_be_bytes(bytes[at..][..4].try_into().unwrap());
    assert_eq!(word(8) as usize, PAGE);
    let (mut commits, mut pages) = (Vec::new(), Vec::new());
    for frame in 0..frames as usize {
        let at = LOG_HEADER + frame * (FRAME_HEADER + PAGE);
        assert_eq!(
            bytes[at + 8..][..8],
            bytes[16..24],
            "a frame of another generation"
        );
        let page = &bytes[at + FRAME_HEADER..][..PAGE];
        pages.push((word(at) as usize - 1, Content::decode(page)));
        if word(at + 4) != 0 {
            commits.push(std::mem::take(&mut pages));
        }
    }
    assert!(pages.is_empty(), "the log ends within a commit");
    commits
}

/// So many commits by eight writers, in rounds; after each, the log is read and begun anew.
fn fight(commits: u64, round: u64) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hot.db");
    let options = || {
        // The log is begun anew when the test says so.
        Options::new()
            .page_size(PageSize::new(PAGE as u32).unwrap())
            .checkpoint_at(0)
            .log_limit(0)
    };
    let store = Store::open(&path, options()).unwrap().0;
    let (next, mut versions, mut seq) = (AtomicU64::new(1), [0; PAGES], 0);
    let (mut acknowledged, mut conflicts, mut snapshots) = (0, 0, 0);
    for _ in 0..commits / round {
        let stop = AtomicBool::new(false);
        let told: Vec<Told> = thread::scope(|scope| {
            let reader = scope.spawn(|| look(&store, &stop));
            let writers: Vec<_> = (0..WRITERS)
                .map(|writer| {
                    let (store, next) = (&store, &next);
                    scope.spawn(move || write(store, writer, round / WRITERS, next))
                })
                .collect();
            let mut told: Vec<Told> = writers.into_iter().map(|writer| writer.join().unwrap()).collect();
            stop.store(true, Ordering::Relaxed);
            told.push(reader.join().unwrap());
            told
        });
        // Commit numbers have no gaps, and stand in the order of the log.
        let mut expected: Vec<(u64, u64)> = told
            .iter()
            .flat_map(|told| told.acknowledged.iter().copied())
            .collect();
        expected.sort_unstable();
        let in_log = commits_in_log(&folder.path().join("hot.db-wal"), store.stats().log_frames);
        assert_eq!(in_log.len(), expected.len());
        let mut states = vec![(seq, versions)];
        for ((commit_seq, id), pages) in expected.iter().zip(&in_log) {
            seq += 1;
            assert_eq!(*commit_seq, seq);
            let content = pages[0].1;
            assert_eq!(content.id, *id, "what is there is what was acknowledged");
            let places: BTreeSet<usize> = pages.iter().map(|(place, _)| *place).collect();
            assert!(pages.len() == 2 && places == BTreeSet::from(content.places));
            for (place, page) in pages {
                assert_eq!(*page, content, "both pages are of one commit");
                // No update was lost: each version was made from the one before it.
                assert_eq!(page.version_of(*place), versions[*place] + 1);
                versions[*place] += 1;
            }
            states.push((seq, versions));
        }
        // A snapshot showed exactly what the log had come to.
        for (at, versions) in told.iter().flat_map(|told| &told.seen) {
            assert_eq!(states[(at - states[0].0) as usize], (*at, *versions));
            snapshots += 1;
        }
        acknowledged += expected.len() as u64;
        conflicts += told.iter().map(|told| told.conflicts).sum::<u64>();
        let report = store.checkpoint(CheckpointMode::Restart).unwrap();
        assert_eq!(report.log, LogFate::Reset);
    }
    let stats = store.stats();
    assert_eq!(
        (stats.commits, stats.conflicts, stats.failed),
        (acknowledged, conflicts, 0)
    );
    store.close().unwrap();
    let reopened = Store::open(&path, options()).unwrap().0;
    let pages = read_all(&reopened.snapshot().unwrap());
    assert_eq!(
        versions,
        std::array::from_fn(|place| pages[place].version_of(place))
    );
    format!(
        "{} commits: {acknowledged} acknowledged, each once in the log, in {} batches; {conflicts} conflicts; \
         {snapshots} snapshots, none with half of one",
        acknowledged + conflicts,
        stats.batches
    )
}

#[test]
fn writers_that_fight_over_ten_pages_lose_no_update_and_show_no_half_of_one() {
    fight(24_000, 8_000);
}

#[test]
#[ignore = "takes a while; run it with --ignored --nocapture"]
#[expect(clippy::print_stdout, reason = "it tells what it counted")]
fn a_million_commits_that_fight_over_ten_pages() {
    println!("{}", fight(1_000_000, 100_000));
}
