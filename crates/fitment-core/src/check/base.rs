//! The recorded base (spec section 6).

use super::{Checker, target};
use crate::finding::rules;
use crate::limits;
use crate::manifest::v1::{self, Edit};
use crate::model::{Layout, name_fault};
use crate::tensor::{Dtype, Shape};

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
    if let Some(Err(fault)) = tensor.shape.as_deref().map(Shape::new) {
        checker.report(&rules::M_BASE, &place, fault.to_string());
    }
}

fn check_digests(checker: &mut Checker<'_, '_>, base: &v1::Base, count: u64) {
    let Some(name) = &base.digests else { return };
    if let Some(tensor) = base.tensors.iter().find(|tensor| tensor.dtype.is_none() || tensor.shape.is_none())
    {
        let message = "a bound file records dtype and shape of every touched tensor";
        checker.report(&rules::M_BASE, &format!("base.tensors {}", tensor.name), message);
    }
    let Some(stored) = checker.stored.get(name) else { return };
    if stored.dtype != Dtype::U8 || stored.shape.dims() != [count, 32] {
        let message = format!("digests are {} {}, expected U8 [{count}, 32]", stored.dtype, stored.shape);
        checker.report(&rules::M_BASE, name, message);
    }
}

/// Created tensors are not in the base; in a bound file all others are.
fn check_coverage(checker: &mut Checker<'_, '_>, base: &v1::Base) {
    let manifest = checker.manifest;
    let created = |target: &v1::Target| {
        let creates = |edit: &Edit| matches!(edit, Edit::Set(set) if set.create && set.target == *target);
        manifest.edits.iter().any(creates)
    };
    let known: std::collections::BTreeSet<_> =
        base.tensors.iter().map(|t| (&t.component, &t.name, t.experts)).collect();
    let any_creation = manifest.edits.iter().any(|edit| matches!(edit, Edit::Set(set) if set.create));
    for (index, target) in manifest.edits.iter().enumerate().filter_map(|(i, edit)| Some((i, edit.target()?)))
    {
        let listed = known.contains(&(&target.component, &target.target, target.experts));
        let place = format!("edits[{index}] {}", target.label());
        let is_created =
            any_creation && created(&v1::Target { slice: vec![], uses: vec![], ..target.clone() });
        if is_created && listed {
            checker.report(&rules::M_BASE, &place, "is created, yet base.tensors lists it");
        } else if !is_created && !listed && base.digests.is_some() {
            checker.report(&rules::M_BASE, &place, "base.tensors does not list it in a bound file");
        }
    }
}
