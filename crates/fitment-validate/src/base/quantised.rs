//! Bases with which nothing can be computed.

use super::Fit;
use crate::rules;
use fitment_core::checkpoint::quantised;
use fitment_core::model::{Edit, SetDtype, Target};
use std::collections::BTreeSet;

pub(super) fn check(fit: &mut Fit<'_, '_>) {
    if let Some((scheme, evidence)) = quantised::find(fit.base) {
        fit.report(&rules::B_QUANTISED, "", format!("the base is quantised: {scheme} ({evidence})"));
        // Packed under another name, or as integers under the same: either way that is the reason.
        let packed = fit.targets().into_iter().filter(|target| match fit.info(target) {
            Some(info) => !info.dtype.is_weight(),
            None => target.base_names().next().is_some_and(|name| is_packed(fit, &name)),
        });
        let labels: Vec<String> = packed.map(Target::label).collect();
        fit.handled.extend(labels);
        return;
    }
    note_blocks(fit);
    let computed: BTreeSet<String> =
        fit.edits().filter(|(edit, _)| computes(edit)).map(|(_, target)| target.label()).collect();
    for target in fit.targets() {
        let odd = fit.info(target).filter(|info| !info.dtype.is_weight());
        if let Some(info) = odd.filter(|_| computed.contains(&target.label())) {
            let message = format!("the base stores it as {}, expected F64, F32, F16 or BF16", info.dtype);
            fit.report_once(&rules::B_QUANTISED, target.label(), message);
        }
    }
}

/// Targets that a GGUF base stores in blocks, the first by its name.
fn note_blocks(fit: &mut Fit<'_, '_>) {
    let kind = |target: &Target| fit.base.quantised(&target.base_names().next()?);
    let stored: Vec<(String, &str)> =
        fit.targets().into_iter().filter_map(|target| Some((target.label(), kind(target)?))).collect();
    if let Some((target, kind)) = stored.first() {
        let message = format!("the base stores it as {kind} ({} such targets)", stored.len());
        fit.report(&rules::B_BLOCKS, target.clone(), message);
    }
}

/// Whether the base has parts of a tensor (`x.qweight`, `x_blocks`) in place of it.
fn is_packed(fit: &Fit<'_, '_>, name: &str) -> bool {
    let stem = name.strip_suffix(".weight").unwrap_or(name);
    let behind = fit.base.tensors().range(stem.to_owned()..).map(|(other, _)| other);
    behind
        .take_while(|other| other.starts_with(stem))
        .any(|other| other[stem.len()..].starts_with(['.', '_']))
}

/// Whether an edit does arithmetic with the base tensor, or rounds to its dtype.
fn computes(edit: &Edit<'_>) -> bool {
    match edit {
        Edit::Lora(_) | Edit::Add(_) | Edit::SparseSet(_) | Edit::SparseAdd(_) => true,
        Edit::Set(set) => set.dtype == SetDtype::Base || set.rows.is_some() || !set.target.slice.is_empty(),
        Edit::Bits(_) | Edit::Remove(_) | Edit::Config(_) | Edit::Intervention(_) => false,
    }
}
