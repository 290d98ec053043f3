//! GPT-2's Conv1D: linear layers whose weight is stored `[in, out]`.
//!
//! Classes with it in transformers 5.23: `gpt2`, `openai-gpt`, `imagegpt`, `decision_transformer`, `clvp`; in all of them its modules have one
//! of four names. Other models use the same names for linear layers (GPTBigCode, Qwen), so that names alone decide nothing.

use crate::tying::model_type;
use serde_json::{Map, Value};

/// Model types whose `c_attn`, `c_proj`, `c_fc` and `q_attn` are Conv1D.
pub(crate) const CONV1D_MODELS: &[&str] = &["gpt2", "openai-gpt", "imagegpt", "decision_transformer", "clvp"];

/// The last words of such modules' paths.
pub(crate) const CONV1D_MODULES: &[&str] = &["c_attn", "c_proj", "c_fc", "q_attn"];

/// Whether a model stores the weights of modules whose path ends in this word `[in, out]`.
pub(crate) fn is_conv1d(word: &str, config: Option<&Map<String, Value>>) -> bool {
    CONV1D_MODULES.contains(&word)
        && config.and_then(model_type).is_some_and(|model_type| CONV1D_MODELS.contains(&model_type))
}
