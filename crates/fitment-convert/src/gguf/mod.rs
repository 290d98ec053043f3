//! GGUF adapters of llama.cpp: LoRA (`convert_lora_to_gguf.py`), and control vectors (llama.cpp, repeng 0.4.0, EasySteer).
//!
//! | in the file of a LoRA | becomes |
//! |---|---|
//! | `general.type` = `adapter`, `adapter.type` = `lora` | how it is recognised |
//! | `general.architecture` | names and orders of rows |
//! | `adapter.lora.alpha` (f32) | the scale of each tensor, `alpha / rank`; 1 where it is 0 or missing |
//! | `adapter.alora.invocation_tokens` (u32) | `when` of every edit: from the last such sequence on |
//! | `NAME.weight.lora_a`, axes `[r, in]`, `.lora_b`, `[out, r]` | a `lora` on the tensor of transformers that is NAME there |
//! | the same of `ffn_…_exps`, `[E, r, in]` and `[E, out, r]` | a `lora` on the bundle of the experts' tensors |
//! | `token_embd`: `lora_a` `[vocab, r]`, `lora_b` `[dim, r]` | a `lora` on the embedding, `up` the one, `down` the other's transpose |
//!
//! llama.cpp lists the rows of some matrices otherwise than transformers: of queries and keys of the Llama family the halves of each head
//! in turn, of the fused layers of NeoX and Falcon all queries before all keys. So do its factors, and both ways need the numbers of heads. They come from the base, or from keys in the file that llama.cpp has for models,
//! which are written here too. A matrix that GPT-2's Conv1D stores `[in, out]` is `[out, in]` in GGUF, as PEFT's factors are: they are copied.
//!
//! | in the file of a control vector | becomes |
//! |---|---|
//! | `general.architecture` = `controlvector` | how it is recognised |
//! | `controlvector.model_hint` | the base's architecture |
//! | `controlvector.layer_count` (u32 or i32) | kept; llama.cpp does not look at it |
//! | `direction.N`, F32 `[d]`, N ≥ 1 | an `intervention` that adds it to `block_output` of layer N, for every token |
//!
//! N is the number of the block from 0 whose output is steered (`llama_adapter_cvec::apply_to` runs behind block N); it
//! is never renumbered. llama.cpp's own cvector-generator calls what it measured behind block k `direction.(k+1)`: that
//! is what such a file does when it is loaded, so that is what it means here.
//!
//! A GGUF model may be the base ([`Model`]).
//!
//! Everything before the tensor data is kept byte for byte as `NAME.head`.

pub(crate) mod architectures;
mod container;
mod control;
pub(crate) mod facts;
mod ggml;
mod layout;
mod lora;
mod model;
mod quants;
mod read;
pub mod rules;
mod value;
mod write;

pub use container::{Container, Entry};
pub use ggml::TensorType;
pub use model::Model;
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
