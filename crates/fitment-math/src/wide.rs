use std::fmt::Debug;
use std::ops::{Add, Mul};

use crate::round::cells::Codec;

/// A type that stored numbers are decoded to: `f64`, in which results are computed, or `f32`, which holds every number
/// of a bf16, f16 or f32 factor at half the size.
pub trait Wide:
    Copy + Debug + Default + PartialEq + Send + Sync + Add<Output = Self> + Mul<Output = Self> + Codec + 'static
{
}

impl Wide for f32 {}
impl Wide for f64 {}

/// The same number; any NaN becomes the one positive quiet NaN without payload. Which NaN an addition gives differs
/// between machines, so no result of arithmetic leaves a kernel without this.
#[inline(always)]
pub(crate) fn canonical(value: f64) -> f64 {
    if value.is_nan() { f64::from_bits(0x7ff8_0000_0000_0000) } else { value }
}
