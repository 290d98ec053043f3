//! Dense edits: `set` and `add` (spec sections 5.2 and 5.4).

use super::edits::{check_roles, check_weight_dtype};
use super::sparse;
use super::state::State;
use super::target::slice_shape;
use super::{Checker, StoredTensor};
use crate::finding::rules;
use crate::manifest::v1::{AddEdit, SetDtype, SetEdit};
use crate::tensor::Dtype;

pub(super) fn check_set(checker: &mut Checker<'_, '_>, edit: &SetEdit, state: &State, place: &str) {
    if !check_roles(checker, &edit.tensors, (&["value"], &["rows"]), place) {
        return;
    }
    let has_rows = edit.tensors.contains_key("rows");
    let has_slice = !edit.target.slice.is_empty();
    if edit.create && (has_rows || has_slice || !edit.target.uses.is_empty() || edit.dtype == SetDtype::Base)
    {
        let message = "creation stores a whole tensor in its own dtype: no rows, slice, uses or dtype base";
        checker.report(&rules::E_CONFLICT, place, message);
        return;
    }
    let is_part = has_rows || has_slice || edit.target.experts.is_some();
    let is_whole = !is_part && !edit.create && edit.target.uses.is_empty() && edit.dtype == SetDtype::Stored;
    if edit.reshape && !is_whole {
        let message = "another shape is stored whole, in its own dtype: no rows, slice, uses, experts, create or dtype base";
        checker.report(&rules::E_CONFLICT, place, message);
        return;
    }
    if has_rows && has_slice {
        checker.report(&rules::E_SLICE, place, "rows are those of the whole tensor: no slice");
        return;
    }
    if (has_rows || has_slice) && edit.dtype == SetDtype::Stored {
        let message = "rows and slices take the base tensor's dtype: `dtype` must be `base`";
        checker.report(&rules::E_DTYPE, place, message);
    }
    if edit.dtype == SetDtype::Base {
        check_weight_dtype(checker, &edit.tensors, "value", place);
    }
    let shape = state.shape.as_deref();
    let Ok(slice) = slice_shape(checker, &edit.target.slice, shape, place) else { return };
    let Some(value) = checker.tensor(&edit.tensors, "value") else { return };
    let Some(dims) = strip_experts(checker, edit.target.experts, value, place) else { return };
    if let Some(rows) = checker.tensor(&edit.tensors, "rows") {
        if edit.target.experts.is_some() {
            checker.report(&rules::E_BUNDLE, place, "a bundle is not set by rows");
            return;
        }
        return check_rows(checker, rows, &dims, shape, place);
    }
    let Some(expected) = slice.filter(|_| !edit.create && !edit.reshape) else { return };
    // A whole value may bring another number of rows: a resized vocabulary, a head with other labels.
    let resizable = !has_slice && edit.target.experts.is_none() && !expected.is_empty();
    let kept = usize::from(resizable);
    if expected.len() != dims.len() || expected[kept..] != dims[kept..] {
        let message = format!("the value has the shape {dims:?}, the target {expected:?}");
        checker.report(&rules::E_SHAPE, place, message);
    }
}

/// The extents behind the leading expert axis of a bundle.
fn strip_experts(
    checker: &mut Checker<'_, '_>,
    experts: Option<[u64; 2]>,
    value: &StoredTensor<'_>,
    place: &str,
) -> Option<Vec<u64>> {
    let dims = value.shape.dims();
    let Some([start, end]) = experts else { return Some(dims.to_vec()) };
    match dims {
        [count, rest @ ..] if *count == end.saturating_sub(start) => Some(rest.to_vec()),
        _ => {
            let message =
                format!("the value has the shape {}, the range has experts {start}..{end}", value.shape);
            checker.report(&rules::E_BUNDLE, place, message);
            None
        }
    }
}

fn check_rows(
    checker: &mut Checker<'_, '_>,
    rows: &StoredTensor<'_>,
    value: &[u64],
    base: Option<&[u64]>,
    place: &str,
) {
    if rows.dtype != Dtype::I64 {
        checker.report(&rules::E_DTYPE, place, format!("rows are {}, expected I64", rows.dtype));
        return;
    }
    let count = match (rows.shape.dims(), value) {
        (&[rows], &[values, ..]) if rows == values && rows > 0 => rows,
        _ => {
            let message = format!("row numbers {} for a value of shape {value:?}", rows.shape);
            checker.report(&rules::E_ROWS, place, message);
            return;
        }
    };
    if let Some(base) = base.filter(|base| base.get(1..) != value.get(1..)) {
        let message = format!("rows have the shape {:?}, the target {base:?}", &value[1..]);
        checker.report(&rules::E_SHAPE, place, message);
        return;
    }
    let Some(bytes) = rows.bytes else { return };
    let end = base.and_then(|base| base.first().copied());
    if let Some(message) = ascending_fault(bytes).or_else(|| append_fault(bytes, end, count)) {
        checker.report(&rules::E_ROWS, place, message);
    }
}

fn integers(bytes: &[u8]) -> impl Iterator<Item = i64> + '_ {
    bytes.as_chunks::<8>().0.iter().map(|chunk| i64::from_le_bytes(*chunk))
}

/// What is wrong with numbers that must be non-negative and strictly ascending.
fn ascending_fault(bytes: &[u8]) -> Option<String> {
    let mut last = -1;
    for (index, number) in integers(bytes).enumerate() {
        if number <= last {
            return Some(match last {
                -1 => format!("number {index} is {number}, below 0"),
                last => format!("number {index} is {number}, not above {last}"),
            });
        }
        last = number;
    }
    None
}

fn append_fault(bytes: &[u8], end: Option<u64>, count: u64) -> Option<String> {
    let end = end?;
    let beyond: Vec<i64> =
        integers(bytes).filter(|row| u64::try_from(*row).is_ok_and(|row| row >= end)).collect();
    let mut wanted = (end..=end.saturating_add(count)).map(|row| i64::try_from(row).unwrap_or(i64::MAX));
    let gap = beyond.iter().find(|row| Some(**row) != wanted.next())?;
    Some(format!("row {gap} is beyond the end {end} and leaves a gap"))
}

pub(super) fn check_add(checker: &mut Checker<'_, '_>, edit: &AddEdit, state: &State, place: &str) {
    if !check_roles(checker, &edit.tensors, (&["value"], &["exc_index", "exc_value"]), place) {
        return;
    }
    check_weight_dtype(checker, &edit.tensors, "value", place);
    let shape = state.shape.as_deref();
    let Ok(slice) = slice_shape(checker, &edit.target.slice, shape, place) else { return };
    let Some(value) = checker.tensor(&edit.tensors, "value") else { return };
    let Some(dims) = strip_experts(checker, edit.target.experts, value, place) else { return };
    if let Some(expected) = slice.filter(|expected| *expected != dims) {
        let message = format!("the update has the shape {dims:?}, the target {expected:?}");
        checker.report(&rules::E_SHAPE, place, message);
    }
    let has = |role: &str| edit.tensors.contains_key(role);
    if has("exc_index") != has("exc_value") {
        checker.report(&rules::E_EXCEPTIONS, place, "exc_index and exc_value come together");
        return;
    }
    if has("exc_index") && edit.target.experts.is_some() {
        checker.report(&rules::E_BUNDLE, place, "a bundle has no exceptions");
        return;
    }
    let pair = (checker.tensor(&edit.tensors, "exc_index"), checker.tensor(&edit.tensors, "exc_value"));
    let (Some(index), Some(exceptions)) = pair else { return };
    let message = exceptions_fault(index, exceptions, value.shape.elements()).or_else(|| {
        let dtype = state.dtype.filter(|dtype| *dtype != exceptions.dtype)?;
        Some(format!("exc_value is {}, the target {dtype}", exceptions.dtype))
    });
    if let Some(message) = message {
        checker.report(&rules::E_EXCEPTIONS, place, message);
    }
}

fn exceptions_fault(index: &StoredTensor<'_>, value: &StoredTensor<'_>, elements: u64) -> Option<String> {
    if !value.dtype.is_weight() {
        return Some(format!("exc_value is {}, expected F64, F32, F16 or BF16", value.dtype));
    }
    sparse::fault(index, value, Some(elements))
}
