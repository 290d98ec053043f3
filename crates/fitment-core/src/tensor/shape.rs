use crate::limits;
use crate::tensor::Dtype;
use std::fmt;

/// Extents of a tensor, outermost axis first. A scalar has none; an extent may be zero.
///
/// The only place where extents are multiplied, always checked.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Shape {
    dims: Vec<u64>,
    elements: u64,
}

/// Why extents, a dtype and a byte count do not go together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShapeFault {
    /// More axes than [`limits::MAX_AXES`].
    #[error("{found} axes, at most {} are allowed", limits::MAX_AXES)]
    Axes {
        /// Axes asked for.
        found: usize,
    },
    /// The number of elements or of bits does not fit in 64 bits.
    #[error("shape {dims:?} holds more elements than 64 bits can count")]
    Overflow {
        /// The extents.
        dims: Vec<u64>,
    },
    /// Sub-byte elements that do not fill whole bytes.
    #[error("shape {shape} of {dtype} does not fill whole bytes")]
    Fraction {
        /// Element type.
        dtype: Dtype,
        /// The extents.
        shape: Shape,
    },
    /// The data is longer or shorter than the shape.
    #[error("shape {shape} of {dtype} needs {needed} bytes, found {found}")]
    Bytes {
        /// Element type.
        dtype: Dtype,
        /// The extents.
        shape: Shape,
        /// What dtype and shape ask for.
        needed: u64,
        /// What is there.
        found: u64,
    },
}

impl Shape {
    /// Checks the extents.
    ///
    /// # Errors
    /// [`ShapeFault::Axes`], [`ShapeFault::Overflow`].
    pub fn new(dims: &[u64]) -> Result<Self, ShapeFault> {
        if dims.len() > limits::MAX_AXES {
            return Err(ShapeFault::Axes { found: dims.len() });
        }
        let overflow = || ShapeFault::Overflow { dims: dims.to_vec() };
        // Zero must not hide an overflow: [2^63, 2, 0] lies about its extents all the same.
        let mut product = 1u64;
        for &dim in dims {
            product = product.checked_mul(dim.max(1)).ok_or_else(overflow)?;
        }
        product.checked_mul(64).ok_or_else(overflow)?;
        let elements = if dims.contains(&0) { 0 } else { product };
        Ok(Self { dims: dims.to_vec(), elements })
    }

    /// The extents.
    pub fn dims(&self) -> &[u64] {
        &self.dims
    }

    /// Number of axes.
    pub fn axes(&self) -> usize {
        self.dims.len()
    }

    /// Number of elements; 1 for a scalar.
    pub fn elements(&self) -> u64 {
        self.elements
    }

    /// Bytes that this many elements of `dtype` take.
    ///
    /// # Errors
    /// [`ShapeFault::Fraction`] for packed types that do not fill whole bytes.
    pub fn byte_len(&self, dtype: Dtype) -> Result<u64, ShapeFault> {
        // `new` made sure that elements × 64 fits.
        let bits = self.elements * u64::from(dtype.bits());
        if !bits.is_multiple_of(8) {
            return Err(ShapeFault::Fraction { dtype, shape: self.clone() });
        }
        Ok(bits / 8)
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (axis, dim) in self.dims.iter().enumerate() {
            if axis > 0 {
                f.write_str(", ")?;
            }
            write!(f, "{dim}")?;
        }
        f.write_str("]")
    }
}

#[cfg(test)]
mod tests {
    use super::{Shape, ShapeFault};
    use crate::tensor::Dtype;

    #[test]
    fn overflow_is_found_behind_a_zero() {
        assert!(matches!(Shape::new(&[1 << 63, 2, 0]), Err(ShapeFault::Overflow { .. })));
        assert!(matches!(Shape::new(&[u64::MAX]), Err(ShapeFault::Overflow { .. })));
    }

    #[test]
    fn scalar_has_one_element_and_zero_extent_none() {
        assert_eq!(Shape::new(&[]).unwrap().elements(), 1);
        assert_eq!(Shape::new(&[5, 0]).unwrap().byte_len(Dtype::F32).unwrap(), 0);
    }

    #[test]
    fn packed_elements_must_fill_bytes() {
        assert!(matches!(Shape::new(&[3]).unwrap().byte_len(Dtype::F4), Err(ShapeFault::Fraction { .. })));
        assert_eq!(Shape::new(&[4]).unwrap().byte_len(Dtype::F6_E2M3).unwrap(), 3);
    }
}
