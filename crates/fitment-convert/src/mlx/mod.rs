//! Adapters of MLX-LM (0.32.2): LoRA and DoRA on linear layers, LoRA on embeddings, and whole weights (`full`).
//!
//! | file | holds |
//! |---|---|
//! | `adapter_config.json` | all arguments of the training; `fine_tune_type`, and `lora_parameters` with `rank` and `scale` |
//! | `adapters.safetensors` | `PATH.lora_a`, `PATH.lora_b`, of DoRA `PATH.m`, by the module's path; of `full` the weights themselves |
//!
//! | module | stored | becomes |
//! |---|---|---|
//! | linear | `lora_a` `[in, r]`, `lora_b` `[r, out]` | `lora`, `down` and `up` their transposes, `scale` the config's: the final multiplier, not alpha |
//! | the same with DoRA | `m` `[out]` besides | the magnitude, kept axis 0 |
//! | embedding | `lora_a` `[vocab, r]`, `lora_b` `[r, dim]` | `lora`, `up` and `down` as they are; on a tied one for all its uses, as there |
//! | experts (`switch_mlp.gate_proj`, `up_proj`, `down_proj`) | `lora_a` `[E, r, in]`, `lora_b` `[E, out, r]`; before October 2025 `lora_a` `[r·E, in]` | `lora` of a bundle, or of form `stacked` with its rows, as the base stores experts |
//! | `full` | `weight`, `bias`; of experts `[E, out, in]` | `set`; of a bundle, or of rows of a stack, as the base stores experts |
//!
//! A file has one rank and one scale: what is written of others is padded with zeros, and the ratio of scales goes into
//! `lora_b`. DoRA on embeddings has a magnitude for each token, which no other tool has: refused, as are the files of 2024
//! (`adapters.npz`, `alpha`).

mod experts;
mod folder;
mod read;
pub mod rules;
mod write;

pub use read::read;
pub use write::write;

use crate::error::Error;
use crate::files::Files;
use fitment_core::Finding;

/// Whether there is anything of MLX-LM among the files.
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
