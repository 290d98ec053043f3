//! Wire types of manifest version 1 (spec section 3). They say how the manifest is written; what it means is the model's.

mod change;
mod edit;
mod intervention;

pub use change::{BitsEdit, SparseAddEdit, SparseSetEdit};
pub use edit::{
    AddEdit, AxisSlice, ConfigEdit, Edit, LoraEdit, LoraForm, Magnitude, NormOf, Origin, RemoveEdit,
    SetDtype, SetEdit, Target,
};

pub use intervention::{
    Activation, FirstLast, Group, InterventionEdit, Overlap, Phase, Positions, Rounding, Select, ShortPrompt,
    Site, SiteComponent, When,
};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// The version that this crate writes.
pub const VERSION: &str = "1.0-draft";

/// The whole manifest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Manifest {
    /// Format version, `major.minor`, with `-draft` until published.
    pub fitment: String,
    /// Edit kinds and function-changing options that the file uses, sorted; derived, not chosen.
    pub requires: Vec<String>,
    /// Content id: `fitment1:` and 64 hexadecimal digits.
    pub id: String,
    /// The base that the adapter was made for.
    #[serde(default, skip_serializing_if = "Base::is_empty")]
    pub base: Base,
    /// The edits, in order.
    pub edits: Vec<Edit>,
    /// SHA-256 of every stored tensor, by its stored name.
    pub tensors: BTreeMap<String, String>,
    /// What the adapter was converted from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
    /// What people say about it.
    #[serde(default, skip_serializing_if = "About::says_nothing")]
    pub about: Option<About>,
    /// Unknown optional fields.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// The base (spec section 6).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Base {
    /// Hub id or path by which its maker knew it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Revision of that name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// `architectures[0]` of the model's config.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub architecture: Option<String>,
    /// `diffusers`, `ldm` or `gguf:ARCH`; absent for transformers' names (`hf`).
    #[serde(default = "hf", skip_serializing_if = "is_hf")]
    pub layout: String,
    /// Config values that conversions need.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub config: Map<String, Value>,
    /// Tied tensors: name on disk → names of its other uses when untied, sorted.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tied: BTreeMap<String, Vec<String>>,
    /// Touched tensors, sorted by component, name, experts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tensors: Vec<BaseTensor>,
    /// Stored tensor U8 `[n, 32]`: SHA-256 of the raw bytes of each touched tensor, in the order of `tensors`, bundles counted out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digests: Option<String>,
    /// Unknown optional fields.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Default for Base {
    fn default() -> Self {
        Self {
            name: None,
            revision: None,
            architecture: None,
            layout: hf(),
            config: Map::new(),
            tied: BTreeMap::new(),
            tensors: Vec::new(),
            digests: None,
            extra: Map::new(),
        }
    }
}

impl Base {
    fn is_empty(&self) -> bool {
        self == &Base::default()
    }
}

fn hf() -> String {
    "hf".to_owned()
}

fn is_hf(layout: &str) -> bool {
    layout == "hf"
}

/// One touched base tensor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct BaseTensor {
    /// Part of a pipeline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub component: Option<String>,
    /// Name on disk, with `{e}` for a bundle.
    pub name: String,
    /// The experts of a bundle: first, one past the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub experts: Option<[u64; 2]>,
    /// Dtype, when known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dtype: Option<String>,
    /// Shape, when known or inferred.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shape: Option<Vec<u64>>,
    /// The tuned checkpoint has the same bits; no edit touches it.
    #[serde(default, skip_serializing_if = "edit::is_false")]
    pub unchanged: bool,
    /// Unknown optional fields.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// What the adapter was converted from (spec section 8).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Source {
    /// The tool's lower-case name.
    pub format: String,
    /// The tool's version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Form of its weight files, where it is not safetensors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<String>,
    /// Whole files.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<SourceFile>,
    /// Tensors without effect.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kept: Vec<KeptTensor>,
    /// The weight file's `__metadata__`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// What its files leave open, and how it was read.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub options: BTreeMap<String, String>,
    /// Unknown optional fields.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// One kept file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct SourceFile {
    /// Path relative to the adapter.
    pub path: String,
    /// Stored name of its bytes, U8 `[n]`.
    pub tensor: String,
}

/// One kept tensor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct KeptTensor {
    /// Key in the source's weight file.
    pub key: String,
    /// Stored name.
    pub tensor: String,
}

/// What people say about the adapter; outside the content id.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct About {
    /// One line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// Free text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// SPDX expression.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub license: Option<String>,
    /// Words that invoke what was learned.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub triggers: Vec<String>,
    /// Free words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Unknown optional fields.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl About {
    #[allow(clippy::ref_option, reason = "serde's skip_serializing_if passes a reference")]
    fn says_nothing(about: &Option<About>) -> bool {
        about.as_ref().is_none_or(|about| about == &About::default())
    }
}
