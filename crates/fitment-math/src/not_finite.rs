//! The first number of a tensor that is NaN or infinite.

use fitment_core::tensor::Dtype;

/// Flat position of the first such number in little-endian elements; `None` where all are finite, and for dtypes other
/// than F64, F32, F16 and BF16.
pub fn first(dtype: Dtype, bytes: &[u8]) -> Option<usize> {
    match dtype {
        Dtype::BF16 => position::<2>(bytes, |bits| u16::from_le_bytes(bits) & 0x7f80 == 0x7f80),
        Dtype::F16 => position::<2>(bytes, |bits| u16::from_le_bytes(bits) & 0x7c00 == 0x7c00),
        Dtype::F32 => position::<4>(bytes, |bits| u32::from_le_bytes(bits) & 0x7f80_0000 == 0x7f80_0000),
        Dtype::F64 => {
            let mask = 0x7ff0_0000_0000_0000;
            position::<8>(bytes, |bits| u64::from_le_bytes(bits) & mask == mask)
        }
        _ => None,
    }
}

/// The first element of that kind. Looks at whole blocks first, in a loop without exit, which vectorises.
fn position<const N: usize>(bytes: &[u8], wanted: impl Fn([u8; N]) -> bool) -> Option<usize> {
    const BLOCK: usize = 4096;
    let (elements, _) = bytes.as_chunks::<N>();
    let any = |block: &[[u8; N]]| block.iter().fold(false, |any, element| any | wanted(*element));
    let block = elements.chunks(BLOCK).position(any)?;
    let inside = elements[block * BLOCK..].iter().position(|element| wanted(*element))?;
    Some(block * BLOCK + inside)
}

#[cfg(test)]
mod tests {
    use super::first;
    use fitment_core::tensor::Dtype;

    #[test]
    fn the_first_of_its_kind_is_found_in_any_block() {
        let mut numbers = vec![1.0f32; 9000];
        let bytes = |numbers: &[f32]| numbers.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
        assert_eq!(first(Dtype::F32, &bytes(&numbers)), None);
        numbers[8191] = f32::INFINITY;
        numbers[8500] = f32::NAN;
        assert_eq!(first(Dtype::F32, &bytes(&numbers)), Some(8191));
    }

    #[test]
    fn the_largest_finite_numbers_are_finite() {
        assert_eq!(first(Dtype::BF16, &0x7f7fu16.to_le_bytes()), None);
        assert_eq!(first(Dtype::BF16, &0xff80u16.to_le_bytes()), Some(0));
        assert_eq!(first(Dtype::F16, &0x7bffu16.to_le_bytes()), None);
        assert_eq!(first(Dtype::F16, &0x7c01u16.to_le_bytes()), Some(0));
        assert_eq!(first(Dtype::F64, &f64::MAX.to_le_bytes()), None);
        assert_eq!(first(Dtype::F64, &f64::NAN.to_le_bytes()), Some(0));
    }
}
