//! A multiplier into a factor, for files that have one for all.

use fitment_core::tensor::{Dtype, Tensor};
use fitment_math::round::{narrowed, widened};

/// A factor times a number in its own dtype, and how many elements were rounded for that. `None` for what holds no numbers, or
/// where the product is too large.
pub(crate) fn scaled(tensor: &Tensor<'_>, ratio: f64) -> Option<(Tensor<'static>, u64)> {
    scaled_to(tensor, ratio, tensor.dtype())
}

/// The same, in a dtype that is wide enough where one of `wider` is: the tensor's own, if nothing is rounded in it.
pub(crate) fn scaled_wider(tensor: &Tensor<'_>, ratio: f64, wider: Dtype) -> Option<(Tensor<'static>, u64)> {
    match scaled(tensor, ratio) {
        Some((tensor, 0)) => Some((tensor, 0)),
        _ => scaled_to(tensor, ratio, wider),
    }
}

fn scaled_to(tensor: &Tensor<'_>, ratio: f64, dtype: Dtype) -> Option<(Tensor<'static>, u64)> {
    let values: Vec<f64> = widened(tensor)?.into_iter().map(|value| value * ratio).collect();
    let stored = narrowed(dtype, tensor.dims(), &values)?;
    let back = widened(&stored)?;
    if back.iter().any(|value| !value.is_finite()) {
        return None;
    }
    let rounded = back.iter().zip(&values).filter(|(back, value)| back != value).count();
    Some((stored, rounded as u64))
}

#[cfg(test)]
mod tests {
    use super::{scaled, scaled_wider};
    use fitment_core::tensor::Dtype;
    use fitment_math::round::{narrowed, widened};

    #[test]
    fn powers_of_two_are_exact_and_others_are_counted() {
        let factor = narrowed(Dtype::BF16, &[3], &[1.0, 1.5, 0.0]).unwrap();
        assert_eq!(scaled(&factor, 0.25).unwrap().1, 0);
        let (third, rounded) = scaled(&factor, 1.0 / 3.0).unwrap();
        assert_eq!((third.dtype(), rounded), (Dtype::BF16, 1));
        assert!(scaled(&factor, 1e300).is_none());
    }

    #[test]
    fn a_wider_dtype_is_taken_only_where_it_is_needed() {
        let factor = narrowed(Dtype::BF16, &[2], &[1.0, 3.0]).unwrap();
        assert_eq!(scaled_wider(&factor, 2.0, Dtype::F32).unwrap().0.dtype(), Dtype::BF16);
        let (wide, rounded) = scaled_wider(&factor, 1.0 + 2f64.powi(-20), Dtype::F32).unwrap();
        assert_eq!((wide.dtype(), rounded), (Dtype::F32, 0));
        assert_eq!(widened(&wide).unwrap()[1], 3.0 * (1.0 + 2f64.powi(-20)));
    }
}
