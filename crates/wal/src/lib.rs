//! walmend

mod digest;
mod index;

pub use digest::{PageDigest, TRAILER_BYTES, trailer_check, trailer_seal};
pub use index::FrameIndex;
