use super::{Digest, Origin, Target};
use crate::tensor::Tensor;

/// Changes a tensor bit for bit into another of its dtype and shape (spec section 5.9).
///
/// It is the only edit of its target, and the base's entry records dtype and shape.
#[derive(Clone, Debug)]
pub struct Bits<'a> {
    /// What is changed: a whole tensor.
    pub target: Target,
    /// SHA-256 of the base tensor's raw bytes: of no other tensor the payload makes sense.
    pub base: Digest,
    /// SHA-256 of the result's raw bytes.
    pub result: Digest,
    /// How many elements change.
    pub changed: u64,
    /// U8 `[n]`: the payload (spec appendix D); outside the content id.
    pub z: Tensor<'a>,
    /// Provenance, outside the content id.
    pub origin: Origin,
}
