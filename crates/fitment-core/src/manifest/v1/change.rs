//! Edits of single elements and of bits on the wire.

use super::edit::{Origin, Target};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Replacement of single elements.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SparseSetEdit {
    /// What is changed.
    #[serde(flatten)]
    pub target: Target,
    /// Role (`index`, `value`) → stored name.
    pub tensors: BTreeMap<String, String>,
    /// Provenance.
    #[serde(default, skip_serializing_if = "Origin::is_empty")]
    pub origin: Origin,
    /// Unknown optional fields.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// Update of single elements.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SparseAddEdit {
    /// What is changed.
    #[serde(flatten)]
    pub target: Target,
    /// The multiplier.
    pub scale: f64,
    /// Role (`index`, `value`) → stored name.
    pub tensors: BTreeMap<String, String>,
    /// Provenance.
    #[serde(default, skip_serializing_if = "Origin::is_empty")]
    pub origin: Origin,
    /// Unknown optional fields.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// Bit-exact change.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct BitsEdit {
    /// What is changed.
    #[serde(flatten)]
    pub target: Target,
    /// SHA-256 of the base tensor, 64 hexadecimal digits.
    pub base: String,
    /// SHA-256 of the result, 64 hexadecimal digits.
    pub result: String,
    /// How many elements change.
    pub changed: u64,
    /// Role (`z`) → stored name.
    pub tensors: BTreeMap<String, String>,
    /// Provenance.
    #[serde(default, skip_serializing_if = "Origin::is_empty")]
    pub origin: Origin,
    /// Unknown optional fields.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}
