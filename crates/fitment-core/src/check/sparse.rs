//! Positions: edits of single elements, and exceptions of dense ones (spec sections 5.4, 5.7 and 5.8).

use super::edits::{check_roles, check_weight_dtype};
use super::state::State;
use super::{Checker, StoredTensor};
use crate::finding::rules;
use crate::manifest::v1::Target;
use crate::tensor::Dtype;
use std::collections::BTreeMap;

/// What a kind asks beyond its positions.
pub(super) struct Sparse<'e> {
    pub(super) target: &'e Target,
    pub(super) tensors: &'e BTreeMap<String, String>,
    /// Values are copied: they have the target's dtype.
    pub(super) copies: bool,
}

pub(super) fn check(checker: &mut Checker<'_, '_>, edit: &Sparse<'_>, state: &State, place: &str) {
    if !check_roles(checker, edit.tensors, (&["index", "value"], &[]), place) {
        return;
    }
    if !is_whole(checker, edit.target, place) || !check_weight_dtype(checker, edit.tensors, "value", place) {
        return;
    }
    let pair = (checker.tensor(edit.tensors, "index"), checker.tensor(edit.tensors, "value"));
    let (Some(index), Some(value)) = pair else { return };
    let elements = state.shape.as_deref().map(|dims| dims.iter().product());
    let message = fault(index, value, elements).or_else(|| {
        let dtype = state.dtype.filter(|dtype| edit.copies && *dtype != value.dtype)?;
        Some(format!("value is {}, the target {dtype}", value.dtype))
    });
    if let Some(message) = message {
        checker.report(&rules::E_SPARSE, place, message);
    }
}

/// Reports a target that is a part of a tensor, or several.
pub(super) fn is_whole(checker: &mut Checker<'_, '_>, target: &Target, place: &str) -> bool {
    if !target.slice.is_empty() {
        checker.report(&rules::E_SLICE, place, "the edit is of the whole tensor: no slice");
        return false;
    }
    if target.experts.is_some() {
        checker.report(&rules::E_BUNDLE, place, "the edit is of one tensor: no bundle");
        return false;
    }
    true
}

/// What is wrong with positions and their values; `elements` is the extent of what they address.
pub(super) fn fault(
    index: &StoredTensor<'_>,
    value: &StoredTensor<'_>,
    elements: Option<u64>,
) -> Option<String> {
    let counted = index.shape.axes() == 1 && index.shape == value.shape && index.shape.elements() > 0;
    if !matches!(index.dtype, Dtype::I64 | Dtype::U32) || !counted {
        return Some(format!(
            "positions are {} {}, values {}: expected U32 or I64 [n], n at least 1, and as many values",
            index.dtype, index.shape, value.shape
        ));
    }
    let mut last = None;
    for (number, position) in positions(index.dtype, index.bytes?).enumerate() {
        if position < 0 || last.is_some_and(|last| position <= last) {
            let above = last.map_or("below 0".to_owned(), |last| format!("not above {last}"));
            return Some(format!("position {number} is {position}, {above}"));
        }
        last = Some(position);
    }
    let (last, elements) = (last?, elements?);
    let inside = u64::try_from(last).is_ok_and(|last| last < elements);
    (!inside).then(|| format!("position {last} is beyond the {elements} elements"))
}

fn positions(dtype: Dtype, bytes: &[u8]) -> Box<dyn Iterator<Item = i64> + '_> {
    match dtype {
        Dtype::U32 => {
            Box::new(bytes.as_chunks::<4>().0.iter().map(|chunk| u32::from_le_bytes(*chunk).into()))
        }
        _ => Box::new(bytes.as_chunks::<8>().0.iter().map(|chunk| i64::from_le_bytes(*chunk))),
    }
}
