//! Rows of tensors taken in another order, in part, or spread out with zeros between them.

use fitment_core::tensor::{Bytes, Shape, Tensor};

/// A tensor whose index `i` of an axis is index `sources[i]` of the given one's; `None` there is zeros.
///
/// `None` when there is no such axis or index, or when the elements are no whole bytes.
pub(crate) fn gathered(
    tensor: &Tensor<'_>,
    axis: usize,
    sources: &[Option<usize>],
) -> Option<Tensor<'static>> {
    let mut dims = tensor.dims().to_vec();
    let product = |dims: &[u64]| dims.iter().try_fold(1u64, |product, dim| product.checked_mul(*dim));
    let count = |number: u64| usize::try_from(number).ok();
    let outer = count(product(dims.get(..axis)?)?)?;
    let inner = count(product(dims.get(axis + 1..)?)?)?.checked_mul(tensor.dtype().bytes()?)?;
    let block = count(*dims.get(axis)?)?.checked_mul(inner)?;
    *dims.get_mut(axis)? = sources.len() as u64;
    let shape = Shape::new(&dims).ok()?;
    let mut bytes = Vec::with_capacity(count(shape.byte_len(tensor.dtype()).ok()?)?);
    for number in 0..outer {
        let from = tensor.bytes().get(number.checked_mul(block)?..)?.get(..block)?;
        for source in sources {
            match source {
                Some(source) => {
                    bytes.extend_from_slice(from.get(source.checked_mul(inner)?..)?.get(..inner)?)
                }
                None => bytes.resize(bytes.len() + inner, 0),
            }
        }
    }
    Tensor::owned(tensor.dtype(), shape, bytes).ok()
}

/// Some rows of a matrix; `None` when it has not so many.
pub(crate) fn rows<'a>(matrix: &Tensor<'a>, start: u64, count: u64) -> Option<Tensor<'a>> {
    let &[all, columns] = matrix.dims() else { return None };
    let row = usize::try_from(all).ok().and_then(|all| matrix.bytes().len().checked_div(all))?;
    let (start, len) = (usize::try_from(start).ok()?, usize::try_from(count).ok()?);
    let range = start.checked_mul(row)?..start.checked_add(len)?.checked_mul(row)?;
    let (dtype, shape) = (matrix.dtype(), Shape::new(&[count, columns]).ok()?);
    match matrix.data() {
        Bytes::Borrowed(bytes) => Tensor::borrowed(dtype, shape, bytes.get(range)?).ok(),
        Bytes::Shared(bytes) => Tensor::owned(dtype, shape, bytes.get(range)?).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::gathered;
    use fitment_core::tensor::{Dtype, Shape, Tensor};

    #[test]
    fn rows_are_taken_in_any_order_with_zeros_between() {
        let tensor =
            Tensor::owned(Dtype::U8, Shape::new(&[2, 3, 2]).unwrap(), (1..=12).collect::<Vec<u8>>()).unwrap();
        let rows = gathered(&tensor, 1, &[Some(2), None, Some(0)]).unwrap();
        assert_eq!(
            (rows.dims(), rows.bytes()),
            (&[2, 3, 2][..], &[5, 6, 0, 0, 1, 2, 11, 12, 0, 0, 7, 8][..])
        );
        let columns = gathered(&tensor, 2, &[Some(1)]).unwrap();
        assert_eq!((columns.dims(), columns.bytes()), (&[2, 3, 1][..], &[2, 4, 6, 8, 10, 12][..]));
        assert!(gathered(&tensor, 1, &[Some(3)]).is_none() && gathered(&tensor, 3, &[]).is_none());
    }
}
