//! Shapes that do not fit: of the edits, and of what the adapter recorded.

use super::Fit;
use crate::rules;
use fitment_core::check::check_against;
use fitment_core::model::{BaseTensor, Target};

pub(super) fn check(fit: &mut Fit<'_, '_>) {
    for finding in check_against(fit.adapter, fit.base) {
        // `edits[N] LABEL`: the number says nothing to who reads about the base.
        let label = finding.place.split_once("] ").map_or("", |(_, label)| label).to_owned();
        if !fit.handled.contains(&label) {
            fit.report_once(&rules::B_SHAPE, label, finding.message);
        }
    }
    for entry in &fit.adapter.base.tensors {
        let target = target(entry);
        let found = fit.info(&target).map(|info| &info.shape);
        let (Some(recorded), Some(found)) = (&entry.shape, found) else { continue };
        if recorded != found && !fit.handled.contains(&target.label()) {
            let message = format!("the adapter was made for the shape {recorded}, the base has {found}");
            fit.report_once(&rules::B_SHAPE, target.label(), message);
        }
    }
}

/// The target that an entry of the recorded base stands for.
pub(super) fn target(entry: &BaseTensor) -> Target {
    Target { component: entry.component.clone(), experts: entry.experts, ..Target::whole(entry.name.clone()) }
}
