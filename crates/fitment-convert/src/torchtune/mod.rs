//! Adapters of torchtune (0.6.1): LoRA and DoRA on the linear layers of its text decoders, in its own form.
//!
//! | file | holds |
//! |---|---|
//! | `adapter_model.pt` (to 0.4 `adapter_N.pt`) | a torch file: `MODULE.lora_a.weight`, `MODULE.lora_b.weight`, of DoRA `MODULE.magnitude`, by torchtune's names |
//! | `adapter_config.json` | `r` and `lora_alpha`; missing for Phi |
//! | `torchtune_config.yaml`, in this folder or the one above | all that the training was told: `model.lora_rank` and `model.lora_alpha`; where neither file is there, `--alpha` says it |
//! | `config.json` | the base's, which torchtune copies beside: its type and its numbers of heads, which count before those of `--base` |
//!
//! | stored | shape | becomes |
//! |---|---|---|
//! | `lora_a.weight`, `lora_b.weight` | `[r, in]`, `[out, r]` | `lora`: down, up, `scale` alpha / r |
//! | `magnitude` | `[out]` | the magnitude, kept axis 0, by the norm of the merged weight |
//!
//! | torchtune | transformers | rows |
//! |---|---|---|
//! | `layers.N.attn.{q,k}_proj` | `self_attn.{q,k}_proj` | of Llama, Mistral, Gemma as Meta has them: `h·d + 2i + j` is `h·d + j·d/2 + i` in transformers; of Qwen 2 the same in both |
//! | `layers.N.attn.v_proj`, `output_proj` | `self_attn.{v,o}_proj` | the same |
//! | `layers.N.mlp.{w1,w2,w3}` | `mlp.{gate,down,up}_proj` | the same |
//! | `output` | `lm_head` | the same |
//! | Phi's q, k, v; w1, w3 | rows of `qkv_proj`; of `gate_up_proj` | the same |
//!
//! From `models/convert_weights.py`, `models/*/_convert_weights.py` and `modules/peft/`. What torchtune writes for PEFT beside is an
//! adapter of PEFT's, and wrong in two cases: magnitudes of q and k are not put in order, and rows of Qwen 2, which need none, are.

mod folder;
mod names;
mod read;
pub mod rules;

pub use read::read;

use crate::error::Error;
use crate::files::Files;
use fitment_core::Finding;

/// Whether there is an adapter in torchtune's own form, and none of PEFT's beside it.
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
