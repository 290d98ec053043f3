//! Support for the tests of the workspace: where things lie, and the program under test.
#![forbid(unsafe_code)]

pub mod conformance;
pub mod place;
pub mod program;
pub mod source;
