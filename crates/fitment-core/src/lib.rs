//! The Fitment adapter format.
#![warn(clippy::disallowed_methods, reason = "pure crate: no files, clock, environment or threads")]
#![forbid(unsafe_code)]

pub mod checkpoint;
pub mod container;
mod error;
pub mod finding;
pub mod identity;
pub mod json;
pub mod limits;
pub mod manifest;
pub mod model;
pub mod tensor;

pub use error::{Error, Result};
pub use finding::{Finding, Severity};
pub use model::Adapter;
