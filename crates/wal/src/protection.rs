//! What a higher layer can do for the frames of a log: it keeps something beside the log that they can be rebuilt from.

use std::collections::BTreeMap;
use std::fmt;
use walmend_types::{Result, Salts};
use walmend_vfs::VfsFile;

/// Redundancy for the frames of a log, parity most likely, kept by a layer above this one.
pub trait FrameProtection: fmt::Debug + Send + Sync {
    /// The last frame of the log with these salts that is protected; 0 if none is. Only durable frames ever are, so
    /// that this frame and all before it are known to have been acknowledged.
    fn proven(&self, salts: Salts) -> u32;

    /// The damaged frames of `log` that can be rebuilt, by number, each whole with its header and verified. Changes
    /// nothing.
    ///
    /// # Errors
    /// I/O errors.
    fn rebuild(&self, log: &dyn VfsFile) -> Result<BTreeMap<u32, Vec<u8>>>;
}
