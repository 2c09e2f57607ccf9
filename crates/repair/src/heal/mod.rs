//! Protecting a log that is there, and healing it.
//!
//! [`protect_log`] makes or extends the sidecar, [`HealPlan`] says what could be healed without changing
//! anything, and [`heal_log`] does it. All three are for one program at a time: the caller holds the exclusive
//! lock on the database ([`walmend_wal::lock_exclusive`]) where anything is to be written.

mod apply;
mod image;
mod plan;
mod protect;
mod protection;

pub use apply::{HealReport, Healed, heal_and_examine, heal_log};
pub use plan::HealPlan;
pub use protect::{ProtectReport, protect_log};
pub use protection::SidecarProtection;
