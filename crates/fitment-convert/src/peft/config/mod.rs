//! `adapter_config.json`, strictly: PEFT's own meaning of every key that decides what the adapter does.

mod fields;
mod version;

pub(super) use crate::lora_keys::Refusal;
pub(super) use version::{Dating, PatternRule, Version};

use super::methods::Method;
use super::rules;
use crate::error::one_line;
use crate::lora_keys::{self, OTHER_KEYS, READ_KEYS, brief};
use fields::{Fields, TextOrTexts, positive};
use fitment_core::Finding;
use fitment_core::json::{self, JsonFault};
use fitment_core::limits::MAX_CONFIG_BYTES;
use serde_json::{Map, Value};

/// What a LoRA config says. PEFT's defaults are filled in, but for alpha.
#[derive(Clone, Debug)]
pub(super) struct Config {
    pub(super) task_type: Option<String>,
    /// `auto_mapping.base_model_class`.
    pub(super) model_class: Option<String>,
    pub(super) base_name: Option<String>,
    pub(super) revision: Option<String>,
    /// `peft_version` as it stands.
    pub(super) version_text: Option<String>,
    pub(super) version: Option<Version>,
    dated: Option<Version>,
    /// The config holds what Unsloth writes into it.
    pub(super) of_unsloth: bool,
    pub(super) rank: u64,
    /// PEFT would take 8 where it is missing.
    pub(super) alpha: Option<f64>,
    pub(super) use_rslora: bool,
    pub(super) use_dora: bool,
    pub(super) lora_bias: bool,
    /// It has the key `lora_bias`, which PEFT writes since 0.14.
    pub(super) says_lora_bias: bool,
    /// It has the keys that torchtune writes, and no other.
    pub(super) is_torchtunes: bool,
    pub(super) bias: Bias,
    pub(super) fan_in_fan_out: bool,
    pub(super) ensure_weight_tying: bool,
    pub(super) target_modules: Modules,
    pub(super) exclude_modules: Modules,
    /// Parameters by whole path, or by its end.
    pub(super) target_parameters: Vec<String>,
    pub(super) modules_to_save: Vec<String>,
    pub(super) layers: Option<Vec<u64>>,
    pub(super) layers_pattern: Vec<String>,
    pub(super) rank_pattern: Vec<(String, u64)>,
    pub(super) alpha_pattern: Vec<(String, f64)>,
    pub(super) tokens: Option<Tokens>,
}

/// Modules by regular expression or by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Modules {
    /// The key is absent or null.
    Unset,
    /// `all-linear`.
    AllLinear,
    /// A regular expression over the whole path.
    Pattern(String),
    /// Names: the path is one of them, or ends in one behind a dot.
    Names(Vec<String>),
}

/// Which biases of the model an adapter holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bias {
    None,
    All,
    LoraOnly,
}

/// `trainable_token_indices`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Tokens {
    /// Of the input embedding.
    Embedding(Vec<u64>),
    /// By the end of a module's path.
    Modules(Vec<(String, Vec<u64>)>),
}

/// A config that was read as far as it goes.
#[derive(Debug, Default)]
pub(super) struct Parsed {
    pub(super) config: Option<Config>,
    pub(super) findings: Vec<Finding>,
    /// The method or variant that is refused, if one is.
    pub(super) refusal: Option<Refusal>,
}

/// Reads the bytes of an `adapter_config.json`.
pub(super) fn parse(bytes: &[u8]) -> Parsed {
    let fault = |message: String| Parsed {
        findings: vec![Finding::new(&rules::P_CONFIG_JSON, "adapter_config.json", message)],
        ..Parsed::default()
    };
    if bytes.len() > MAX_CONFIG_BYTES {
        return fault(format!("{} bytes, at most {MAX_CONFIG_BYTES} are read", bytes.len()));
    }
    match json::parse(bytes) {
        Ok(Value::Object(map)) => of_object(&map),
        Ok(_) => fault("is not a JSON object".to_owned()),
        Err(error @ JsonFault::DuplicateKey { .. }) => fault(error.to_string()),
        Err(error) => fault(format!("not JSON: {error}")),
    }
}

fn of_object(map: &Map<String, Value>) -> Parsed {
    let mut fields = Fields::new(map);
    let refusal = match refused_method(&mut fields) {
        Some(refusal) => Some(refusal),
        // The keys of another method are not known here.
        None if fields.findings.is_empty() => {
            note_unknown_keys(map, &mut fields);
            refused_variant(map, &mut fields)
        }
        None => None,
    };
    let sound = |fields: &Fields<'_>| fields.findings.iter().all(|f| f.code != rules::P_CONFIG_FIELD.code);
    if refusal.is_some() || !sound(&fields) {
        return Parsed { config: None, findings: fields.findings, refusal };
    }
    let config = read_config(map, &mut fields);
    Parsed { config: sound(&fields).then_some(config), findings: fields.findings, refusal: None }
}

fn refused_method(fields: &mut Fields<'_>) -> Option<Refusal> {
    let Some(peft_type) = fields.text("peft_type") else {
        if fields.findings.is_empty() {
            fields.fault("peft_type", "is missing: nothing says which method this is".to_owned());
        }
        return None;
    };
    match Method::from_type(&peft_type) {
        Some(Method::Lora) => None,
        Some(method) => {
            let (reason, hint) = method.refusal();
            Some(Refusal::new(format!("peft_type {peft_type}"), reason, hint))
        }
        None => Some(Refusal::new(
            format!("peft_type {peft_type}"),
            "PEFT 0.21 has no such method",
            "update fitment",
        )),
    }
}

fn refused_variant(map: &Map<String, Value>, fields: &mut Fields<'_>) -> Option<Refusal> {
    lora_keys::refused(map).unwrap_or_else(|(key, message)| {
        fields.fault(key, message);
        None
    })
}

fn note_unknown_keys(map: &Map<String, Value>, fields: &mut Fields<'_>) {
    let known = |key: &str| OTHER_KEYS.contains(&key) || READ_KEYS.contains(&key);
    for (key, value) in map.iter().filter(|(key, _)| !known(key)) {
        let message = format!("is {}; PEFT 0.21 ignores this key", brief(value));
        fields.findings.push(Finding::new(&rules::P_CONFIG_KEY, one_line(key), message));
    }
}

fn read_config(map: &Map<String, Value>, fields: &mut Fields<'_>) -> Config {
    let version_text = fields.text("peft_version");
    let model_class = fields.value("auto_mapping").and_then(|mapping| mapping.get("base_model_class"));
    let mapping = fields.value("auto_mapping");
    let is_fixed = mapping.and_then(|mapping| mapping.get("unsloth_fixed")).and_then(Value::as_bool);
    let base_name = fields.text("base_model_name_or_path").filter(|name| !name.is_empty());
    let config = Config {
        of_unsloth: is_fixed == Some(true)
            || base_name.as_deref().is_some_and(|name| name.starts_with("unsloth/")),
        target_parameters: fields.texts("target_parameters"),
        task_type: fields.text("task_type"),
        model_class: model_class.and_then(Value::as_str).map(str::to_owned),
        base_name,
        revision: fields.text("revision").filter(|revision| !revision.is_empty()),
        version: version_text.as_deref().and_then(Version::parse),
        version_text,
        dated: version::dated(map),
        rank: fields.rank("r").unwrap_or(8),
        alpha: fields.number("lora_alpha"),
        use_rslora: fields.flag("use_rslora"),
        use_dora: fields.flag("use_dora"),
        lora_bias: fields.flag("lora_bias"),
        says_lora_bias: map.contains_key("lora_bias"),
        is_torchtunes: lora_keys::is_torchtunes(map),
        bias: bias(fields),
        fan_in_fan_out: fields.flag("fan_in_fan_out"),
        ensure_weight_tying: fields.flag("ensure_weight_tying"),
        target_modules: modules(fields, "target_modules"),
        exclude_modules: modules(fields, "exclude_modules"),
        modules_to_save: fields.texts("modules_to_save"),
        layers: fields.integers("layers_to_transform").filter(|layers| !layers.is_empty()),
        layers_pattern: match fields.text_or_texts("layers_pattern") {
            Some(TextOrTexts::Text(text)) if !text.is_empty() => vec![text],
            Some(TextOrTexts::Texts(texts)) => texts,
            _ => Vec::new(),
        },
        rank_pattern: fields.patterns("rank_pattern", "positive integers", positive),
        alpha_pattern: fields.patterns("alpha_pattern", "numbers", Value::as_f64),
        tokens: tokens(fields),
    };
    check_together(&config, fields);
    config
}

/// Combinations that PEFT refuses.
fn check_together(config: &Config, fields: &mut Fields<'_>) {
    let version = config.version_text.as_deref().filter(|_| config.version.is_none());
    if let Some(text) = version {
        fields.fault("peft_version", format!("is {text:?}, expected a version such as 0.21.2"));
    }
    if fields.value("lora_alpha").is_none() {
        let message = "is missing: the scale of every module depends on it, and PEFT would take 8".to_owned();
        fields.findings.push(Finding::new(&rules::P_ALPHA_MISSING, "lora_alpha", message));
    }
    let is_pattern = matches!(config.target_modules, Modules::Pattern(_) | Modules::AllLinear);
    if is_pattern && (config.layers.is_some() || !config.layers_pattern.is_empty()) {
        let message = "goes with a list of target_modules only, which is a string here".to_owned();
        fields.fault("layers_to_transform", message);
    }
    if !config.target_parameters.is_empty() && config.fan_in_fan_out {
        fields.fault("fan_in_fan_out", "is true beside target_parameters, which PEFT refuses".to_owned());
    }
    if config.lora_bias && config.use_dora {
        fields.fault("lora_bias", "is true beside use_dora, which PEFT refuses".to_owned());
    }
}

fn bias(fields: &mut Fields<'_>) -> Bias {
    match fields.text("bias").as_deref() {
        None | Some("none") => Bias::None,
        Some("all") => Bias::All,
        Some("lora_only") => Bias::LoraOnly,
        Some(other) => {
            fields.fault("bias", format!("is {other:?}, expected none, all or lora_only"));
            Bias::None
        }
    }
}

fn modules(fields: &mut Fields<'_>, key: &str) -> Modules {
    match fields.text_or_texts(key) {
        None => Modules::Unset,
        Some(TextOrTexts::Text(text)) if text.is_empty() => Modules::Unset,
        Some(TextOrTexts::Text(text)) if key == "target_modules" && text.to_lowercase() == "all-linear" => {
            Modules::AllLinear
        }
        Some(TextOrTexts::Text(text)) => Modules::Pattern(text),
        Some(TextOrTexts::Texts(names)) => Modules::Names(names),
    }
}

fn tokens(fields: &mut Fields<'_>) -> Option<Tokens> {
    let value = fields.value("trainable_token_indices")?;
    let indices = |value: &Value| value.as_array()?.iter().map(Value::as_u64).collect::<Option<Vec<u64>>>();
    let read = match value {
        Value::Object(map) => {
            let entry = |(name, value): (&String, &Value)| Some((name.clone(), indices(value)?));
            map.iter().map(entry).collect::<Option<Vec<_>>>().map(Tokens::Modules)
        }
        value => indices(value).map(Tokens::Embedding),
    };
    if read.is_none() {
        let message = format!("is {}, expected token indices, or a map from modules to them", brief(value));
        fields.fault("trainable_token_indices", message);
    }
    read
}
