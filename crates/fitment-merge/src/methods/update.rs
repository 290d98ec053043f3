//! What edits of any kind add to a whole tensor.

use super::stored::as_stored;
use crate::base::Raw;
use crate::exact::{Context, Fault, corrected, positions, restored};
use crate::factors::matrices;
use fitment_core::model::{Edit, Set};
use fitment_core::tensor::{Dtype, Tensor};
use fitment_math::ndarray::Array2;
use fitment_math::round::wide;

/// Extents of the tensor, and what one edit adds to it.
pub(super) fn update(context: &Context<'_, '_>, edit: &Edit<'_>) -> Result<(Vec<u64>, Vec<f32>), Fault> {
    let no_weight = || Fault::exact("its elements are no weights to compute with");
    match edit {
        Edit::Add(add) if add.exceptions.is_none() => {
            let scaled = |value| add.scale * value;
            let values = mapped(add.value.dtype(), add.value.bytes(), scaled).ok_or_else(no_weight)?;
            Ok((add.value.dims().to_vec(), values))
        }
        Edit::Add(add) => {
            let base = context.base.read(&add.target, "what exceptions add depends on the base")?;
            let new = corrected(&base, add)?;
            let values = difference((new.dtype(), new.bytes()), (base.dtype, &base.bytes));
            Ok((new.dims().to_vec(), values.ok_or_else(no_weight)?))
        }
        Edit::SparseAdd(add) => {
            let base = context.base.raw(&add.target, "how far single elements reach depends on the base")?;
            let scaled = |value| add.scale * value;
            let values = mapped(add.value.dtype(), add.value.bytes(), scaled).ok_or_else(no_weight)?;
            let len = base.bytes.len() / base.dtype.bytes().ok_or_else(no_weight)?;
            Ok((base.dims, scattered(&add.index, (values, 1), len)?))
        }
        Edit::SparseSet(set) => {
            let base = context.base.raw(&set.target, "what new elements add depends on the base")?;
            replaced(base, &set.index, (&set.value, 1))
        }
        Edit::Set(Set { target, value, rows: Some(rows), .. }) => {
            let base = context.base.raw(target, "what new rows add depends on the base")?;
            let [extent, row @ ..] = &base.dims[..] else { return Err(beyond()) };
            let own = value.dims().get(1..).unwrap_or_default();
            if own != row {
                return Err(Fault::BaseAtHand(format!("rows of {own:?}"), format!("rows of {row:?}")));
            }
            if positions(rows).last().is_some_and(|last| last >= extent) {
                let reason = format!("it appends rows to the base's {extent}: they are no update of any");
                return Err(Fault::Undefined(reason));
            }
            let width = row.iter().product::<u64>() as usize;
            replaced(base, rows, (value, width))
        }
        Edit::Set(set) if !set.create && !set.reshape => {
            let base = context.base.raw(&set.target, "what a replacement adds depends on the base")?;
            if set.value.dims() != base.dims {
                let shapes = format!("{:?} by {:?}", base.dims, set.value.dims());
                return Err(Fault::Undefined(format!("it replaces {shapes}, which is no update")));
            }
            let values = difference((set.value.dtype(), set.value.bytes()), (base.dtype, &base.bytes));
            Ok((base.dims, values.ok_or_else(no_weight)?))
        }
        Edit::Bits(edit) => {
            let base = context.base.raw(&edit.target, "what a bit-exact change adds depends on the base")?;
            let bytes = restored((base.dtype, &base.bytes, base.digest), edit)?;
            let values = difference((base.dtype, &bytes), (base.dtype, &base.bytes));
            Ok((base.dims, values.ok_or_else(no_weight)?))
        }
        Edit::Lora(lora) if lora.magnitude.is_some() => Err(Fault::Magnitude),
        Edit::Lora(lora) => {
            let all = matrices(lora).ok_or_else(|| Fault::exact("the factors are no matrices"))?;
            let dims = all.first().map_or([0; 2], |(up, down)| [up.nrows() as u64, down.ncols() as u64]);
            let dense = |(up, down): (Array2<f64>, Array2<f64>)| {
                (up * lora.scale).dot(&down).iter().map(|value| *value as f32).collect()
            };
            Ok(as_stored(all.into_iter().map(dense).collect(), dims, lora))
        }
        Edit::Set(_) | Edit::Remove(_) | Edit::Config(_) | Edit::Intervention(_) => {
            Err(Fault::Undefined(format!("a {} is no update of the base's", edit.kind())))
        }
    }
}

fn beyond() -> Fault {
    Fault::exact("a position lies beyond the base's tensor")
}

/// What new values at places of so many elements add, the others 0.
fn replaced(
    base: Raw<'_>,
    places: &Tensor<'_>,
    (value, width): (&Tensor<'_>, usize),
) -> Result<(Vec<u64>, Vec<f32>), Fault> {
    let no_weight = || Fault::exact("its elements are no weights to compute with");
    let size = base.dtype.bytes().ok_or_else(no_weight)?;
    let bytes = width.checked_mul(size).ok_or_else(beyond)?;
    let mut old = Vec::with_capacity(value.bytes().len());
    for position in positions(places) {
        let at = usize::try_from(position).ok().and_then(|at| at.checked_mul(bytes)).ok_or_else(beyond)?;
        let end = at.checked_add(bytes).ok_or_else(beyond)?;
        old.extend_from_slice(base.bytes.get(at..end).ok_or_else(beyond)?);
    }
    let values = difference((value.dtype(), value.bytes()), (base.dtype, &old)).ok_or_else(no_weight)?;
    let len = base.bytes.len() / size;
    Ok((base.dims, scattered(places, (values, width), len)?))
}

/// Values at places of so many elements each, among `len` elements, the others 0.
fn scattered(index: &Tensor<'_>, (values, width): (Vec<f32>, usize), len: usize) -> Result<Vec<f32>, Fault> {
    let mut all = vec![0.0; len];
    for (position, values) in positions(index).into_iter().zip(values.chunks(width.max(1))) {
        let at = usize::try_from(position).ok().and_then(|at| at.checked_mul(width)).ok_or_else(beyond)?;
        let end = at.checked_add(values.len()).ok_or_else(beyond)?;
        all.get_mut(at..end).ok_or_else(beyond)?.copy_from_slice(values);
    }
    Ok(all)
}

/// Elements computed with at once.
const BLOCK: usize = 1 << 16;

/// Elements through a function of binary64, rounded to F32; `None` for a dtype that is no weight.
fn mapped(dtype: Dtype, bytes: &[u8], map: impl Fn(f64) -> f64) -> Option<Vec<f32>> {
    let size = dtype.bytes()?;
    let mut values = Vec::with_capacity(bytes.len() / size);
    for block in bytes.chunks(BLOCK * size) {
        values.extend(wide(dtype, block)?.into_iter().map(|value| map(value) as f32));
    }
    Some(values)
}

/// `new − base`, element by element; `None` for dtypes that are no weights, or other lengths.
fn difference(new: (Dtype, &[u8]), base: (Dtype, &[u8])) -> Option<Vec<f32>> {
    let sizes = [new.0.bytes()?, base.0.bytes()?];
    if new.1.len() / sizes[0] != base.1.len() / sizes[1] {
        return None;
    }
    let mut values = Vec::with_capacity(new.1.len() / sizes[0]);
    for (a, b) in new.1.chunks(BLOCK * sizes[0]).zip(base.1.chunks(BLOCK * sizes[1])) {
        let (a, b) = (wide(new.0, a)?, wide(base.0, b)?);
        values.extend(a.iter().zip(&b).map(|(a, b)| (a - b) as f32));
    }
    Some(values)
}
