//! The matrix that torch's `parametrizations.orthogonal` computes of `original` and `base`.

use super::numbers::{narrowed, transposed, widened};
use fitment_core::tensor::Tensor;
use fitment_math::orthogonal::rotation;

/// Largest square matrix whose exponential is computed: one of the model's width, that is of full rank, is no low-rank adapter.
pub(super) const MAX_SQUARE: u64 = fitment_math::orthogonal::MAX_EXPONENTIAL as u64;

/// The weight, of the shape and dtype of `original`; `None` for tensors that do not fit: `base` is square, of the longer extent.
/// A wide `original` is computed with as its transpose.
pub(super) fn weight(original: &Tensor<'_>, base: &Tensor<'_>) -> Option<Tensor<'static>> {
    let &[rows, columns] = original.dims() else { return None };
    let (n, k) = (usize::try_from(rows.max(columns)).ok()?, usize::try_from(rows.min(columns)).ok()?);
    let values = widened(original)?;
    let is_wide = rows < columns;
    let tall = if is_wide { transposed(&values, n) } else { values };
    let product = rotation(&tall, Some(&widened(base)?), [n, k])?;
    let values = if is_wide { transposed(&product, k) } else { product };
    narrowed(original.dtype(), original.dims(), &values)
}
