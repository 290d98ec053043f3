//! The keys of PEFT's `LoraConfig`, which other tools write too, and the variants of LoRA that change the meaning of the factors, each
//! refused by the key that switches it on.

use crate::error::one_line;
use fitment_core::Finding;
use fitment_core::finding::Rule;
use serde_json::{Map, Value};

/// Keys of `LoraConfig` that change nothing here, or that [`refused`] looks at.
pub(crate) const OTHER_KEYS: &[&str] = &[
    "alora_invocation_tokens",
    "arrow_config",
    "corda_config",
    "enable_lora",
    "eva_config",
    "inference_mode",
    "init_lora_weights",
    "kasa_config",
    "layer_replication",
    "loftq_config",
    "lora_dropout",
    "lora_ga_config",
    "megatron_config",
    "megatron_core",
    "merge_weights",
    "monteclora_config",
    "peft_type",
    "qalora_group_size",
    "runtime_config",
    "use_bdlora",
    "use_qalora",
    "velora_config",
];

/// Keys that the reader of PEFT folders takes into account.
pub(crate) const READ_KEYS: &[&str] = &[
    "alpha_pattern",
    "auto_mapping",
    "base_model_name_or_path",
    "bias",
    "ensure_weight_tying",
    "exclude_modules",
    "fan_in_fan_out",
    "layers_pattern",
    "layers_to_transform",
    "lora_alpha",
    "lora_bias",
    "modules_to_save",
    "peft_version",
    "r",
    "rank_pattern",
    "revision",
    "target_modules",
    "target_parameters",
    "task_type",
    "trainable_token_indices",
    "use_dora",
    "use_rslora",
];

/// Something that this version does not convert.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// By the name that PEFT uses.
    pub(crate) what: String,
    /// Why.
    pub(crate) reason: String,
    /// What the user can do.
    pub(crate) hint: String,
}

impl Refusal {
    pub(crate) fn new(what: impl Into<String>, reason: &str, hint: &str) -> Self {
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
///
/// # Errors
/// The key, and what is wrong with it, where its value is of another type.
pub(crate) fn refused(config: &Map<String, Value>) -> Result<Option<Refusal>, (&'static str, String)> {
    const INIT: &str = "init_lora_weights";
    let on = |(key, _, _): &&(&str, &str, &str)| config.get(*key).is_some_and(is_set);
    if let Some((key, reason, hint)) = VARIANTS.iter().find(on) {
        return Ok(Some(Refusal::new(*key, reason, hint)));
    }
    // PiSSA and its like count from a base less their initial factors.
    match config.get(INIT) {
        None | Some(Value::Null | Value::Bool(_)) => Ok(None),
        Some(Value::String(init)) if HARMLESS_INITS.contains(&init.to_lowercase().as_str()) => Ok(None),
        Some(Value::String(init)) => Ok(Some(Refusal::new(
            format!("{INIT} {init}"),
            "the factors count from a base that the initialisation has changed, so on the base itself they mean something else",
            "convert it with PEFT: save_pretrained(..., path_initial_model_for_weight_conversion=...)",
        ))),
        Some(other) => Err((INIT, format!("is {}, expected true, false or a name", brief(other)))),
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

/// Keys of `LoraConfig` that change what the factors do, each off by null, false, 0 or an empty value.
const CHANGING: &[&str] =
    &["use_rslora", "use_dora", "rank_pattern", "alpha_pattern", "lora_bias", "trainable_token_indices"];

/// Keys that change what the factors do, by the rule `variant`, and keys that neither PEFT nor the tool (`own`) has, by `unknown`.
pub(crate) fn beyond_plain(
    config: &Map<String, Value>,
    own: &[&str],
    [variant, unknown]: [&Rule; 2],
) -> Vec<Finding> {
    let is_changing = |key: &str, value: &Value| match key {
        "bias" => is_set(value) && value.as_str() != Some("none"),
        "peft_type" => is_set(value) && value.as_str() != Some("LORA"),
        _ => CHANGING.contains(&key) && is_set(value),
    };
    let mut findings = Vec::new();
    for (key, value) in config {
        if is_changing(key, value) {
            let message = format!("is {}; plain LoRA alone is read, by one rank and one alpha", brief(value));
            findings.push(Finding::new(variant, key, one_line(&message)));
        } else if ![own, OTHER_KEYS, READ_KEYS].iter().any(|known| known.contains(&&**key)) {
            let message = format!("is {}; nothing is known of this key", brief(value));
            findings.push(Finding::new(unknown, one_line(key), one_line(&message)));
        }
    }
    match refused(config) {
        Ok(refusal) => findings.extend(refusal.map(|one| Finding::new(variant, one.what, one.reason))),
        Err((key, message)) => findings.push(Finding::new(variant, key, message)),
    }
    findings
}

/// A value as a message shows it.
pub(crate) fn brief(value: &Value) -> String {
    const SHOWN: usize = 60;
    let text = value.to_string();
    match text.char_indices().nth(SHOWN) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

/// Whether a config of PEFT's has the keys that torchtune writes, and no other: PEFT itself writes every key that its version knows.
pub(crate) fn is_torchtunes(config: &Map<String, Value>) -> bool {
    const KEYS: [&str; 4] = ["r", "lora_alpha", "target_modules", "peft_type"];
    let is_known = |key: &String| KEYS.contains(&&**key) || key == "base_model_name_or_path";
    KEYS.iter().all(|key| config.contains_key(*key)) && config.keys().all(is_known)
}

#[cfg(test)]
mod tests {
    use super::beyond_plain;
    use crate::tinker::rules;
    use fitment_core::json;
    use serde_json::Value;

    fn said(text: &str) -> Vec<(&'static str, String)> {
        let Ok(Value::Object(config)) = json::parse(text.as_bytes()) else { panic!("{text}") };
        let found = beyond_plain(&config, &["own"], [&rules::K_VARIANT, &rules::K_CONFIG_KEY]);
        found.into_iter().map(|finding| (finding.code.0, finding.place)).collect()
    }

    #[test]
    fn what_is_off_or_changes_nothing_is_passed_over() {
        let plain = r#"{"r": 1, "own": 2, "bias": "none", "peft_type": "LORA", "use_rslora": false, "rank_pattern": {},
            "layer_replication": null, "lora_dropout": 0.1, "init_lora_weights": true, "target_modules": "all-linear"}"#;
        assert_eq!(said(plain), []);
    }

    #[test]
    fn each_key_that_changes_the_function_is_named() {
        let (variant, unknown) = (rules::K_VARIANT.code.0, rules::K_CONFIG_KEY.code.0);
        for (key, value) in [
            ("use_rslora", "true"),
            ("use_dora", "1"),
            ("alpha_pattern", r#"{"q_proj": 3}"#),
            ("bias", r#""all""#),
            ("peft_type", r#""LOHA""#),
            ("layer_replication", "[[0, 1]]"),
            ("init_lora_weights", "3"),
        ] {
            assert_eq!(said(&format!("{{\"{key}\": {value}}}")), [(variant, key.to_owned())], "{key}");
        }
        let pissa = said(r#"{"init_lora_weights": "pissa"}"#);
        assert_eq!(pissa, [(variant, "init_lora_weights pissa".to_owned())]);
        assert_eq!(said(r#"{"lora_new": null}"#), [(unknown, "lora_new".to_owned())]);
    }
}
