//! Variants of LoRA that change the meaning of the factors, each refused by the config key that switches it on.

use super::fields::Fields;
use crate::error::one_line;
use serde_json::Value;

/// Something that this version does not convert.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::peft) struct Refusal {
    /// By the name that PEFT uses.
    pub(in crate::peft) what: String,
    /// Why.
    pub(in crate::peft) reason: String,
    /// What the user can do.
    pub(in crate::peft) hint: String,
}

impl Refusal {
    pub(in crate::peft) fn new(what: impl Into<String>, reason: &str, hint: &str) -> Self {
        Self { what: one_line(&what.into()), reason: reason.to_owned(), hint: hint.to_owned() }
    }
}

const MERGE: &str = "merge it with PEFT (merge_and_unload)";

/// Config key, reason, hint: refused when the key is set to anything but null, false, 0 or an empty value.
const VARIANTS: &[(&str, &str, &str)] = &[
    (
        "layer_replication",
        "replicated layers share the weights of the base: no checkpoint of the base's layers holds the result",
        "materialise the replicated layers first",
    ),
    (
        "alora_invocation_tokens",
        "an activated LoRA acts only from its invocation tokens on: there is no one set of weights",
        "serve it with PEFT or vLLM",
    ),
    (
        "arrow_config",
        "Arrow routes every token to other adapters: there is no one set of weights",
        "convert the routed adapters one by one",
    ),
    ("use_qalora", "QALoRA averages its input over groups, and its base is quantised", "serve it with PEFT"),
    (
        "use_bdlora",
        "the short factors of BD-LoRA stand for block-diagonal ones, which this version does not expand yet",
        MERGE,
    ),
    (
        "kasa_config",
        "KaSA counts from a base without its smallest singular values, which this version does not compute yet",
        MERGE,
    ),
    (
        "velora_config",
        "VeLoRA stores tensors beside the factors that this version does not check yet",
        "re-save it with PEFT without velora_config: its weights are plain LoRA",
    ),
    (
        "monteclora_config",
        "MonteCLoRA stores a sampler beside the factors that this version does not check yet",
        "re-save it with PEFT without monteclora_config: its weights are plain LoRA",
    ),
    (
        "megatron_config",
        "the adapter was made on Megatron's parallel layers, whose names and layout differ from the checkpoint's",
        "export it with Megatron-Bridge as a plain PEFT adapter",
    ),
    (
        "enable_lora",
        "fused LoRA of PEFT 0.2 (`enable_lora`) has grouped factors",
        "split it into one LoRA for each projection with the PEFT version that wrote it",
    ),
];

/// Initialisations that leave the base as it is.
const HARMLESS_INITS: &[&str] = &["gaussian", "eva", "orthogonal", "mica"];

/// The first variant that is switched on.
pub(super) fn refused(fields: &mut Fields<'_>) -> Option<Refusal> {
    let on = |(key, _, _): &&(&str, &str, &str)| fields.value(key).is_some_and(is_set);
    if let Some((key, reason, hint)) = VARIANTS.iter().find(on) {
        return Some(Refusal::new(*key, reason, hint));
    }
    refused_init(fields)
}

/// PiSSA and its like count from a base less their initial factors.
fn refused_init(fields: &mut Fields<'_>) -> Option<Refusal> {
    let value = fields.value("init_lora_weights")?;
    match value {
        Value::Bool(_) => None,
        Value::String(init) if HARMLESS_INITS.contains(&init.to_lowercase().as_str()) => None,
        Value::String(init) => Some(Refusal::new(
            format!("init_lora_weights {init}"),
            "the factors count from a base that the initialisation has changed, so on the base itself they mean something else",
            "convert it with PEFT: save_pretrained(..., path_initial_model_for_weight_conversion=...)",
        )),
        other => {
            let message = format!("is {}, expected true, false or a name", super::fields::brief(other));
            fields.fault("init_lora_weights", message);
            None
        }
    }
}

fn is_set(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Bool(true) => true,
    }
}
