//! The targets of fuzzing: each takes any bytes, and panics where something that must hold does not.

mod channel;
mod cli;
mod input;
mod log;
mod recovery;
mod sidecar;

pub use input::join;

/// A target.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name, and that of its folder in `fuzz/corpus`.
    pub name: &'static str,
    /// Runs it once.
    pub run: fn(&[u8]),
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target {
        name: "log",
        run: log::run,
    },
    Target {
        name: "sidecar",
        run: sidecar::run,
    },
    Target {
        name: "recovery",
        run: recovery::run,
    },
    Target {
        name: "cli",
        run: cli::run,
    },
    Target {
        name: "channel",
        run: channel::run,
    },
];

/// Runs the target of that name.
///
/// # Panics
/// If there is none, and wherever the target finds something wrong.
pub fn run(name: &str, data: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name);
    (target.unwrap_or_else(|| panic!("there is no target {name}")).run)(data);
}
