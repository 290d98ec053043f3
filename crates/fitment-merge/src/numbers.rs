//! Tensors side by side, and what they have in common.

use fitment_core::tensor::{Dtype, Shape, Tensor};
use fitment_math::round::{Element, decode, encode, widened};
use std::sync::Arc;

/// Whether all elements are numbers; rounding may have made infinities.
pub(crate) fn is_finite(tensor: &Tensor<'_>) -> bool {
    widened(tensor).is_some_and(|values| values.iter().all(|value| value.is_finite()))
}

/// Elements that pass through binary64 at a time.
const STAGE: usize = 4096;

/// Tensors, each times a number, joined along an axis; all other extents are equal. Written once, into their place.
/// `None` where the extents are not equal, a product overflows, or a dtype has no arithmetic.
pub(crate) fn joined(dtype: Dtype, axis: usize, parts: &[(&Tensor<'_>, f64)]) -> Option<Tensor<'static>> {
    let (first, _) = parts.first()?;
    let others = |tensor: &Tensor<'_>| {
        let dims = tensor.dims();
        (dims.get(..axis).map(<[u64]>::to_vec), dims.get(axis + 1..).map(<[u64]>::to_vec))
    };
    let mut dims = first.dims().to_vec();
    *dims.get_mut(axis)? = 0;
    for (tensor, _) in parts {
        if others(tensor) != others(first) {
            return None;
        }
        dims[axis] = dims[axis].checked_add(*tensor.dims().get(axis)?)?;
    }
    let shape = Shape::new(&dims).ok()?;
    let outer = usize::try_from(dims[..axis].iter().product::<u64>()).ok()?;
    let len = usize::try_from(shape.byte_len(dtype).ok()?).ok()?;
    // In the memory that the tensor will have: what is as large as an adapter is not copied from place to place.
    let mut bytes: Arc<[u8]> = std::iter::repeat_n(0, len).collect();
    let whole = Arc::get_mut(&mut bytes)?;
    let row = len.checked_div(outer).unwrap_or(0);
    let mut at = 0;
    for (tensor, factor) in parts {
        let width = len_in(dtype, tensor)?.checked_div(outer).unwrap_or(0);
        let place = Place { row, at, width };
        place.fill(whole, tensor, (*factor, dtype))?;
        at += width;
    }
    Tensor::owned(dtype, shape, bytes).ok()
}

/// Bytes of a tensor's elements in another dtype.
fn len_in(dtype: Dtype, tensor: &Tensor<'_>) -> Option<usize> {
    usize::try_from(tensor.shape().byte_len(dtype).ok()?).ok()
}

/// Where the rows of a part lie among those of all.
struct Place {
    /// Bytes of a row of all.
    row: usize,
    /// Where the part begins in a row.
    at: usize,
    /// Bytes of a row of the part.
    width: usize,
}

impl Place {
    fn fill(&self, whole: &mut [u8], tensor: &Tensor<'_>, (factor, dtype): (f64, Dtype)) -> Option<()> {
        if factor == 1.0 && tensor.dtype() == dtype {
            return self.put(whole, 0, tensor.bytes());
        }
        let (from, to) = (Element::of(tensor.dtype())?, Element::of(dtype)?);
        let (mut wide, mut narrow) = ([0.0_f64; STAGE], [0_u8; STAGE * 8]);
        let mut done = 0;
        for block in tensor.bytes().chunks(STAGE * from.size()) {
            let wide = wide.get_mut(..block.len() / from.size())?;
            decode(from, block, wide).ok()?;
            wide.iter_mut().for_each(|value| *value *= factor);
            let narrow = narrow.get_mut(..wide.len() * to.size())?;
            encode(to, wide, narrow).ok()?;
            decode(to, narrow, wide).ok()?;
            if !wide.iter().all(|value| value.is_finite()) {
                return None;
            }
            self.put(whole, done, narrow)?;
            done += narrow.len();
        }
        Some(())
    }

    /// Puts bytes that lie so far behind the part's first byte.
    fn put(&self, whole: &mut [u8], mut from: usize, mut bytes: &[u8]) -> Option<()> {
        while !bytes.is_empty() {
            let (row, within) = (from / self.width, from % self.width);
            let (now, later) = bytes.split_at((self.width - within).min(bytes.len()));
            let at = row * self.row + self.at + within;
            whole.get_mut(at..at + now.len())?.copy_from_slice(now);
            from += now.len();
            bytes = later;
        }
        Some(())
    }
}

/// Whether the elements times a number are elements of the dtype.
pub(crate) fn is_exact(tensor: &Tensor<'_>, factor: f64, dtype: Dtype) -> bool {
    if factor == 1.0 && tensor.dtype() == dtype {
        return true;
    }
    let Some((from, to)) = Element::of(tensor.dtype()).zip(Element::of(dtype)) else { return false };
    let (mut wide, mut back) = ([0.0_f64; STAGE], [0.0_f64; STAGE]);
    let mut narrow = [0_u8; STAGE * 8];
    tensor.bytes().chunks(STAGE * from.size()).all(|block| {
        let count = block.len() / from.size();
        let (wide, back, narrow) = (&mut wide[..count], &mut back[..count], &mut narrow[..count * to.size()]);
        let is_read = decode(from, block, wide).is_ok();
        wide.iter_mut().for_each(|value| *value *= factor);
        is_read && encode(to, wide, narrow).is_ok() && decode(to, narrow, back).is_ok() && wide == back
    })
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
    use super::{STAGE, common, is_exact, joined};
    use fitment_core::tensor::Dtype;
    use fitment_math::round::{narrowed, widened};

    #[test]
    fn blocks_stand_side_by_side_along_any_axis() {
        let tensor = |dims: &[u64], values: &[f64]| narrowed(Dtype::BF16, dims, values).unwrap();
        let a = tensor(&[2, 2], &[1.0, 2.0, 3.0, 4.0]);
        let along = |axis, dims: &[u64], (factor, dtype)| {
            let b = tensor(dims, &[5.0, 6.0]);
            let all = joined(dtype, axis, &[(&a, 1.0), (&b, factor)])?;
            Some((all.dims().to_vec(), widened(&all)?))
        };
        let rows = vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        assert_eq!(along(0, &[1, 2], (1.0, Dtype::BF16)), Some((vec![3, 2], rows)));
        let columns = vec![1.0, 2.0, 10.0, 3.0, 4.0, 12.0];
        assert_eq!(along(1, &[2, 1], (2.0, Dtype::F32)), Some((vec![2, 3], columns)));
        assert_eq!(along(0, &[2, 1], (1.0, Dtype::BF16)), None);
        assert_eq!(along(2, &[2, 1], (1.0, Dtype::BF16)), None);
        assert_eq!(along(1, &[2, 1], (1e39, Dtype::F32)), None);
        assert_eq!(common([Dtype::BF16, Dtype::BF16].into_iter()), Dtype::BF16);
        assert_eq!(common([Dtype::BF16, Dtype::F16].into_iter()), Dtype::F32);
    }

    #[test]
    fn a_tensor_longer_than_a_stage_is_whole() {
        let count = STAGE + 2;
        let values: Vec<f64> = (0..count).map(|value| value as f64).collect();
        let tensor = narrowed(Dtype::F32, &[count as u64 / 2, 2], &values).unwrap();
        let both = joined(Dtype::F64, 1, &[(&tensor, 0.1), (&tensor, 1.0)]).unwrap();
        let found = widened(&both).unwrap();
        assert!(
            found
                .chunks(4)
                .zip(values.chunks(2))
                .all(|(found, row)| { found == [row[0] * 0.1, row[1] * 0.1, row[0], row[1]] })
        );
        assert!(is_exact(&tensor, 0.5, Dtype::F32) && !is_exact(&tensor, 0.1, Dtype::F32));
        assert!(!is_exact(&tensor, 1.0, Dtype::BF16));
    }
}
