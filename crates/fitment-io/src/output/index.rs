use super::shard::OutputShard;
use crate::base::Index;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// The index of the output: the base's, with its own tensors and totals. Written as transformers does: two spaces,
/// sorted keys, a line feed at the end.
pub(super) fn text(base: &Index, shards: &[OutputShard]) -> String {
    let entries = || shards.iter().flat_map(|shard| shard.entries.iter().map(move |entry| (entry, shard)));
    let mut metadata: BTreeMap<String, Value> =
        base.metadata.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
    let bytes: u64 = entries().map(|(entry, _)| entry.end - entry.start).sum();
    metadata.insert("total_size".to_owned(), bytes.into());
    if let Some(parameters) = metadata.get_mut("total_parameters") {
        *parameters = entries().map(|(entry, _)| entry.shape.elements()).sum::<u64>().into();
    }
    let weight_map: BTreeMap<String, Value> =
        entries().map(|(entry, shard)| (entry.name.clone(), shard.name.as_str().into())).collect();
    let mut index = Map::new();
    index.insert("metadata".to_owned(), Value::Object(metadata.into_iter().collect()));
    index.insert("weight_map".to_owned(), Value::Object(weight_map.into_iter().collect()));
    let mut text = serde_json::to_string_pretty(&index).expect("a map of strings serialises");
    text.push('\n');
    text
}
