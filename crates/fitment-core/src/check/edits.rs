//! What every edit must keep, and how edits of one target go together (spec sections 4.1 and 5).

use super::intervention::Interventions;
use super::sparse::Sparse;
use super::state::Histories;
use super::{Checker, bits, dense, lora, overlap, sparse, target};
use crate::finding::rules;
use crate::limits;
use crate::manifest::v1::{ConfigEdit, Edit, SetEdit};
use crate::model::ConfigValue;
use std::collections::{BTreeMap, BTreeSet};

pub(super) fn check(checker: &mut Checker<'_, '_>) {
    let manifest = checker.manifest;
    if manifest.edits.len() > limits::MAX_EDITS {
        let message = format!("{} edits, at most {} are allowed", manifest.edits.len(), limits::MAX_EDITS);
        checker.report(&rules::M_NUMBER, "edits", message);
        return;
    }
    let mut histories = Histories::new(manifest);
    let mut configs = BTreeSet::new();
    let mut interventions = Interventions::default();
    for (index, edit) in manifest.edits.iter().enumerate() {
        check_numbers(checker, edit, index);
        let place = format!("edits[{index}] {}", edit.label().unwrap_or_default());
        match edit {
            Edit::Config(edit) => {
                interventions.check_follows_none(checker, &place);
                check_config(checker, edit, &mut configs, &format!("edits[{index}]"));
            }
            Edit::Intervention(edit) => interventions.check(checker, edit, &place),
            Edit::Lora(_)
            | Edit::Set(_)
            | Edit::Remove(_)
            | Edit::Add(_)
            | Edit::SparseSet(_)
            | Edit::SparseAdd(_)
            | Edit::Bits(_) => {
                interventions.check_follows_none(checker, &place);
                check_on_target(checker, &mut histories, edit, &place);
            }
        }
    }
    overlap::check(checker);
    check_untied(checker);
}

/// Reports numbers out of bounds. Not finite they can only be in a model that a program built.
fn check_numbers(checker: &mut Checker<'_, '_>, edit: &Edit, index: usize) {
    let (origin, _) = edit.outside();
    let (scale, eps) = match edit {
        Edit::Lora(edit) => (edit.scale, edit.magnitude.as_ref().map_or(0.0, |magnitude| magnitude.eps)),
        Edit::Add(edit) => (edit.scale, 0.0),
        Edit::Intervention(edit) => (edit.scale, 0.0),
        Edit::SparseAdd(edit) => (edit.scale, 0.0),
        Edit::Set(_) | Edit::Remove(_) | Edit::Config(_) | Edit::SparseSet(_) | Edit::Bits(_) => (0.0, 0.0),
    };
    let finite = [("scale", scale), ("magnitude.eps", eps), ("origin.alpha", origin.alpha.unwrap_or(0.0))];
    let mut fault = |field: &str, message: String| {
        checker.report(&rules::M_NUMBER, &format!("edits[{index}].{field}"), message);
    };
    if let Some((field, number)) = finite.into_iter().find(|(_, number)| !number.is_finite()) {
        fault(field, format!("is {number}"));
    } else if eps < 0.0 {
        fault("magnitude.eps", format!("is {eps}, below 0"));
    }
    if let Some(rank) = origin.rank.filter(|rank| *rank > limits::MAX_SAFE_INTEGER) {
        fault("origin.rank", format!("is {rank}, above 2^53"));
    }
}

fn check_on_target<'m>(
    checker: &mut Checker<'m, '_>,
    histories: &mut Histories<'m>,
    edit: &'m Edit,
    place: &str,
) {
    let Some(target) = edit.target() else { return };
    target::check(checker, target, place);
    let for_good = matches!(edit, Edit::Remove(_) | Edit::Bits(_) | Edit::Set(SetEdit { create: true, .. }));
    if target.when.is_some() && for_good {
        let message = "a tensor is created, removed or restored for good: no `when`";
        checker.report(&rules::E_WHEN, place, message);
    }
    histories.check_order(checker, edit, place);
    check_kind(checker, histories, edit, place);
}

/// Checks an edit against every state of its target that it meets, until one is at fault.
fn check_kind<'m>(checker: &mut Checker<'m, '_>, histories: &mut Histories<'m>, edit: &'m Edit, place: &str) {
    let Some(target) = edit.target() else { return };
    let before = checker.findings.len();
    for state in histories.met_by(target) {
        match edit {
            Edit::Lora(edit) => lora::check(checker, edit, &state, place),
            Edit::Set(edit) => dense::check_set(checker, edit, &state, place),
            Edit::Add(edit) => dense::check_add(checker, edit, &state, place),
            Edit::SparseSet(edit) => {
                let edit = Sparse { target: &edit.target, tensors: &edit.tensors, copies: true };
                sparse::check(checker, &edit, &state, place);
            }
            Edit::SparseAdd(edit) => {
                let edit = Sparse { target: &edit.target, tensors: &edit.tensors, copies: false };
                sparse::check(checker, &edit, &state, place);
            }
            Edit::Bits(edit) => bits::check(checker, edit, &state, place),
            Edit::Remove(edit) => {
                if !edit.target.slice.is_empty() || !edit.target.uses.is_empty() {
                    let message = "a removal takes the whole tensor: no slice and no uses";
                    checker.report(&rules::E_CONFLICT, place, message);
                }
            }
            Edit::Config(_) | Edit::Intervention(_) => {}
        }
        if checker.findings.len() > before {
            break;
        }
    }
    histories.advance(checker, edit, checker.findings.len() > before);
}

/// A tensor that some edit unties must not be tied again by the loader.
fn check_untied(checker: &mut Checker<'_, '_>) {
    let manifest = checker.manifest;
    let uses = |edit: &Edit| edit.target().is_some_and(|target| !target.uses.is_empty());
    let unties = |edit: &Edit| {
        matches!(edit, Edit::Config(edit) if edit.component.is_none()
            && edit.key == "tie_word_embeddings" && edit.value == false)
    };
    if let Some(index) = manifest.edits.iter().position(uses)
        && !manifest.edits.iter().any(unties)
    {
        let message = "has uses, yet no config edit sets tie_word_embeddings to false";
        checker.report(&rules::M_USES, &format!("edits[{index}]"), message);
    }
}

fn check_config(
    checker: &mut Checker<'_, '_>,
    edit: &ConfigEdit,
    seen: &mut BTreeSet<(Option<String>, String)>,
    place: &str,
) {
    let place = format!("{place} {}", edit.key);
    if ConfigValue::from_json(&edit.key, &edit.value).is_none() {
        let message = format!("{} = {} is not in the closed list of config edits", edit.key, edit.value);
        checker.report(&rules::M_CONFIG, &place, message);
    }
    if edit.value.as_u64().is_some_and(|value| value > limits::MAX_SAFE_INTEGER) {
        checker.report(&rules::M_NUMBER, &place, format!("{} is above 2^53", edit.value));
    }
    if let Some(fault) = edit.component.as_deref().and_then(target::component_fault) {
        checker.report(&rules::M_NAME, &place, fault);
    }
    if !seen.insert((edit.component.clone(), edit.key.clone())) {
        checker.report(&rules::M_CONFIG, &place, "the key is set twice");
    }
}

/// Reports roles that are missing or unknown; gives whether all required ones are there.
pub(super) fn check_roles(
    checker: &mut Checker<'_, '_>,
    tensors: &BTreeMap<String, String>,
    (required, optional): (&[&str], &[&str]),
    place: &str,
) -> bool {
    let missing: Vec<&str> = required.iter().copied().filter(|role| !tensors.contains_key(*role)).collect();
    if !missing.is_empty() {
        checker.report(&rules::E_ROLE, place, format!("lacks the role {}", missing.join(", ")));
    }
    let known = |role: &str| required.contains(&role) || optional.contains(&role);
    let unknown: Vec<&str> = tensors.keys().map(String::as_str).filter(|role| !known(role)).collect();
    if !unknown.is_empty() {
        checker.report(&rules::E_ROLE, place, format!("has the unknown role {}", unknown.join(", ")));
    }
    missing.is_empty()
}

/// Reports a role whose dtype is not one to compute with; gives whether it is one.
pub(super) fn check_weight_dtype(
    checker: &mut Checker<'_, '_>,
    tensors: &BTreeMap<String, String>,
    role: &str,
    place: &str,
) -> bool {
    let Some(tensor) = checker.tensor(tensors, role) else { return true };
    if tensor.dtype.is_weight() {
        return true;
    }
    let message = format!("{role} is {}, expected F64, F32, F16 or BF16", tensor.dtype);
    checker.report(&rules::E_DTYPE, place, message);
    false
}

/// Reports a role with a zero extent; gives whether it has none.
pub(super) fn check_not_empty(
    checker: &mut Checker<'_, '_>,
    tensors: &BTreeMap<String, String>,
    role: &str,
    place: &str,
) -> bool {
    let Some(tensor) = checker.tensor(tensors, role) else { return true };
    if tensor.shape.elements() > 0 {
        return true;
    }
    checker.report(&rules::E_EMPTY, place, format!("{role} has the shape {}", tensor.shape));
    false
}
