//! What is known of a target just before an edit (spec section 4.1).

use super::Checker;
use crate::finding::rules;
use crate::limits::MAX_SAFE_INTEGER;
use crate::manifest::v1::{self, Edit, SetDtype};
use crate::tensor::{Dtype, Shape};
use std::collections::{BTreeMap, BTreeSet};

/// Component, name and experts: what makes two targets one.
pub(super) type Key<'m> = (Option<&'m str>, &'m str, Option<[u64; 2]>);

/// The identity of a target.
pub(super) fn key(target: &v1::Target) -> Key<'_> {
    (target.component.as_deref(), &target.target, target.experts)
}

/// Dtype and shape, as far as they are recorded or set; of one expert's tensor for a bundle.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct State {
    pub(super) dtype: Option<Dtype>,
    pub(super) shape: Option<Vec<u64>>,
}

struct History<'m> {
    edits: usize,
    removed: bool,
    has_bits: bool,
    /// By use of the tensor; one entry, under the target's own name, until an edit names uses.
    states: BTreeMap<&'m str, State>,
}

/// The states of all targets, as they change from edit to edit.
pub(super) struct Histories<'m> {
    manifest: &'m v1::Manifest,
    recorded: BTreeMap<Key<'m>, State>,
    histories: BTreeMap<Key<'m>, History<'m>>,
}

impl<'m> Histories<'m> {
    pub(super) fn new(manifest: &'m v1::Manifest) -> Self {
        let entry = |tensor: &'m v1::BaseTensor| {
            // What is no shape, or out of bounds, is reported as that and says nothing about the edits.
            let sound = |dims: &&[u64]| dims.iter().all(|dim| *dim <= MAX_SAFE_INTEGER);
            let shape = tensor.shape.as_deref().filter(sound).and_then(|dims| Shape::new(dims).ok());
            let state = State {
                dtype: tensor.dtype.as_deref().and_then(Dtype::from_name),
                shape: shape.map(|shape| shape.dims().to_vec()),
            };
            ((tensor.component.as_deref(), tensor.name.as_str(), tensor.experts), state)
        };
        let recorded = manifest.base.tensors.iter().map(entry).collect();
        Self { manifest, recorded, histories: BTreeMap::new() }
    }

    /// Reports an edit that stands in the wrong place among those of its target.
    pub(super) fn check_order(&mut self, checker: &mut Checker<'_, '_>, edit: &'m Edit, place: &str) {
        let Some(target) = edit.target() else { return };
        let history = self.history(target);
        if history.removed {
            checker.report(&rules::E_CONFLICT, place, "an edit follows the removal of its target");
        }
        if matches!(edit, Edit::Set(set) if set.create) && history.edits > 0 {
            checker.report(&rules::E_CONFLICT, place, "the target is created after it was edited");
        }
        let is_bits = matches!(edit, Edit::Bits(_));
        if history.has_bits || (is_bits && history.edits > 0) {
            checker.report(&rules::E_BITS, place, "a bit-exact change is the only edit of its target");
        }
        history.has_bits |= is_bits;
        history.edits += 1;
        history.removed |= matches!(edit, Edit::Remove(_));
    }

    /// The different states that an edit of this target meets: one, unless uses of a tied tensor went different ways.
    pub(super) fn met_by(&mut self, target: &'m v1::Target) -> Vec<State> {
        let mut states: Vec<State> = Vec::new();
        for (_, state) in self.affected(target) {
            if !states.contains(state) {
                states.push(state.clone());
            }
        }
        states
    }

    /// What the edit makes of the states; nothing is known any more after an edit that was at fault.
    pub(super) fn advance(&mut self, checker: &Checker<'_, '_>, edit: &'m Edit, at_fault: bool) {
        let Some(target) = edit.target() else { return };
        let last_row = match edit {
            Edit::Set(set) => last_row(checker, set),
            _ => None,
        };
        for (_, state) in self.affected(target) {
            if at_fault {
                *state = State::default();
            } else if let Edit::Set(set) = edit {
                set_state(checker, set, last_row, state);
            }
        }
    }

    fn history(&mut self, target: &'m v1::Target) -> &mut History<'m> {
        let key = key(target);
        let start = || {
            let state = self.recorded.get(&key).cloned().unwrap_or_default();
            History {
                edits: 0,
                removed: false,
                has_bits: false,
                states: BTreeMap::from([(target.target.as_str(), state)]),
            }
        };
        self.histories.entry(key).or_insert_with(start)
    }

    fn affected(&mut self, target: &'m v1::Target) -> impl Iterator<Item = (&'m str, &mut State)> {
        let tied = self.manifest.base.tied.get(&target.target);
        let history = self.history(target);
        if !target.uses.is_empty() && history.states.len() == 1 {
            let shared = history.states.values().next().cloned().unwrap_or_default();
            for name in tied.into_iter().flatten() {
                history.states.entry(name).or_insert_with(|| shared.clone());
            }
        }
        let uses: BTreeSet<&str> = target.uses.iter().map(String::as_str).collect();
        let states = history.states.iter_mut().map(|(name, state)| (*name, state));
        states.filter(move |(name, _)| uses.is_empty() || uses.contains(name))
    }
}

fn last_row(checker: &Checker<'_, '_>, set: &v1::SetEdit) -> Option<u64> {
    let rows = checker.tensor(&set.tensors, "rows")?;
    let last = rows.bytes?.as_chunks::<8>().0.last()?;
    u64::try_from(i64::from_le_bytes(*last)).ok()
}

fn set_state(checker: &Checker<'_, '_>, set: &v1::SetEdit, last_row: Option<u64>, state: &mut State) {
    if set.tensors.contains_key("rows") {
        // Without the row numbers at hand the new extent is unknown.
        let Some(last) = last_row else { return state.shape = None };
        if let Some(rows) = state.shape.as_mut().and_then(|shape| shape.first_mut()) {
            *rows = (*rows).max(last.saturating_add(1));
        }
    } else if set.target.slice.is_empty() {
        let value = checker.tensor(&set.tensors, "value");
        let experts = usize::from(set.target.experts.is_some());
        state.shape = value.and_then(|value| Some(value.shape.dims().get(experts..)?.to_vec()));
        if set.dtype == SetDtype::Stored {
            state.dtype = value.map(|value| value.dtype);
        }
    }
}
