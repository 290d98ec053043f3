//! GGUF adapters of llama.cpp: control vectors (llama.cpp, repeng 0.4.0, EasySteer).
//!
//! | in the file | becomes |
//! |---|---|
//! | `general.architecture` = `controlvector` | how it is recognised |
//! | `controlvector.model_hint` | the base's architecture |
//! | `controlvector.layer_count` (u32 or i32) | kept; llama.cpp does not look at it |
//! | `direction.N`, F32 `[d]`, N ≥ 1 | an `intervention` that adds it to `block_output` of layer N, for every token |
//! | everything before the tensor data | kept byte for byte as `NAME.head` |
//!
//! N is the number of the block from 0 whose output is steered (`llama_adapter_cvec::apply_to` runs behind block N); it
//! is never renumbered. llama.cpp's own cvector-generator calls what it measured behind block k `direction.(k+1)`: that
//! is what such a file does when it is loaded, so that is what it means here.
//!
//! Not here: LoRA in GGUF.

mod container;
mod control;
mod read;
pub mod rules;
mod value;
mod write;

pub use container::{Container, Entry};
pub use read::read;
pub use value::Value;
pub use write::write;

use crate::error::Error;
use crate::files::Files;
use fitment_core::Finding;

/// Whether there is one GGUF file among the files.
pub fn detect(files: &Files<'_>) -> bool {
    read::file(files).is_some()
}

/// Every breach of [`rules`] that the files show.
///
/// # Errors
/// None: the signature is that of all formats.
pub fn check(files: &Files<'_>, _: Option<&str>) -> Result<Vec<Finding>, Error> {
    Ok(read::inspect(files).1)
}
