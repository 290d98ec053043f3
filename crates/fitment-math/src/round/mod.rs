//! Exact conversions between number formats, each rounding once, to the nearest, ties to even.
//!
//! Single numbers convert by functions such as [`f64_to_f16`]; whole tensors by [`decode`] and [`encode`], which read
//! and write little-endian bytes at any alignment, as they lie in a safetensors file, or by [`widened`] and [`narrowed`],
//! which allocate.
//!
//! * Widening is exact. Narrowing rounds once: f64 to f16 does not pass through f32, which would round twice.
//! * What lies beyond the largest finite number by half a unit or more becomes infinity. Subnormals are kept.
//! * NaN stays NaN, with its sign and the upper bits of its payload, and is made quiet.
//!
//! ```
//! use fitment_math::round::{Element, decode, encode, f64_to_f16};
//!
//! let bf16 = [0x80, 0x3f, 0x40, 0xc0]; // 1.0, -3.0
//! let mut wide = [0.0_f32; 2];
//! decode(Element::Bf16, &bf16, &mut wide)?;
//! assert_eq!(wide, [1.0, -3.0]);
//!
//! let mut back = [0; 4];
//! encode(Element::Bf16, &wide, &mut back)?;
//! assert_eq!(back, bf16);
//!
//! // A hair above the tie between 1 and 1 + 2^-10: rounding to f32 first would lose the hair, and then the tie.
//! assert_eq!(f64_to_f16(1.0 + 2.0_f64.powi(-11) + 2.0_f64.powi(-40)), 0x3c01);
//! # Ok::<(), fitment_math::Error>(())
//! ```

mod bits;
pub(crate) mod cells;
mod tensors;

use crate::dispatch::{Isa, Kernel, Level};
use crate::{Error, Wide};
use fitment_core::tensor::Dtype;

#[cfg(test)]
mod tests;

pub use tensors::{narrow, narrowed, wide, widened};

pub use bits::{
    bf16_to_f32, f16_to_f32, f32_to_bf16, f32_to_f16, f32_to_f64, f64_to_bf16, f64_to_f16, f64_to_f32,
};

/// The stored formats that kernels read and write.
///
/// Exhaustive on purpose, as every kernel must handle each. Formats without arithmetic of their own (F8, integers)
/// are decoded elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Element {
    /// bfloat16: the upper half of a binary32.
    Bf16,
    /// IEEE binary16.
    F16,
    /// IEEE binary32.
    F32,
    /// IEEE binary64.
    F64,
}

impl Element {
    /// The format of a dtype; `None` for dtypes without arithmetic here.
    pub const fn of(dtype: Dtype) -> Option<Self> {
        match dtype {
            Dtype::F64 => Some(Element::F64),
            Dtype::F32 => Some(Element::F32),
            Dtype::F16 => Some(Element::F16),
            Dtype::BF16 => Some(Element::Bf16),
            _ => None,
        }
    }

    /// Bytes of one number.
    pub const fn size(self) -> usize {
        match self {
            Element::Bf16 | Element::F16 => 2,
            Element::F32 => 4,
            Element::F64 => 8,
        }
    }
}

/// Stored numbers: little-endian, row-major, at any alignment.
#[derive(Clone, Copy, Debug)]
pub struct Encoded<'a> {
    /// Their format.
    pub element: Element,
    /// Their bytes.
    pub bytes: &'a [u8],
}

/// Room for stored numbers.
#[derive(Debug)]
pub struct EncodedMut<'a> {
    /// Their format.
    pub element: Element,
    /// Where their bytes go.
    pub bytes: &'a mut [u8],
}

/// From one format to another, rounding once. The same format is a copy, bit for bit.
///
/// # Errors
/// [`Error::Length`] if `from` does not hold whole numbers, or `to` not as many.
pub fn convert(from: Encoded<'_>, to: EncodedMut<'_>) -> Result<(), Error> {
    let (size, to_size) = (from.element.size(), to.element.size());
    let numbers = from.bytes.len() / size;
    check_length("bytes of the encoded numbers", numbers, from.element, from.bytes.len())?;
    check_length("bytes of the output", numbers, to.element, to.bytes.len())?;
    if from.element == to.element {
        to.bytes.copy_from_slice(from.bytes);
        return Ok(());
    }
    let mut stage = [0.0_f64; STAGE];
    for (from_bytes, to_bytes) in from.bytes.chunks(STAGE * size).zip(to.bytes.chunks_mut(STAGE * to_size)) {
        let stage = &mut stage[..from_bytes.len() / size];
        decode(from.element, from_bytes, stage)?;
        encode(to.element, stage, to_bytes)?;
    }
    Ok(())
}

/// Numbers that [`convert`] widens at a time.
const STAGE: usize = 1024;

/// Reads little-endian numbers. `bytes` may lie at any address. Only F64 into f32 rounds.
///
/// # Errors
/// [`Error::Length`] if `bytes` is not exactly as long as `out` needs.
pub fn decode<T: Wide>(element: Element, bytes: &[u8], out: &mut [T]) -> Result<(), Error> {
    check_length("bytes of the encoded numbers", out.len(), element, bytes.len())?;
    Level::detect().run(Decode { element, bytes, out });
    Ok(())
}

/// Writes little-endian numbers, each rounded once.
///
/// # Errors
/// [`Error::Length`] if `out` is not exactly as long as `values` needs.
pub fn encode<T: Wide>(element: Element, values: &[T], out: &mut [u8]) -> Result<(), Error> {
    check_length("bytes of the output", values.len(), element, out.len())?;
    Level::detect().run(Encode { element, values, out });
    Ok(())
}

fn check_length(what: &'static str, numbers: usize, element: Element, found: usize) -> Result<(), Error> {
    let expected = numbers.saturating_mul(element.size());
    if found == expected { Ok(()) } else { Err(Error::Length { what, expected, found }) }
}

struct Decode<'a, T> {
    element: Element,
    bytes: &'a [u8],
    out: &'a mut [T],
}

impl<T: Wide> Kernel for Decode<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa, const R32: usize, const R64: usize, const C: usize>(self, _: I) {
        cells::decode(self.element, self.bytes, self.out);
    }
}

struct Encode<'a, T> {
    element: Element,
    values: &'a [T],
    out: &'a mut [u8],
}

impl<T: Wide> Kernel for Encode<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa, const R32: usize, const R64: usize, const C: usize>(self, _: I) {
        cells::encode(self.element, self.values, self.out);
    }
}
