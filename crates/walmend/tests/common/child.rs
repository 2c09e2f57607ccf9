//! A test in two processes: it starts its own program again, for the same test, with a role to play.

use std::env;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};

const ROLE: &str = "WALMEND_TEST_ROLE";
const DATABASE: &str = "WALMEND_TEST_DATABASE";
/// What the child says stands behind this; the test harness prints lines of its own.
const MARK: &str = "walmend-test-child:";

/// The role and the database that this process was started for; `None` in the process that tests.
pub(crate) fn role() -> Option<(String, PathBuf)> {
    Some((env::var(ROLE).ok()?, env::var_os(DATABASE)?.into()))
}

/// The child's answer. The parent may be gone, then nobody listens.
pub(crate) fn say(text: &str) {
    let mut out = std::io::stdout();
    writeln!(out, "{MARK}{text}").unwrap();
    out.flush().unwrap();
}

/// Waits in the child until the parent lets it go.
pub(crate) fn wait_for_parent() {
    let mut rest = Vec::new();
    std::io::stdin().read_to_end(&mut rest).unwrap();
}

/// Another process, which runs the same test in a role.
pub(crate) struct Child {
    process: std::process::Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Child {
    /// Starts it, for the test of that name.
    pub(crate) fn start(test: &str, role: &str, database: &Path) -> Self {
        Self::start_as(test, role, database, None)
    }

    /// Starts it, as that user if one is given.
    pub(crate) fn start_as(test: &str, role: &str, database: &Path, user: Option<u32>) -> Self {
        let mut command = Command::new(env::current_exe().unwrap());
        if let Some(user) = user {
            command.uid(user);
        }
        let mut process = command
            .args(["--exact", test, "--nocapture"])
            .env(ROLE, role)
            .env(DATABASE, database)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            input: process.stdin.take(),
            output: BufReader::new(process.stdout.take().unwrap()),
            process,
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Its next answer.
    pub(crate) fn hear(&mut self) -> String {
        self.hear_or_end().expect("the child ended without an answer")
    }

    /// Its next answer; `None` when it has ended.
    pub(crate) fn hear_or_end(&mut self) -> Option<String> {
        let mut line = String::new();
        while self.output.read_line(&mut line).unwrap() > 0 {
            if let Some((_, said)) = line.split_once(MARK) {
                return Some(said.trim_end().to_string());
            }
            line.clear();
        }
        None
    }

    /// Lets it go, and waits until it has ended well.
    pub(crate) fn finish(mut self) {
        drop(self.input.take());
        let mut rest = String::new();
        self.output.read_to_string(&mut rest).unwrap();
        assert!(self.process.wait().unwrap().success(), "{rest}");
    }

    /// Waits until it has ended; answers whether it ended well, and not by SIGKILL. Nothing else may end it.
    pub(crate) fn ends_well(mut self) -> bool {
        drop(self.input.take());
        let mut rest = String::new();
        self.output.read_to_string(&mut rest).unwrap();
        let ended = self.process.wait().unwrap();
        assert!(ended.success() || ended.signal() == Some(9), "{ended}: {rest}");
        ended.success()
    }

    /// Kills it with SIGKILL, and waits until it is gone.
    pub(crate) fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // A failing test must not leave it behind. After `finish` and `kill` there is nothing left to do.
        if self.process.try_wait().is_ok_and(|ended| ended.is_none()) {
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
    }
}
