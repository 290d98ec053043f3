//! `adapter_config.json`: what of it decides the function.

use super::rules;
use crate::error::one_line;
use fitment_core::model::Activation;
use fitment_core::{Finding, json};
use serde_json::{Map, Value};

/// The config of a ReFT.
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
}

/// What a config is.
pub(super) enum Parsed {
    Reft(Config),
    /// Another method, and its name.
    Other(String),
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
    if fields.get("architecture").and_then(Value::as_str) != Some("reft") {
        return Ok(Parsed::Other(method(fields)));
    }
    let mut read = Reader { fields, findings: Vec::new() };
    let text = |key: &str| root.get(key).and_then(Value::as_str).map(str::to_owned);
    let config = Config {
        name: text("name"),
        model_name: text("model_name").filter(|name| !name.is_empty()),
        version: text("version"),
        hidden_size: root.get("hidden_size").and_then(Value::as_u64),
        prefix_positions: read.count("prefix_positions").unwrap_or_default(),
        suffix_positions: read.count("suffix_positions").unwrap_or_default(),
        r: read.count("r"),
        orthogonality: read.flag("orthogonality"),
        tied_weights: read.flag("tied_weights").unwrap_or_default(),
        layers: read.layers(),
        activation: read.activation(),
    };
    match read.findings {
        findings if findings.is_empty() => Ok(Parsed::Reft(config)),
        findings => Err(findings),
    }
}

/// What a config that is not ReFT's is called.
fn method(fields: &Map<String, Value>) -> String {
    match fields.get("architecture").and_then(Value::as_str) {
        Some("lora") if fields.get("composition_mode").and_then(Value::as_str) == Some("scale") => {
            "IA3".to_owned()
        }
        Some("lora") => "LoRA".to_owned(),
        Some(other) => one_line(other),
        None if fields.contains_key("reduction_factor") => "a bottleneck adapter".to_owned(),
        None => "without an architecture".to_owned(),
    }
}

struct Reader<'c> {
    fields: &'c Map<String, Value>,
    findings: Vec<Finding>,
}

impl<'c> Reader<'c> {
    fn get(&self, key: &str) -> Option<&'c Value> {
        self.fields.get(key).filter(|value| !value.is_null())
    }

    fn breach<T>(&mut self, key: &str, value: &Value, wanted: &str) -> Option<T> {
        let message = format!("is {}, {wanted} is asked for", one_line(&value.to_string()));
        self.findings.push(Finding::new(&rules::H_CONFIG, key, message));
        None
    }

    fn count(&mut self, key: &str) -> Option<u64> {
        // Counts beyond 2⁵³ are no exact JSON numbers (spec section 5.6).
        let value = self.get(key)?;
        let count = value.as_u64().filter(|count| *count <= 1 << 53);
        count.or_else(|| self.breach(key, value, "a count"))
    }

    fn flag(&mut self, key: &str) -> Option<bool> {
        let value = self.get(key)?;
        value.as_bool().or_else(|| self.breach(key, value, "true or false"))
    }

    fn layers(&mut self) -> Option<Vec<u64>> {
        let value = self.get("layers").filter(|value| value.as_str() != Some("all"))?;
        let numbers = value.as_array().and_then(|layers| layers.iter().map(Value::as_u64).collect());
        numbers.or_else(|| self.breach("layers", value, "\"all\" or a list of numbers"))
    }

    /// By the library's names: transformers' in lower case, and one of its own.
    fn activation(&mut self) -> Option<Activation> {
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
