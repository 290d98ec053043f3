//! Whether the base has the sites of interventions, with states of their width.

use super::Fit;
use crate::rules;
use fitment_convert::sites;
use fitment_core::model::Edit;

/// Reports interventions of pipelines, at layers that the base does not have, or on states of another width.
pub(super) fn check(fit: &mut Fit<'_, '_>) {
    let adapter = fit.adapter;
    for edit in &adapter.edits {
        let Edit::Intervention(edit) = edit else { continue };
        if let Some(component) = &edit.component {
            let message = format!(
                "belongs to the component {:?} of a pipeline, the base is a single model",
                component.as_str()
            );
            fit.report(&rules::B_SITE, edit.label(), message);
        }
    }
    for clash in sites::misfits(adapter, fit.base) {
        let message = clash.message();
        fit.report(&rules::B_SITE, clash.target, message);
    }
}
