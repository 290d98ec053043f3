//! Stored weights that are NaN or infinite.

use fitment_core::model::Edit;
use fitment_math::not_finite;
use std::collections::BTreeSet;

/// Remembers which stored tensors were looked at, for several edits may share one.
#[derive(Debug, Default)]
pub(super) struct Scanner {
    seen: BTreeSet<(usize, usize)>,
}

impl Scanner {
    /// The role of the first tensor of the edit that holds such a number, and its position.
    pub(super) fn first_fault(&mut self, edit: &Edit<'_>) -> Option<(&'static str, usize)> {
        for (role, tensor) in edit.tensors() {
            let place = (tensor.bytes().as_ptr().addr(), tensor.bytes().len());
            if self.seen.insert(place)
                && let Some(position) = not_finite::first(tensor.dtype(), tensor.bytes())
            {
                return Some((role, position));
            }
        }
        None
    }
}
