//! The numbers of a model: from its config, or from the metadata of a GGUF file.

use super::architectures::{Architecture, Numbers};
use super::control;
use super::value::Value as Metadatum;
use crate::model_config;
use serde_json::{Map, Value};

/// What is known of the base.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts {
    pub(crate) architecture: &'static Architecture,
    pub(crate) numbers: Numbers,
    /// Whether the output is the embedding, where that is said.
    pub(crate) tied: Option<bool>,
}

impl Facts {
    /// From a model's `config.json`, or what an adapter recorded of it. The error is its `model_type`, or that it has none.
    pub(crate) fn of_config(config: &Map<String, Value>) -> Result<Self, Option<String>> {
        // Of a GGUF base: its metadata by their own keys.
        if let Some(name) = config.get(control::ARCHITECTURE).and_then(Value::as_str) {
            let count = |key: &str| config.get(key).and_then(Value::as_u64);
            let tied = config.get("tie_word_embeddings").and_then(Value::as_bool);
            return Self::of_keys(name, &count, tied).ok_or(Some(name.to_owned()));
        }
        let outer = config.get("model_type").and_then(Value::as_str);
        let inner = config.get("text_config").and_then(|text| text.get("model_type")).and_then(Value::as_str);
        let line = [outer, inner].into_iter().flatten().find_map(Architecture::of_model);
        let architecture = line.ok_or(outer.map(str::to_owned))?;
        let count = |key: &str| model_config::count(config, key);
        let flag = |key: &str| model_config::find(config, key).and_then(Value::as_bool);
        let heads = count("num_attention_heads");
        let key_heads = match architecture.name {
            "falcon" if flag("new_decoder_architecture") == Some(true) => count("num_kv_heads").or(heads),
            // Both flags as FalconConfig has them where a config lacks them.
            "falcon" if flag("multi_query") != Some(false) => Some(1),
            "falcon" => heads,
            // Llamas before grouped queries do not know the key; other classes have defaults of their own.
            "llama" if outer == Some("llama") => count("num_key_value_heads").or(heads),
            _ => count("num_key_value_heads"),
        };
        let by_width = || count("hidden_size")?.checked_div(heads?);
        let numbers = Numbers {
            heads,
            key_heads,
            head_width: count("head_dim").or_else(by_width),
            experts: count("num_local_experts").or(count("num_experts")).or(count("n_routed_experts")),
        };
        let tied = flag("tie_word_embeddings").or(architecture.is_always_tied().then_some(true));
        Ok(Self { architecture, numbers, tied })
    }

    /// From the metadata of a GGUF file, of a model or of an adapter that has them. The error is what `general.architecture` says.
    pub(crate) fn of_metadata(metadata: &[(String, Metadatum)]) -> Result<Self, Option<String>> {
        let find = |key: &str| metadata.iter().find(|(name, _)| name == key).map(|(_, value)| value);
        let name = find(control::ARCHITECTURE).and_then(Metadatum::as_text);
        let count = |key: &str| find(key)?.as_count();
        name.and_then(|name| Self::of_keys(name, &count, None)).ok_or(name.map(str::to_owned))
    }

    /// From the keys that llama.cpp has for models.
    fn of_keys(name: &str, count: &dyn Fn(&str) -> Option<u64>, tied: Option<bool>) -> Option<Self> {
        let architecture = Architecture::named(name)?;
        let count = |key: &str| count(&format!("{name}.{key}"));
        let heads = count(HEADS);
        let numbers = Numbers {
            heads,
            // llama.cpp's default.
            key_heads: count(KEY_HEADS).or(heads),
            head_width: count(HEAD_WIDTH),
            experts: count(EXPERTS),
        };
        Some(Self { architecture, numbers, tied: tied.or(architecture.is_always_tied().then_some(true)) })
    }

    /// The metadata that say the same.
    pub(crate) fn metadata(&self) -> Vec<(String, u64)> {
        let Numbers { heads, key_heads, head_width, experts } = self.numbers;
        let known = [(HEADS, heads), (KEY_HEADS, key_heads), (HEAD_WIDTH, head_width), (EXPERTS, experts)];
        let key =
            |(key, number): (&str, Option<u64>)| Some((format!("{}.{key}", self.architecture.name), number?));
        known.into_iter().filter_map(key).collect()
    }

    /// With what another source knows where this one does not.
    pub(crate) fn or(self, other: Option<&Facts>) -> Self {
        let Some(other) = other else { return self };
        let (own, others) = (self.numbers, other.numbers);
        let numbers = Numbers {
            heads: own.heads.or(others.heads),
            key_heads: own.key_heads.or(others.key_heads),
            head_width: own.head_width.or(others.head_width),
            experts: own.experts.or(others.experts),
        };
        Self { numbers, tied: self.tied.or(other.tied), ..self }
    }
}

const HEADS: &str = "attention.head_count";
const KEY_HEADS: &str = "attention.head_count_kv";
const HEAD_WIDTH: &str = "attention.key_length";
const EXPERTS: &str = "expert_count";

#[cfg(test)]
mod tests {
    use super::Facts;
    use serde_json::{Value, json};

    fn facts(config: Value) -> Result<Facts, Option<String>> {
        Facts::of_config(config.as_object().unwrap())
    }

    #[test]
    fn numbers_stand_at_the_top_or_in_the_text_model() {
        let nested = json!({"model_type": "gemma3", "text_config": {"num_attention_heads": 4, "num_key_value_heads": 1}});
        let numbers = facts(nested).unwrap().numbers;
        assert_eq!((numbers.heads, numbers.key_heads), (Some(4), Some(1)));
        let wrapped =
            json!({"model_type": "llava", "text_config": {"model_type": "llama", "num_attention_heads": 4}});
        assert_eq!(facts(wrapped).unwrap().architecture.name, "llama");
        assert_eq!(facts(json!({"model_type": "bert"})).unwrap_err().as_deref(), Some("bert"));
        assert_eq!(facts(json!({})).unwrap_err(), None);
    }

    #[test]
    fn old_llamas_have_as_many_heads_of_keys_and_others_do_not_say() {
        let keys = |model: &str| {
            facts(json!({"model_type": model, "num_attention_heads": 4})).unwrap().numbers.key_heads
        };
        assert_eq!((keys("llama"), keys("mistral")), (Some(4), None));
    }

    #[test]
    fn groups_of_falcon_are_by_its_flags() {
        let groups = |config: Value| {
            let mut all = json!({"model_type": "falcon", "num_attention_heads": 8, "num_kv_heads": 2});
            all.as_object_mut().unwrap().extend(config.as_object().unwrap().clone());
            facts(all).unwrap().numbers.key_heads
        };
        assert_eq!(groups(json!({"new_decoder_architecture": true})), Some(2));
        assert_eq!(groups(json!({"new_decoder_architecture": false, "multi_query": true})), Some(1));
        assert_eq!(groups(json!({"new_decoder_architecture": false, "multi_query": false})), Some(8));
    }
}
