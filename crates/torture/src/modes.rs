//! The kinds of abuse, and what may come of each.

use crate::life::Setting;
use crate::protocol::{Squeeze, StoreTask, Task};
use std::path::{Path, PathBuf};
use walmend_proof::Random;

/// One kind of abuse. Workers are killed in all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Mode {
    /// Nothing but kills.
    Kill,
    /// Several stores in one process.
    Many,
    /// Bits flip between the lives, no more than parity can mend.
    Flips,
    /// Files are wrecked beyond repair.
    Rot,
    /// A file system that runs full and fails syncs.
    Full,
    /// A limit on the length of files.
    Length,
    /// A limit on descriptors.
    Fds,
    /// A limit on memory.
    Memory,
    /// The clock of the day jumps.
    Clock,
    /// A real SQLite wants the same database.
    Sqlite,
    /// `walmend drill`.
    Drill,
}

impl Mode {
    pub(crate) const ALL: [Self; 11] = [
        Self::Kill,
        Self::Flips,
        Self::Rot,
        Self::Many,
        Self::Full,
        Self::Length,
        Self::Fds,
        Self::Memory,
        Self::Clock,
        Self::Sqlite,
        Self::Drill,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Many => "many",
            Self::Flips => "flips",
            Self::Rot => "rot",
            Self::Full => "full",
            Self::Length => "length",
            Self::Fds => "fds",
            Self::Memory => "memory",
            Self::Clock => "clock",
            Self::Sqlite => "sqlite",
            Self::Drill => "drill",
        }
    }

    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.name() == name)
    }

    /// What `Tally::pushes` counts.
    pub(crate) fn push(self) -> &'static str {
        match self {
            Self::Clock => "jumps of the clock",
            _ => "times the disk was filled",
        }
    }

    /// Whether an error of this kind may come of the abuse. Everything else is wrong.
    pub(crate) fn provokes(self, what: &str, kind: &str) -> bool {
        let background = matches!(what, "repair" | "protection");
        match self {
            Self::Kill | Self::Many | Self::Flips | Self::Clock | Self::Sqlite | Self::Drill => false,
            Self::Rot => true,
            // A file system that has become read-only keeps the old copy where the new one should go.
            Self::Full => {
                let provoked = ["full", "io", "poisoned", "read_only", "database_corrupt"];
                background || provoked.contains(&kind) || (what, kind) == ("backup", "invalid")
            }
            Self::Length => background || matches!(kind, "full" | "io" | "poisoned"),
            Self::Fds | Self::Memory => background || matches!(kind, "io" | "poisoned" | "internal" | "full"),
        }
    }

    /// Whether a worker may come to an end of its own: a limit ends it, or it cannot open any more.
    pub(crate) fn may_end(self) -> bool {
        matches!(
            self,
            Self::Full | Self::Length | Self::Fds | Self::Memory | Self::Rot
        )
    }

    fn squeeze(self) -> Option<Squeeze> {
        match self {
            Self::Length => Some(Squeeze::FileSize),
            Self::Fds => Some(Squeeze::Descriptors),
            Self::Memory => Some(Squeeze::Memory),
            _ => None,
        }
    }

    /// How workers are started.
    ///
    /// # Errors
    /// Why this machine cannot do it.
    pub(crate) fn setting(self, folder: &Path) -> Result<Setting, String> {
        let mut setting = Setting {
            ignore_file_size: self == Self::Length,
            ..Setting::default()
        };
        if self == Self::Clock {
            let library = faketime().ok_or("there is no libfaketime (Debian: apt-get install faketime)")?;
            setting.environment = vec![
                ("LD_PRELOAD", library.display().to_string()),
                (
                    "FAKETIME_TIMESTAMP_FILE",
                    clock_file(folder).display().to_string(),
                ),
                ("FAKETIME_NO_CACHE", "1".into()),
                ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
                ("NO_FAKE_STAT", "1".into()),
            ];
        }
        Ok(setting)
    }

    /// What the workers of a round do; `stores` lie in `folder`.
    pub(crate) fn task(self, folder: &Path, random: &mut Random) -> Task {
        let count = match self {
            Self::Many => 3 + random.below(3),
            _ => 1,
        };
        let sqlite = |random: &mut Random| self == Self::Sqlite || random.one_in(2);
        let stores = (0..count).map(|number| {
            let is_sqlite = sqlite(random);
            let page_size = *random.pick(&[1024_u32, 4096, 4096, 8192]);
            let most = if is_sqlite { page_size / 12 } else { 400 };
            StoreTask {
                path: folder.join(format!("store-{number}.db")),
                template: is_sqlite.then(|| folder.join(format!("template-{number}.db"))),
                page_size,
                cells: 40 + random.below(u64::from(most.min(300) - 39)) as u32,
                next_txn: 1,
            }
        });
        let stores: Vec<StoreTask> = stores.collect();
        let few = self == Self::Many;
        Task {
            seed: random.next(),
            stores,
            writers: if few { 1 } else { 1 + random.below(6) as u32 },
            async_writers: if few { 2 } else { 1 + random.below(6) as u32 },
            serializable_writers: 1 + random.below(if few { 1 } else { 2 }) as u32,
            readers: 1 + random.below(if few { 1 } else { 3 }) as u32,
            cycles: 0,
            checkpoint_at: *random.pick(&[64 << 10, 512 << 10, 4 << 20, 0]),
            log_limit: *random.pick(&[4 << 20, 64 << 20]),
            preallocate: *random.pick(&[0, 64 << 10, 1 << 20]),
            direct: *random.pick(&[None, Some(true), Some(false)]),
            salvage: false,
            backup: true,
            look_only: false,
            squeeze: self.squeeze(),
            soak: false,
        }
    }
}

/// The file by which the clock of a worker is set.
pub(crate) fn clock_file(folder: &Path) -> PathBuf {
    folder.join("clock")
}

/// Sets that clock, by so many seconds off.
pub(crate) fn set_clock(folder: &Path, seconds: i64) {
    // Whole at any moment: it is read at each call.
    let (file, next) = (clock_file(folder), folder.join("clock-next"));
    let written = std::fs::write(&next, format!("{seconds:+}\n"));
    let _ = written.and_then(|()| std::fs::rename(next, file));
}

fn faketime() -> Option<PathBuf> {
    let places = std::fs::read_dir("/usr/lib")
        .ok()?
        .flatten()
        .map(|entry| entry.path());
    places
        .chain([PathBuf::from("/usr/lib"), PathBuf::from("/usr/local/lib")])
        .map(|place| place.join("faketime/libfaketimeMT.so.1"))
        .find(|path| path.exists())
}
