//! Weight deltas as FastChat makes them (`fastchat.model.make_delta`, 0.2.36; Vicuna v0 and v1.1), and LLaVA after it.
//!
//! A delta is a saved model whose tensors are tuned − base. Nothing in the folder says so: it is read where `--from fastchat`
//! is said, and never recognised.
//!
//! | in the folder | becomes |
//! |---|---|
//! | a tensor of the base's shape | `add`, scale 1 |
//! | with a base: a tensor of more rows or columns | `set`: base plus difference where the base has elements, the rest as it is (LLaVA) |
//! | with a base: a tensor that the base lacks | `set`, new; left out where it is zero everywhere (old rotary buffers) |
//!
//! FastChat computes in F16, whatever the base is: on a base in F16 the result has the bits of `apply_delta`; on another the
//! sum is rounded once to the base's dtype, where `apply_delta` rounds the base to F16 first.
//!
//! Refused: tied embeddings. `make_delta` walks over `state_dict`, which names them twice, and subtracts the base twice;
//! `apply_delta` does not get the tuned model back from that.

mod folder;
mod read;
pub mod rules;
mod write;

pub use read::read;
pub use write::write;

use crate::error::Error;
use crate::files::Files;
use fitment_core::Finding;

/// Never: a delta looks like any other checkpoint.
pub fn detect(_: &Files<'_>) -> bool {
    false
}

/// Every breach of [`rules`] that the files show.
///
/// # Errors
/// None: the signature is that of all formats.
pub fn check(files: &Files<'_>, _: Option<&str>) -> Result<Vec<Finding>, Error> {
    Ok(folder::open(files).findings)
}
