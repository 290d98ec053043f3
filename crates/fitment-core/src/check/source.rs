//! The carried source (spec section 8).

use super::Checker;
use crate::finding::rules;
use crate::tensor::Dtype;
use std::collections::BTreeSet;

pub(super) fn check(checker: &mut Checker<'_, '_>) {
    let Some(source) = &checker.manifest.source else { return };
    if source.format.is_empty() {
        checker.report(&rules::M_SOURCE, "source.format", "is empty");
    }
    if source.weights.as_deref() == Some("") {
        checker.report(&rules::M_SOURCE, "source.weights", "is empty");
    }
    let mut paths = BTreeSet::new();
    for file in &source.files {
        let place = format!("source.files {}", file.path.escape_debug());
        if !is_safe_path(&file.path) {
            checker.report(&rules::M_SOURCE, &place, "is not a relative path inside the adapter");
        }
        if !paths.insert(&file.path) {
            checker.report(&rules::M_SOURCE, &place, "is kept twice");
        }
        let stored = checker.stored.get(file.tensor.as_str());
        if let Some(tensor) = stored.filter(|tensor| tensor.dtype != Dtype::U8 || tensor.shape.axes() != 1) {
            let message = format!("is stored as {} {}, expected U8 [n]", tensor.dtype, tensor.shape);
            checker.report(&rules::M_SOURCE, &place, message);
        }
    }
    let mut keys = BTreeSet::new();
    for kept in &source.kept {
        if kept.key.is_empty() || !keys.insert(&kept.key) {
            let place = format!("source.kept {}", kept.key.escape_debug());
            checker.report(&rules::M_SOURCE, &place, "the key is empty or kept twice");
        }
    }
}

/// Whether a path stays inside the folder it is written to, on every system.
pub(crate) fn is_safe_path(path: &str) -> bool {
    let parts_safe = path.split('/').all(|part| !part.is_empty() && part != "." && part != "..");
    parts_safe && path.len() <= 1024 && !path.contains(['\\', ':']) && !path.chars().any(char::is_control)
}
