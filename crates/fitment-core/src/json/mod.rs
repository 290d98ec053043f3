//! JSON as the format needs it: read without tolerance for duplicate keys, written by RFC 8785.

mod canonical;
mod strict;

pub use canonical::to_canonical;
pub use strict::{JsonFault, parse};
