//! LoRA of litgpt (0.5.13).
//!
//! | file | holds |
//! |---|---|
//! | `lit_model.pth.lora` | a torch file: under `model`, `MODULE.lora_A` and `MODULE.lora_B` by litgpt's names |
//! | `hyperparameters.yaml` | what the training was told: `lora_r`, `lora_alpha`, and of `lora_query`, `lora_key`, `lora_value` which are trained |
//! | `model_config.yaml` | the model: its name, its numbers of heads, its feed-forward class |
//!
//! | module | `lora_A` | `lora_B` | becomes |
//! |---|---|---|---|
//! | any but the next | `[r, in]` | `[out, r]` | one `lora`, `scale` lora_alpha / lora_r |
//! | `attn.qkv` | `[n·r, in]` | `[Σ rows, r]` | one for each of queries, keys and values that is trained, in this order |
//!
//! | litgpt | Llama and its kin, Gemma, Qwen, OLMo | Phi 1 and 2 | Phi 3 and 4 | Pythia (GPT-NeoX) | Falcon |
//! |---|---|---|---|---|---|
//! | `attn.qkv` | `q_proj`, `k_proj`, `v_proj` | the same | rows of `qkv_proj` | rows of `query_key_value`, in each group its queries, its key and its value | the same |
//! | `attn.proj` | `o_proj` | `dense` | `o_proj` | `attention.dense` | `self_attention.dense` |
//! | `mlp.fc_1`, `fc_2` | `gate_proj`, `up_proj` | | rows of `gate_up_proj` | | |
//! | `mlp.fc` | | `fc1` | | `dense_h_to_4h` | `dense_h_to_4h` |
//! | `mlp.proj` | `down_proj` | `fc2` | `down_proj` | `dense_4h_to_h` | `dense_4h_to_h` |
//! | `mlp.experts.E.{fc_1,fc_2,proj}`, `mlp.gate` | Mixtral's `w1`, `w3`, `w2`; Qwen 3's names as above | | | | |
//! | `lm_head` | `lm_head` | `lm_head` | `lm_head` | `embed_out` | `lm_head` |
//!
//! From `lora.py` and `scripts/convert_lit_checkpoint.py`. Refused are latent attention, and the files of 0.4 and before, whose fused
//! module was `attn.attn` with rows in another order.

mod folder;
mod names;
mod read;
pub mod rules;

pub use read::read;

use crate::error::Error;
use crate::files::Files;
use fitment_core::Finding;

/// Whether there is LoRA of litgpt's among the files.
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
