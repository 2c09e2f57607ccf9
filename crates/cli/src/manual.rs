//! `completions` and `man`: what shells and man know of the tool, from the same words as `--help`.

use crate::args::{Cli, Completions, Man};
use crate::folder;
use crate::output::{Output, Status};
use clap::{Command, CommandFactory};
use std::fs;
use std::path::Path;
use walmend_error::{Error, Result};

/// `walmend completions`.
pub(crate) fn completions(args: &Completions, out: &Output) -> Result<Status> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut tool(), "walmend", &mut script);
    out.text(&String::from_utf8_lossy(&script))?;
    Ok(Status::Well)
}

/// `walmend man`.
pub(crate) fn pages(args: &Man) -> Result<Status> {
    folder::create(&args.folder)?;
    page(&args.folder, "walmend", tool())?;
    for command in tool().get_subcommands() {
        let name = format!("walmend-{}", command.get_name());
        let shown = format!("walmend {}", command.get_name());
        let command = command.clone().display_name(name.clone()).bin_name(shown);
        page(&args.folder, &name, command)?;
    }
    Ok(Status::Well)
}

/// The tool without what is not for people.
fn tool() -> Command {
    let all = Cli::command();
    let shown = all
        .get_subcommands()
        .filter(|command| !command.is_hide_set())
        .cloned();
    let mut tool = Command::new("walmend").subcommands(shown);
    tool = tool
        .about(all.get_about().cloned().unwrap_or_default())
        .long_about(all.get_long_about().cloned().unwrap_or_default());
    tool = tool.after_help(all.get_after_help().cloned().unwrap_or_default());
    tool.version(env!("CARGO_PKG_VERSION")).subcommand_required(true)
}

fn page(folder: &Path, name: &str, command: Command) -> Result<()> {
    let path = folder.join(format!("{name}.1"));
    let written = fs::File::create(&path).and_then(|mut file| {
        clap_mangen::Man::new(command)
            .source(concat!("walmend ", env!("CARGO_PKG_VERSION")))
            .render(&mut file)
    });
    written.map_err(|error| Error::io("write", &path, None, error))
}
