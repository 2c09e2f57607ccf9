//! walmend
fn main() {}
