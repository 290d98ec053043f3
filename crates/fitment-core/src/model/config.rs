use super::{ComponentName, Origin};

/// A value in the model's `config.json` that `apply` writes (spec section 5.5).
#[derive(Clone, Debug, PartialEq)]
pub struct ConfigEdit {
    /// Part of a pipeline; `None` for a single model.
    pub component: Option<ComponentName>,
    /// What is set.
    pub value: ConfigValue,
    /// Provenance, outside the content id.
    pub origin: Origin,
}

/// The closed list of config keys that an adapter may set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigValue {
    /// `tie_word_embeddings`.
    TieWordEmbeddings(bool),
    /// `vocab_size`.
    VocabSize(u64),
    /// `mlp_bias`.
    MlpBias(bool),
    /// `attention_bias`.
    AttentionBias(bool),
}

impl ConfigValue {
    /// The key in `config.json`.
    pub fn key(self) -> &'static str {
        match self {
            ConfigValue::TieWordEmbeddings(_) => "tie_word_embeddings",
            ConfigValue::VocabSize(_) => "vocab_size",
            ConfigValue::MlpBias(_) => "mlp_bias",
            ConfigValue::AttentionBias(_) => "attention_bias",
        }
    }

    /// The value as JSON.
    pub fn json(self) -> serde_json::Value {
        match self {
            ConfigValue::TieWordEmbeddings(value)
            | ConfigValue::MlpBias(value)
            | ConfigValue::AttentionBias(value) => value.into(),
            ConfigValue::VocabSize(value) => value.into(),
        }
    }

    /// The edit that a key and a JSON value name; `None` when the key is not in the list or the type is another.
    pub fn from_json(key: &str, value: &serde_json::Value) -> Option<Self> {
        match key {
            "tie_word_embeddings" => value.as_bool().map(ConfigValue::TieWordEmbeddings),
            "vocab_size" => value.as_u64().map(ConfigValue::VocabSize),
            "mlp_bias" => value.as_bool().map(ConfigValue::MlpBias),
            "attention_bias" => value.as_bool().map(ConfigValue::AttentionBias),
            _ => None,
        }
    }
}
