//! Criterion benches; see `cargo xtask bench`.
