//! The sidecar of a database, `<db>-fec`: parity for its pages, like par2 but live.
//!
//! [`protect_database`] makes it or brings it up to date, a [`DatabaseCheck`] compares it with the database, and
//! [`heal_database`] puts back what is damaged. A [`DatabaseProtection`] keeps it in step with the checkpoints of an open
//! store. `docs/db-fec-format.md` is the format.

mod check;
mod digests;
#[cfg(all(test, not(walmend_loom)))]
mod golden;
mod heal;
mod layout;
mod live;
mod members;
mod mend;
mod protect;
mod scrub;
mod standing;
mod state;
mod stripe;
mod update;
mod window;
mod work;

pub use check::{DatabaseCheck, ProtectedDatabase};
pub use heal::{DatabaseHealReport, heal_database};
pub use live::DatabaseProtection;
pub use protect::{DatabaseProtectReport, protect_database};
pub use scrub::Scrubbed;
pub use standing::Standing;
pub use state::db_sidecar_path;
pub use work::Work;
