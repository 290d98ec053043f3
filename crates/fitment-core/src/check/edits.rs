//! What every edit must keep, and how edits of one target go together (spec sections 4.1 and 5).

use super::{Checker, dense, lora, target};
use crate::finding::rules;
use crate::limits;
use crate::manifest::v1::{self, Edit};
use crate::model::ConfigValue;
use std::collections::{BTreeMap, BTreeSet};

pub(super) fn check(checker: &mut Checker<'_, '_>) {
    let manifest = checker.manifest;
    if manifest.edits.len() > limits::MAX_EDITS {
        let message = format!("{} edits, at most {} are allowed", manifest.edits.len(), limits::MAX_EDITS);
        checker.report(&rules::M_NUMBER, "edits", message);
        return;
    }
    let mut histories: BTreeMap<String, History> = BTreeMap::new();
    let mut configs = BTreeSet::new();
    for (index, edit) in manifest.edits.iter().enumerate() {
        let label = edit.target().map_or_else(String::new, |target| format!(" {}", target.label()));
        let place = format!("edits[{index}]{label}");
        if let Some(wanted) = edit.target() {
            check_order(checker, histories.entry(wanted.label()).or_default(), edit, &place);
            let shape = target::check(checker, wanted, &place);
            match edit {
                Edit::Lora(edit) => lora::check(checker, edit, shape.as_deref(), &place),
                Edit::Set(edit) => dense::check_set(checker, edit, shape.as_deref(), &place),
                Edit::Add(edit) => dense::check_add(checker, edit, shape.as_deref(), &place),
                Edit::Remove(edit) => {
                    if !edit.target.slice.is_empty() || !edit.target.uses.is_empty() {
                        let message = "a removal takes the whole tensor: no slice and no uses";
                        checker.report(&rules::E_CONFLICT, &place, message);
                    }
                }
                Edit::Config(_) => {}
            }
        }
        if let Edit::Config(edit) = edit {
            check_config(checker, edit, &mut configs, &place);
        }
    }
}

#[derive(Default)]
struct History {
    edits: usize,
    removed: bool,
}

fn check_order(checker: &mut Checker<'_, '_>, history: &mut History, edit: &Edit, place: &str) {
    if history.removed {
        checker.report(&rules::E_CONFLICT, place, "an edit follows the removal of its target");
    }
    if matches!(edit, Edit::Set(set) if set.create) && history.edits > 0 {
        checker.report(&rules::E_CONFLICT, place, "the target is created after it was edited");
    }
    history.edits += 1;
    history.removed |= matches!(edit, Edit::Remove(_));
}

fn check_config(
    checker: &mut Checker<'_, '_>,
    edit: &v1::ConfigEdit,
    seen: &mut BTreeSet<(Option<String>, String)>,
    place: &str,
) {
    let place = format!("{place} {}", edit.key);
    if ConfigValue::from_json(&edit.key, &edit.value).is_none() {
        let message = format!("{} = {} is not in the closed list of config edits", edit.key, edit.value);
        checker.report(&rules::M_CONFIG, &place, message);
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
