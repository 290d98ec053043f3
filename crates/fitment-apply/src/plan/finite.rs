//! The first number of a stored tensor that is NaN or infinite.

use fitment_core::model::Edit;
use fitment_core::tensor::{Dtype, Tensor};
use std::collections::BTreeSet;

/// Remembers which stored tensors were looked at, for several edits may share one.
#[derive(Debug, Default)]
pub(super) struct Scanner {
    seen: BTreeSet<(usize, usize)>,
}

impl Scanner {
    /// The role of the first tensor of the edit that holds such a number, and its position.
    pub(super) fn first_fault(&mut self, edit: &Edit<'_>) -> Option<(&'static str, usize)> {
        let floats = edit.tensors().into_iter().filter(|(_, tensor)| tensor.dtype().is_weight());
        for (role, tensor) in floats {
            let place = (tensor.bytes().as_ptr().addr(), tensor.bytes().len());
            if self.seen.insert(place) && let Some(position) = first_not_finite(tensor) {
                return Some((role, position));
            }
        }
        None
    }
}

fn first_not_finite(tensor: &Tensor<'_>) -> Option<usize> {
    let bytes = tensor.bytes();
    match tensor.dtype() {
        Dtype::F64 => position::<8>(bytes, |chunk| f64::from_le_bytes(chunk).is_finite()),
        Dtype::F32 => position::<4>(bytes, |chunk| f32::from_le_bytes(chunk).is_finite()),
        Dtype::F16 => position::<2>(bytes, |chunk| u16::from_le_bytes(chunk) & 0x7c00 != 0x7c00),
        Dtype::BF16 => position::<2>(bytes, |chunk| u16::from_le_bytes(chunk) & 0x7f80 != 0x7f80),
        _ => None,
    }
}

/// The first element that is not finite. Looks at whole blocks first, a loop without exit, which vectorises.
fn position<const N: usize>(bytes: &[u8], is_finite: impl Fn([u8; N]) -> bool) -> Option<usize> {
    let (elements, _) = bytes.as_chunks::<N>();
    let block = 4096;
    let bad = elements
        .chunks(block)
        .position(|chunk| !chunk.iter().fold(true, |finite, element| finite & is_finite(*element)))?;
    let inside = elements[bad * block..].iter().position(|element| !is_finite(*element))?;
    Some(bad * block + inside)
}
