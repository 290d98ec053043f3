//! Adapters of Tinker, as its service gives them (tinker 0.38; read as tinker-cookbook 0.6.1 reads them).
//!
//! | file | holds |
//! |---|---|
//! | `adapter_model.safetensors` | `base_model.model.MODULE.lora_A.weight`, `.lora_B.weight`, by Tinker's own names where it has some |
//! | `adapter_config.json` | `r` and `lora_alpha` |
//!
//! | MODULE | `lora_A`, `lora_B` | becomes |
//! |---|---|---|
//! | as in transformers | `[r, in]`, `[out, r]` | `lora`, `scale` lora_alpha / r |
//! | `model.unembed_tokens`, `model.lm_head` | the same | of `lm_head`, and on a tied base of that use alone |
//! | `layers.N.attn` | the same | of `self_attn` (gpt-oss) |
//! | `linear_attn.in_proj_{q,k,v}` | the same | of the rows of `in_proj_qkv`, where the base has that (Qwen 3.5) |
//! | `experts.{w1,w2,w3}` | `[E, r, in]`, `[E, out, r]`; of one that all experts share E is 1 | of `gate_proj`, `down_proj`, `up_proj` |
//!
//! | the base has experts as | then |
//! |---|---|
//! | modules of their own (Qwen 3) | a bundle |
//! | `gate_up_proj` `[E, 2·I, H]`, `down_proj` `[E, H, I]` (Qwen 3.5) | stacked factors; gate and up are halves |
//! | the same, transposed (Qwen 3 VL) | the same, transposed |
//! | the same, transposed (gpt-oss) | the same; gate and up are even and odd |
//!
//! What is shared is written out for each expert. Of a head that the base ties to its embedding, tinker-cookbook merges the product into
//! both; trained was the head alone. Nemotron's own names are refused.

mod folder;
mod names;
mod read;
pub mod rules;

pub use read::read;

use crate::error::Error;
use crate::files::Files;
use fitment_core::Finding;

/// Whether there are names of Tinker's own among the files: without them it is an adapter of PEFT's, and read as one.
pub fn detect(files: &Files<'_>) -> bool {
    folder::is_there(files)
}

/// Every breach of [`rules`] that the files show.
///
/// # Errors
/// [`Error::Ambiguous`] when there are several folders and `adapter_name` names none of them.
pub fn check(files: &Files<'_>, adapter_name: Option<&str>) -> Result<Vec<Finding>, Error> {
    Ok(folder::open(files, adapter_name)?.findings)
}
