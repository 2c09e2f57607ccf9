//! walmend
