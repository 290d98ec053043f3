//! Applies adapters to a base checkpoint: a plan of tensor jobs, and the executor that runs it on all cores.
#![warn(
    clippy::disallowed_methods,
    reason = "pure crate: no files, clock, environment or threads of its own"
)]
#![forbid(unsafe_code)]

mod exec;
mod glob;
mod not_finite;
mod note;
mod options;
mod part;
pub mod plan;
pub mod refusal;
mod region;

pub use exec::{Error, Mismatch, Outcome, execute};
pub use note::Note;
pub use options::{Input, Options};
pub use part::Part;
pub use plan::Plan;
pub use refusal::{Culprit, Refusal};
pub use region::Region;
