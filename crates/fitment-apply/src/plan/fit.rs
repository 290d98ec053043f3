//! One edit against the tensor that it changes: shapes checked, parts resolved.

use super::step::{Action, Dense, Elements, LowRank, Magnitude, Restore, Step, Values};
use crate::part::Part;
use crate::region::Region;
use fitment_core::model::{Add, Edit, Lora, LoraForm, Set};
use fitment_core::tensor::{Shape, Tensor};
use std::collections::BTreeSet;

/// Which expert of a bundle, of how many.
pub(super) type Expert = Option<(usize, u64)>;

/// Why an edit does not fit.
#[derive(Debug)]
pub(super) enum Misfit {
    /// The tensor has another shape than the edit's.
    Shape { what: &'static str, expected: String, found: String },
    /// The edit contradicts itself.
    Malformed(String),
}

/// The step, and the tensor's extents behind it. `None` for edits that are no steps.
pub(super) fn fit<'a>(
    edit: &'a Edit<'a>,
    expert: Expert,
    shape: &Shape,
) -> Result<Option<(Step<'a>, Shape)>, Misfit> {
    let Some(target) = edit.target() else { return Ok(None) };
    let region = Region::new(shape.dims(), &target.slice).map_err(|message| Misfit::Shape {
        what: "the slice",
        expected: message,
        found: shape.to_string(),
    })?;
    let (action, after) = match edit {
        Edit::Lora(edit) => (Action::LowRank(low_rank(edit, expert, &region.extents())?), shape.clone()),
        Edit::Add(edit) => (Action::Add(dense(edit, expert, &region.extents())?), shape.clone()),
        Edit::Set(edit) => {
            let (values, after) = values(edit, expert, &region, shape)?;
            (Action::Set(values), after)
        }
        Edit::SparseSet(edit) => (Action::Put(elements(&edit.index, &edit.value, shape)?), shape.clone()),
        Edit::SparseAdd(edit) => {
            if !edit.scale.is_finite() {
                return Err(Misfit::Malformed(format!("the scale is {}", edit.scale)));
            }
            let elements = elements(&edit.index, &edit.value, shape)?;
            (Action::Scatter { scale: edit.scale, elements }, shape.clone())
        }
        Edit::Bits(edit) => {
            (Action::Restore(Restore { payload: edit.z.bytes(), result: edit.result }), shape.clone())
        }
        Edit::Remove(_) | Edit::Config(_) | Edit::Intervention(_) => return Ok(None),
    };
    Ok(Some((Step { region, action }, after)))
}

fn part<'a>(tensor: &'a Tensor<'_>, expert: Expert, role: &str) -> Result<Part<'a>, Misfit> {
    match expert {
        None => Ok(Part::whole(tensor)),
        Some((index, count)) => Part::of_expert(tensor, index, count).ok_or_else(|| {
            Misfit::Malformed(format!("{role} has the shape {}, the bundle {count} experts", tensor.shape()))
        }),
    }
}

fn low_rank<'a>(edit: &'a Lora<'_>, expert: Expert, dims: &[u64]) -> Result<LowRank<'a>, Misfit> {
    let up = part(&edit.up, expert, "up")?;
    let down = part(&edit.down, expert, "down")?;
    let mid = edit.mid.as_ref().map(|mid| part(mid, expert, "mid")).transpose()?;
    for (role, factor) in [("up", Some(&up)), ("down", Some(&down)), ("mid", mid.as_ref())] {
        let Some(factor) = factor else { continue };
        weights(factor, role)?;
        if factor.elements() == 0 {
            return Err(Misfit::Malformed(format!("{role} is empty: shape {:?}", factor.dims)));
        }
    }
    let update = update_shape(edit, &up.dims, &down.dims, mid.as_ref().map(|mid| mid.dims.as_slice()))?;
    if wanted_shape(edit, dims).as_deref() != Some(&update) {
        let mut expected = update;
        if edit.transposed {
            let axes = expected.len();
            expected.swap(axes - 2, axes - 1);
        }
        return Err(misfit("the low-rank update", &expected, dims));
    }
    let magnitude = edit.magnitude.as_ref();
    let magnitude = magnitude.map(|magnitude| {
        let value = Part::whole(&magnitude.value);
        weights(&value, "magnitude")?;
        let kept = usize::try_from(magnitude.axis).ok().filter(|axis| *axis < 2);
        let extent = kept.and_then(|axis| update.get(axis).copied());
        if expert.is_some() || edit.form == LoraForm::Stacked || extent != Some(value.elements() as u64) {
            return Err(Misfit::Malformed(format!(
                "a magnitude of {} elements on axis {} of an update of shape {update:?}",
                value.elements(),
                magnitude.axis
            )));
        }
        let (axis, norm_of, eps) = (magnitude.axis, magnitude.norm_of, magnitude.eps);
        Ok(Magnitude { value, axis, norm_of, eps })
    });
    let magnitude = magnitude.transpose()?;
    if !edit.scale.is_finite() {
        return Err(Misfit::Malformed(format!("the scale is {}", edit.scale)));
    }
    let (form, transposed, scale) = (edit.form, edit.transposed, edit.scale);
    Ok(LowRank { form, transposed, scale, up, down, mid, magnitude })
}

/// The shape of `up·down`.
fn update_shape(edit: &Lora<'_>, up: &[u64], down: &[u64], mid: Option<&[u64]>) -> Result<Vec<u64>, Misfit> {
    let ones = |dims: &[u64]| dims.iter().all(|dim| *dim == 1);
    let found = || Misfit::Malformed(format!("up {up:?}, mid {mid:?} and down {down:?} do not go together"));
    match (edit.form, up, down, mid) {
        (LoraForm::Matrix, &[out, rank], &[other, input], None) if rank == other => Ok(vec![out, input]),
        (LoraForm::Stacked, &[experts, out, rank], &[count, other, input], None)
            if experts == count && rank == other =>
        {
            Ok(vec![experts, out, input])
        }
        (LoraForm::Conv, [out, rank, tail @ ..], [other, input, kernel @ ..], None)
            if rank == other && tail.len() == kernel.len() && ones(tail) && !edit.transposed =>
        {
            Ok([&[*out, *input], kernel].concat())
        }
        (LoraForm::Conv, [out, rank, tail @ ..], [inner, input, one @ ..], Some([a, b, kernel @ ..]))
            if rank == a && inner == b && ones(tail) && ones(one) && !edit.transposed =>
        {
            Ok([&[*out, *input], kernel].concat())
        }
        _ => Err(found()),
    }
}

/// The shape that `up·down` must have to change a stored slice of these extents.
fn wanted_shape(edit: &Lora<'_>, dims: &[u64]) -> Option<Vec<u64>> {
    match (edit.form, dims) {
        (LoraForm::Matrix, [rows, rest @ ..]) => {
            let columns = rest.iter().product();
            Some(if edit.transposed { vec![columns, *rows] } else { vec![*rows, columns] })
        }
        (LoraForm::Stacked, &[experts, rows, columns]) => {
            Some(if edit.transposed { vec![experts, columns, rows] } else { vec![experts, rows, columns] })
        }
        (LoraForm::Conv, dims) => Some(dims.to_vec()),
        _ => None,
    }
}

fn dense<'a>(edit: &'a Add<'_>, expert: Expert, dims: &[u64]) -> Result<Dense<'a>, Misfit> {
    let value = part(&edit.value, expert, "value")?;
    weights(&value, "value")?;
    if value.dims != dims {
        return Err(misfit("the update", &value.dims, dims));
    }
    if !edit.scale.is_finite() {
        return Err(Misfit::Malformed(format!("the scale is {}", edit.scale)));
    }
    let elements = value.elements() as u64;
    let exceptions = edit.exceptions.as_ref().map(|exceptions| {
        let positions = Part::whole(&exceptions.index).positions();
        let values = Part::whole(&exceptions.value);
        weights(&values, "exc_value")?;
        let sound = positions.filter(|positions| {
            expert.is_none()
                && positions.len() == values.elements()
                && positions.is_sorted_by(|a, b| a < b)
                && positions.last().is_none_or(|last| *last < elements)
        });
        let fault = || Misfit::Malformed("its exceptions do not fit its value".to_owned());
        Ok((sound.ok_or_else(fault)?, values))
    });
    Ok(Dense { scale: edit.scale, value, exceptions: exceptions.transpose()? })
}

fn elements<'a>(index: &'a Tensor<'_>, value: &'a Tensor<'_>, shape: &Shape) -> Result<Elements<'a>, Misfit> {
    let (index, value) = (Part::whole(index), Part::whole(value));
    weights(&value, "value")?;
    let count = index.elements();
    let mut last = None;
    for at in 0..count {
        let position = index.position_at(at).filter(|position| last.is_none_or(|last| *position > last));
        let fault = || Misfit::Malformed("its positions are U32 or I64 and ascend".to_owned());
        last = Some(position.ok_or_else(fault)?);
    }
    if count != value.elements() {
        return Err(Misfit::Malformed(format!("{count} positions and {} values", value.elements())));
    }
    if let Some(last) = last.filter(|last| *last >= shape.elements()) {
        let expected = format!("at least {} elements", last + 1);
        return Err(Misfit::Shape { what: "its positions", expected, found: shape.to_string() });
    }
    Ok(Elements { index, value, skip: BTreeSet::new() })
}

fn values<'a>(
    edit: &'a Set<'_>,
    expert: Expert,
    region: &Region,
    shape: &Shape,
) -> Result<(Values<'a>, Shape), Misfit> {
    let value = part(&edit.value, expert, "value")?;
    let dims = region.extents();
    let Some(rows) = &edit.rows else {
        let resizes = region.is_whole() && expert.is_none() && same_but_first(&value.dims, &dims);
        if value.dims != dims && !resizes && !edit.reshape {
            return Err(misfit("the new value", &value.dims, &dims));
        }
        let shape = if resizes || edit.reshape { edit.value.shape().clone() } else { shape.clone() };
        return Ok((Values { value, rows: None }, shape));
    };
    let malformed = |message: &str| Misfit::Malformed(message.to_owned());
    let rows = Part::whole(rows).positions().ok_or_else(|| malformed("row numbers are I64, not negative"))?;
    let count = value.dims.first().copied();
    if count != Some(rows.len() as u64) || !rows.is_sorted_by(|a, b| a < b) {
        return Err(malformed("row numbers ascend and are as many as rows"));
    }
    if value.dims.get(1..) != dims.get(1..) {
        let expected: Vec<u64> = dims.first().into_iter().chain(&value.dims[1..]).copied().collect();
        return Err(misfit("rows", &expected, &dims));
    }
    let end = dims[0];
    let beyond = &rows[rows.partition_point(|row| *row < end)..];
    let pairs = Some(rows.iter().copied().zip(0..).collect());
    if beyond.is_empty() {
        return Ok((Values { value, rows: pairs }, shape.clone()));
    }
    if !region.is_whole() || beyond.iter().zip(end..).any(|(row, wanted)| *row != wanted) {
        let last = beyond.last().copied().unwrap_or(end);
        let expected = [&[last + 1], &dims[1..]].concat();
        return Err(misfit("the last row number", &expected, &dims));
    }
    let grown = [&[end + beyond.len() as u64], &dims[1..]].concat();
    let grown = Shape::new(&grown).map_err(|fault| Misfit::Malformed(fault.to_string()))?;
    Ok((Values { value, rows: pairs }, grown))
}

/// Whether two tensors have the same axes, and the same extents but for the first: a resized vocabulary, another head.
fn same_but_first(a: &[u64], b: &[u64]) -> bool {
    matches!((a, b), ([_, a @ ..], [_, b @ ..]) if a == b)
}

fn weights(part: &Part<'_>, role: &str) -> Result<(), Misfit> {
    if part.dtype.is_weight() {
        return Ok(());
    }
    Err(Misfit::Malformed(format!("{role} is {}, expected F64, F32, F16 or BF16", part.dtype)))
}

fn misfit(what: &'static str, expected: &[u64], found: &[u64]) -> Misfit {
    Misfit::Shape { what, expected: format!("shape {expected:?}"), found: format!("{found:?}") }
}
