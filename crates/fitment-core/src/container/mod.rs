//! The safetensors container: read with every check that the format asks, written in the one canonical way.
//!
//! Offsets are `u64` throughout, so that a 32-bit reader (wasm) opens headers of files of any size. The check order is:
//! length, cap, UTF-8, JSON, entries, exact cover of the data, then the canonical form.

mod canonical;
mod entries;
mod header;
mod layout;
mod write;

pub(crate) use header::duplicate_or;
pub use header::{Container, Entry, Profile, header_len, read_header};
pub use layout::{Layout, canonical_order};
pub use write::{Item, write_container};

use crate::error::Error;
use crate::finding::{Finding, Severity};

/// Reads a foreign safetensors buffer: everything that makes two readers see different files is refused, the rest
/// (order, alignment, padding) is tolerated.
///
/// # Errors
/// [`Error::Malformed`].
pub fn read_foreign(bytes: &[u8]) -> Result<Container, Error> {
    let (container, findings) =
        read_header(bytes, bytes.len() as u64, Profile::Foreign).map_err(malformed)?;
    let errors: Vec<Finding> = findings.into_iter().filter(|f| f.severity == Severity::Error).collect();
    match errors.into_iter().next() {
        None => Ok(container),
        Some(first) => Err(malformed(first)),
    }
}

fn malformed(first: Finding) -> Error {
    Error::Malformed { first: Box::new(first), more: 0 }
}
