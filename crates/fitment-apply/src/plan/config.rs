//! Changes of the model's config: what edits ask for, what the tensors need.

use crate::note::Note;
use crate::options::Input;
use crate::refusal::Culprit;
use fitment_core::model::ConfigValue;
use fitment_core::tensor::Dtype;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// A value of `config.json` that changes.
#[derive(Clone, Debug, PartialEq)]
pub struct ConfigChange {
    /// Keys from the outermost object to the value.
    pub path: Vec<String>,
    /// The base's value; `None` when it has none.
    pub from: Option<Value>,
    /// The new value.
    pub to: Value,
}

/// Config edits that agree, by key.
pub(super) type Wanted = BTreeMap<&'static str, (usize, ConfigValue)>;

/// Joins the config edits of all adapters.
pub(super) fn join(
    edits: &[(usize, ConfigValue)],
    inputs: &[Input<'_>],
    culprits: &mut Vec<Culprit>,
) -> Wanted {
    let mut wanted = Wanted::new();
    for (file, value) in edits {
        let &mut (first, before) = wanted.entry(value.key()).or_insert((*file, *value));
        if before != *value {
            culprits.push(Culprit::ConfigTwice {
                key: value.key(),
                first: inputs[first].name.clone(),
                first_value: before.json(),
                second: inputs[*file].name.clone(),
                second_value: value.json(),
            });
        }
    }
    wanted
}

/// Adds what follows from the tensors and no edit says: an untied head, a larger vocabulary.
pub(super) fn derive(
    wanted: &mut BTreeMap<&'static str, Value>,
    config: Option<&Map<String, Value>>,
    (untied, grown): (bool, &[(u64, u64)]),
    notes: &mut Vec<Note>,
) {
    let mut derived = Vec::new();
    if untied {
        derived.push(ConfigValue::TieWordEmbeddings(false));
    }
    let vocabulary = config.and_then(|config| find(config, "vocab_size").1.and_then(Value::as_u64));
    let growth = grown.iter().find(|(from, _)| Some(*from) == vocabulary);
    derived.extend(growth.map(|(_, to)| ConfigValue::VocabSize(*to)));
    for value in derived {
        if !wanted.contains_key(value.key()) {
            wanted.insert(value.key(), value.json());
            notes.push(Note::ConfigDerived { key: value.key().to_owned(), value: value.json() });
        }
    }
}

/// The changes to the base's config; values that it already has are none.
pub(super) fn changes(
    wanted: &BTreeMap<&'static str, Value>,
    dtype: Option<Dtype>,
    config: Option<&Map<String, Value>>,
    notes: &mut Vec<Note>,
) -> Vec<ConfigChange> {
    let Some(config) = config else {
        let missing = wanted.iter();
        notes.extend(
            missing.map(|(key, value)| Note::ConfigMissing { key: (*key).to_owned(), value: value.clone() }),
        );
        return Vec::new();
    };
    let mut changes = Vec::new();
    for (key, value) in wanted {
        let (path, from) = find(config, key);
        if from != Some(value) {
            changes.push(ConfigChange { path, from: from.cloned(), to: value.clone() });
        }
    }
    if let Some(name) = dtype.and_then(torch_name) {
        dtype_changes(config, &mut Vec::new(), name, &mut changes);
    }
    changes
}

/// Where a key stands: at the top, or in the text model's part of a multimodal config; else where it would go.
fn find<'c>(config: &'c Map<String, Value>, key: &str) -> (Vec<String>, Option<&'c Value>) {
    if let Some(value) = config.get(key) {
        return (vec![key.to_owned()], Some(value));
    }
    match config.get("text_config").and_then(|text| text.get(key)) {
        Some(value) => (vec!["text_config".to_owned(), key.to_owned()], Some(value)),
        None => (vec![key.to_owned()], None),
    }
}

fn torch_name(dtype: Dtype) -> Option<&'static str> {
    match dtype {
        Dtype::F64 => Some("float64"),
        Dtype::F32 => Some("float32"),
        Dtype::F16 => Some("float16"),
        Dtype::BF16 => Some("bfloat16"),
        _ => None,
    }
}

/// Every `torch_dtype` or `dtype` of the config, at any depth: loaders make the model in that dtype.
fn dtype_changes(
    config: &Map<String, Value>,
    path: &mut Vec<String>,
    name: &str,
    changes: &mut Vec<ConfigChange>,
) {
    for (key, value) in config {
        path.push(key.clone());
        match value {
            Value::Object(inner) => dtype_changes(inner, path, name, changes),
            Value::String(found) if matches!(key.as_str(), "torch_dtype" | "dtype") && found != name => {
                changes.push(ConfigChange { path: path.clone(), from: Some(value.clone()), to: name.into() });
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {}
        }
        path.pop();
    }
}
