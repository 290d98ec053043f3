//! The recorded base (spec section 6).

use super::state::{Key, key};
use super::{Checker, target};
use crate::finding::rules;
use crate::limits;
use crate::manifest::v1::{self, Edit};
use crate::model::{Layout, name_fault};
use crate::tensor::{Dtype, Shape};
use std::collections::BTreeSet;

pub(super) fn check(checker: &mut Checker<'_, '_>) {
    let base = &checker.manifest.base;
    if Layout::from_text(&base.layout).is_none() {
        let message = format!("layout {:?} is not hf, diffusers, ldm or gguf:ARCH", base.layout);
        checker.report(&rules::M_BASE, "base.layout", message);
    }
    check_tied(checker, base);
    let order = |a: &v1::BaseTensor, b: &v1::BaseTensor| {
        (&a.component, a.name.as_bytes(), a.experts) < (&b.component, b.name.as_bytes(), b.experts)
    };
    if !base.tensors.is_sorted_by(order) {
        let message = "not sorted by component, name and experts, each one once";
        checker.report(&rules::M_BASE, "base.tensors", message);
    }
    let mut count = 0u64;
    for tensor in &base.tensors {
        check_tensor(checker, tensor);
        count = count.saturating_add(tensor.experts.map_or(1, |[start, end]| end.saturating_sub(start)));
    }
    if count > limits::MAX_BASE_TENSORS {
        let message = format!("{count} tensors, at most {} are allowed", limits::MAX_BASE_TENSORS);
        checker.report(&rules::M_BASE, "base.tensors", message);
    }
    check_digests(checker, base, count);
    check_coverage(checker, base);
}

fn check_tied(checker: &mut Checker<'_, '_>, base: &v1::Base) {
    for (name, uses) in &base.tied {
        let fault = [name].into_iter().chain(uses).find_map(|name| name_fault(name));
        let sorted = uses.is_sorted_by(|a, b| a < b);
        if let Some(fault) = fault {
            checker.report(&rules::M_NAME, "base.tied", format!("{name:?}: {fault}"));
        } else if uses.is_empty() || !sorted || uses.contains(name) {
            let message =
                format!("uses {uses:?} of {name:?}: expected its other uses, sorted, each one once");
            checker.report(&rules::M_USES, "base.tied", message);
        }
    }
}

fn check_tensor(checker: &mut Checker<'_, '_>, tensor: &v1::BaseTensor) {
    let place = format!("base.tensors {}", tensor.name);
    if let Some(fault) = name_fault(&tensor.name) {
        checker.report(&rules::M_NAME, &place, fault);
    }
    target::check_experts(checker, tensor.experts, &tensor.name, &place);
    if let Some(dtype) = tensor.dtype.as_deref().filter(|dtype| Dtype::from_name(dtype).is_none()) {
        checker.report(&rules::M_BASE, &place, format!("unknown dtype {dtype:?}"));
    }
    if let Some(fault) = tensor.component.as_deref().and_then(target::component_fault) {
        checker.report(&rules::M_NAME, &place, fault);
    }
    let dims = tensor.shape.as_deref().unwrap_or_default();
    if let Some(dim) = dims.iter().find(|dim| **dim > limits::MAX_SAFE_INTEGER) {
        checker.report(&rules::M_NUMBER, &place, format!("the extent {dim} is above 2^53"));
    } else if let Err(fault) = Shape::new(dims) {
        checker.report(&rules::M_BASE, &place, fault.to_string());
    }
}

fn check_digests(checker: &mut Checker<'_, '_>, base: &v1::Base, count: u64) {
    let Some(name) = &base.digests else { return };
    if base.tensors.is_empty() {
        checker.report(&rules::M_BASE, "base.digests", "a bound file lists the tensors it touches");
        return;
    }
    if let Some(tensor) = base.tensors.iter().find(|tensor| tensor.dtype.is_none() || tensor.shape.is_none())
    {
        let message = "a bound file records dtype and shape of every touched tensor";
        checker.report(&rules::M_BASE, &format!("base.tensors {}", tensor.name), message);
    }
    let Some(stored) = checker.stored.get(name.as_str()) else { return };
    if stored.dtype != Dtype::U8 || stored.shape.dims() != [count, 32] {
        let message = format!("digests are {} {}, expected U8 [{count}, 32]", stored.dtype, stored.shape);
        checker.report(&rules::M_BASE, name, message);
    }
}

/// Entries are those of the touched tensors: none for a created one, all others when bound, and no more.
fn check_coverage(checker: &mut Checker<'_, '_>, base: &v1::Base) {
    let edits = &checker.manifest.edits;
    let is_creation = |edit: &&Edit| matches!(edit, Edit::Set(set) if set.create);
    let created: BTreeSet<Key<'_>> =
        edits.iter().filter(is_creation).filter_map(|edit| Some(key(edit.target()?))).collect();
    let listed: BTreeSet<Key<'_>> = base
        .tensors
        .iter()
        .map(|tensor| (tensor.component.as_deref(), tensor.name.as_str(), tensor.experts))
        .collect();
    let mut touched = BTreeSet::new();
    for (index, target) in edits.iter().enumerate().filter_map(|(i, edit)| Some((i, edit.target()?))) {
        let key = key(target);
        if !touched.insert(key) {
            continue;
        }
        let place = format!("edits[{index}] {}", target.label());
        if created.contains(&key) && listed.contains(&key) {
            checker.report(&rules::M_BASE, &place, "is created, yet base.tensors lists it");
        } else if !created.contains(&key) && !listed.contains(&key) && base.digests.is_some() {
            checker.report(&rules::M_BASE, &place, "base.tensors does not list it in a bound file");
        }
    }
    for tensor in &base.tensors {
        let is_touched =
            touched.contains(&(tensor.component.as_deref(), tensor.name.as_str(), tensor.experts));
        let place = format!("base.tensors {}", tensor.name);
        if !is_touched && !tensor.unchanged {
            checker.report(&rules::M_BASE, &place, "no edit touches it, and it is not said to be unchanged");
        } else if is_touched && tensor.unchanged {
            checker.report(&rules::M_BASE, &place, "is said to be unchanged, yet an edit touches it");
        }
    }
}
