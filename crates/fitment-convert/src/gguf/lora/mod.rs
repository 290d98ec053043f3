//! LoRA: pairs of factors for the tensors of a GGUF base.

mod alpha;
mod check;
mod place;
mod read;
mod write;

pub(super) use check::{Contents, inspect};
pub(super) use read::{order_of, read};
pub(super) use write::write;

use super::container::Container;
use super::control;

const TYPE: &str = "general.type";
const ADAPTER: &str = "adapter";
const ADAPTER_TYPE: &str = "adapter.type";
const LORA: &str = "lora";
const ALPHA: &str = "adapter.lora.alpha";
const INVOCATION_TOKENS: &str = "adapter.alora.invocation_tokens";
/// The only tensor whose factors are the other way round: its rows are looked up, not multiplied.
const EMBEDDING: &str = "token_embd";
const A: &str = ".weight.lora_a";
const B: &str = ".weight.lora_b";

/// Whether a file is one of LoRA, sound or not.
pub(super) fn is_lora(container: &Container<'_>) -> bool {
    let is_part = |name: &str| name.ends_with(".lora_a") || name.ends_with(".lora_b");
    if control::architecture(container) == Some(control::CONTROL_VECTOR) {
        return false;
    }
    container.get(TYPE).and_then(|value| value.as_text()) == Some(ADAPTER)
        || container.tensors.iter().any(|entry| is_part(&entry.name))
}
