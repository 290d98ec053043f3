//! Rules about adapters and bases, as findings.
#![warn(clippy::disallowed_methods, reason = "pure crate: no files, clock, environment or threads")]
#![forbid(unsafe_code)]

mod base;
pub mod codes;
pub mod coverage;
mod each;
mod effect;
mod outcome;
pub mod output;
pub mod rules;

pub use outcome::{Checked, Options, Outcome, Refusal, Verdict};
