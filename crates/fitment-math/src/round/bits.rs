//! One number from one format to another, by its bits.
//!
//! Everything here is branch-free integer and IEEE arithmetic, so that the loops over slices vectorise and every
//! machine gives the same bits. Hardware conversions (F16C, AVX512-BF16) are not used: they flush subnormals or keep
//! other NaN payloads.

const F32_QUIET: u32 = 0x0040_0000;
const F32_INFINITY: u32 = 0x7f80_0000;

/// bf16 bits to f32, exactly. A signalling NaN becomes quiet and keeps its payload.
#[inline(always)]
pub fn bf16_to_f32(bits: u16) -> f32 {
    let wide = u32::from(bits) << 16;
    f32::from_bits(quiet_f32(wide))
}

/// f16 bits to f32, exactly. A signalling NaN becomes quiet and keeps its payload.
#[inline(always)]
pub fn f16_to_f32(bits: u16) -> f32 {
    let sign = u32::from(bits & 0x8000) << 16;
    let magnitude = u32::from(bits & 0x7fff);
    // An integer product, not a product with a subnormal f32: those are very slow on some machines.
    let subnormal = (magnitude as i32 as f32 * f32::from_bits(0x3380_0000)).to_bits();
    let normal = (magnitude << 13) + ((127 - 15) << 23);
    let special = quiet_f32((magnitude << 13) | F32_INFINITY);
    let wide = if magnitude < 0x0400 { subnormal } else { normal };
    let wide = if magnitude >= 0x7c00 { special } else { wide };
    f32::from_bits(wide | sign)
}

/// f32 to bf16 bits, rounded to the nearest, ties to even. NaN stays NaN: quiet, with the upper bits of its payload.
#[inline(always)]
pub fn f32_to_bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    let rounded = (bits.wrapping_add(0x7fff + ((bits >> 16) & 1))) >> 16;
    let nan = (bits >> 16) | 0x0040;
    (if is_nan_f32(bits) { nan } else { rounded }) as u16
}

/// f32 to f16 bits, rounded to the nearest, ties to even; from 65520 on, infinity. NaN stays NaN: quiet, with the
/// upper bits of its payload.
#[inline(always)]
pub fn f32_to_f16(value: f32) -> u16 {
    let bits = value.to_bits();
    let sign = (bits >> 16) & 0x8000;
    let magnitude = bits & 0x7fff_ffff;
    let tie = (magnitude >> 13) & 1;
    let normal = magnitude.wrapping_sub((127 - 15) << 23).wrapping_add(0x0fff + tie) >> 13;
    // Adding 0.5 puts the unit in the last place at 2^-24, that of f16 subnormals: the addition rounds.
    let half = f32::from_bits(0x3f00_0000);
    let subnormal = (f32::from_bits(magnitude) + half).to_bits().wrapping_sub(half.to_bits());
    let nan = 0x7e00 | (magnitude >> 13);
    let narrow = if magnitude < ((127 - 14) << 23) { subnormal } else { normal };
    let narrow = if magnitude >= ((127 + 16) << 23) { 0x7c00 } else { narrow };
    let narrow = if magnitude > F32_INFINITY { nan & 0x7fff } else { narrow };
    (narrow | sign) as u16
}

/// f32 to f64, exactly. A signalling NaN becomes quiet and keeps its payload.
#[inline(always)]
pub fn f32_to_f64(value: f32) -> f64 {
    let bits = value.to_bits();
    let sign = u64::from(bits & 0x8000_0000) << 32;
    let nan = sign | 0x7ff8_0000_0000_0000 | (u64::from(bits & 0x007f_ffff) << 29);
    // The payload of a NaN that goes through a float cast is not specified.
    f64::from_bits(if is_nan_f32(bits) { nan } else { f64::from(value).to_bits() })
}

/// f64 to f32, rounded to the nearest, ties to even. NaN stays NaN: quiet, with the upper bits of its payload.
#[inline(always)]
pub fn f64_to_f32(value: f64) -> f32 {
    let near = value as f32;
    let bits = value.to_bits();
    let nan =
        ((bits >> 32) as u32 & 0x8000_0000) | F32_INFINITY | F32_QUIET | ((bits >> 29) as u32 & 0x007f_ffff);
    f32::from_bits(if near.is_nan() { nan } else { near.to_bits() })
}

/// f64 to bf16 bits, rounded once (not through f32), to the nearest, ties to even. NaN as in [`f32_to_bf16`].
#[inline(always)]
pub fn f64_to_bf16(value: f64) -> u16 {
    f32_to_bf16(round_to_odd(value))
}

/// f64 to f16 bits, rounded once (not through f32), to the nearest, ties to even. NaN as in [`f32_to_f16`].
#[inline(always)]
pub fn f64_to_f16(value: f64) -> u16 {
    f32_to_f16(round_to_odd(value))
}

/// The f32 next to `value` towards zero, its last bit set if anything was cut off. Rounding that to a format with at
/// least two bits fewer gives what rounding `value` itself gives: the set bit keeps it off every tie.
/// (Boldo, Melquiond: *Emulation of a FMA and correctly rounded sums: proved algorithms using rounding to odd*, 2008.)
#[inline(always)]
pub(super) fn round_to_odd(value: f64) -> f32 {
    let near = value as f32;
    // Exact, and scaled so that it does not vanish in f32: its sign and being zero are all that counts.
    let error = ((value - f64::from(near)) * f64::from_bits((1023 + 200) << 52)) as f32;
    let bits = near.to_bits();
    let away_from_zero = (bits ^ error.to_bits()) >> 31;
    // Infinity less infinity is NaN: not an error either.
    let odd = if error.abs() > 0.0 { bits.wrapping_sub(away_from_zero) | 1 } else { bits };
    // Twenty bits of the payload: more than either target has.
    let upper = (value.to_bits() >> 32) as u32;
    let nan = (upper & 0x8000_0000) | F32_INFINITY | F32_QUIET | ((upper << 3) & 0x007f_ffff);
    f32::from_bits(if near.is_nan() { nan } else { odd })
}

#[inline(always)]
fn is_nan_f32(bits: u32) -> bool {
    bits & 0x7fff_ffff > F32_INFINITY
}

#[inline(always)]
fn quiet_f32(bits: u32) -> u32 {
    if is_nan_f32(bits) { bits | F32_QUIET } else { bits }
}
