//! The group commit over a log in memory.
#![cfg(not(walmend_loom))]

mod batch;
mod common;
mod running;
