//! The manifest: wire types by version, and the way between them and the model.

mod decode;
mod encode;
mod features;
mod parse;
pub mod v1;

pub(crate) use decode::decode;
pub(crate) use encode::encode_undigested;
pub use encode::{Encoded, encode, encode_each};
pub use features::{FEATURES, requires};
pub use parse::parse;

use crate::identity;
use crate::json::to_canonical;
use crate::model::Digest;
#[cfg(feature = "schema")]
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The maths core of spec section 7.2: the edits without provenance and unknown fields, as RFC 8785 JSON.
pub fn maths_core(edits: &[v1::Edit]) -> String {
    let stripped = |edit: &v1::Edit| {
        let mut edit = edit.clone();
        edit.strip();
        edit
    };
    let edits: Vec<v1::Edit> = edits.iter().map(stripped).collect();
    to_canonical(&BTreeMap::from([("edits", edits)]))
}

/// The content id of edits whose tensors have these digests, by stored name.
///
/// Names without a digest are left out; the check of the digest table reports them.
pub fn content_id(edits: &[v1::Edit], digests: &BTreeMap<String, Digest>) -> String {
    // A payload is one of many for the same change: the digests of both ends stand in for it.
    let covered = edits.iter().filter(|edit| !matches!(edit, v1::Edit::Bits(_)));
    let mut used: Vec<&str> =
        covered.flat_map(v1::Edit::tensors).map(|(_, stored)| stored.as_str()).collect();
    used.sort_unstable_by_key(|name| name.as_bytes());
    used.dedup();
    identity::content_id(used.into_iter().filter_map(|name| digests.get(name)), &maths_core(edits))
}

/// The JSON Schema of the manifest, as the wire types have it: `spec/manifest-1.0.schema.json`.
///
/// It knows fields and their types; what goes beyond (order, shapes, digests) only [`mod@crate::check`] knows.
#[cfg(feature = "schema")]
pub fn schema() -> Value {
    let mut schema = schemars::schema_for!(v1::Manifest).to_value();
    without_null(&mut schema);
    schema["$id"] = "urn:fitment:manifest:1.0-draft".into();
    schema["title"] = format!("Manifest of a Fitment file, version {}", v1::VERSION).into();
    schema
}

/// An optional field is absent, never null (spec section 3.1); serde's types do not say so.
#[cfg(feature = "schema")]
fn without_null(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            if let Some(Value::Array(types)) = fields.get_mut("type") {
                types.retain(|name| name != "null");
                if let [only] = &types[..] {
                    let only = only.clone();
                    fields.insert("type".to_owned(), only);
                }
            }
            if let Some(Value::Array(choices)) = fields.get_mut("anyOf") {
                choices.retain(|choice| *choice != json!({ "type": "null" }));
            }
            fields.values_mut().for_each(without_null);
        }
        Value::Array(items) => items.iter_mut().for_each(without_null),
        _ => {}
    }
}
