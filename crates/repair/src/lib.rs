//! Repair symbols for what is durable.
