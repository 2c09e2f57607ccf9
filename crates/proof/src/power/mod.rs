//! Power cuts of a whole machine: what a disk was asked to do, and what it may hold if the power goes.
//!
//! A virtual machine has its disk from [`Served`], a small NBD server, which writes down every request and every answer
//! ([`Recorder`]), and between them what the machine says. [`Images`] then makes, for any point of such a [`Recording`],
//! a disk as a loss of power at that point may leave it. [`Body`] is what the machine writes, [`Expected`] what must
//! be found. `cargo xtask power` puts it together (`examples/power`).

mod body;
mod expected;
mod image;
mod nbd;
mod recording;

pub use body::{Body, Groups};
pub use expected::{Expected, Found, Verdict};
pub use image::{Images, Loss, Losses};
pub use nbd::{Delays, End, Served};
pub use recording::{Event, Recorder, Recording};
