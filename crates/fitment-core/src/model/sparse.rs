use super::{Origin, Target};
use crate::tensor::Tensor;

/// Replaces single elements of a tensor (spec section 5.7).
#[derive(Clone, Debug)]
pub struct SparseSet<'a> {
    /// What is changed: a whole tensor.
    pub target: Target,
    /// U32 or I64 `[n]`: flat row-major positions, strictly ascending.
    pub index: Tensor<'a>,
    /// `[n]` in the target's dtype: what stands there; bits are copied.
    pub value: Tensor<'a>,
    /// Provenance, outside the content id.
    pub origin: Origin,
}

/// `W' = W + s·Δ` at single elements (spec section 5.8).
#[derive(Clone, Debug)]
pub struct SparseAdd<'a> {
    /// What is changed: a whole tensor.
    pub target: Target,
    /// The multiplier `s`.
    pub scale: f64,
    /// U32 or I64 `[n]`: flat row-major positions, strictly ascending.
    pub index: Tensor<'a>,
    /// `[n]`: `Δ` at those positions.
    pub value: Tensor<'a>,
    /// Provenance, outside the content id.
    pub origin: Origin,
}
