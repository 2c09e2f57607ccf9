//! What is to be done, as the command line says it.

use crate::database::Pages;
use std::path::{Path, PathBuf};
use std::time::Duration;
use walmend_proof::power::Groups;

/// Who writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Engine {
    /// A store, with several writers.
    Walmend,
    /// The same over a file system that forgets its syncs: losses must show.
    WalmendWithoutSyncs,
    /// SQLite that syncs every commit.
    SqliteFull,
    /// SQLite that syncs nothing: losses must show.
    SqliteOff,
    /// walmend and SQLite in turns.
    Turns,
}

const ENGINES: [(&str, Engine); 5] = [
    ("walmend", Engine::Walmend),
    ("walmend-without-syncs", Engine::WalmendWithoutSyncs),
    ("sqlite-full", Engine::SqliteFull),
    ("sqlite-off", Engine::SqliteOff),
    ("turns", Engine::Turns),
];

impl Engine {
    /// The name on the command line.
    pub(crate) fn name(self) -> &'static str {
        ENGINES
            .iter()
            .find(|(_, engine)| *engine == self)
            .map_or("?", |(name, _)| name)
    }

    /// Whether it acknowledges what no sync has made durable.
    pub(crate) fn must_lose(self) -> bool {
        matches!(self, Self::WalmendWithoutSyncs | Self::SqliteOff)
    }

    /// Whether walmend has a part in it.
    pub(crate) fn is_ours(self) -> bool {
        !matches!(self, Self::SqliteFull | Self::SqliteOff)
    }
}

/// What the worker in the machine has to know.
#[derive(Debug, Clone)]
pub(crate) struct Work {
    /// Who writes.
    pub(crate) engine: Engine,
    /// What the database is.
    pub(crate) pages: Pages,
    /// Whether walmend writes its log past the page cache.
    pub(crate) direct: bool,
    /// How many threads write.
    pub(crate) writers: u32,
    /// Of what they do.
    pub(crate) seed: u64,
    /// What they write to.
    pub(crate) groups: Groups,
}

/// Groups of 1 to 6 pages: 210 pages in all.
const GROUPS: Groups = Groups(60);

impl Work {
    /// As words, for the machine's command line.
    pub(crate) fn words(&self) -> [String; 5] {
        [
            self.engine.name().into(),
            if self.pages == Pages::Raw { "raw" } else { "sqlite" }.into(),
            if self.direct { "direct" } else { "buffered" }.into(),
            self.writers.to_string(),
            self.seed.to_string(),
        ]
    }

    /// From those words.
    ///
    /// # Errors
    /// Of the word that makes no sense.
    pub(crate) fn from_words(words: &[String]) -> Result<Self, String> {
        let [engine, pages, log, writers, seed] = words else {
            return Err(format!("five words, not {words:?}"));
        };
        let named = ENGINES.iter().find(|(name, _)| name == engine);
        let (_, engine) = named.ok_or_else(|| {
            let all: Vec<&str> = ENGINES.iter().map(|(name, _)| *name).collect();
            format!("no engine `{engine}`: one of {}", all.join(", "))
        })?;
        let work = Self {
            engine: *engine,
            pages: match pages.as_str() {
                "sqlite" => Pages::Sqlite,
                "raw" => Pages::Raw,
                other => return Err(format!("no pages `{other}`: sqlite or raw")),
            },
            direct: match log.as_str() {
                "direct" => true,
                "buffered" => false,
                other => return Err(format!("no log `{other}`: direct or buffered")),
            },
            writers: number("--writers", writers)?,
            seed: number("--seed", seed)?,
            groups: GROUPS,
        };
        if work.writers == 0 || work.writers > GROUPS.0 {
            return Err(format!("--writers is 1 to {}", GROUPS.0));
        }
        if work.pages == Pages::Raw && !matches!(work.engine, Engine::Walmend | Engine::WalmendWithoutSyncs) {
            return Err("--pages raw is for walmend alone".into());
        }
        Ok(work)
    }
}

/// Everything.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// What the worker has to know.
    pub(crate) work: Work,
    /// The kernel of the machine.
    pub(crate) kernel: PathBuf,
    /// Its first files, with this program among them.
    pub(crate) initramfs: PathBuf,
    /// The command line tool.
    pub(crate) walmend: PathBuf,
    /// Where recordings are, and the disks on which something was wrong.
    pub(crate) dir: PathBuf,
    /// Where disks are mounted and looked at: in memory where that can be had, they come and go by the thousand.
    pub(crate) scratch: PathBuf,
    /// Lives of the machine; each but the first begins on a disk that the one before has left at a power cut.
    pub(crate) lives: u64,
    /// Power cuts looked at for each life.
    pub(crate) cuts: u64,
    /// How long the machine works in a life.
    pub(crate) working: Duration,
    /// ext4, xfs or btrfs.
    pub(crate) file_system: String,
    /// Options of mounting it in the machine.
    pub(crate) mount: String,
}

impl Settings {
    /// From `--name VALUE` pairs.
    ///
    /// # Errors
    /// Of the word that makes no sense.
    pub(crate) fn parse(args: &[String]) -> Result<Self, String> {
        let mut taken = Vec::new();
        let mut value = |name: &str, default: Option<&str>| -> Result<String, String> {
            taken.push(name.to_owned());
            let place = args.iter().position(|arg| arg == name);
            let given = place.map(|place| args.get(place + 1).ok_or(format!("{name} needs a value")));
            match (given, default) {
                (Some(given), _) => given.cloned(),
                (None, Some(default)) => Ok(default.into()),
                (None, None) => Err(format!("{name} is missing")),
            }
        };
        let words = [
            value("--engine", Some("walmend"))?,
            value("--pages", Some("sqlite"))?,
            value("--log", Some("buffered"))?,
            value("--writers", Some("4"))?,
            value("--seed", Some("1"))?,
        ];
        let settings = Self {
            work: Work::from_words(&words)?,
            kernel: value("--kernel", None)?.into(),
            initramfs: value("--initramfs", None)?.into(),
            walmend: value("--walmend", None)?.into(),
            scratch: match Path::new("/dev/shm").is_dir() {
                true => format!("/dev/shm/walmend-power-{}", std::process::id()).into(),
                false => PathBuf::from(value("--dir", None)?).join("scratch"),
            },
            dir: value("--dir", None)?.into(),
            lives: number("--lives", &value("--lives", Some("3"))?)?,
            cuts: number("--cuts", &value("--cuts", Some("100"))?)?,
            working: Duration::from_secs(number("--seconds", &value("--seconds", Some("5"))?)?),
            file_system: value("--file-system", Some("ext4"))?,
            mount: value("--mount", Some("rw"))?,
        };
        let unknown = args.chunks(2).find(|pair| !taken.contains(&pair[0]));
        match unknown {
            Some(pair) => Err(format!("what is `{}`? There are {}", pair[0], taken.join(", "))),
            None => Ok(settings),
        }
    }
}

fn number<T: std::str::FromStr>(name: &str, text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{name} cannot be `{text}`"))
}
