use crate::tensor::Tensor;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Where an edit came from: what a writer of the source format needs and the function does not (outside the content id).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Origin {
    /// The foreign config's alpha for this target.
    pub alpha: Option<f64>,
    /// The foreign config's rank for this target.
    pub rank: Option<u64>,
    /// Scale was `alpha/√rank`.
    pub rslora: bool,
    /// Role → key of the tensor in the source's weight file.
    pub keys: BTreeMap<String, String>,
    /// Unknown optional fields of the origin, kept.
    pub extra: Map<String, Value>,
    /// Unknown optional fields of the edit itself, kept.
    pub edit_extra: Map<String, Value>,
}

/// What the adapter was converted from, carried for the way back (spec section 8; outside the content id).
#[derive(Clone, Debug, Default)]
pub struct Source<'a> {
    /// Format id: the tool's lower-case name, `peft`.
    pub format: String,
    /// Version of the tool, when its files say so.
    pub version: Option<String>,
    /// Form of its weight files where it is not safetensors: `torch`.
    pub weights: Option<String>,
    /// Whole files, byte for byte.
    pub files: Vec<SourceFile<'a>>,
    /// Tensors without effect (copies of base tensors, unused parameters).
    pub kept: Vec<KeptTensor<'a>>,
    /// The weight file's own `__metadata__`.
    pub metadata: BTreeMap<String, String>,
    /// What its files leave open, and how it was read: option → value.
    pub options: BTreeMap<String, String>,
    /// Unknown optional fields, kept.
    pub extra: Map<String, Value>,
}

/// One file of the source.
#[derive(Clone, Debug)]
pub struct SourceFile<'a> {
    /// Path relative to the adapter, forward slashes.
    pub path: String,
    /// U8 `[n]`: the file's bytes.
    pub data: Tensor<'a>,
}

/// One source tensor that has no effect on the function and is kept for the way back.
#[derive(Clone, Debug)]
pub struct KeptTensor<'a> {
    /// Key in the source's weight file.
    pub key: String,
    /// The tensor.
    pub value: Tensor<'a>,
}

/// What people say about the adapter (outside the content id).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct About {
    /// One line.
    pub title: Option<String>,
    /// Free text.
    pub description: Option<String>,
    /// SPDX expression.
    pub license: Option<String>,
    /// Words that invoke what the adapter learned.
    pub triggers: Vec<String>,
    /// Free words.
    pub tags: Vec<String>,
    /// Unknown optional fields, kept.
    pub extra: Map<String, Value>,
}

impl About {
    /// Whether nothing is said.
    pub fn is_empty(&self) -> bool {
        self == &About::default()
    }
}
