//! Rules about adapters and bases, as findings.
#![warn(clippy::disallowed_methods, reason = "pure crate: no files, clock, environment or threads")]
#![forbid(unsafe_code)]

pub mod coverage;
