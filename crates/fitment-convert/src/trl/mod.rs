//! Sparse weight patches of TRL's asynchronous GRPO, and files of the same layout.
//!
//! A patch is one safetensors file that says which elements of a model changed since the last synchronisation, and what
//! they are now. TRL 1.16 ships no writer of them; the layouts are those of its pull requests:
//!
//! | written by | tensors of a parameter | index |
//! |---|---|---|
//! | PR 5417 | `NAME.indices`, `NAME.values` | I32, flat positions |
//! | PRs 5932 and 5937, `encoding` `raw` | `NAME.idx`, `NAME.val` | I32, flat positions |
//! | the same, `encoding` `gap_delta` | the same | U16 or U32, position − previous position − 1 |
//! | the same, `encoding` `nvcomp_cascaded` | the same | refused by name: only nvCOMP on a GPU reads it |
//! | the same, `sparse` `False` (an anchor) | `NAME` | none: the whole parameter |
//!
//! Values are the new elements, not differences: a pair becomes a `sparse_set`, a whole parameter a `set`. Positions
//! that are I32 in the file are borrowed as U32, which for numbers from 0 is the same bytes. Others than TRL write the
//! names of PR 5417 without its metadata (vLLM's sparse transfer and what feeds it): they are read all the same.

mod index;
mod patch;
mod read;
pub mod rules;
mod write;

pub use read::read;
pub use write::write;

use crate::error::Error;
use crate::files::Files;
use fitment_core::Finding;

/// Whether there is one patch among the files.
pub fn detect(files: &Files<'_>) -> bool {
    patch::file(files).is_some()
}

/// Every breach of [`rules`] that the file shows.
///
/// # Errors
/// None: the signature is that of all formats.
pub fn check(files: &Files<'_>, _: Option<&str>) -> Result<Vec<Finding>, Error> {
    Ok(patch::inspect(files).findings)
}
