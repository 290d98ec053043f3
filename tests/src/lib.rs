//! Support for the tests of the workspace: where things lie, and the program under test.
#![forbid(unsafe_code)]

pub mod compare;
pub mod conformance;
pub mod folder;
pub mod oracle;
pub mod place;
pub mod program;
pub mod sink;
pub mod source;

/// The README's Rust, compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;
