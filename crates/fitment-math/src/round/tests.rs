use proptest::prelude::*;

use super::{Decode, Element, Encode, bits};
use crate::Wide;
use crate::dispatch::Level;

const HALVES: [Element; 2] = [Element::Bf16, Element::F16];
const ELEMENTS: [Element; 4] = [Element::Bf16, Element::F16, Element::F32, Element::F64];

fn decode_at<T: Wide>(level: Level, element: Element, bytes: &[u8]) -> Vec<T> {
    let mut out = vec![T::default(); bytes.len() / element.size()];
    level.run(Decode { element, bytes, out: &mut out });
    out
}

fn encode_at<T: Wide>(level: Level, element: Element, values: &[T]) -> Vec<u8> {
    let mut out = vec![0; values.len() * element.size()];
    level.run(Encode { element, values, out: &mut out });
    out
}

/// Bit patterns of f64 with every exponent, and near every boundary of the narrower formats.
fn telling_f64s() -> Vec<f64> {
    let halves = (0..=u16::MAX).step_by(7).flat_map(|bits| [bits::f16_to_f32(bits), bits::bf16_to_f32(bits)]);
    let near = halves.flat_map(|value| {
        let (value, next) = (f64::from(value), f64::from(value.next_up()));
        let tie = value + (next - value) / 2.0;
        [value, tie, tie.next_up(), tie.next_down(), value.next_up(), -value]
    });
    let exponents = (0..2048_u64).flat_map(|exponent| {
        [0, 1, 0x8_0000_0000_0000, 0xf_ffff_ffff_ffff]
            .map(|mantissa| f64::from_bits(exponent << 52 | mantissa))
    });
    near.chain(exponents).collect()
}

#[test]
fn every_level_decodes_every_half_as_one_number_at_a_time() {
    let bytes: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
    for element in HALVES {
        let one =
            |bits| if element == Element::F16 { bits::f16_to_f32(bits) } else { bits::bf16_to_f32(bits) };
        let expected: Vec<u32> = (0..=u16::MAX).map(|bits| one(bits).to_bits()).collect();
        let expected_wide: Vec<u64> =
            (0..=u16::MAX).map(|bits| bits::f32_to_f64(one(bits)).to_bits()).collect();
        for level in Level::available() {
            let found: Vec<u32> =
                decode_at::<f32>(level, element, &bytes).into_iter().map(f32::to_bits).collect();
            assert!(found == expected, "{element:?} at {level:?}");
            let found: Vec<u64> =
                decode_at::<f64>(level, element, &bytes).into_iter().map(f64::to_bits).collect();
            assert!(found == expected_wide, "{element:?} in f64 at {level:?}");
        }
    }
}

#[test]
fn every_level_encodes_telling_numbers_as_one_number_at_a_time() {
    let wide = telling_f64s();
    let narrow: Vec<f32> = wide.iter().map(|&value| bits::f64_to_f32(value)).collect();
    for element in ELEMENTS {
        let expected: Vec<u8> = wide.iter().flat_map(|&value| scalar_from_f64(element, value)).collect();
        let expected_narrow: Vec<u8> =
            narrow.iter().flat_map(|&value| scalar_from_f32(element, value)).collect();
        for level in Level::available() {
            assert!(encode_at(level, element, &wide) == expected, "{element:?} from f64 at {level:?}");
            assert!(
                encode_at(level, element, &narrow) == expected_narrow,
                "{element:?} from f32 at {level:?}"
            );
        }
    }
}

fn scalar_from_f64(element: Element, value: f64) -> Vec<u8> {
    match element {
        Element::Bf16 => bits::f64_to_bf16(value).to_le_bytes().to_vec(),
        Element::F16 => bits::f64_to_f16(value).to_le_bytes().to_vec(),
        Element::F32 => bits::f64_to_f32(value).to_le_bytes().to_vec(),
        Element::F64 => value.to_le_bytes().to_vec(),
    }
}

fn scalar_from_f32(element: Element, value: f32) -> Vec<u8> {
    match element {
        Element::Bf16 => bits::f32_to_bf16(value).to_le_bytes().to_vec(),
        Element::F16 => bits::f32_to_f16(value).to_le_bytes().to_vec(),
        Element::F32 => value.to_le_bytes().to_vec(),
        Element::F64 => bits::f32_to_f64(value).to_le_bytes().to_vec(),
    }
}

proptest! {
    #[test]
    fn slices_of_any_length_and_alignment_agree_at_every_level(
        bytes in prop::collection::vec(any::<u8>(), 0..700),
        skip in 0..8_usize,
        element in prop::sample::select(&ELEMENTS[..]),
    ) {
        let bytes = bytes.get(skip..).unwrap_or(&[]);
        let whole = bytes.len() / element.size() * element.size();
        let bytes = &bytes[..whole];
        let narrow: Vec<f32> = decode_at(Level::Scalar, element, bytes);
        let wide: Vec<f64> = decode_at(Level::Scalar, element, bytes);
        for level in Level::available() {
            let found: Vec<f32> = decode_at(level, element, bytes);
            prop_assert!(found.iter().zip(&narrow).all(|(a, b)| a.to_bits() == b.to_bits()));
            let found: Vec<f64> = decode_at(level, element, bytes);
            prop_assert!(found.iter().zip(&wide).all(|(a, b)| a.to_bits() == b.to_bits()));
            for to in ELEMENTS {
                prop_assert_eq!(encode_at(level, to, &narrow), encode_at(Level::Scalar, to, &narrow));
                prop_assert_eq!(encode_at(level, to, &wide), encode_at(Level::Scalar, to, &wide));
            }
        }
    }
}
