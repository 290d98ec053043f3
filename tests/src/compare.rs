//! Weights of two checkpoints against each other.

use fitment_core::tensor::Dtype;

/// How far one tensor is from another of the same dtype.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Distance {
    /// Elements in all.
    pub elements: usize,
    /// Elements with other bits.
    pub different: usize,
    /// Largest difference, over the largest absolute value of the tensors.
    pub relative: f64,
    /// Largest difference, in units in the last place (of the dtype) of `max(|W|, |W'|)`, `W` being the base's element.
    pub ulps: f64,
}

/// Compares `ours` with `theirs`; `base` gives the scale of an element where there is one.
///
/// # Panics
/// If the byte counts differ or the dtype is no weight.
pub fn distance(dtype: Dtype, ours: &[u8], theirs: &[u8], base: Option<&[u8]>) -> Distance {
    assert_eq!(ours.len(), theirs.len());
    let (a, b) = (values(dtype, ours), values(dtype, theirs));
    let base = base.filter(|base| base.len() == ours.len()).map(|base| values(dtype, base));
    let largest = b.iter().fold(0.0f64, |max, value| max.max(value.abs()));
    let mut distance = Distance { elements: a.len(), ..Distance::default() };
    for (at, (x, y)) in a.iter().zip(&b).enumerate() {
        let difference = (x - y).abs();
        distance.different += usize::from(x.to_bits() != y.to_bits());
        if difference > 0.0 {
            let scale = base.as_ref().map_or(0.0, |base| base[at].abs()).max(y.abs());
            distance.relative = distance.relative.max(difference / largest);
            distance.ulps = distance.ulps.max(difference / ulp(dtype, scale));
        }
        assert!(x.is_finite() == y.is_finite(), "element {at}: {x} and {y}");
    }
    distance
}

/// Elements as doubles.
///
/// # Panics
/// If the dtype is no weight.
pub fn values(dtype: Dtype, bytes: &[u8]) -> Vec<f64> {
    let halves = || bytes.as_chunks::<2>().0.iter().map(|chunk| u16::from_le_bytes(*chunk));
    match dtype {
        Dtype::F64 => bytes.as_chunks::<8>().0.iter().map(|chunk| f64::from_le_bytes(*chunk)).collect(),
        Dtype::F32 => bytes.as_chunks::<4>().0.iter().map(|c| f64::from(f32::from_le_bytes(*c))).collect(),
        Dtype::BF16 => halves().map(|bits| half::bf16::from_bits(bits).to_f64()).collect(),
        Dtype::F16 => halves().map(|bits| half::f16::from_bits(bits).to_f64()).collect(),
        other => panic!("{other} is no weight"),
    }
}

/// The distance of two neighbours of the dtype around `value`.
fn ulp(dtype: Dtype, value: f64) -> f64 {
    let (digits, least) = match dtype {
        Dtype::F64 => (52, -1022),
        Dtype::F32 => (23, -126),
        Dtype::BF16 => (7, -126),
        _ => (10, -14),
    };
    // The exponent of the double, which every finer dtype shares.
    let exponent = (((value.to_bits() >> 52) & 0x7ff) as i32 - 1023).max(least);
    2f64.powi(exponent - digits)
}

#[cfg(test)]
mod tests {
    use super::{distance, ulp};
    use fitment_core::tensor::Dtype;

    #[test]
    fn a_step_to_the_neighbour_is_one_unit() {
        assert_eq!(ulp(Dtype::F32, 1.0), f64::from(f32::EPSILON));
        assert_eq!(ulp(Dtype::F16, 0.0), 2f64.powi(-24));
        let (a, b) = (1.5f32, 1.5f32.next_up());
        let distance = distance(Dtype::F32, &a.to_le_bytes(), &b.to_le_bytes(), None);
        assert_eq!((distance.different, distance.ulps), (1, 1.0));
    }
}
