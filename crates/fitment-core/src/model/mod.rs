//! The model: what an adapter means, whatever file it came from.
//!
//! A user of an [`Adapter`] that [`crate::read`] gave never has to worry about these again:
//!
//! * names are those of the base checkpoint on disk; components, slices, bundles and uses are explicit;
//! * every low-rank edit has one resolved multiplier; alpha, rank and rsLoRA are provenance only;
//! * orientation is fixed: `up·down` has the shape of `W`, and `transposed` says when `W` is a transpose of what is stored;
//! * the ranks and shapes of an edit's tensors agree with each other, with its form and with the recorded base shape;
//! * edits stand in the order in which they apply, interventions after all others: they see the edited model.
//!
//! An adapter that a program builds gets the same promise from [`crate::write`], which checks before it writes.

mod base;
mod bits;
mod config;
mod dense;
mod dump;
mod intervention;
mod lora;
mod name;
mod positions;
mod source;
mod sparse;
mod target;
mod vocabulary;
mod words;

pub use base::{Base, BaseTensor, Digest, Layout};
pub use bits::Bits;
pub use config::{ConfigEdit, ConfigValue};
pub use dense::{Add, Exceptions, Remove, Set, SetDtype};
pub use dump::dump;
pub(crate) use intervention::module_site_fault;
pub use intervention::{Activation, Intervention, ModuleSite, Overlap, Rounding, Site, SiteComponent};
pub use lora::{Lora, LoraForm, Magnitude, NormOf};
pub use name::{ComponentName, TensorName, name_fault};
pub use positions::{FirstLast, Group, Phase, Positions, Select, ShortPrompt};
pub use source::{About, KeptTensor, Origin, Source, SourceFile};
pub use sparse::{SparseAdd, SparseSet};
pub use target::{AxisSlice, ExpertRange, IndexRange, Target, When};
pub use vocabulary::{is_head_module, is_of_vocabulary, is_vocabulary_module};

use crate::tensor::Tensor;
use serde_json::{Map, Value};

/// An adapter: an ordered list of edits to a base, with what is known of base, source and itself.
#[derive(Clone, Debug, Default)]
pub struct Adapter<'a> {
    /// The base it was made for.
    pub base: Base,
    /// What it changes, in order: each edit of a target applies to the result of the one before.
    pub edits: Vec<Edit<'a>>,
    /// What it was converted from.
    pub source: Option<Source<'a>>,
    /// What people say about it.
    pub about: About,
    /// Unknown optional fields of the manifest, kept.
    pub extra: Map<String, Value>,
}

/// One change. Exhaustive on purpose: a new kind makes the compiler list every writer and executor that must decide.
#[derive(Clone, Debug)]
pub enum Edit<'a> {
    /// Low-rank update, with or without magnitude.
    Lora(Lora<'a>),
    /// Replacement of a tensor or of rows, or creation.
    Set(Set<'a>),
    /// Removal.
    Remove(Remove),
    /// Dense update.
    Add(Add<'a>),
    /// Replacement of single elements.
    SparseSet(SparseSet<'a>),
    /// Update of single elements.
    SparseAdd(SparseAdd<'a>),
    /// Bit-exact change.
    Bits(Bits<'a>),
    /// A value in the model's config.
    Config(ConfigEdit),
    /// Change of hidden states.
    Intervention(Intervention<'a>),
}

impl<'a> Edit<'a> {
    /// The kind's name on the wire.
    pub fn kind(&self) -> &'static str {
        match self {
            Edit::Lora(_) => "lora",
            Edit::Set(_) => "set",
            Edit::Remove(_) => "remove",
            Edit::Add(_) => "add",
            Edit::SparseSet(_) => "sparse_set",
            Edit::SparseAdd(_) => "sparse_add",
            Edit::Bits(_) => "bits",
            Edit::Config(_) => "config",
            Edit::Intervention(_) => "intervention",
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

    /// The same, to be changed.
    pub fn target_mut(&mut self) -> Option<&mut Target> {
        match self {
            Edit::Lora(edit) => Some(&mut edit.target),
            Edit::Set(edit) => Some(&mut edit.target),
            Edit::Remove(edit) => Some(&mut edit.target),
            Edit::Add(edit) => Some(&mut edit.target),
            Edit::SparseSet(edit) => Some(&mut edit.target),
            Edit::SparseAdd(edit) => Some(&mut edit.target),
            Edit::Bits(edit) => Some(&mut edit.target),
            Edit::Config(_) | Edit::Intervention(_) => None,
        }
    }

    /// The label of stored names and messages: target or site; `None` for a config edit.
    pub fn label(&self) -> Option<String> {
        match self {
            Edit::Intervention(edit) => Some(edit.label()),
            _ => self.target().map(Target::label),
        }
    }

    /// Provenance.
    pub fn origin(&self) -> &Origin {
        match self {
            Edit::Lora(edit) => &edit.origin,
            Edit::Set(edit) => &edit.origin,
            Edit::Remove(edit) => &edit.origin,
            Edit::Add(edit) => &edit.origin,
            Edit::SparseSet(edit) => &edit.origin,
            Edit::SparseAdd(edit) => &edit.origin,
            Edit::Bits(edit) => &edit.origin,
            Edit::Config(edit) => &edit.origin,
            Edit::Intervention(edit) => &edit.origin,
        }
    }

    /// Its tensors by role, in the order of role names.
    pub fn tensors(&self) -> Vec<(&'static str, &Tensor<'a>)> {
        let mut tensors = Vec::new();
        match self {
            Edit::Lora(edit) => {
                tensors.push(("down", &edit.down));
                tensors.extend(edit.magnitude.as_ref().map(|magnitude| ("magnitude", &magnitude.value)));
                tensors.extend(edit.mid.as_ref().map(|mid| ("mid", mid)));
                tensors.push(("up", &edit.up));
            }
            Edit::Set(edit) => {
                tensors.extend(edit.rows.as_ref().map(|rows| ("rows", rows)));
                tensors.push(("value", &edit.value));
            }
            Edit::Add(edit) => {
                if let Some(exceptions) = &edit.exceptions {
                    tensors.push(("exc_index", &exceptions.index));
                    tensors.push(("exc_value", &exceptions.value));
                }
                tensors.push(("value", &edit.value));
            }
            Edit::SparseSet(edit) => tensors.extend([("index", &edit.index), ("value", &edit.value)]),
            Edit::SparseAdd(edit) => tensors.extend([("index", &edit.index), ("value", &edit.value)]),
            Edit::Bits(edit) => tensors.push(("z", &edit.z)),
            Edit::Intervention(edit) => tensors = edit.tensors(),
            Edit::Remove(_) | Edit::Config(_) => {}
        }
        tensors
    }
}
