//! Weights as binary64, and back with one rounding.

use fitment_core::tensor::{Dtype, Shape, Tensor};
use fitment_math::round::{Element, decode, encode};

/// Elements of a tensor, exactly; `None` for what is no weight.
pub(crate) fn widened(tensor: &Tensor<'_>) -> Option<Vec<f64>> {
    let mut numbers = vec![0.0; usize::try_from(tensor.elements()).ok()?];
    decode(Element::of(tensor.dtype())?, tensor.bytes(), &mut numbers).ok()?;
    Some(numbers)
}

/// A tensor of these elements, rounded once; `None` for a dtype of no weight, or extents that do not fit.
pub(crate) fn narrowed(dtype: Dtype, dims: &[u64], values: &[f64]) -> Option<Tensor<'static>> {
    let element = Element::of(dtype)?;
    let mut bytes = vec![0; values.len().checked_mul(element.size())?];
    encode(element, values, &mut bytes).ok()?;
    Tensor::owned(dtype, Shape::new(dims).ok()?, bytes).ok()
}

/// The transpose of a row-major matrix with rows of `columns` elements.
pub(crate) fn transposed(values: &[f64], columns: usize) -> Vec<f64> {
    (0..columns).flat_map(|column| values.iter().skip(column).step_by(columns.max(1)).copied()).collect()
}
