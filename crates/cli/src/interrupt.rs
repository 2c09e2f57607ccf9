//! Ctrl-C, for commands that can stop between two steps.

use nix::sys::signal::{SigSet, Signal};
use walmend_error::{Error, Result};
use walmend_sync::thread;
use walmend_types::Cx;

/// A token that the first SIGINT, SIGTERM or SIGHUP cancels; the second one ends the process. To be called before any
/// thread is begun.
pub(crate) fn cancelled_by_signals() -> Result<Cx> {
    let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]
        .into_iter()
        .collect();
    signals
        .thread_block()
        .map_err(|errno| Error::Internal(format!("signals cannot be blocked: {errno}")))?;
    let cx = Cx::new();
    let waiting = cx.clone();
    thread::spawn(move || {
        if signals.wait().is_ok() {
            waiting.cancel();
        }
        if let Ok(signal) = signals.wait() {
            std::process::exit(128 + signal as i32);
        }
    });
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
