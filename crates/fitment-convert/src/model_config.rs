//! What a model's `config.json` says of its attention.

use serde_json::{Map, Value};

/// A value of the config; of the text model, where the config itself does not have it.
pub(crate) fn find<'c>(config: &'c Map<String, Value>, key: &str) -> Option<&'c Value> {
    let nested = || config.get("text_config")?.get(key);
    config.get(key).filter(|value| !value.is_null()).or_else(|| nested().filter(|value| !value.is_null()))
}

/// A whole number of the config.
pub(crate) fn count(config: &Map<String, Value>, key: &str) -> Option<u64> {
    find(config, key).and_then(Value::as_u64)
}

/// The heads of an attention with one projection each for queries, keys and values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Heads {
    pub(crate) queries: u64,
    pub(crate) keys: u64,
    /// Rows of a head.
    pub(crate) width: u64,
}

impl Heads {
    /// By the keys of transformers. Models before grouped queries have as many heads of keys as of queries.
    pub(crate) fn of(config: &Map<String, Value>) -> Option<Self> {
        let queries = count(config, "num_attention_heads").filter(|heads| *heads > 0)?;
        let keys = count(config, "num_key_value_heads").unwrap_or(queries);
        let by_width = || count(config, "hidden_size").and_then(|width| width.checked_div(queries));
        let width = count(config, "head_dim").or_else(by_width)?;
        Some(Self { queries, keys, width })
    }

    /// How many rows so many heads have.
    pub(crate) fn rows(&self, heads: u64) -> u64 {
        heads.saturating_mul(self.width)
    }
}
