//! AdapterHub's `adapters` (1.3.0): LoReFT, NoReFT and DiReFT, bottleneck adapters, LoRA.
//!
//! | file | holds |
//! |---|---|
//! | `adapter_config.json` | method, positions, layers, activation, scale |
//! | `adapter.safetensors` or `pytorch_adapter.bin` | tensors under module path + `.reft_layer.refts.NAME.units.U.`, `.adapters.NAME.` or `.loras.NAME.` + part |
//! | `head_config.json`, `model_head.safetensors`, `pytorch_model_head.bin` | a prediction head: carried with `keep_files`, else listed as left out |
//!
//! | part of a key | shape | becomes |
//! |---|---|---|
//! | `learned_source.weight`, `learned_source.bias` | `[r, d]`, `[r]` | `source.weight`, `source.bias` |
//! | `projection.weight` | `[r, d]` | `up`, transposed |
//! | `projection.parametrizations.weight.original`, `….0.base` | `[r, d]`, `[d, d]` | `up`: the orthogonal matrix that torch computes of them |
//! | `adapter_down.0.weight`, `adapter_down.0.bias` | `[r, d]`, `[r]` | `source.weight`, `source.bias` |
//! | `adapter_up.weight`, `adapter_up.bias` | `[d, r]`, `[d]` | `up`, `up.bias` |
//! | `scaling` | `[1]` | the learned scale of an intervention, and kept |
//! | `lora_A`, `lora_B` | `[r, in]`, `[out, r]` | `down`, `up` of a `lora` with scale `alpha / r` |
//!
//! **ReFT.** Every unit is an `intervention` on `block_output`: unit 0 on the first `prefix_positions` tokens, unit 1 on the last
//! `suffix_positions`, a lone unit on both. They are counted in every forward pass; both units read the states that stood
//! there before, and the suffix is written last (`methods/reft.py`, checked by running it).
//!
//! In a prompt with fewer tokens than `suffix_positions`, the library with `prefix_positions` above 0 writes states to
//! other tokens than it read them from. That is not reproduced: each token gets what its unit makes of it.
//!
//! The library does not save whether the projection is subtracted: NoReFT and DiReFT have the same files, and it loads
//! both as NoReFT. [`ReadOptions::formula`](crate::ReadOptions::formula) says which it is; orthogonal projections are LoReFT's,
//! and any other word for them is refused. What is written anew holds
//! `W + P` for a DiReFT's `W`, so that the library computes it.
//!
//! **Bottleneck adapters** are interventions at every token, at places that depend on the config and on the class of the
//! model (table in `bottleneck.rs`): BERT, RoBERTa, XLM-RoBERTa, ELECTRA, DistilBERT, Llama, Mistral and GPT-2. Refused by
//! name: pfeiffer on a model with layer norms behind the sums, layer norms and gates of the adapter's own, invertible ones,
//! products of stored matrices (Compacter), a learned scale for each element, any other class of model. `dropout` and
//! `stochastic_depth` act only in training.
//!
//! **LoRA** is on the weights that the keys name, fused ones by thirds (table in `lora.rs`). Refused by name: (IA)³, gates,
//! DoRA, VeRA, several tasks.
//!
//! What came from the library and is unchanged goes back tensor for tensor, by any method; anew, only ReFT is written.
//!
//! Not here: the other methods, such as prefix tuning, which are refused by name; heads as edits.

mod bottleneck;
mod config;
mod edits;
mod folder;
mod inspect;
mod keys;
mod lora;
mod methods;
mod read;
mod restore;
pub mod rules;
mod write;

pub use read::read;
pub use write::write;

use crate::error::Error;
use crate::files::Files;
use fitment_core::Finding;

/// Whether there is anything of this library among the files.
pub fn detect(files: &Files<'_>) -> bool {
    folder::is_there(files)
}

/// Every breach of [`rules`] that the files show.
///
/// # Errors
/// [`Error::Ambiguous`] when the folder holds several adapters and `adapter_name` names none of them.
pub fn check(files: &Files<'_>, adapter_name: Option<&str>) -> Result<Vec<Finding>, Error> {
    let folder = folder::open(files, adapter_name)?;
    Ok(inspect::inspect(&folder).findings)
}
