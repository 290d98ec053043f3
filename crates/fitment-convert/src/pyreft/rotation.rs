//! Tensors of torch's orthogonal parametrisation to the matrix that they stand for.

use fitment_core::tensor::{Dtype, Tensor};
use fitment_math::orthogonal;

/// Elements of a matrix whose orthonormality is looked at.
const MAX_ELEMENTS: u64 = 1 << 26;

/// Extents and elements of `Q`, rounded to f32 once.
pub(super) fn rebuild(
    original: &Tensor<'_>,
    base: Option<&Tensor<'_>>,
) -> Result<([u64; 2], Vec<f32>), String> {
    let [rows, columns] = matrix(original).ok_or("the parametrised rotation is no matrix")?;
    if base.is_some_and(|base| matrix(base) != Some([rows, rows])) {
        return Err(format!("the rotation's base is no matrix of {rows} rows and columns"));
    }
    let numbers = |tensor: &Tensor<'_>| values(tensor).ok_or("the rotation is not F32".to_owned());
    let base = base.map(numbers).transpose()?;
    let size = |extent: u64| usize::try_from(extent).unwrap_or(usize::MAX);
    let rotation = orthogonal::rotation(&numbers(original)?, base.as_deref(), [size(rows), size(columns)]);
    let rotation = rotation.ok_or_else(|| {
        format!("a rotation [{rows}, {columns}] cannot be rebuilt: it is wide, or too large")
    })?;
    #[allow(clippy::cast_possible_truncation, reason = "the one rounding")]
    Ok(([rows, columns], rotation.iter().map(|value| *value as f32).collect()))
}

/// How far the columns are from orthonormal ones; 0 where that is not looked at.
pub(super) fn departure(up: &Tensor<'_>) -> f64 {
    let Some([_, columns]) = matrix(up).filter(|_| up.elements() <= MAX_ELEMENTS) else { return 0.0 };
    let numbers = values(up).unwrap_or_default();
    orthogonal::departure(&numbers, usize::try_from(columns).unwrap_or(usize::MAX))
}

fn matrix(tensor: &Tensor<'_>) -> Option<[u64; 2]> {
    <[u64; 2]>::try_from(tensor.dims()).ok().filter(|[rows, columns]| rows > &0 && columns > &0)
}

fn values(tensor: &Tensor<'_>) -> Option<Vec<f64>> {
    let chunks = tensor.bytes().as_chunks::<4>().0.iter();
    (tensor.dtype() == Dtype::F32)
        .then(|| chunks.map(|bytes| f64::from(f32::from_le_bytes(*bytes))).collect())
}
