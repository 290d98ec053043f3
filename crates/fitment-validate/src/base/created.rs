//! Tensors that the adapter creates and the base has already.

use super::Fit;
use crate::rules;

pub(super) fn check(fit: &mut Fit<'_, '_>) {
    let created = fit.created();
    for target in fit.targets() {
        if let Some(info) = fit.info(target).filter(|_| created.contains(&target.label())) {
            let message = format!("the adapter creates it, the base has it as {} {}", info.dtype, info.shape);
            fit.report_once(&rules::B_CREATED, target.label(), message);
        }
    }
}
