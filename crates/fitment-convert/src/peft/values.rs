//! The values of a tensor, as far as a check needs them: sign, zero and finiteness.

use crate::finite;
use fitment_core::finding::rules;
use fitment_core::tensor::{Dtype, Tensor};
use fitment_core::{Finding, Severity};
use half::{bf16, f16};

/// What is remarkable about a factor's values.
pub(super) fn check_factor(key: &str, tensor: &Tensor<'_>) -> Option<Finding> {
    finite::check(key, tensor).or_else(|| {
        let has_values = tensor.dtype().is_weight() && tensor.elements() > 0 && !tensor.is_unread();
        let all_zero = has_values && position(tensor, |value| value != 0.0).is_none();
        all_zero.then(|| {
            Finding::new(&rules::E_NO_EFFECT, key, "the factor is all zero: the module does nothing")
        })
    })
}

/// A magnitude is positive, in every element.
pub(super) fn check_magnitude(key: &str, tensor: &Tensor<'_>) -> Option<Finding> {
    finite::check(key, tensor).or_else(|| {
        let at = position(tensor, |value| value <= 0.0)?;
        let message = format!("element {at} is not above 0");
        let finding = Finding::new(&rules::E_MAGNITUDE_SIGN, key, message);
        Some(Finding { severity: Severity::Warning, ..finding })
    })
}

/// Where the first element stands for which `is` holds; `None` for dtypes that are no weights, and for values that nobody has read.
fn position(tensor: &Tensor<'_>, is: impl Fn(f64) -> bool) -> Option<usize> {
    if tensor.is_unread() {
        return None;
    }
    let bytes = tensor.bytes();
    match tensor.dtype() {
        Dtype::F64 => bytes.as_chunks::<8>().0.iter().position(|chunk| is(f64::from_le_bytes(*chunk))),
        Dtype::F32 => {
            bytes.as_chunks::<4>().0.iter().position(|chunk| is(f64::from(f32::from_le_bytes(*chunk))))
        }
        Dtype::F16 => {
            bytes.as_chunks::<2>().0.iter().position(|chunk| is(f16::from_le_bytes(*chunk).to_f64()))
        }
        Dtype::BF16 => {
            bytes.as_chunks::<2>().0.iter().position(|chunk| is(bf16::from_le_bytes(*chunk).to_f64()))
        }
        _ => None,
    }
}

/// Whether a saved tensor is a copy of a base tensor: the same bits, or the same values in a wider dtype.
pub(super) fn is_copy(saved: &Tensor<'_>, base_dtype: Dtype, base: &[u8]) -> bool {
    let widened = |value: fn([u8; 2]) -> f32| {
        let narrow = base.as_chunks::<2>().0.iter().map(|chunk| value(*chunk).to_bits());
        let wide = saved.bytes().as_chunks::<4>().0.iter().map(|chunk| u32::from_le_bytes(*chunk));
        narrow.eq(wide)
    };
    match (saved.dtype(), base_dtype) {
        (saved_dtype, base_dtype) if saved_dtype == base_dtype => saved.bytes() == base,
        (Dtype::F32, Dtype::BF16) => widened(|chunk| bf16::from_le_bytes(chunk).to_f32()),
        (Dtype::F32, Dtype::F16) => widened(|chunk| f16::from_le_bytes(chunk).to_f32()),
        _ => false,
    }
}
