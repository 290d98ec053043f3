//! Bit-exact changes: they are of one base, in one dtype, and nothing else will do.

use super::Fit;
use crate::rules;
use fitment_core::model::Edit;

pub(super) fn check(fit: &mut Fit<'_, '_>) {
    for (edit, target) in fit.edits() {
        let (Edit::Bits(_), Some(info)) = (edit, fit.info(target)) else { continue };
        let recorded = fit.adapter.base.find(None, target.name.as_str()).and_then(|(entry, _)| entry.dtype);
        if let Some(recorded) = recorded.filter(|recorded| *recorded != info.dtype) {
            let message = format!("it changes {recorded} bit by bit, the base has {}", info.dtype);
            if !fit.handled.contains(&target.label()) {
                fit.report_once(&rules::B_EXACT, target.label(), message);
            }
        }
    }
}
