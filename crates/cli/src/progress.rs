//! Signs of life on standard error, for what takes longer than a second, on a terminal only.

use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::sync::Arc;
use std::time::{Duration, Instant};
use walmend_sync::{Condvar, Mutex, thread};

/// Shown only if it is still there after a second; gone when dropped.
#[derive(Debug)]
pub(crate) struct Progress {
    shown: Option<(Arc<Shared>, thread::JoinHandle<()>)>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    total: u64,
    label: &'static str,
}

#[derive(Debug, Default)]
struct State {
    done: u64,
    over: bool,
}

impl Progress {
    /// For work of which nobody knows how much there is.
    pub(crate) fn spinner(label: &'static str) -> Self {
        Self::start(label, 0)
    }

    /// For `total` steps.
    pub(crate) fn steps(label: &'static str, total: u64) -> Self {
        Self::start(label, total)
    }

    /// Nothing to see, whatever happens.
    pub(crate) fn hidden() -> Self {
        Self { shown: None }
    }

    /// So many steps are done.
    pub(crate) fn set(&self, done: u64) {
        if let Some((shared, _)) = &self.shown {
            shared.state.lock().done = done;
        }
    }

    fn start(label: &'static str, total: u64) -> Self {
        if !std::io::stderr().is_terminal() {
            return Self::hidden();
        }
        let shared = Arc::new(Shared {
            state: Mutex::new(State::default()),
            changed: Condvar::new(),
            total,
            label,
        });
        let drawer = Arc::clone(&shared);
        let drawer = thread::spawn(move || drawer.draw());
        Self {
            shown: Some((shared, drawer)),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some((shared, drawer)) = self.shown.take() {
            shared.state.lock().over = true;
            shared.changed.notify_all();
            // It only draws: if it failed, there is nothing to lose.
            let _ = drawer.join();
        }
    }
}

impl Shared {
    fn draw(&self) {
        let Some(mut done) = self.pause(Duration::from_secs(1)) else {
            return;
        };
        let (bar, template) = match self.total {
            0 => (ProgressBar::new_spinner(), "{spinner} {msg} {elapsed}".to_owned()),
            total => {
                let terminal = terminal_size::terminal_size_of(std::io::stderr());
                let columns = terminal.map_or(80, |(width, _)| usize::from(width.0));
                // The label, and room for the numbers behind the bar: a line that wraps is drawn again and again.
                let cells = columns.saturating_sub(self.label.len() + 24).clamp(4, 32);
                (
                    ProgressBar::new(total),
                    format!("{{msg}} [{{bar:{cells}}}] {{pos}}/{{len}} {{elapsed}}"),
                )
            }
        };
        if let Ok(style) = ProgressStyle::with_template(&template) {
            bar.set_style(style);
        }
        bar.set_message(self.label);
        loop {
            bar.set_position(done);
            bar.tick();
            match self.pause(Duration::from_millis(100)) {
                Some(now) => done = now,
                None => return bar.finish_and_clear(),
            }
        }
    }

    /// Waits that long; answers the steps done, or `None` as soon as all is over.
    fn pause(&self, time: Duration) -> Option<u64> {
        let deadline = Instant::now() + time;
        let mut state = self.state.lock();
        while !state.over {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Some(state.done);
            }
            state = self.changed.wait_timeout(state, left);
        }
        None
    }
}
