//! `adapter_config.json`: what of it decides the function.

use super::methods::{self, Method};
use super::rules;
use crate::error::one_line;
use fitment_core::model::Activation;
use fitment_core::{Finding, json};
use serde_json::{Map, Value};

/// The config of an adapter.
#[derive(Clone, Debug, Default)]
pub(super) struct Config {
    pub(super) name: Option<String>,
    pub(super) model_name: Option<String>,
    pub(super) version: Option<String>,
    pub(super) hidden_size: Option<u64>,
    pub(super) prefix_positions: u64,
    pub(super) suffix_positions: u64,
    pub(super) r: Option<u64>,
    pub(super) orthogonality: Option<bool>,
    pub(super) tied_weights: bool,
    /// `None` for all.
    pub(super) layers: Option<Vec<u64>>,
    pub(super) activation: Option<Activation>,
    /// Layers without the adapter, where the config names those.
    pub(super) left_out: Vec<u64>,
    pub(super) method: Method,
}

/// What a config is.
pub(super) enum Parsed {
    Known(Box<Config>),
    /// What of it has no edit here.
    Refused(String),
}

/// Reads the config, or says every breach.
pub(super) fn parse(bytes: &[u8]) -> Result<Parsed, Vec<Finding>> {
    let breach = |place: &str, message: &str| vec![Finding::new(&rules::H_CONFIG, place, message)];
    let root = match json::parse(bytes) {
        Ok(Value::Object(root)) => root,
        Ok(_) => return Err(breach("adapter_config.json", "is no JSON object")),
        Err(fault) => return Err(breach("adapter_config.json", &fault.to_string())),
    };
    let Some(fields) = root.get("config").and_then(Value::as_object) else {
        return Err(breach("config", "is no object: versions before 1.0 named a config by a text"));
    };
    let mut read = Reader { fields, findings: Vec::new() };
    let text = |key: &str| root.get(key).and_then(Value::as_str).map(str::to_owned);
    let model_type = text("model_type").unwrap_or_default();
    let method = match (name(fields), fields.get("architecture").and_then(Value::as_str)) {
        (_, Some("reft")) => Ok(Method::Reft),
        (BOTTLENECK, None) => methods::bottleneck(&mut read, &model_type).map(Method::Bottleneck),
        (LORA, _) => methods::lora(&mut read, &model_type).map(Method::Lora),
        (other, _) => Err(format!("the method is {other}; of this library, {READ} are read")),
    };
    let method = match method {
        Ok(method) => method,
        Err(reason) => return Ok(Parsed::Refused(reason)),
    };
    let is_reft = matches!(method, Method::Reft);
    let config = Config {
        name: text("name"),
        model_name: text("model_name").filter(|name| !name.is_empty()),
        version: text("version"),
        hidden_size: root.get("hidden_size").and_then(Value::as_u64),
        left_out: if is_reft {
            Vec::new()
        } else {
            read.numbers("leave_out", "a list of numbers").unwrap_or_default()
        },
        method,
        ..if is_reft { read.reft() } else { Config::default() }
    };
    match read.findings {
        findings if findings.is_empty() => Ok(Parsed::Known(Box::new(config))),
        findings => Err(findings),
    }
}

const READ: &str = "ReFT, bottleneck adapters and LoRA";
const BOTTLENECK: &str = "a bottleneck adapter";
const LORA: &str = "LoRA";

/// What a config's method is called.
fn name(fields: &Map<String, Value>) -> &str {
    match fields.get("architecture").and_then(Value::as_str) {
        Some("lora") if fields.get("composition_mode").and_then(Value::as_str) == Some("scale") => "IA3",
        Some("lora") => LORA,
        // A union lists configs; a name comes as it is.
        Some(other) if other.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') => other,
        Some(_) => "of a name that no version has",
        None if fields.contains_key("reduction_factor") => BOTTLENECK,
        None => "without an architecture",
    }
}

pub(super) struct Reader<'c> {
    fields: &'c Map<String, Value>,
    findings: Vec<Finding>,
}

impl<'c> Reader<'c> {
    pub(super) fn get(&self, key: &str) -> Option<&'c Value> {
        self.fields.get(key).filter(|value| !value.is_null())
    }

    pub(super) fn breach<T>(&mut self, key: &str, value: &Value, wanted: &str) -> Option<T> {
        let message = format!("is {}, {wanted} is asked for", one_line(&value.to_string()));
        self.findings.push(Finding::new(&rules::H_CONFIG, key, message));
        None
    }

    pub(super) fn count(&mut self, key: &str) -> Option<u64> {
        // Counts beyond 2⁵³ are no exact JSON numbers (spec section 5.6).
        let value = self.get(key)?;
        let count = value.as_u64().filter(|count| *count <= 1 << 53);
        count.or_else(|| self.breach(key, value, "a count"))
    }

    pub(super) fn flag(&mut self, key: &str) -> Option<bool> {
        let value = self.get(key)?;
        value.as_bool().or_else(|| self.breach(key, value, "true or false"))
    }

    /// What only a ReFT has.
    fn reft(&mut self) -> Config {
        Config {
            prefix_positions: self.count("prefix_positions").unwrap_or_default(),
            suffix_positions: self.count("suffix_positions").unwrap_or_default(),
            r: self.count("r"),
            orthogonality: self.flag("orthogonality"),
            tied_weights: self.flag("tied_weights").unwrap_or_default(),
            layers: self.layers(),
            activation: self.activation(),
            ..Config::default()
        }
    }

    fn numbers(&mut self, key: &str, wanted: &str) -> Option<Vec<u64>> {
        let value = self.get(key)?;
        let numbers = value.as_array().and_then(|layers| layers.iter().map(Value::as_u64).collect());
        numbers.or_else(|| self.breach(key, value, wanted))
    }

    fn layers(&mut self) -> Option<Vec<u64>> {
        let is_all = self.get("layers").and_then(Value::as_str) == Some("all");
        if is_all { None } else { self.numbers("layers", "\"all\" or a list of numbers") }
    }

    /// By the library's names: transformers' in lower case, and one of its own.
    pub(super) fn activation(&mut self) -> Option<Activation> {
        let value = self.get("non_linearity")?;
        let name = value.as_str().unwrap_or_default().to_lowercase();
        let name = match &*name {
            "linear" => return None,
            "leakyrelu" => "leaky_relu",
            "swish" => "silu",
            "gelu_pytorch_tanh" | "gelu_fast" => "gelu_new",
            name => name,
        };
        let known = Activation::from_name(name);
        known
            .or_else(|| self.breach("non_linearity", value, "an activation function that has a formula here"))
    }
}
