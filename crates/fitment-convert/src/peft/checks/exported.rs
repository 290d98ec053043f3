//! What torchtune writes for PEFT, and PEFT computes otherwise: told by the config, which has torchtune's five keys alone.
//!
//! | model | torchtune 0.6.1, `convert_weights.tune_to_peft_adapter_weights` |
//! |---|---|
//! | DoRA | rows of `lora_B` of q and k are put in transformers' order, magnitudes are not |
//! | Qwen 2 | they are put in another order too, though its rows are in transformers' order to begin with |

use crate::peft::config::Config;
use crate::peft::contents::{Contents, Module};
use crate::peft::rules;
use fitment_core::Finding;

/// The first breach; `model_type` is that of the base, where it is known.
pub(in crate::peft) fn check_exported(
    config: &Config,
    contents: &Contents<'_>,
    model_type: Option<&str>,
) -> Option<Finding> {
    let mut loras = contents.modules.iter().filter(|(_, module)| module.has_lora());
    let dora = loras.clone().find(|(path, module)| is_misordered(config, path, module));
    if let Some(entry) = dora.and_then(|(_, module)| module.magnitude.as_ref()) {
        let message = "a magnitude of q or k as torchtune exports it: its rows are in Meta's order";
        return Some(Finding::new(&rules::P_TORCHTUNE, &entry.key, message));
    }
    let is_turned = config.is_torchtunes && model_type == Some("qwen2");
    let (_, module) = loras.find(|(path, _)| is_turned && is_turned_there(path))?;
    let (_, b) = module.factors()?;
    let message = "rows of q or k of Qwen 2 as torchtune exports them: in no model's order";
    Some(Finding::new(&rules::P_TORCHTUNE, &b.key, message))
}

/// Whether a module's magnitude is in another order than its rows.
pub(super) fn is_misordered(config: &Config, path: &str, module: &Module<'_>) -> bool {
    config.is_torchtunes && !config.use_dora && module.magnitude.is_some() && is_turned_there(path)
}

fn is_turned_there(path: &str) -> bool {
    matches!(path.rsplit('.').next(), Some("q_proj" | "k_proj"))
}
