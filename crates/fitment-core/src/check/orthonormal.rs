//! Whether the columns of a matrix are orthonormal (spec section 5.6).

use super::StoredTensor;
use crate::tensor::Dtype;

/// Largest departure of `UᵀU` from the identity: householder products in f32 stay below 1e-6 after training
/// (pyreft 0.1.0), rounding to BF16 leaves some 1e-2 and is no rotation any more.
pub(super) const TOLERANCE: f64 = 1e-4;

/// Products that a check spends on one matrix.
const MAX_PRODUCTS: u64 = 1 << 34;

/// The largest element of `|UᵀU − I|` in binary64 of a matrix `[d, r]`; `None` where it is no matrix of weights, its
/// bytes are not at hand, or it has too many products.
pub(super) fn departure(tensor: &StoredTensor<'_>) -> Option<f64> {
    let &[rows, columns] = tensor.shape.dims() else { return None };
    let products = columns.checked_mul(columns)?.checked_mul(rows)?;
    if products > MAX_PRODUCTS {
        return None;
    }
    let columns = usize::try_from(columns).ok()?;
    let elements = elements(tensor.dtype, tensor.bytes?)?;
    // The upper triangle of UᵀU, row by row of U.
    let mut gram = vec![0.0; columns.checked_mul(columns)?];
    for row in elements.chunks_exact(columns.max(1)) {
        for (index, left) in row.iter().enumerate() {
            let line = gram.get_mut(index * columns..(index + 1) * columns)?;
            for (sum, right) in line.iter_mut().zip(row).skip(index) {
                *sum += left * right;
            }
        }
    }
    let distance = |(at, sum): (usize, &f64)| {
        let (row, column) = (at / columns, at % columns);
        if row > column { 0.0 } else { (sum - f64::from(u8::from(row == column))).abs() }
    };
    Some(gram.iter().enumerate().map(distance).fold(0.0, f64::max))
}

/// Weights as binary64, exactly; `None` for other dtypes.
fn elements(dtype: Dtype, bytes: &[u8]) -> Option<Vec<f64>> {
    Some(match dtype {
        Dtype::F64 => bytes.as_chunks::<8>().0.iter().map(|chunk| f64::from_le_bytes(*chunk)).collect(),
        Dtype::F32 => {
            bytes.as_chunks::<4>().0.iter().map(|chunk| f64::from(f32::from_le_bytes(*chunk))).collect()
        }
        Dtype::BF16 => {
            bytes.as_chunks::<2>().0.iter().map(|chunk| bf16(u16::from_le_bytes(*chunk))).collect()
        }
        Dtype::F16 => bytes.as_chunks::<2>().0.iter().map(|chunk| f16(u16::from_le_bytes(*chunk))).collect(),
        _ => return None,
    })
}

fn bf16(bits: u16) -> f64 {
    f64::from(f32::from_bits(u32::from(bits) << 16))
}

fn f16(bits: u16) -> f64 {
    let (exponent, fraction) = (i32::from(bits >> 10 & 0x1f), f64::from(bits & 0x3ff));
    let magnitude = match exponent {
        0 => fraction * (-24f64).exp2(),
        31 if fraction == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        _ => (fraction + 1024.0) * f64::from(exponent - 25).exp2(),
    };
    if bits >> 15 == 1 { -magnitude } else { magnitude }
}

#[cfg(test)]
mod tests {
    use super::{StoredTensor, departure, f16};
    use crate::tensor::{Dtype, Shape};

    fn of(dims: &[u64], values: &[f32]) -> Option<f64> {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let shape = Shape::new(dims).unwrap();
        departure(&StoredTensor { dtype: Dtype::F32, shape: &shape, bytes: Some(&bytes) })
    }

    #[test]
    fn rotations_are_orthonormal_and_others_are_not() {
        assert!(of(&[3, 2], &[0.6, 0.0, 0.8, 0.0, 0.0, 1.0]).unwrap() < 1e-7);
        assert_eq!(of(&[2, 2], &[1.0, 0.5, 0.0, 1.0]), Some(0.5));
        assert_eq!(of(&[2, 1], &[2.0, 0.0]), Some(3.0));
        assert_eq!(of(&[2], &[1.0, 0.0]), None);
    }

    #[test]
    fn halves_are_decoded_exactly() {
        assert_eq!(f16(0x3c00), 1.0);
        assert_eq!(f16(0xc000), -2.0);
        assert_eq!(f16(0x7bff), 65504.0);
        assert_eq!(f16(0x0001), 2f64.powi(-24));
        assert_eq!(f16(0x7c00), f64::INFINITY);
        assert!(f16(0x7c01).is_nan());
    }
}
