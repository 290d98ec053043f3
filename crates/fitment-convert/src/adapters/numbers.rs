//! Weights as binary64, and back with one rounding.

use fitment_core::tensor::{Dtype, Shape, Tensor};

/// Elements of a tensor, exactly; `None` for what is no weight.
pub(super) fn widened(tensor: &Tensor<'_>) -> Option<Vec<f64>> {
    let bytes = tensor.bytes();
    let pairs = || bytes.chunks_exact(2).map(|b| [b[0], b[1]]);
    match tensor.dtype() {
        Dtype::F64 => Some(
            bytes.chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().expect("eight bytes"))).collect(),
        ),
        Dtype::F32 => Some(
            bytes
                .chunks_exact(4)
                .map(|b| f64::from(f32::from_le_bytes(b.try_into().expect("four bytes"))))
                .collect(),
        ),
        Dtype::F16 => Some(pairs().map(|b| half::f16::from_le_bytes(b).to_f64()).collect()),
        Dtype::BF16 => Some(pairs().map(|b| half::bf16::from_le_bytes(b).to_f64()).collect()),
        _ => None,
    }
}

/// A matrix or vector of these elements; `None` for a dtype of no weight, or extents that do not fit.
#[allow(clippy::cast_possible_truncation, reason = "the one rounding to the dtype")]
pub(super) fn narrowed(dtype: Dtype, dims: &[u64], values: &[f64]) -> Option<Tensor<'static>> {
    let bytes: Vec<u8> = match dtype {
        Dtype::F64 => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        Dtype::F32 => values.iter().flat_map(|value| (*value as f32).to_le_bytes()).collect(),
        Dtype::F16 => values.iter().flat_map(|value| half::f16::from_f64(*value).to_le_bytes()).collect(),
        Dtype::BF16 => values.iter().flat_map(|value| half::bf16::from_f64(*value).to_le_bytes()).collect(),
        _ => return None,
    };
    Tensor::owned(dtype, Shape::new(dims).ok()?, bytes).ok()
}

/// The transpose of a row-major matrix with rows of `columns` elements.
pub(super) fn transposed(values: &[f64], columns: usize) -> Vec<f64> {
    (0..columns).flat_map(|column| values.iter().skip(column).step_by(columns.max(1)).copied()).collect()
}
