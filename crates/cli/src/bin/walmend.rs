//! The `walmend` program: everything is in the library, where tests and fuzzing reach it.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(walmend_cli::main(std::env::args_os()))
}
