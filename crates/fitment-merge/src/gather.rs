//! The edits of all adapters by what they change.

use crate::input::Input;
use crate::weights::{Schedule, Weights};
use fitment_core::model::{ConfigEdit, Edit, Intervention, Target, TensorName};
use std::collections::{BTreeMap, BTreeSet};

/// A base tensor, or a bundle: component, name, experts.
pub(crate) type Key = (Option<String>, String, Option<(u64, u64)>);

/// One edit of one adapter.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Touch<'a> {
    /// Index of the adapter.
    pub(crate) file: usize,
    /// Its weight.
    pub(crate) weight: f64,
    pub(crate) edit: &'a Edit<'a>,
    /// Only one use of a tied tensor is looked at: which uses the edit names is of no interest.
    is_for_use: bool,
}

impl<'a> Touch<'a> {
    pub(crate) fn new(file: usize, weight: f64, edit: &'a Edit<'a>) -> Self {
        Self { file, weight, edit, is_for_use: false }
    }

    /// The uses of a tied tensor that the edit means; empty for all.
    pub(crate) fn uses(&self) -> &'a [TensorName] {
        let uses = self.edit.target().map_or(&[][..], |target| &target.uses);
        if self.is_for_use { &[] } else { uses }
    }

    /// The same, looked at for one use.
    pub(crate) fn for_use(self) -> Self {
        Self { is_for_use: true, ..self }
    }
}

/// All edits; those of one tensor in the order of the adapters and their edits.
#[derive(Debug, Default)]
pub(crate) struct Gathered<'a> {
    pub(crate) tensors: BTreeMap<Key, Vec<Touch<'a>>>,
    pub(crate) interventions: Vec<(usize, f64, &'a Intervention<'a>)>,
    pub(crate) config: Vec<(usize, &'a ConfigEdit)>,
}

pub(crate) fn key(target: &Target) -> Key {
    let component = target.component.as_ref().map(ToString::to_string);
    (component, target.name.to_string(), target.experts.map(|range| (range.start, range.end)))
}

/// What the adapters change, also where their weight is 0: what rules by layer count on.
pub(crate) fn labels(inputs: &[Input<'_>]) -> Vec<String> {
    inputs.iter().flat_map(|input| input.adapter.edits.iter().filter_map(Edit::label)).collect()
}

/// Everything of all adapters, each with its weight; those of weight 0 are left out.
pub(crate) fn gather<'a>(inputs: &[Input<'a>], weights: &Weights) -> Gathered<'a> {
    let labels = labels(inputs);
    let schedule = Schedule::new(weights, labels.iter().map(String::as_str));
    let mut gathered = Gathered::default();
    for (file, input) in inputs.iter().enumerate().filter(|(_, input)| input.weight != 0.0) {
        for edit in &input.adapter.edits {
            let share = edit.label().map_or(1.0, |label| schedule.weight(&label, file));
            let weight = input.weight * share;
            if weight == 0.0 && !matches!(edit, Edit::Config(_)) {
                continue;
            }
            match edit {
                Edit::Config(config) => gathered.config.push((file, config)),
                Edit::Intervention(intervention) => {
                    gathered.interventions.push((file, weight, intervention));
                }
                _ => {
                    if let Some(target) = edit.target() {
                        gathered.tensors.entry(key(target)).or_default().push(Touch::new(file, weight, edit));
                    }
                }
            }
        }
    }
    gathered
}

impl Gathered<'_> {
    /// Base tensors that edits of different keys meet in: a bundle, and one of its experts by its own name.
    pub(crate) fn met(&self) -> BTreeSet<Key> {
        let mut keys: BTreeMap<(Option<String>, String), BTreeSet<&Key>> = BTreeMap::new();
        for (key, touches) in &self.tensors {
            let names = touches.first().and_then(|touch| touch.edit.target()).into_iter();
            for name in names.flat_map(|target| target.base_names().collect::<Vec<_>>()) {
                keys.entry((key.0.clone(), name)).or_default().insert(key);
            }
        }
        keys.into_values().filter(|keys| keys.len() > 1).flatten().cloned().collect()
    }
}

/// Whether an edit adds the same to any tensor.
pub(crate) fn is_additive(edit: &Edit<'_>) -> bool {
    match edit {
        Edit::Lora(lora) => lora.magnitude.is_none(),
        Edit::Add(add) => add.exceptions.is_none(),
        Edit::SparseAdd(_) => true,
        Edit::Set(_)
        | Edit::Remove(_)
        | Edit::SparseSet(_)
        | Edit::Bits(_)
        | Edit::Config(_)
        | Edit::Intervention(_) => false,
    }
}
