//! Factors of a larger rank, for files that have one for all.

use super::gather::gathered;
use fitment_core::tensor::{Shape, Tensor};

/// Factors padded with zeros to a larger rank: the product stays the same.
///
/// `None` when they are no factors of rank `rank`.
pub(crate) fn padded<'a>(up: &Tensor<'a>, down: &Tensor<'a>, rank: u64) -> Option<(Tensor<'a>, Tensor<'a>)> {
    if up.dims().get(1) == Some(&rank) {
        return Some((up.clone(), down.clone()));
    }
    let mut up_dims = up.dims().to_vec();
    *up_dims.get_mut(1)? = rank;
    let mut down_dims = down.dims().to_vec();
    *down_dims.first_mut()? = rank;
    let (up_shape, down_shape) = (Shape::new(&up_dims).ok()?, Shape::new(&down_dims).ok()?);
    let rows = usize::try_from(*up_dims.first()?).ok()?;
    let row_bytes = up.bytes().len().checked_div(rows)?;
    let padded_bytes = usize::try_from(up_shape.byte_len(up.dtype()).ok()?).ok()?.checked_div(rows)?;
    let mut up_bytes = Vec::with_capacity(padded_bytes.checked_mul(rows)?);
    for row in up.bytes().chunks(row_bytes.max(1)) {
        up_bytes.extend_from_slice(row);
        up_bytes.resize(up_bytes.len() + padded_bytes.checked_sub(row_bytes)?, 0);
    }
    let mut down_bytes = down.bytes().to_vec();
    down_bytes.resize(usize::try_from(down_shape.byte_len(down.dtype()).ok()?).ok()?, 0);
    let up = Tensor::owned(up.dtype(), up_shape, up_bytes).ok()?;
    Some((up, Tensor::owned(down.dtype(), down_shape, down_bytes).ok()?))
}

/// The same of stacks `[E, out, r]` and `[E, r, in]`.
pub(crate) fn padded_stack<'a>(
    up: &Tensor<'a>,
    down: &Tensor<'a>,
    rank: u64,
) -> Option<(Tensor<'a>, Tensor<'a>)> {
    let own = *up.dims().get(2)?;
    if own == rank {
        return Some((up.clone(), down.clone()));
    }
    let sources: Option<Vec<Option<usize>>> =
        (0..rank).map(|at| usize::try_from(at).ok().map(|index| Some(index).filter(|_| at < own))).collect();
    let sources = sources?;
    Some((gathered(up, 2, &sources)?, gathered(down, 1, &sources)?))
}

#[cfg(test)]
mod tests {
    use super::padded;
    use fitment_core::tensor::{Dtype, Shape, Tensor};

    #[test]
    fn padding_adds_zero_columns_and_rows() {
        let tensor = |dims: &[u64], bytes: Vec<u8>| {
            Tensor::owned(Dtype::U8, Shape::new(dims).unwrap(), bytes).unwrap()
        };
        let (up, down) =
            (tensor(&[2, 3], vec![1, 2, 3, 4, 5, 6]), tensor(&[3, 2], vec![7, 8, 9, 10, 11, 12]));
        let (up, down) = padded(&up, &down, 4).unwrap();
        assert_eq!((up.dims(), up.bytes()), (&[2, 4][..], &[1, 2, 3, 0, 4, 5, 6, 0][..]));
        assert_eq!((down.dims(), down.bytes()), (&[4, 2][..], &[7, 8, 9, 10, 11, 12, 0, 0][..]));
    }
}
