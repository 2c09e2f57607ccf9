//! Where everything that the tool says goes: text or one JSON object to standard output, errors to standard
//! error.

use anstyle::{AnsiColor, Style};
use serde::Serialize;
use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use walmend_error::{Error, ErrorKind, Result};

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    /// All well.
    Well,
    /// Damage was found, or something was lost.
    Damage,
    /// It could not run.
    Failed,
}

impl Status {
    /// The exit status.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Well => 0,
            Self::Damage => 1,
            Self::Failed => 2,
        }
    }
}

/// An error, as JSON says it.
#[derive(Debug, Serialize)]
pub(crate) struct ErrorBody {
    kind: String,
    message: String,
}

#[derive(Serialize)]
struct ErrorObject {
    error: ErrorBody,
}

impl From<&Error> for ErrorBody {
    fn from(error: &Error) -> Self {
        Self {
            kind: error.kind().as_str().into(),
            message: sentence(error),
        }
    }
}

/// What happened, and what to do next.
pub(crate) fn sentence(error: &Error) -> String {
    match error.recovery_hint() {
        "" => error.to_string(),
        hint => format!("{error}; {hint}"),
    }
}

/// Standard output as the options want it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    json: bool,
    colour: bool,
    width: usize,
}

/// Columns of a line that goes to a file or a pipe.
const PIPED: usize = 100;

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        let unwanted = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|terminal| terminal == "dumb");
        let colour = !json && io::stdout().is_terminal() && !unwanted("NO_COLOR") && !dumb;
        let terminal = terminal_size::terminal_size_of(io::stdout());
        let width = terminal.map_or(PIPED, |(width, _)| width.0.into());
        Self { json, colour, width }
    }

    /// Text without colour, for lines of so many columns.
    #[cfg(test)]
    pub(crate) fn plain(width: usize) -> Self {
        Self {
            json: false,
            colour: false,
            width,
        }
    }

    /// Columns of the terminal, or of a line that is read later.
    pub(crate) fn width(&self) -> usize {
        self.width
    }

    /// Whether the one JSON object is wanted.
    pub(crate) fn json(&self) -> bool {
        self.json
    }

    /// Prints the one JSON object.
    ///
    /// # Errors
    /// I/O errors; a reader that has gone away is none.
    pub(crate) fn object(&self, object: &impl Serialize) -> Result<()> {
        let mut text = serde_json::to_string(object)
            .map_err(|error| Error::Internal(format!("the report cannot be told in JSON: {error}")))?;
        text.push('\n');
        print(&text)
    }

    /// Prints text for people.
    ///
    /// # Errors
    /// I/O errors; a reader that has gone away is none.
    pub(crate) fn text(&self, text: &str) -> Result<()> {
        print(text)
    }

    /// Says on standard error why the command failed, and in JSON if that is wanted.
    pub(crate) fn failure(&self, error: &Error) -> Status {
        if self.json {
            // Standard error says it as well, so nothing is lost when standard output is gone.
            let _ = self.object(&ErrorObject { error: error.into() });
        }
        complain(&sentence(error));
        match error.kind() {
            ErrorKind::WalCorrupt | ErrorKind::WalAmbiguous | ErrorKind::DatabaseCorrupt => Status::Damage,
            _ => Status::Failed,
        }
    }

    pub(crate) fn strong(&self, text: &str) -> String {
        self.styled(Style::new().bold(), text)
    }

    pub(crate) fn good(&self, text: &str) -> String {
        self.styled(AnsiColor::Green.on_default().bold(), text)
    }

    pub(crate) fn bad(&self, text: &str) -> String {
        self.styled(AnsiColor::Red.on_default().bold(), text)
    }

    pub(crate) fn faint(&self, text: &str) -> String {
        self.styled(Style::new().dimmed(), text)
    }

    fn styled(&self, style: Style, text: &str) -> String {
        if self.colour {
            format!("{style}{text}{style:#}")
        } else {
            text.to_owned()
        }
    }
}

/// One sentence on standard error.
pub(crate) fn complain(sentence: &str) {
    // If standard error is gone too, there is nobody left to tell.
    let _ = writeln!(io::stderr().lock(), "walmend: {sentence}");
}

/// What clap has to say: help and version are no failure, everything else is a usage error.
pub(crate) fn usage(error: &clap::Error, args: &[OsString]) -> Status {
    if !error.use_stderr() {
        // A pager that was closed early is no failure either.
        let _ = error.print();
        return Status::Well;
    }
    if args.iter().any(|arg| arg == "--json") {
        let text = error.to_string();
        // The first paragraph says what is wrong; tips and the usage follow.
        let first = text.split("\n\n").next().unwrap_or_default();
        let words: Vec<&str> = first.trim_start_matches("error:").split_whitespace().collect();
        let message = words.join(" ");
        let body = ErrorBody {
            kind: "usage".into(),
            message,
        };
        let _ = Output::new(true).object(&ErrorObject { error: body });
    }
    let _ = error.print();
    Status::Failed
}

fn print(text: &str) -> Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Error::io("write", Path::new("standard output"), None, error))
        }
        // Whoever read it has seen enough.
        _ => Ok(()),
    }
}
