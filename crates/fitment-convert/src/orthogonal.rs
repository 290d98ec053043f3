//! The matrices that torch's `parametrizations.orthogonal` computes of `original` and `base`.

use crate::numbers::transposed;
use fitment_core::tensor::Tensor;
use fitment_math::orthogonal;
use fitment_math::round::{narrowed, widened};

/// Largest square matrix whose exponential is computed: one of the model's width, that is of full rank, is no low-rank adapter.
pub(crate) const MAX_SQUARE: u64 = orthogonal::MAX_EXPONENTIAL as u64;

/// Elements of a matrix whose orthonormality is looked at.
const MAX_ELEMENTS: u64 = 1 << 26;

/// The weight, of the shape and dtype of `original`; `None` for tensors that do not fit: `base`, the identity where it is
/// absent, is square, of the longer extent. A wide `original` is computed with as its transpose.
pub(crate) fn weight(original: &Tensor<'_>, base: Option<&Tensor<'_>>) -> Option<Tensor<'static>> {
    let &[rows, columns] = original.dims() else { return None };
    let (n, k) = (usize::try_from(rows.max(columns)).ok()?, usize::try_from(rows.min(columns)).ok()?);
    let base = match base {
        Some(base) if *base.dims() == [rows.max(columns); 2] => Some(widened(base)?),
        Some(_) => return None,
        None => None,
    };
    let values = widened(original)?;
    let is_wide = rows < columns;
    let tall = if is_wide { transposed(&values, n) } else { values };
    let product = orthogonal::rotation(&tall, base.as_deref(), [n, k])?;
    let values = if is_wide { transposed(&product, k) } else { product };
    narrowed(original.dtype(), original.dims(), &values)
}

/// How far the columns of a matrix are from orthonormal ones; `None` where that is not looked at: no matrix of weights, or
/// a very large one.
pub(crate) fn departure(matrix: &Tensor<'_>) -> Option<f64> {
    let &[_, columns] = matrix.dims() else { return None };
    let columns = usize::try_from(columns).ok().filter(|_| matrix.elements() <= MAX_ELEMENTS)?;
    Some(orthogonal::departure(&widened(matrix)?, columns))
}

/// The most that columns may depart by and be called orthonormal (spec section 5.6).
pub(crate) const TOLERANCE: f64 = 1e-4;
