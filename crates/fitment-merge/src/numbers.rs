//! Tensors side by side, and what they have in common.

use fitment_core::tensor::{Dtype, Shape, Tensor};
use fitment_math::round::widened;

/// Whether all elements are numbers; rounding may have made infinities.
pub(crate) fn is_finite(tensor: &Tensor<'_>) -> bool {
    widened(tensor).is_some_and(|values| values.iter().all(|value| value.is_finite()))
}

/// Blocks of bytes, each with its shape, joined along an axis; all other extents are equal. `None` where they are not.
pub(crate) fn joined(dtype: Dtype, axis: usize, parts: &[(&[u64], &[u8])]) -> Option<Tensor<'static>> {
    let (first, _) = parts.first()?;
    let others =
        |dims: &[u64]| (dims.get(..axis).map(<[u64]>::to_vec), dims.get(axis + 1..).map(<[u64]>::to_vec));
    if parts.iter().any(|(dims, _)| others(dims) != others(first) || axis >= dims.len()) {
        return None;
    }
    let mut dims = first.to_vec();
    dims[axis] = parts.iter().map(|(dims, _)| dims[axis]).sum();
    let outer = usize::try_from(first[..axis].iter().product::<u64>()).ok()?;
    let total: usize = parts.iter().map(|(_, bytes)| bytes.len()).sum();
    let mut bytes = Vec::with_capacity(total);
    for index in 0..outer {
        for (_, part) in parts {
            let len = part.len() / outer;
            bytes.extend_from_slice(part.get(index * len..(index + 1) * len)?);
        }
    }
    Tensor::owned(dtype, Shape::new(&dims).ok()?, bytes).ok()
}

/// The narrowest dtype that holds the numbers of all.
pub(crate) fn common(dtypes: impl Iterator<Item = Dtype>) -> Dtype {
    let join = |a, b| match (a, b) {
        (a, b) if a == b => a,
        (Dtype::F64, _) | (_, Dtype::F64) => Dtype::F64,
        _ => Dtype::F32,
    };
    dtypes.reduce(join).unwrap_or(Dtype::F32)
}

#[cfg(test)]
mod tests {
    use super::{common, joined};
    use fitment_core::tensor::Dtype;

    #[test]
    fn blocks_stand_side_by_side_along_any_axis() {
        let (a, b) = ([1u8, 2, 3, 4], [5u8, 6]);
        let along = |axis, b_dims: &[u64]| {
            joined(Dtype::U8, axis, &[(&[2, 2], &a), (b_dims, &b)])
                .map(|t| (t.dims().to_vec(), t.bytes().to_vec()))
        };
        assert_eq!(along(0, &[1, 2]), Some((vec![3, 2], vec![1, 2, 3, 4, 5, 6])));
        assert_eq!(along(1, &[2, 1]), Some((vec![2, 3], vec![1, 2, 5, 3, 4, 6])));
        assert_eq!(along(0, &[2, 1]), None);
        assert_eq!(common([Dtype::BF16, Dtype::BF16].into_iter()), Dtype::BF16);
        assert_eq!(common([Dtype::BF16, Dtype::F16].into_iter()), Dtype::F32);
    }
}
