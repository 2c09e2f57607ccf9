//! The sidecar of a log, and what it could do for it.

use crate::format::{bytes, count, number};
use std::path::PathBuf;
use walmend_error::{Error, Result};
use walmend_repair::{HealPlan, ReedSolomon, SidecarIndex, wal_sidecar_path};
use walmend_vfs::{OpenFlags, Vfs};
use walmend_wal::FileSet;

/// A sidecar, as it was found.
pub(crate) struct Sidecar {
    pub(crate) path: PathBuf,
    pub(crate) index: SidecarIndex,
    /// What could be healed.
    pub(crate) plan: HealPlan,
}

impl Sidecar {
    /// Compares the sidecar of a log with the log, changing nothing; `None` if there is none.
    pub(crate) fn examine(vfs: &dyn Vfs, files: &FileSet) -> Result<Option<Self>> {
        let path = wal_sidecar_path(&files.db);
        let file = match vfs.open(&path, OpenFlags::READ) {
            Ok(file) => file,
            Err(Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let index = SidecarIndex::scan(&*file)?;
        let plan = match vfs.open(&files.wal, OpenFlags::READ) {
            Ok(log) => HealPlan::make(&*log, &*file, &index, &ReedSolomon)?,
            Err(Error::NotFound { .. }) => HealPlan::default(),
            Err(error) => return Err(error),
        };
        Ok(Some(Self { path, index, plan }))
    }

    /// For people.
    pub(crate) fn lines(&self) -> Vec<(&'static str, String)> {
        let plan = &self.plan;
        let groups = count(plan.covered.len() as u64, "group");
        let covered = count(plan.frames_covered(), "frame");
        let size = bytes(self.index.bytes);
        let mut lines = vec![("protects", format!("{covered} of this log, in {groups}; {size}"))];
        if self.index.bad_records > 0 {
            let weakened = match plan.frames_weakened() {
                0 => "no frame depends on them".into(),
                frames => format!(
                    "{} protected less: `walmend protect` mends that",
                    count(frames, "frame")
                ),
            };
            lines.push((
                "bad records",
                format!("{}; {weakened}", number(self.index.bad_records)),
            ));
        }
        if !plan.other_history.is_empty() {
            let groups = count(plan.other_history.len() as u64, "group");
            lines.push((
                "other history",
                format!("{groups} of frames that another program dropped and wrote over"),
            ));
        }
        lines
    }
}
