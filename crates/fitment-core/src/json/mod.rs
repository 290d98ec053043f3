//! JSON as the format needs it: read without tolerance for duplicate keys, written by RFC 8785.

mod canonical;
mod strict;

pub use canonical::to_canonical;
pub(crate) use canonical::{to_canonical_sized, write_text};
pub use strict::{JsonFault, parse};
