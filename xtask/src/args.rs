//! Options of the form `--name value`, flags, and at most one free word.

use crate::Result;
use std::str::FromStr;

/// What is left of a command line while a task takes its options out of it.
pub(crate) struct Args(Vec<String>);

impl Args {
    /// All of `args`.
    pub(crate) fn new(args: &[String]) -> Self {
        Self(args.to_vec())
    }

    /// Takes `--name` out; answers whether it was there.
    pub(crate) fn flag(&mut self, name: &str) -> bool {
        let position = self.0.iter().position(|arg| arg == name);
        position.map(|at| self.0.remove(at)).is_some()
    }

    /// Takes `--name VALUE` out, if it is there.
    pub(crate) fn value<T: FromStr>(&mut self, name: &str) -> Result<Option<T>> {
        let Some(at) = self.0.iter().position(|arg| arg == name) else {
            return Ok(None);
        };
        self.0.remove(at);
        if at == self.0.len() {
            return Err(format!("{name} needs a value").into());
        }
        let value = self.0.remove(at);
        match value.parse() {
            Ok(parsed) => Ok(Some(parsed)),
            Err(_) => Err(format!("{name} cannot be `{value}`").into()),
        }
    }

    /// Takes the one free word out, if there is one; call this after all options were taken.
    pub(crate) fn word(&mut self) -> Option<String> {
        let position = self.0.iter().position(|arg| !arg.starts_with('-'));
        position.map(|at| self.0.remove(at))
    }

    /// Refuses whatever nobody took.
    pub(crate) fn finish(self) -> Result {
        match self.0.first() {
            Some(arg) => Err(format!("what is `{arg}`? `cargo xtask help` lists the options").into()),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(line: &str) -> Args {
        Args(line.split_whitespace().map(String::from).collect())
    }

    #[test]
    fn options_are_taken_in_any_order() {
        let mut args = args("word --fix --cases 12");
        assert_eq!(args.value::<u32>("--cases").unwrap(), Some(12));
        assert_eq!(args.value::<u32>("--other").unwrap(), None);
        assert!(args.flag("--fix"));
        assert!(!args.flag("--fix"));
        assert_eq!(args.word().as_deref(), Some("word"));
        args.finish().unwrap();
    }

    #[test]
    fn a_missing_or_wrong_value_and_an_unknown_option_are_refused() {
        assert!(args("--cases").value::<u32>("--cases").is_err());
        assert!(args("--cases many").value::<u32>("--cases").is_err());
        assert!(args("--unknown").finish().is_err());
    }
}
