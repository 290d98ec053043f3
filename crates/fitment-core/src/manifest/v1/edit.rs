//! Edits on the wire.

use super::change::{BitsEdit, SparseAddEdit, SparseSetEdit};
use super::intervention::{InterventionEdit, When};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// One edit; `kind` says which.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Edit {
    /// Low-rank update (spec section 5.1).
    Lora(LoraEdit),
    /// Replacement or creation (5.2).
    Set(SetEdit),
    /// Removal (5.3).
    Remove(RemoveEdit),
    /// Dense update (5.4).
    Add(AddEdit),
    /// A value in the model's config (5.5).
    Config(ConfigEdit),
    /// Change of hidden states (5.6).
    Intervention(InterventionEdit),
    /// Replacement of single elements (5.7).
    #[serde(rename = "sparse_set")]
    SparseSet(SparseSetEdit),
    /// Update of single elements (5.8).
    #[serde(rename = "sparse_add")]
    SparseAdd(SparseAddEdit),
    /// Bit-exact change (5.9).
    Bits(BitsEdit),
}

impl Edit {
    /// What is wrong with a value that is no edit, and at which field: serde's tagged enums lose the path.
    pub(crate) fn fault(value: &Value) -> Option<String> {
        let mut fields = match Map::deserialize(value) {
            Ok(fields) => fields,
            Err(error) => return Some(error.to_string()),
        };
        let Some(kind) = fields.shift_remove("kind") else { return Some("missing field `kind`".to_owned()) };
        match kind.as_str() {
            Some("lora") => body_fault::<LoraEdit>(fields),
            Some("set") => body_fault::<SetEdit>(fields),
            Some("remove") => body_fault::<RemoveEdit>(fields),
            Some("add") => body_fault::<AddEdit>(fields),
            Some("config") => body_fault::<ConfigEdit>(fields),
            Some("intervention") => body_fault::<InterventionEdit>(fields),
            Some("sparse_set") => body_fault::<SparseSetEdit>(fields),
            Some("sparse_add") => body_fault::<SparseAddEdit>(fields),
            Some("bits") => body_fault::<BitsEdit>(fields),
            _ => Some(format!("kind: no edit kind {kind}")),
        }
    }
}

fn body_fault<T: DeserializeOwned>(fields: Map<String, Value>) -> Option<String> {
    serde_path_to_error::deserialize::<_, T>(Value::Object(fields)).err().map(|error| error.to_string())
}

/// What a weight edit changes (spec section 4).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Target {
    /// Part of a pipeline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub component: Option<String>,
    /// The tensor's name on disk.
    pub target: String,
    /// The experts that `{e}` stands for: first, one past the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub experts: Option<[u64; 2]>,
    /// Which part of the stored base tensor `W` is; axes ascend.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub slice: Vec<AxisSlice>,
    /// The uses of a tied tensor that get the edit, sorted; absent for all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub uses: Vec<String>,
    /// When the edit acts; absent for always.
    #[serde(default, skip_serializing_if = "When::says_nothing")]
    pub when: Option<When>,
}

/// Indices of one axis: `[start, end, step]` each, ascending and disjoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct AxisSlice {
    /// The axis.
    pub axis: u64,
    /// The ranges.
    pub ranges: Vec<[u64; 3]>,
}

/// Low-rank update.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct LoraEdit {
    /// What is changed.
    #[serde(flatten)]
    pub target: Target,
    /// How `W` and the factors are read; absent for `matrix`.
    #[serde(default, skip_serializing_if = "LoraForm::is_matrix")]
    pub form: LoraForm,
    /// `W` is the transpose of the stored slice.
    #[serde(default, skip_serializing_if = "is_false")]
    pub transposed: bool,
    /// The one multiplier.
    pub scale: f64,
    /// DoRA: how the magnitude applies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub magnitude: Option<Magnitude>,
    /// Role (`up`, `down`, `mid`, `magnitude`) → stored name.
    pub tensors: BTreeMap<String, String>,
    /// Provenance.
    #[serde(default, skip_serializing_if = "Origin::is_empty")]
    pub origin: Origin,
    /// Unknown optional fields.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// How the factors of a low-rank edit are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum LoraForm {
    /// `W` is `[dim0, rest]`.
    #[default]
    Matrix,
    /// `W` is `[out, in, k…]`.
    Conv,
    /// `W` is `[E, out, in]`.
    Stacked,
}

impl LoraForm {
    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's skip_serializing_if passes a reference")]
    fn is_matrix(&self) -> bool {
        *self == LoraForm::Matrix
    }
}

/// How a magnitude applies.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Magnitude {
    /// Kept axis of `W`.
    pub axis: u64,
    /// Whose norm divides.
    pub norm_of: NormOf,
    /// Added to the norm; absent for 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub eps: f64,
}

/// Whose norm divides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum NormOf {
    /// `‖W + s·Δ‖`.
    Merged,
    /// `‖W‖`.
    Base,
}

/// Replacement, or creation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SetEdit {
    /// What is changed.
    #[serde(flatten)]
    pub target: Target,
    /// Dtype of the result.
    pub dtype: SetDtype,
    /// The base lacks the tensor.
    #[serde(default, skip_serializing_if = "is_false")]
    pub create: bool,
    /// The value's shape takes the place of the tensor's.
    #[serde(default, skip_serializing_if = "is_false")]
    pub reshape: bool,
    /// Role (`value`, `rows`) → stored name.
    pub tensors: BTreeMap<String, String>,
    /// Provenance.
    #[serde(default, skip_serializing_if = "Origin::is_empty")]
    pub origin: Origin,
    /// Unknown optional fields.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// Dtype of a replaced tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum SetDtype {
    /// The stored value's.
    Stored,
    /// The base tensor's.
    Base,
}

/// Removal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RemoveEdit {
    /// What is removed.
    #[serde(flatten)]
    pub target: Target,
    /// Provenance.
    #[serde(default, skip_serializing_if = "Origin::is_empty")]
    pub origin: Origin,
    /// Unknown optional fields.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// Dense update.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct AddEdit {
    /// What is changed.
    #[serde(flatten)]
    pub target: Target,
    /// The multiplier.
    pub scale: f64,
    /// Role (`value`, `exc_index`, `exc_value`) → stored name.
    pub tensors: BTreeMap<String, String>,
    /// Provenance.
    #[serde(default, skip_serializing_if = "Origin::is_empty")]
    pub origin: Origin,
    /// Unknown optional fields.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// A value in the model's config.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ConfigEdit {
    /// Part of a pipeline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub component: Option<String>,
    /// `tie_word_embeddings`, `vocab_size`, `mlp_bias` or `attention_bias`.
    pub key: String,
    /// Its new value.
    pub value: Value,
    /// Provenance.
    #[serde(default, skip_serializing_if = "Origin::is_empty")]
    pub origin: Origin,
    /// Unknown optional fields.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// Provenance of an edit; outside the content id.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Origin {
    /// The foreign config's alpha.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alpha: Option<f64>,
    /// The foreign config's rank.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rank: Option<u64>,
    /// Scale was `alpha/√rank`.
    #[serde(default, skip_serializing_if = "is_false")]
    pub rslora: bool,
    /// Role → key in the source's weight file.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub keys: BTreeMap<String, String>,
    /// Unknown optional fields.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Origin {
    pub(super) fn is_empty(&self) -> bool {
        self == &Origin::default()
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's skip_serializing_if passes a reference")]
pub(super) fn is_false(value: &bool) -> bool {
    !*value
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's skip_serializing_if passes a reference")]
fn is_zero(value: &f64) -> bool {
    *value == 0.0
}

static NO_TENSORS: BTreeMap<String, String> = BTreeMap::new();

impl Edit {
    /// The kind's name.
    pub fn kind(&self) -> &'static str {
        match self {
            Edit::Lora(_) => "lora",
            Edit::Set(_) => "set",
            Edit::Remove(_) => "remove",
            Edit::Add(_) => "add",
            Edit::Config(_) => "config",
            Edit::Intervention(_) => "intervention",
            Edit::SparseSet(_) => "sparse_set",
            Edit::SparseAdd(_) => "sparse_add",
            Edit::Bits(_) => "bits",
        }
    }

    /// The base tensor that it changes; `None` for a config edit and an intervention.
    pub fn target(&self) -> Option<&Target> {
        match self {
            Edit::Lora(edit) => Some(&edit.target),
            Edit::Set(edit) => Some(&edit.target),
            Edit::Remove(edit) => Some(&edit.target),
            Edit::Add(edit) => Some(&edit.target),
            Edit::SparseSet(edit) => Some(&edit.target),
            Edit::SparseAdd(edit) => Some(&edit.target),
            Edit::Bits(edit) => Some(&edit.target),
            Edit::Config(_) | Edit::Intervention(_) => None,
        }
    }

    /// The label of stored names and messages; `None` for a config edit.
    pub fn label(&self) -> Option<String> {
        match self {
            Edit::Intervention(edit) => Some(edit.label()),
            _ => self.target().map(Target::label),
        }
    }

    /// Role → stored name, in order of the roles.
    pub fn tensors(&self) -> &BTreeMap<String, String> {
        match self {
            Edit::Lora(edit) => &edit.tensors,
            Edit::Set(edit) => &edit.tensors,
            Edit::Add(edit) => &edit.tensors,
            Edit::Intervention(edit) => &edit.tensors,
            Edit::SparseSet(edit) => &edit.tensors,
            Edit::SparseAdd(edit) => &edit.tensors,
            Edit::Bits(edit) => &edit.tensors,
            Edit::Remove(_) | Edit::Config(_) => &NO_TENSORS,
        }
    }

    /// Provenance and unknown fields.
    pub fn outside(&self) -> (&Origin, &Map<String, Value>) {
        match self {
            Edit::Lora(edit) => (&edit.origin, &edit.extra),
            Edit::Set(edit) => (&edit.origin, &edit.extra),
            Edit::Remove(edit) => (&edit.origin, &edit.extra),
            Edit::Add(edit) => (&edit.origin, &edit.extra),
            Edit::Config(edit) => (&edit.origin, &edit.extra),
            Edit::Intervention(edit) => (&edit.origin, &edit.extra),
            Edit::SparseSet(edit) => (&edit.origin, &edit.extra),
            Edit::SparseAdd(edit) => (&edit.origin, &edit.extra),
            Edit::Bits(edit) => (&edit.origin, &edit.extra),
        }
    }

    /// Leaves only what changes the function.
    pub(crate) fn strip(&mut self) {
        let (origin, extra) = match self {
            Edit::Lora(edit) => (&mut edit.origin, &mut edit.extra),
            Edit::Set(edit) => (&mut edit.origin, &mut edit.extra),
            Edit::Remove(edit) => (&mut edit.origin, &mut edit.extra),
            Edit::Add(edit) => (&mut edit.origin, &mut edit.extra),
            Edit::Config(edit) => (&mut edit.origin, &mut edit.extra),
            Edit::Intervention(edit) => (&mut edit.origin, &mut edit.extra),
            Edit::SparseSet(edit) => (&mut edit.origin, &mut edit.extra),
            Edit::SparseAdd(edit) => (&mut edit.origin, &mut edit.extra),
            Edit::Bits(edit) => (&mut edit.origin, &mut edit.extra),
        };
        *origin = Origin::default();
        extra.clear();
    }
}

impl Target {
    /// The label of stored names and messages.
    pub fn label(&self) -> String {
        match &self.component {
            Some(component) => format!("{component}/{}", self.target),
            None => self.target.clone(),
        }
    }
}
