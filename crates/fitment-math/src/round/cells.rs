//! The loops over little-endian bytes, without a choice of instruction set: they are inlined into kernels that have one.

use super::{Element, bits};
use crate::Wide;

/// A 16-bit format, by its relation to f32.
pub trait Half {
    fn widen(bits: u16) -> f32;
    /// To the nearest, ties to even.
    fn narrow(value: f32) -> u16;
}

pub(crate) struct Bf16;
pub(crate) struct F16;

impl Half for Bf16 {
    #[inline(always)]
    fn widen(bits: u16) -> f32 {
        bits::bf16_to_f32(bits)
    }

    #[inline(always)]
    fn narrow(value: f32) -> u16 {
        bits::f32_to_bf16(value)
    }
}

impl Half for F16 {
    #[inline(always)]
    fn widen(bits: u16) -> f32 {
        bits::f16_to_f32(bits)
    }

    #[inline(always)]
    fn narrow(value: f32) -> u16 {
        bits::f32_to_f16(value)
    }
}

/// A wide type, by its relation to stored bytes. The slices of both sides have the same number of elements.
pub trait Codec: Sized {
    #[doc(hidden)]
    fn of_f32(value: f32) -> Self;
    #[doc(hidden)]
    fn of_f64(value: f64) -> Self;
    #[doc(hidden)]
    fn into_f32(self) -> f32;
    #[doc(hidden)]
    fn into_f64(self) -> f64;
    #[doc(hidden)]
    fn decode_half<H: Half>(bytes: &[[u8; 2]], out: &mut [Self]);
    #[doc(hidden)]
    fn encode_half<H: Half>(values: &[Self], out: &mut [[u8; 2]]);
}

impl Codec for f32 {
    #[inline(always)]
    fn of_f32(value: f32) -> Self {
        value
    }

    #[inline(always)]
    fn of_f64(value: f64) -> Self {
        bits::f64_to_f32(value)
    }

    #[inline(always)]
    fn into_f32(self) -> f32 {
        self
    }

    #[inline(always)]
    fn into_f64(self) -> f64 {
        bits::f32_to_f64(self)
    }

    #[inline(always)]
    fn decode_half<H: Half>(bytes: &[[u8; 2]], out: &mut [Self]) {
        each(bytes, out, |bytes| H::widen(u16::from_le_bytes(bytes)));
    }

    #[inline(always)]
    fn encode_half<H: Half>(values: &[Self], out: &mut [[u8; 2]]) {
        each(values, out, |value| H::narrow(value).to_le_bytes());
    }
}

/// Numbers that pass through f32 at a time: with both steps in one loop, the wider step sets the vector length of
/// both (half the speed).
const STAGE: usize = 128;

impl Codec for f64 {
    #[inline(always)]
    fn of_f32(value: f32) -> Self {
        bits::f32_to_f64(value)
    }

    #[inline(always)]
    fn of_f64(value: f64) -> Self {
        value
    }

    #[inline(always)]
    fn into_f32(self) -> f32 {
        bits::f64_to_f32(self)
    }

    #[inline(always)]
    fn into_f64(self) -> f64 {
        self
    }

    #[inline(always)]
    fn decode_half<H: Half>(bytes: &[[u8; 2]], out: &mut [Self]) {
        let mut stage = [0.0_f32; STAGE];
        for (bytes, out) in bytes.chunks(STAGE).zip(out.chunks_mut(STAGE)) {
            let stage = &mut stage[..bytes.len()];
            f32::decode_half::<H>(bytes, stage);
            each(stage, out, bits::f32_to_f64);
        }
    }

    #[inline(always)]
    fn encode_half<H: Half>(values: &[Self], out: &mut [[u8; 2]]) {
        let mut stage = [0.0_f32; STAGE];
        for (values, out) in values.chunks(STAGE).zip(out.chunks_mut(STAGE)) {
            let stage = &mut stage[..values.len()];
            each(values, stage, bits::round_to_odd);
            f32::encode_half::<H>(stage, out);
        }
    }
}

/// Reads as many numbers as both sides hold.
#[inline(always)]
pub(crate) fn decode<T: Wide>(element: Element, bytes: &[u8], out: &mut [T]) {
    match element {
        Element::Bf16 => T::decode_half::<Bf16>(bytes.as_chunks().0, out),
        Element::F16 => T::decode_half::<F16>(bytes.as_chunks().0, out),
        Element::F32 => each(bytes.as_chunks().0, out, |bytes| T::of_f32(f32::from_le_bytes(bytes))),
        Element::F64 => each(bytes.as_chunks().0, out, |bytes| T::of_f64(f64::from_le_bytes(bytes))),
    }
}

/// Writes as many numbers as both sides hold.
#[inline(always)]
pub(crate) fn encode<T: Wide>(element: Element, values: &[T], out: &mut [u8]) {
    match element {
        Element::Bf16 => T::encode_half::<Bf16>(values, out.as_chunks_mut().0),
        Element::F16 => T::encode_half::<F16>(values, out.as_chunks_mut().0),
        Element::F32 => each(values, out.as_chunks_mut().0, |value| value.into_f32().to_le_bytes()),
        Element::F64 => each(values, out.as_chunks_mut().0, |value| value.into_f64().to_le_bytes()),
    }
}

#[inline(always)]
fn each<A: Copy, B>(from: &[A], to: &mut [B], one: impl Fn(A) -> B) {
    for (to, &from) in to.iter_mut().zip(from) {
        *to = one(from);
    }
}
