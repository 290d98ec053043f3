//! Hugging Face PEFT's LoRA (0.21.2; older files by their version's rules).
//!
//! | file | holds |
//! |---|---|
//! | `adapter_config.json` | method, alpha, rank, patterns, which modules |
//! | `adapter_model.safetensors` | tensors under `base_model.model.` + module path + part; or shards with an `.index.json` |
//! | `adapter_model.bin` | the same as a torch file, from `save_pretrained(safe_serialization=False)`; read as data, and written only when the adapter came so |
//!
//! | part of a key | shape | becomes |
//! |---|---|---|
//! | `lora_A.weight`, `lora_B.weight` | `[r, in]`, `[out, r]` | `lora` on `weight`: down, up |
//! | the same, convolution | `[r, in, k…]`, `[out, r, 1…]` | `lora` of form `conv` |
//! | the same, nn.MultiheadAttention | `[r, E]`, `[3E, r]` | `lora` on `in_proj_weight` |
//! | `base_layer.out_proj.lora_A/B.weight` | `[r, E]`, `[E, r]` | `lora` on `out_proj.weight`, with twice the scale |
//! | the same on experts or another parameter | `[E·r, a]`, `[b, r·E]` | `lora` of form `stacked`, or of bundles: see `parameters` |
//! | `lora_embedding_A`, `lora_embedding_B` | `[r, vocab]`, `[dim, r]` | `lora`: transposed to up, down |
//! | `lora_magnitude_vector` | one element per output (embedding: per dimension) | magnitude, kept axis 0 (1) |
//! | `lora_B.bias` | `[out]` | `add` on `bias` |
//! | `token_adapter.trainable_tokens_delta` | `[n, dim]` | `set` of rows; their numbers stand in the config |
//! | a parameter (`weight`, `base_layer.bias`, …) | the parameter's | `set`; kept without effect when it equals the base |
//! | `original_module.…`, second copies | | kept without effect |
//!
//! The scale is `alpha/r`, or `alpha/√r` with rsLoRA, in doubles. Rules are those of PEFT's source (`save_and_load.py`,
//! `tuners_utils.py`, `lora/layer.py`), checked by running it; where its merge differs from its unmerged model, the model
//! counts.
//!
//! Not expressible in PEFT: several scales or slices on one tensor, dense updates, removals, adapters of pipelines.

mod checks;
mod config;
mod contents;
mod folder;
mod inspect;
mod keys;
mod leftovers;
mod methods;
mod orientation;
mod parameters;
mod pattern;
mod placed;
mod read;
pub mod rules;
mod scale;
mod selection;
pub(crate) mod state;
mod tokens;
mod unbound;
mod units;
mod values;
mod vocabulary;
mod write;

pub use read::read;
pub use write::write;

use crate::error::Error;
use crate::files::Files;
use fitment_core::checkpoint::Checkpoint;
use fitment_core::{Adapter, Finding};
use parameters::Today;

/// Whether there is anything of a PEFT adapter among the files.
pub fn detect(files: &Files<'_>) -> bool {
    folder::is_there(files)
}

/// Every breach of a rule that the files show without a base: rules [`rules`], and those of core about containers and values.
///
/// # Errors
/// [`Error::Ambiguous`] when the folder holds several adapters and `adapter_name` names none of them.
pub fn check(files: &Files<'_>, adapter_name: Option<&str>) -> Result<Vec<Finding>, Error> {
    Ok(inspect::inspect(files, adapter_name)?.findings)
}

/// Whether the files that an adapter was read from have factors of experts otherwise than PEFT has them from 0.19.1 on.
///
/// # Errors
/// [`Error::Ambiguous`] where only a base tells which way round they must be.
pub fn has_other_experts(adapter: &Adapter<'_>, base: Option<&dyn Checkpoint>) -> Result<bool, Error> {
    let Some(source) = adapter.source.as_ref().filter(|source| source.format == "peft") else {
        return Ok(false);
    };
    let today = Today::new(source, base.and_then(Checkpoint::config).or(Some(&adapter.base.config)));
    Ok(today.has_other_columns() || today.is_other_way(adapter)?)
}
