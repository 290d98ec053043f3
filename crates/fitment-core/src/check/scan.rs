//! One pass over a tensor's bits: what no weight may be, and what makes a factor do nothing.

use crate::tensor::Dtype;

/// What the elements of a weight tensor are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Scan {
    /// Flat position of the first NaN or infinity.
    pub(super) not_finite: Option<usize>,
    /// Flat position of the first element that is zero or has its sign bit set.
    pub(super) not_positive: Option<usize>,
    /// No element differs from zero.
    pub(super) all_zero: bool,
}

/// Looks at every element; `None` when the dtype is not one of weights.
pub(super) fn scan(dtype: Dtype, bytes: &[u8]) -> Option<Scan> {
    // Bits decide, so no element is decoded: the exponent's mask, and the sign as the top bit.
    macro_rules! scan_bits {
        ($bits:ty, $size:literal, $exponent:literal) => {{
            let elements = bytes.as_chunks::<$size>().0;
            let load = |chunk: &[u8; $size]| <$bits>::from_le_bytes(*chunk);
            let not_finite = |bits: $bits| bits & $exponent == $exponent;
            let not_positive = |bits: $bits| bits.wrapping_sub(1) >= <$bits>::MAX / 2;
            // Folding without an early exit keeps the loop free of branches; positions are sought only after a hit.
            let (mut odd, mut low, mut any) = (false, false, 0);
            for bits in elements.iter().map(load) {
                odd |= not_finite(bits);
                low |= not_positive(bits);
                any |= bits << 1;
            }
            let at = |test: &dyn Fn($bits) -> bool| elements.iter().position(|chunk| test(load(chunk)));
            Scan {
                not_finite: if odd { at(&not_finite) } else { None },
                not_positive: if low { at(&not_positive) } else { None },
                all_zero: any == 0,
            }
        }};
    }
    Some(match dtype {
        Dtype::F64 => scan_bits!(u64, 8, 0x7ff0_0000_0000_0000),
        Dtype::F32 => scan_bits!(u32, 4, 0x7f80_0000),
        Dtype::BF16 => scan_bits!(u16, 2, 0x7f80),
        Dtype::F16 => scan_bits!(u16, 2, 0x7c00),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::{Scan, scan};
    use crate::tensor::Dtype;

    fn of<const N: usize>(dtype: Dtype, elements: &[[u8; N]]) -> Scan {
        scan(dtype, elements.as_flattened()).unwrap()
    }

    #[test]
    fn positions_are_those_of_the_first_fault() {
        let floats = [1.0f32, -2.0, f32::NAN, f32::NEG_INFINITY, 0.0].map(f32::to_le_bytes);
        let wanted = Scan { not_finite: Some(2), not_positive: Some(1), all_zero: false };
        assert_eq!(of(Dtype::F32, &floats), wanted);
        let doubles = [f64::MIN_POSITIVE, f64::MAX, f64::INFINITY].map(f64::to_le_bytes);
        let wanted = Scan { not_finite: Some(2), not_positive: None, all_zero: false };
        assert_eq!(of(Dtype::F64, &doubles), wanted);
    }

    #[test]
    fn both_zeros_are_zero_and_not_positive() {
        let halves = [0x0000u16, 0x8000].map(u16::to_le_bytes);
        for dtype in [Dtype::F16, Dtype::BF16] {
            let wanted = Scan { not_finite: None, not_positive: Some(0), all_zero: true };
            assert_eq!(of(dtype, &halves), wanted);
        }
    }

    #[test]
    fn the_smallest_subnormal_is_positive_and_not_zero() {
        let wanted = Scan { not_finite: None, not_positive: None, all_zero: false };
        assert_eq!(of(Dtype::F16, &[1u16.to_le_bytes()]), wanted);
        assert_eq!(of(Dtype::F64, &[1u64.to_le_bytes()]), wanted);
    }

    #[test]
    fn the_largest_finite_halves_are_finite_and_the_next_bits_are_not() {
        for (dtype, largest) in [(Dtype::F16, 0x7bffu16), (Dtype::BF16, 0x7f7f)] {
            assert_eq!(of(dtype, &[largest.to_le_bytes()]).not_finite, None);
            assert_eq!(of(dtype, &[(largest + 1).to_le_bytes()]).not_finite, Some(0));
            assert_eq!(of(dtype, &[(largest | 0x8000).to_le_bytes()]).not_finite, None);
        }
    }

    #[test]
    fn integers_and_packed_floats_are_not_looked_at() {
        assert_eq!(scan(Dtype::I64, &[255; 8]), None);
        assert_eq!(scan(Dtype::F8_E4M3, &[255; 8]), None);
    }
}
