//! The sidecar, as an open log sees it.

use super::{HealPlan, Healed};
use crate::codec::Codec;
use crate::sidecar::{SidecarIndex, wal_sidecar_path};
use std::collections::BTreeMap;
use std::sync::Arc;
use walmend_types::{Error, Result, Salts};
use walmend_vfs::{OpenFlags, Vfs, VfsFile};
use walmend_wal::{FileSet, FrameProtection};

/// Lets a log that is being opened know what its sidecar proves, and heals its frames while it is open.
#[derive(Debug)]
pub struct SidecarProtection {
    vfs: Arc<dyn Vfs>,
    files: FileSet,
    codec: Arc<dyn Codec>,
    /// The log that the sidecar was compared with, and the last of its frames that has parity.
    proven: Option<(Salts, u32)>,
}

impl SidecarProtection {
    /// `healed` is how log and sidecar stand right before the log is opened.
    pub fn new(vfs: Arc<dyn Vfs>, files: FileSet, codec: Arc<dyn Codec>, healed: &Healed) -> Self {
        let plan = &healed.plan;
        let last = plan.covered.iter().map(|range| *range.end()).max();
        Self {
            vfs,
            files,
            codec,
            proven: plan.salts.zip(last),
        }
    }
}

impl FrameProtection for SidecarProtection {
    fn proven(&self, salts: Salts) -> u32 {
        let of_log = self.proven.filter(|(of, _)| *of == salts);
        of_log.map_or(0, |(_, last)| last)
    }

    fn rebuild(&self, log: &dyn VfsFile) -> Result<BTreeMap<u32, Vec<u8>>> {
        let path = wal_sidecar_path(&self.files.db);
        let sidecar = match self.vfs.open(&path, OpenFlags::READ) {
            Ok(sidecar) => sidecar,
            Err(Error::NotFound { .. }) => return Ok(BTreeMap::new()),
            Err(error) => return Err(error),
        };
        let index = SidecarIndex::scan(&*sidecar)?;
        Ok(HealPlan::make(log, &*sidecar, &index, &*self.codec)?.rebuilt)
    }
}
