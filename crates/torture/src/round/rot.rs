//! Files that are wrecked beyond repair: what is lost then must be told, by `verify`, by a refusal, or by the report of
//! the opening. Silence is what is not allowed.

use super::{Round, walmend};
use crate::flips;
use crate::life::{End, Lives};
use std::time::Duration;

impl Round<'_> {
    pub(super) fn rot(&mut self, lives: &mut Lives<'_>) -> Result<(), String> {
        let end = match self.random.one_in(3) {
            true => End::Asked(Duration::from_millis(self.random.below(500))),
            false => End::Later(Duration::from_millis(100 + self.random.below(500))),
        };
        self.life(lives, end)?;
        self.check()?;
        let path = self.task.stores[0].path.clone();
        let strike = flips::beyond_parity(&path, &mut self.random)?;
        self.note(&strike.done)?;
        self.hearing.tally.flips += strike.done.len() as u64;
        let shown = path.display().to_string();
        let (verified, _) = walmend(self.folder, &["verify", &shown])?;
        let before = flips::contents(&path)?;

        // Opens without more ado: all is there, or it says that something is not.
        self.task.look_only = true;
        self.hearing.models[0].is_wrecked = true;
        let (there, said) = self.look(lives)?;
        match there {
            None => {
                self.hearing.tally.refusals += 1;
                let refused = self.hearing.opened_at.is_none();
                let kept = std::fs::read_dir(self.folder).into_iter().flatten().flatten();
                let mut kept = kept.map(|entry| entry.file_name().to_string_lossy().into_owned());
                // Unless a part of it was healed, a refusal changes nothing.
                if refused
                    && flips::contents(&path)? != before
                    && !kept.any(|name| name.contains("-damaged-"))
                {
                    return Err(format!(
                        "a refused opening changed the files; it had said: {said}"
                    ));
                }
            }
            Some(Ok(())) => {}
            Some(Err(what)) if verified != 0 || self.hearing.reported => {
                self.hearing.tally.fault(match what.contains("was committed") {
                    true => "commits lost, and said so",
                    false => "pages damaged, and said so",
                })
            }
            Some(Err(what)) => {
                return Err(format!(
                    "silent loss: {what}; `verify` found nothing, and the opening said: {said}"
                ));
            }
        }
        // What can be done is done, without a crash and without a hang.
        walmend(self.folder, &["heal", &shown])?;
        self.task.salvage = true;
        self.look(lives)?;
        walmend(self.folder, &["verify", &shown])?;
        Ok(())
    }

    /// Opens and says what is there: nothing if it cannot be opened or read, or else whether that is all there was; and
    /// what was said on the way.
    fn look(&mut self, lives: &mut Lives<'_>) -> Result<(Option<Result<(), String>>, String), String> {
        self.hearing.reported = false;
        self.hearing.opened_at = None;
        self.hearing.all_stated = false;
        let end = End::Asked(Duration::from_secs(1));
        let hearing = &mut self.hearing;
        let ended = lives.live(&self.task, end, &mut |line| hearing.hear(line), &mut || {})?;
        hearing.tally.lives += 1;
        if let Some(what) = ended.hung {
            return Err(format!("a hang: {what}"));
        }
        if ended.signal().is_some() || ended.errors.contains("panicked") {
            return Err(format!(
                "the worker ended with {}: {}",
                ended.status, ended.errors
            ));
        }
        let wrong = hearing.wrong.take();
        let there = match (wrong, hearing.all_stated) {
            (Some(what), _) => Some(Err(what)),
            (None, true) => Some(hearing.models[0].check_told()),
            (None, false) => None,
        };
        Ok((there, ended.errors))
    }
}
