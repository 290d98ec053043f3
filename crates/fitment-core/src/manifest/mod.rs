//! The manifest: wire types by version, and the way between them and the model.

mod decode;
mod encode;
mod features;
mod parse;
pub mod v1;

pub(crate) use decode::decode;
pub(crate) use encode::encode_undigested;
pub use encode::{Encoded, encode};
pub use features::{FEATURES, requires};
pub use parse::parse;

use crate::identity;
use crate::json::to_canonical;
use crate::model::Digest;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The maths core of spec section 7.2: the edits without provenance and unknown fields, as RFC 8785 JSON.
pub fn maths_core(edits: &[v1::Edit]) -> String {
    let edits: Vec<Value> = edits
        .iter()
        .map(|edit| {
            let mut edit = edit.clone();
            edit.strip();
            serde_json::to_value(edit).expect("wire types serialise")
        })
        .collect();
    to_canonical(&json!({ "edits": edits }))
}

/// The content id of edits whose tensors have these digests, by stored name.
///
/// Names without a digest are left out; the check of the digest table reports them.
pub fn content_id(edits: &[v1::Edit], digests: &BTreeMap<String, Digest>) -> String {
    let mut used: Vec<&str> =
        edits.iter().flat_map(v1::Edit::tensors).map(|(_, stored)| stored.as_str()).collect();
    used.sort_unstable_by_key(|name| name.as_bytes());
    used.dedup();
    identity::content_id(used.into_iter().filter_map(|name| digests.get(name)), &maths_core(edits))
}
