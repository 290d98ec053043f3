//! Conversions against the `half` crate and against exact comparisons.

use fitment_math::Error;
use fitment_math::round::{
    Element, bf16_to_f32, decode, encode, f16_to_f32, f32_to_bf16, f32_to_f16, f32_to_f64, f64_to_bf16,
    f64_to_f16, f64_to_f32,
};
use half::{bf16, f16};
use proptest::prelude::*;

#[test]
fn widening_equals_the_half_crate_for_every_pattern() {
    for bits in 0..=u16::MAX {
        assert_eq!(bf16_to_f32(bits).to_bits(), bf16::from_bits(bits).to_f32().to_bits(), "bf16 {bits:#06x}");
        assert_eq!(f16_to_f32(bits).to_bits(), f16::from_bits(bits).to_f32().to_bits(), "f16 {bits:#06x}");
        assert_eq!(f32_to_f64(bf16_to_f32(bits)).to_bits(), bf16::from_bits(bits).to_f64().to_bits());
        assert_eq!(f32_to_f64(f16_to_f32(bits)).to_bits(), f16::from_bits(bits).to_f64().to_bits());
    }
}

#[test]
fn widening_and_narrowing_give_every_pattern_back_except_that_nan_becomes_quiet() {
    for bits in 0..=u16::MAX {
        let quiet = |infinity: u16, quiet: u16| if bits & 0x7fff > infinity { bits | quiet } else { bits };
        assert_eq!(f32_to_bf16(bf16_to_f32(bits)), quiet(0x7f80, 0x0040));
        assert_eq!(f32_to_f16(f16_to_f32(bits)), quiet(0x7c00, 0x0200));
        assert_eq!(f64_to_bf16(f32_to_f64(bf16_to_f32(bits))), quiet(0x7f80, 0x0040));
        assert_eq!(f64_to_f16(f32_to_f64(f16_to_f32(bits))), quiet(0x7c00, 0x0200));
    }
}

#[test]
fn narrowing_from_f32_equals_the_half_crate() {
    // A step that is coprime to every power of two meets all exponents and all tails; then everything near each half.
    let sweep = (0..=u32::MAX).step_by(4_099);
    let near = (0..=u16::MAX).flat_map(|bits| {
        [bf16_to_f32(bits).to_bits(), f16_to_f32(bits).to_bits()].into_iter().flat_map(|bits| {
            [0, 1, 0x0fff, 0x1000, 0x1001, 0x1fff, 0x7fff, 0x8000, 0x8001].map(|tail| bits.wrapping_add(tail))
        })
    });
    for bits in sweep.chain(near) {
        let value = f32::from_bits(bits);
        assert_eq!(f32_to_bf16(value), bf16::from_f32(value).to_bits(), "bf16 of {bits:#010x}");
        assert_eq!(f32_to_f16(value), f16::from_f32(value).to_bits(), "f16 of {bits:#010x}");
    }
}

/// The nearest pattern of a format whose non-negative patterns ascend from 0 to `infinity`, by comparing with exact
/// ties. `limit` is the number that infinity stands for in rounding: the next power of two.
fn nearest(magnitude: f64, infinity: u32, limit: f64, value_of: impl Fn(u32) -> f64) -> u32 {
    let exact = |bits: u32| if bits == infinity { limit } else { value_of(bits) };
    let (mut low, mut high) = (0, infinity);
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if exact(middle) <= magnitude { low = middle } else { high = middle }
    }
    let tie = exact(low) / 2.0 + exact(high) / 2.0;
    let odd = low & 1 == 1;
    if magnitude > tie || (magnitude == tie && odd) { high } else { low }
}

fn check_against_ties(value: f64) {
    let sign = value.is_sign_negative();
    let magnitude = value.abs();
    let f16_bits = nearest(magnitude, 0x7c00, 65_536.0, |bits| f64::from(f16_to_f32(bits as u16)));
    let bf16_bits = nearest(magnitude, 0x7f80, 2.0_f64.powi(128), |bits| f64::from(bf16_to_f32(bits as u16)));
    let f32_bits = nearest(magnitude, 0x7f80_0000, 2.0_f64.powi(128), |bits| f64::from(f32::from_bits(bits)));
    assert_eq!(u32::from(f64_to_f16(value)), f16_bits | u32::from(sign) << 15, "f16 of {value:e}");
    assert_eq!(u32::from(f64_to_bf16(value)), bf16_bits | u32::from(sign) << 15, "bf16 of {value:e}");
    assert_eq!(f64_to_f32(value).to_bits(), f32_bits | u32::from(sign) << 31, "f32 of {value:e}");
}

#[test]
fn narrowing_from_f64_rounds_once_at_every_tie_and_beside_it() {
    for bits in 0..=0x7f7f_u16 {
        let halves = [(bits, bf16_to_f32 as fn(u16) -> f32), (bits.min(0x7bff), f16_to_f32)];
        for (bits, widen) in halves {
            let (low, high) = (f64::from(widen(bits)), f64::from(widen(bits + 1)));
            let tie = if high.is_finite() {
                f64::midpoint(low, high)
            } else {
                low + (low - f64::from(widen(bits - 1))) / 2.0
            };
            for value in [low, tie, tie.next_down(), tie.next_up(), low.next_up(), low.next_down()] {
                check_against_ties(value);
                check_against_ties(-value);
            }
        }
    }
}

#[test]
fn narrowing_from_f64_treats_the_ends_as_ieee_does() {
    for (value, f16_bits, bf16_bits) in [
        (f64::INFINITY, 0x7c00, 0x7f80),
        (f64::NEG_INFINITY, 0xfc00, 0xff80),
        (f64::MAX, 0x7c00, 0x7f80),
        (f64::MIN, 0xfc00, 0xff80),
        (0.0, 0, 0),
        (-0.0, 0x8000, 0x8000),
        (f64::MIN_POSITIVE, 0, 0),
        (-5e-324, 0x8000, 0x8000),
        (65_519.999, 0x7bff, 0x4780),
        (65_520.0, 0x7c00, 0x4780),
        (2.0_f64.powi(-25), 0, 0x3300),
        (2.0_f64.powi(-25).next_up(), 1, 0x3300),
        (2.0_f64.powi(-134).next_up(), 0, 1),
        (2.0_f64.powi(-134), 0, 0),
    ] {
        assert_eq!(f64_to_f16(value), f16_bits, "f16 of {value:e}");
        assert_eq!(f64_to_bf16(value), bf16_bits, "bf16 of {value:e}");
    }
}

#[test]
fn nan_keeps_its_sign_and_upper_payload_and_becomes_quiet() {
    // Signalling, negative, the payload's highest bits set below the quiet bit.
    let signalling = f64::from_bits(0xfff4_0000_0000_0001);
    assert_eq!(f64_to_f32(signalling).to_bits(), 0xffe0_0000);
    assert_eq!(f64_to_f16(signalling), 0xff00);
    assert_eq!(f64_to_bf16(signalling), 0xffe0);
    // Nothing of the payload is left: still NaN.
    let low = f64::from_bits(0x7ff0_0000_0000_0001);
    assert_eq!(f64_to_f32(low).to_bits(), 0x7fc0_0000);
    assert_eq!(f64_to_f16(low), 0x7e00);
    assert_eq!(f64_to_bf16(low), 0x7fc0);
    assert_eq!(f32_to_f64(f32::from_bits(0xff80_0001)).to_bits(), 0xfff8_0000_2000_0000);
}

#[test]
fn lengths_that_do_not_match_are_refused() {
    let mut three = [0.0_f32; 3];
    let expected = Error::Length { what: "bytes of the encoded numbers", expected: 6, found: 7 };
    assert_eq!(decode(Element::F16, &[0; 7], &mut three), Err(expected));
    let expected = Error::Length { what: "bytes of the output", expected: 24, found: 23 };
    assert_eq!(encode(Element::F64, &three, &mut [0; 23]), Err(expected));
    assert_eq!(decode::<f64>(Element::F64, &[], &mut []), Ok(()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn narrowing_from_any_f64_rounds_once(bits in any::<u64>()) {
        let value = f64::from_bits(bits);
        prop_assume!(!value.is_nan());
        check_against_ties(value);
    }

    #[test]
    fn narrowing_from_f64_in_the_range_of_f16_rounds_once(mantissa in any::<u64>(), exponent in 990_u64..1042) {
        check_against_ties(f64::from_bits(exponent << 52 | mantissa >> 12));
    }

    #[test]
    fn encoded_f64_numbers_come_back_as_they_were(values in prop::collection::vec(any::<f64>(), 0..100)) {
        let mut bytes = vec![0; values.len() * 8];
        encode(Element::F64, &values, &mut bytes).unwrap();
        let mut back = vec![0.0_f64; values.len()];
        decode(Element::F64, &bytes, &mut back).unwrap();
        prop_assert!(values.iter().zip(&back).all(|(a, b)| a.to_bits() == b.to_bits()));
    }
}
