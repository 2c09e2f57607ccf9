//! From the files as a crash left them to a log that can be trusted.
//!
//! Three steps, apart from each other: [`Findings::gather`] reads and changes nothing; [`decide`] is a pure
//! table over the [`Facts`]; applying the [`RecoveryPlan`] is the only step that writes. `docs/recovery.md`
//! tells the reasons.

mod apply;
mod decide;
mod evidence;
mod findings;
mod plan;
mod salvage;

pub(crate) use apply::{Place, apply};
pub use apply::{aside_name, keep_aside};
pub use decide::{Behind, Decision, Facts, HeaderFact, OnDamage, Origin, Stake, Verdict, decide};
pub use evidence::Whereabouts;
pub use findings::{Damage, Findings};
pub use plan::{RecoveryPlan, RecoveryReport};
pub use salvage::SalvagedCopy;
