//! Repair symbols for what is durable.

mod codec;

pub use codec::{Codec, ReedSolomon, SHARD_ALIGN, shard_len};
