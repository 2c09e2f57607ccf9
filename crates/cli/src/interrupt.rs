//! Ctrl-C, for commands that can stop between two steps.

use nix::sys::signal::{SigSet, Signal};
use std::path::Path;
use std::sync::OnceLock;
use walmend_error::{Error, Result};
use walmend_sync::thread;
use walmend_types::Cx;

/// The token that the first SIGINT, SIGTERM or SIGHUP cancels; the second one ends the process. There is one for the
/// whole process, however often a command is run in it. To be called before any thread is begun.
///
/// # Errors
/// [`Error::Io`] if the system gives no thread.
pub(crate) fn cancelled_by_signals() -> Result<Cx> {
    static TOKEN: OnceLock<Result<Cx>> = OnceLock::new();
    TOKEN.get_or_init(wait_for_signals).clone()
}

fn wait_for_signals() -> Result<Cx> {
    const NAME: &str = "walmend-signals";
    let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]
        .into_iter()
        .collect();
    signals
        .thread_block()
        .map_err(|errno| Error::Internal(format!("signals cannot be blocked: {errno}")))?;
    let cx = Cx::new();
    let waiting = cx.clone();
    let thread = move || {
        if signals.wait().is_ok() {
            waiting.cancel();
        }
        if let Ok(signal) = signals.wait() {
            std::process::exit(128 + signal as i32);
        }
    };
    thread::Builder::new()
        .name(NAME.into())
        .spawn(thread)
        .map_err(|error| Error::io("start thread", Path::new(NAME), None, error))?;
    Ok(cx)
}

/// What to say of a walk that was cancelled.
pub(crate) fn explain(error: Error) -> Error {
    match error {
        Error::Cancelled => Error::Invalid(
            "interrupted: what was done so far is durable; the same command goes on from there".into(),
        ),
        error => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thread_waits_for_signals_however_often_a_command_runs() {
        let named = || {
            let tasks = std::fs::read_dir("/proc/self/task").unwrap();
            let names = tasks.map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")));
            names
                .filter(|name| name.as_deref().is_ok_and(|name| name.trim() == "walmend-signals"))
                .count()
        };
        for _ in 0..100 {
            assert!(!cancelled_by_signals().unwrap().is_cancelled());
        }
        // A thread names itself when it begins to run.
        while named() == 0 {
            thread::yield_now();
        }
        assert_eq!(named(), 1);
    }
}
