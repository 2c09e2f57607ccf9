//! What a person sees: on a real (pseudo) terminal, wide and narrow, with and without colour, and with Ctrl-C typed
//! into it.

mod common;

use common::{crashed, walmend};
use nix::pty::{Winsize, openpty};
use rusqlite::Connection;
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// `walmend` in a session of its own, whose terminal this is.
struct Terminal {
    keys: File,
    screen: File,
    child: Child,
}

impl Terminal {
    fn start(columns: u16, env: &[(&str, &str)], args: &[&str]) -> Self {
        let size = Winsize {
            ws_row: 40,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let pty = openpty(Some(&size), None).unwrap();
        let slave = || Stdio::from(pty.slave.try_clone().unwrap());
        // setsid(1) makes it the controlling terminal, so that Ctrl-C reaches whoever stands in the foreground.
        let child = Command::new("setsid")
            .args(["--ctty", env!("CARGO_BIN_EXE_walmend")])
            .args(args)
            .env_remove("NO_COLOR")
            .env_remove("WALMEND_LOG")
            .env("TERM", "xterm-256color")
            .envs(env.iter().copied())
            .stdin(slave())
            .stdout(slave())
            .stderr(slave())
            .spawn()
            .unwrap();
        let keys = File::from(pty.master);
        Self {
            screen: keys.try_clone().unwrap(),
            keys,
            child,
        }
    }

    /// Reads until the text is there, or all is over; answers what was read.
    fn until(&mut self, text: &str) -> String {
        let mut seen = Vec::new();
        let mut bytes = [0; 4096];
        loop {
            // A terminal that everybody has left gives an error, not an end.
            let read = self.screen.read(&mut bytes).unwrap_or(0);
            seen.extend_from_slice(&bytes[..read]);
            let shown = String::from_utf8_lossy(&seen);
            if read == 0 || (!text.is_empty() && shown.contains(text)) {
                return shown.into_owned();
            }
        }
    }

    /// All that is shown until the end, and the exit status.
    fn end(mut self) -> (String, Option<i32>) {
        let shown = self.until("");
        (shown, self.child.wait().unwrap().code())
    }
}

/// What stands on the screen, without colour.
fn plain(shown: &str) -> String {
    let mut text = String::new();
    let mut escaped = false;
    for letter in shown.replace("\r\n", "\n").chars() {
        match letter {
            '\u{1b}' => escaped = true,
            _ if escaped => escaped = !letter.is_ascii_alphabetic(),
            _ => text.push(letter),
        }
    }
    text
}

fn widest(shown: &str) -> usize {
    plain(shown)
        .lines()
        .map(|line| line.chars().count())
        .max()
        .unwrap()
}

#[test]
fn colour_is_for_terminals_whose_owner_wants_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = crashed(&folder, 4096, 5);
    let args = ["verify", path.to_str().unwrap()];
    let (coloured, code) = Terminal::start(100, &[], &args).end();
    assert_eq!(code, Some(0));
    assert!(coloured.contains("\u{1b}[1m"), "{coloured:?}");
    let piped = walmend(args).ends_with(0).stdout;
    assert_eq!(plain(&coloured), piped, "the words are the same");
    for env in [[("NO_COLOR", "1")], [("TERM", "dumb")]] {
        let (shown, _) = Terminal::start(100, &env, &args).end();
        assert_eq!(shown.replace("\r\n", "\n"), piped, "{env:?}");
    }
    let (shown, _) = Terminal::start(100, &[("NO_COLOR", "")], &args).end();
    assert_eq!(shown, coloured, "empty is unset");
    let json = [&args[..], &["--json"]].concat();
    let (shown, _) = Terminal::start(100, &[], &json).end();
    assert!(!shown.contains('\u{1b}'), "{shown:?}");
}

#[test]
fn tables_and_bars_fit_the_terminal() {
    let bench = ["bench", "--writers", "1,2", "--seconds", "0.1"];
    let (wide, code) = Terminal::start(120, &[], &bench).end();
    assert_eq!(code, Some(0));
    assert!(plain(&wide).contains("writers  commits/s"), "{wide}");
    for columns in [60, 40] {
        let (narrow, code) = Terminal::start(columns, &[], &bench).end();
        assert_eq!(code, Some(0));
        let table = plain(&narrow);
        // The line above the table is prose, which the terminal breaks.
        let table = table.split_once("\n\n").unwrap().1;
        assert!(widest(table) < usize::from(columns), "{columns}: {table}");
        assert!(table.contains("p99 us") && table.contains('█'), "{table}");
    }
    let drill = ["drill", "--kills", "2", "--flips", "2"];
    let (shown, code) = Terminal::start(40, &[], &drill).end();
    assert_eq!(code, Some(0));
    let shown = plain(&shown);
    let bars: Vec<&str> = shown.lines().filter(|line| line.contains('█')).skip(1).collect();
    assert_eq!(bars.len(), 3, "a bar for each life: {shown}");
    assert!(bars.iter().all(|line| line.chars().count() < 40), "{shown}");
}

/// A database without a log that a slow scrub takes seconds for.
fn large(folder: &Path) -> String {
    let path = folder.join("large.db");
    let connection = Connection::open(&path).unwrap();
    connection
        .execute_batch(
            "create table t(data blob);
             with recursive n(i) as (select 1 union all select i + 1 from n where i < 4000)
             insert into t select randomblob(1000) from n",
        )
        .unwrap();
    connection.close().unwrap();
    let path = path.to_str().unwrap().to_owned();
    walmend(["protect", &path]).ends_with(0);
    path
}

#[test]
fn long_work_shows_a_bar_and_takes_it_away_and_ctrl_c_ends_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = large(folder.path());
    let args = ["scrub", &path, "--rate", "1"];
    let (shown, code) = Terminal::start(80, &[], &args).end();
    assert_eq!(code, Some(0));
    let bar = shown.find("scrubbing the database [").expect(&shown);
    let erased = shown.rfind("\u{1b}[2K").expect(&shown);
    assert!(bar < erased, "{shown:?}");
    assert!(
        plain(&shown[erased..]).contains("There was nothing to heal."),
        "{shown:?}"
    );

    let mut terminal = Terminal::start(50, &[], &args);
    let mut narrow = terminal.until("scrubbing the database [");
    terminal.keys.write_all(b"\x03").unwrap();
    let (shown, code) = terminal.end();
    assert_eq!(code, Some(2), "{shown}");
    // The terminal shows what was typed, behind the bar.
    narrow.push_str(&shown.replace("^C", ""));
    let bars = narrow
        .split(['\r', '\n'])
        .filter(|line| line.contains("scrubbing"));
    assert!(bars.clone().count() > 0, "{narrow:?}");
    assert!(
        bars.clone()
            .all(|line| plain(line).trim_end().chars().count() <= 50),
        "{narrow:?}"
    );
    assert!(
        shown.contains("interrupted: what was done so far is durable"),
        "{shown}"
    );
    walmend(["verify", &path]).ends_with(0);
}

#[test]
fn ctrl_c_ends_a_drill_and_a_bench_and_leaves_nothing() {
    for args in [&["drill", "--kills", "100"][..], &["bench", "--seconds", "600"]] {
        let folder = tempfile::tempdir().unwrap();
        let tmp = folder.path().to_str().unwrap();
        let mut terminal = Terminal::start(80, &[("TMPDIR", tmp)], args);
        // Both make their folder first. The drill has told of a life, the bench shows its bar.
        terminal.until(if args[0] == "drill" {
            "commits\r\n"
        } else {
            "measuring ["
        });
        terminal.keys.write_all(b"\x03").unwrap();
        let (shown, code) = terminal.end();
        assert_eq!(code, Some(130), "{args:?}: {shown}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "{args:?}");
    }
}
