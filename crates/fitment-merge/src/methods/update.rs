//! What edits of any kind add to a whole tensor.

use crate::exact::{Context, Fault, corrected, positions};
use fitment_core::model::Edit;
use fitment_core::tensor::{Dtype, Tensor};
use fitment_math::bits;
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
            Ok((base.dims, scattered(&add.index, values, len)?))
        }
        Edit::SparseSet(set) => {
            let base = context.base.raw(&set.target, "what new elements add depends on the base")?;
            let size = base.dtype.bytes().ok_or_else(no_weight)?;
            let mut old = Vec::with_capacity(set.value.bytes().len());
            for position in positions(&set.index) {
                old.extend_from_slice(element(&base.bytes, position, size).ok_or_else(beyond)?);
            }
            let values = difference((set.value.dtype(), set.value.bytes()), (base.dtype, &old));
            let values = values.ok_or_else(no_weight)?;
            Ok((base.dims, scattered(&set.index, values, base.bytes.len() / size)?))
        }
        Edit::Set(set) if set.rows.is_none() && !set.create && !set.reshape => {
            let base = context.base.raw(&set.target, "what a replacement adds depends on the base")?;
            let values = difference((set.value.dtype(), set.value.bytes()), (base.dtype, &base.bytes));
            Ok((base.dims, values.ok_or_else(no_weight)?))
        }
        Edit::Bits(edit) => {
            let base = context.base.raw(&edit.target, "what a bit-exact change adds depends on the base")?;
            let mut bytes = base.bytes.to_vec();
            bits::decode(edit.z.bytes(), base.dtype, &mut bytes)
                .map_err(|error| Fault::NotExact(error.to_string()))?;
            let values = difference((base.dtype, &bytes), (base.dtype, &base.bytes));
            Ok((base.dims, values.ok_or_else(no_weight)?))
        }
        _ => Err(Fault::Undefined(format!("a {} has no dense update here", edit.kind()))),
    }
}

fn beyond() -> Fault {
    Fault::exact("a position lies beyond the base's tensor")
}

fn element(bytes: &[u8], position: u64, size: usize) -> Option<&[u8]> {
    let at = usize::try_from(position).ok()?.checked_mul(size)?;
    bytes.get(at..at.checked_add(size)?)
}

/// Values at their positions among so many elements, the others 0.
fn scattered(index: &Tensor<'_>, values: Vec<f32>, len: usize) -> Result<Vec<f32>, Fault> {
    let mut all = vec![0.0; len];
    for (position, value) in positions(index).into_iter().zip(values) {
        let place = usize::try_from(position).ok().and_then(|position| all.get_mut(position));
        *place.ok_or_else(beyond)? = value;
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
